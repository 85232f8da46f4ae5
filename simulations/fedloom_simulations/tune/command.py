"""Search for better settings: trials are judged by clients' data, and the test set only at the end.

TASK declares what may vary (`space=`); the first trial has its defaults. The best trial's settings and
the defaults are then trained with three seeds and compared on the held-out test set. Give the same
command again to go on after a crash or a stop, with a larger --trials for more. DIR/best.toml is a file
for the --config of `fedloom simulate` and `fedloom serve`.
"""

import argparse
from pathlib import Path

from fedloom_edge.config import add_config_argument
from fedloom_simulations.options import SECTIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom tune`."""
    parser.add_argument("task", nargs="?", default="digits", metavar="TASK", help="what is learned")
    parser.add_argument(
        "--search",
        choices=("grid", "random", "bayes"),
        default="bayes",
        help="all combinations, independent draws, or a tree-structured Parzen estimator",
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="how many, the default's too; default: 20, of a grid all"
    )
    parser.add_argument(
        "--validate",
        choices=("samples", "clients"),
        help="judge trials by the samples that each client holds back, or in four runs by clients that "
        "train nothing; default: clients where the test set is of nobody that trains, else samples",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="trials at the same time")
    parser.add_argument("--clients", type=int, metavar="N", help="how many; default: the task's")
    parser.add_argument("--rounds", type=int, default=15, metavar="R", help="rounds of a trial")
    parser.add_argument("--strategy", default="fedavg", metavar="S", help="any Flower strategy in lower case")
    parser.add_argument("--partition", metavar="P", help="as for simulate; default: the task's")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of everything drawn at random")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that the task reads its data from")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the search's folder; default: runs/tune-TASK"
    )
    add_config_argument(parser, *SECTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom tune`; returns the exit code."""
    from fedloom_simulations.tune.search import search

    return search(arguments)
