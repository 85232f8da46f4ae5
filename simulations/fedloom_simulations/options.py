"""The options of `fedloom simulate`."""

import argparse
from pathlib import Path

from fedloom_edge.config import add_config_argument

SECTIONS = ("training", "strategy", "guard", "checkpoints", "clock", "secure")
"""Of the settings that `--set` and `--config` take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom simulate`."""
    parser.add_argument("task", nargs="?", default="digits", metavar="TASK", help="what is learned")
    parser.add_argument(
        "--clients", type=int, metavar="N", help="how many; 0 for one per natural group; default: the task's"
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="R", help="rounds of training")
    parser.add_argument("--strategy", default="fedavg", metavar="S", help="any Flower strategy in lower case")
    parser.add_argument(
        "--mode",
        choices=("sync", "semisync", "async"),
        help="rounds on a simulated clock: wait for all, for a period, or for a buffer of updates",
    )
    parser.add_argument(
        "--compress",
        default="",
        metavar="CODEC",
        help="send updates as float16, int8, topk:SHARE or lowrank:RANK, with error feedback",
    )
    parser.add_argument(
        "--secure-aggregation",
        action="store_true",
        help="clients mask their updates, so that nothing but their sum can be known",
    )
    parser.add_argument(
        "--partition",
        metavar="P",
        help="iid, dirichlet:ALPHA, pathological:K, quantity:ALPHA, natural, virtual:N; default: the task's",
    )
    parser.add_argument(
        "--fold",
        type=int,
        metavar="K",
        help="hold out the Kth of four parts of the clients: they train nothing and are the test set",
    )
    parser.add_argument(
        "--engine", choices=("inline", "ray"), default="inline", help="in this process, or on Ray"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "torch", "vmap", "onnx"),
        default="auto",
        help="train clients together (vmap), or one after the other by a graph of the whole step (onnx) or "
        "by PyTorch (torch); auto: as is faster for the model",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes of --engine inline; 0 for as many as pay",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of everything drawn at random")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that the task reads its data from")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: runs/TASK-TIME")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="how long a phase of a round waits for clients; default: for all of them",
    )
    parser.add_argument(
        "--early-stop",
        metavar="METRIC:ROUNDS",
        help="stop after so many rounds without a better loss (or accuracy, mae) at the clients",
    )
    parser.add_argument(
        "--attack",
        metavar="NAME:SHARE",
        help="let a share of the clients attack: signflip, scale, noise, alie, ipm, labelflip or backdoor",
    )
    parser.add_argument(
        "--faults",
        metavar="KIND=SHARE,...",
        help="let clients fail at random: drop=0.3,slow=0.2:5s,crash=0.05,nan=0.02,stale=0.05",
    )
    parser.add_argument(
        "--privacy",
        metavar="BUDGET",
        help="epsilon=8,delta=1e-5: end before the round that would spend more (docs/privacy.md)",
    )
    parser.add_argument(
        "--show-partition",
        action="store_true",
        help="draw the label distribution per client and train nothing",
    )
    parser.add_argument(
        "--dashboard", action="store_true", help="watch the run in a browser; prints a link that works once"
    )
    add_config_argument(parser, *SECTIONS)
