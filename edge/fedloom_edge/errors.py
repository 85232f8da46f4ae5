"""The errors that fedloom raises on purpose.

FedloomError
├── InputError      the user's input was wrong: one line, exit code 2
│   └── DataError   a data source or a sample was wrong
├── TrainingError   local training could not go on (for example a loss that is not finite)
├── LinkError       a peer broke the rules of the link, or refused one that did
└── RunError        a run could not go on or be read
"""

import difflib
from collections.abc import Iterable


class FedloomError(Exception):
    """Base of every error that fedloom raises on purpose."""

    exit_code = 1


class InputError(FedloomError):
    """The user's input was wrong. The message is one line: what, where, and how to mend it."""

    exit_code = 2


class DataError(InputError):
    """A data source or a sample was wrong."""


class TrainingError(FedloomError):
    """Local training could not go on."""


class LinkError(FedloomError):
    """A peer broke the rules of the link. The message begins with the rule's name and a colon."""


class RunError(FedloomError):
    """A run could not go on or be read."""


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not among `known`; it offers the nearest valid name.

    Example: `unknown task 'digts': did you mean 'digits'? (digits, fashion, mnist)`
    """
    names = sorted(known)
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {given!r}: {hint}(known: {', '.join(names)})")


def is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C is behind `error`: an extension that is loading then makes an ImportError of it."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
