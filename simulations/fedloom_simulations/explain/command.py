"""Explain a finished run: which parts of an input decide, and what each client contributed.

Leaves explain.json and explain.png in the run's folder; with --contribution also contribution.json and
contribution.png. Attributions are of the predicted class's logit, or of the forecast.
"""

import argparse
import sys
from pathlib import Path

from fedloom_client.explain import METHODS
from fedloom_edge.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom explain`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    # No defaults here, so that an option that means nothing to what is asked for can be refused.
    parser.add_argument(
        "--on", metavar="SHARD", help="samples of `test`, or of a client by its number (default: test)"
    )
    parser.add_argument("--method", choices=METHODS, help=f"how (default: {METHODS[0]})")
    parser.add_argument("--samples", type=int, metavar="N", help="how many samples (default: 6)")
    parser.add_argument("--seed", type=int, metavar="K", help="of the choice of samples (default: 0)")
    parser.add_argument(
        "--contribution",
        action="store_true",
        help="run the federation again and share its gain out among the clients",
    )
    parser.add_argument(
        "--permutations", type=int, metavar="P", help="of clients a round, of --contribution (default: 20)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom explain`; returns the exit code."""
    from fedloom_simulations.explain.subject import open_subject

    _refuse_idle(arguments)
    subject = open_subject(arguments.run)
    if arguments.contribution:
        from fedloom_simulations.explain.contribution import explain_contribution

        permutations = 20 if arguments.permutations is None else arguments.permutations
        sys.stdout.write(explain_contribution(subject, permutations))
        return 0
    from fedloom_simulations.explain.samples import explain_samples

    on, method = arguments.on or "test", arguments.method or METHODS[0]
    samples = 6 if arguments.samples is None else arguments.samples
    sys.stdout.write(explain_samples(subject, on, method, samples, arguments.seed or 0))
    return 0


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Refuse an option that means nothing to what is asked for."""
    idle = ("on", "method", "samples", "seed") if arguments.contribution else ("permutations",)
    for name in idle:
        if (value := getattr(arguments, name)) is not None:
            why = "is about samples, not about" if arguments.contribution else "needs"
            raise InputError(f"--{name} {value} {why} --contribution; leave it out")
