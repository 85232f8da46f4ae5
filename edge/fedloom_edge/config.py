"""Where settings come from: flags beat FEDLOOM_* variables, which beat the TOML file of --config."""

import argparse
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fedloom_edge.errors import InputError, unknown

T = TypeVar("T")


def add_config_argument(parser: argparse.ArgumentParser, *sections: str, foreign: Sequence[str] = ()) -> None:
    """Give a command `--config FILE` and `--set SECTION.KEY=VALUE` for some `sections`.

    `foreign` are keys that a file for another command may have, and that say nothing here.
    """
    parser.add_argument(
        "--config", metavar="FILE", default=None, help="TOML file with defaults for these options"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help=f"a setting of {' or '.join(sections)}, for example {sections[0]}.lr=0.1; may be repeated",
    )
    parser.set_defaults(sections=sections, foreign=foreign)


def apply_settings(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Make the TOML file's and the environment's values the defaults of `parser`'s options.

    A key of the file is an option's name (`early-stop` or `early_stop`); a table is a section of
    `--set`. The section `strategy` and the option cannot both stand under their name in a file; there
    `[strategy] name = "fedadam"` is the option. The variable of `--early-stop` is FEDLOOM_EARLY_STOP.

    Raises:
        InputError: the file cannot be read or has a key that is no option.
    """
    options = {action.dest: action for action in parser._actions if action.option_strings}
    if "settings" not in options:
        return
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=os.environ.get("FEDLOOM_CONFIG"))
    path = finder.parse_known_args(argv)[0].config
    values, settings = _from_file(Path(path), parser, options) if path else ({}, [])
    for name in options:
        if name != "settings" and (value := os.environ.get(f"FEDLOOM_{name.upper()}")) is not None:
            values[name] = value
    settings += os.environ.get("FEDLOOM_SET", "").split()
    for name, value in values.items():
        _check_choice(options[name], name, value)
    # --set appends to this default, and a later setting beats an earlier one.
    parser.set_defaults(**values, settings=settings)


def _check_choice(action: argparse.Action, name: str, value: Any) -> None:
    # argparse checks the choices of flags only, not of defaults.
    if action.choices is not None and value not in action.choices:
        raise unknown(name, str(value), map(str, action.choices))


def _from_file(
    path: Path, parser: argparse.ArgumentParser, options: Mapping[str, argparse.Action]
) -> tuple[dict[str, Any], list[str]]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; give a file that can be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: {error}; see https://toml.io for the format") from error
    values: dict[str, Any] = {}
    settings: list[str] = []
    sections: tuple[str, ...] = parser.get_default("sections")
    for key, value in content.items():
        name = key.replace("-", "_")
        if isinstance(value, dict) and key in sections:
            if key in options and "name" in value:
                values[key] = str(value.pop("name"))
            settings += [f"{key}.{option}={entry}" for option, entry in value.items()]
        elif name in options and not isinstance(value, dict):
            # As text, so that an option's own type converts and checks it as it does a flag's.
            values[name] = value if isinstance(value, bool) else str(value)
        elif name not in parser.get_default("foreign"):
            raise unknown(f"key in {path}", key, [*options, *sections])
    return values, settings


def parse_settings(settings: Sequence[str], sections: Sequence[str]) -> dict[str, dict[str, str]]:
    """`["training.lr=0.1"]` -> `{"training": {"lr": "0.1"}, ...}`, every section present.

    Raises:
        InputError: a setting is malformed or names an unknown section.
    """
    parsed: dict[str, dict[str, str]] = {section: {} for section in sections}
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, key = path.partition(".")
        if not (equals and dot and key):
            raise InputError(f"--set {setting}: write it as SECTION.KEY=VALUE, for example training.lr=0.1")
        if section not in parsed:
            raise unknown("section of --set", section, sections)
        parsed[section][key] = value
    return parsed


def override(settings: T, changes: Mapping[str, str], section: str) -> T:
    """A copy of a settings dataclass with some fields replaced by values given as text.

    Raises:
        InputError: an unknown field (the nearest valid one is named) or a value of the wrong kind.
    """
    kinds = get_type_hints(type(settings))
    names = [field.name for field in fields(settings)]  # type: ignore[arg-type]
    for key in changes:
        if key not in names:
            raise unknown(f"setting {section}", key, names)
    values = {key: convert(f"{section}.{key}", text, kinds[key]) for key, text in changes.items()}
    return replace(settings, **values)  # type: ignore[type-var]


def convert(name: str, text: str, kind: Any) -> Any:
    """`text` as an int, float, bool or str, by the annotation `kind` (optional kinds take `none`).

    Raises:
        InputError: the text is none of that kind.
    """
    accepted = list(_kinds(kind))
    if type(None) in accepted and text.lower() == "none":
        return None
    try:
        if bool in accepted:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if int in accepted and float not in accepted:
            return int(text)
        if float in accepted:
            return float(text)
    except (ValueError, KeyError):
        expected = (
            "true or false" if bool in accepted else "a whole number" if float not in accepted else "a number"
        )
        raise InputError(f"{name}={text}: expected {expected}") from None
    return text


def _kinds(kind: Any) -> Iterator[Any]:
    parts = getattr(kind, "__args__", ())
    if parts and all(isinstance(part, type) for part in parts):
        yield from parts
    else:
        yield kind
