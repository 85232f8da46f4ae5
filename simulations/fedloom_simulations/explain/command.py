"""Explain a finished run: which parts of an input decide, and what each client contributed.

Leaves explain.json and explain.png in the run's folder; with --contribution also contribution.json and
contribution.png. Attributions are of the predicted class's logit, or of the forecast.
"""

import argparse
import sys
from pathlib import Path

from fedloom_client.explain import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom explain`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--on", default="test", metavar="SHARD", help="samples of `test`, or of a client by its number"
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="how; default: %(default)s")
    parser.add_argument("--samples", type=int, default=6, metavar="N", help="how many samples; default: 6")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the choice of samples")
    parser.add_argument(
        "--contribution",
        action="store_true",
        help="run the federation again and share its gain out among the clients",
    )
    parser.add_argument(
        "--permutations", type=int, default=20, metavar="P", help="of clients a round; default: 20"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom explain`; returns the exit code."""
    from fedloom_simulations.explain.subject import open_subject

    subject = open_subject(arguments.run)
    if arguments.contribution:
        from fedloom_simulations.explain.contribution import explain_contribution

        sys.stdout.write(explain_contribution(subject, arguments.permutations))
        return 0
    from fedloom_simulations.explain.samples import explain_samples

    sys.stdout.write(
        explain_samples(subject, arguments.on, arguments.method, arguments.samples, arguments.seed)
    )
    return 0
