"""What cannot be combined, each with the sentence that refuses it before a run begins.

Everything else works together; tests/simulations/test_combinations.py goes through the table.
"""

import argparse

from flwr.serverapp.strategy import Strategy

from fedloom_client.training import Training
from fedloom_edge.errors import InputError
from fedloom_server.privacy.local_privacy import LocalPrivacy
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.strategies.composed import Composed
from fedloom_simulations.adversity.attacks import POISONS, TOGETHER, Attack
from fedloom_simulations.adversity.faults import Faults


def keeps_memory(arguments: argparse.Namespace, strategy: Strategy) -> bool:
    """Whether clients do more than train, with a memory of their own from round to round."""
    return bool(arguments.compress) or isinstance(strategy, Composed)


def refuse_combinations(
    arguments: argparse.Namespace,
    strategy: Strategy,
    training: Training,
    attack: Attack | None,
    faults: Faults | None,
    *,
    resume: bool,
) -> None:
    """Check what each option alone cannot know.

    Raises:
        InputError: two options do not go together.
    """
    secure = arguments.secure_aggregation
    updates_attacked = attack is not None and attack.name not in POISONS
    what = "--compress" if arguments.compress else f"strategy {arguments.strategy}"
    memory = keeps_memory(arguments, strategy)
    central = isinstance(strategy, PrivateMean)
    late = arguments.mode == "async"
    refusals = (
        (
            late and memory,
            f"--mode async puts old updates on the newest model, which {what} cannot follow; use semisync",
        ),
        (
            late and (updates_attacked or faults is not None),
            "--mode async: attacks on updates and faults are made for rounds that begin together; use "
            "semisync, or leave them out",
        ),
        (
            memory and resume and arguments.engine == "ray",
            f"what clients kept for {what} died with Ray; start the run again, or use --engine inline",
        ),
        (
            arguments.compress and updates_attacked,
            f"--attack {attack.name if attack else ''} changes updates, which --compress encodes before it "
            "can; use one of them",
        ),
        (
            arguments.compress and faults is not None and faults.shares.get("nan"),
            "--faults nan=... changes updates, which --compress encodes before; leave one out",
        ),
        (
            training.dp_noise and arguments.backend in ("vmap", "onnx"),
            "training.dp_noise trains one client at a time, its examples together; leave out --backend",
        ),
        (
            late and (central or training.dp_noise or isinstance(strategy, LocalPrivacy)),
            "--mode async mixes updates of several rounds, which the privacy ledger counts round by round; "
            "use sync or semisync",
        ),
        (
            secure and arguments.mode is not None,
            "--secure-aggregation sums over clients that begin and end a round together, which they do not "
            "under --mode; leave it out",
        ),
        (
            secure and attack is not None and attack.name in TOGETHER,
            f"--attack {attack.name if attack else ''} looks at accomplices' updates, which the kit cannot "
            "under --secure-aggregation; use signflip, scale, noise, labelflip or backdoor",
        ),
    )
    for refused, sentence in refusals:
        if refused:
            raise InputError(sentence)
