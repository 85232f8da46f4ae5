"""Coordinate devices: wait for them, run rounds over the link, and leave a run's folder.

Devices join with `fedloom fleet invite` and `fedloom device join`, and connect by themselves.
`fedloom serve digits --local 3` shows all of it on one machine: three agents as processes, with
certificates and all, each with the data of a client of `fedloom simulate`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom_edge.config import add_config_argument
from fedloom_server.link.options import SECTIONS, add_link_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom serve`."""
    parser.add_argument("task", nargs="?", default="digits", metavar="TASK", help="what is learned")
    add_link_arguments(parser)
    parser.add_argument("--rounds", type=int, default=15, metavar="R", help="rounds of training")
    parser.add_argument("--strategy", default="fedavg", metavar="S", help="any Flower strategy in lower case")
    parser.add_argument(
        "--compress",
        default="",
        metavar="CODEC",
        help="send updates as float16, int8, topk:SHARE or lowrank:RANK, with error feedback; auto: each "
        "device as its uplink needs",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="each device measures itself and plans for the --deadline: batch size, steps, part of the model",
    )
    parser.add_argument(
        "--secure-aggregation",
        action="store_true",
        help="devices mask their updates, so that nothing but their sum can be known",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of everything drawn at random")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the coordinator's own test data")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: runs/TASK-TIME")
    parser.add_argument(
        "--early-stop",
        metavar="METRIC:ROUNDS",
        help="stop after so many rounds without a better loss (or accuracy, mae) at the devices",
    )
    parser.add_argument(
        "--privacy",
        metavar="BUDGET",
        help="epsilon=8,delta=1e-5: end before the round that would spend more (docs/privacy.md)",
    )
    parser.add_argument("--local", type=int, default=0, metavar="N", help="start N agents on this machine")
    parser.add_argument("--partition", metavar="P", help="how --local cuts the data; default: the task's")
    parser.add_argument(
        "--trainer",
        choices=("auto", "torch", "onnx"),
        default="auto",
        help="what the agents of --local train with; auto: onnx, or torch where a model cannot be exported",
    )
    parser.add_argument(
        "--dashboard", action="store_true", help="watch the run in a browser; prints a link that works once"
    )
    add_config_argument(parser, *SECTIONS, foreign=("clients",))  # the devices are what they are


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom serve`; returns the exit code."""
    from fedloom_server.link.serving import Serving

    return Serving.prepare(arguments).run()


def resume(folder: Path, arguments: Mapping[str, Any]) -> int:
    """Go on with the run in `folder`, which `run` began with these options; returns the exit code."""
    from fedloom_server.link.serving import Serving
    from fedloom_server.recovery.resume import restored_arguments

    return Serving.prepare(restored_arguments(add_arguments, folder, arguments), resume=True).run()
