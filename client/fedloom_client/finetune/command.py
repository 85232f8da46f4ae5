"""Train an artefact on this device's own data, with onnxruntime alone.

The data never leaves: a new artefact is written, whose models have the trained arrays in them. Where
only the last layers are trained, the frozen part's features are computed once and kept in a file.
"""

import argparse
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fedloom_edge.errors import DataError, InputError, TrainingError

_SETTINGS = ("epochs", "lr", "batch_size", "patience")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fedloom edge finetune`."""
    parser.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder or .fedloom file")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help=".npz with x and y, .csv with a header line, or a folder with a folder of images a class",
    )
    parser.add_argument("--target", default="label", metavar="COLUMN", help="what to predict, of a .csv")
    parser.add_argument("--out", type=Path, default=None, metavar="PATH", help="default: ARTEFACT-tuned")
    parser.add_argument(
        "--epochs", type=int, default=None, help="passes over the data (default: the artefact's)"
    )
    parser.add_argument("--lr", type=float, default=None, help="learning rate (default: the artefact's)")
    parser.add_argument(
        "--batch-size", type=int, default=None, help="samples a step (default: the artefact's)"
    )
    parser.add_argument("--patience", type=int, default=None, help="epochs without a better validation loss")
    parser.add_argument("--validation", type=float, default=0.2, metavar="PART", help="part that is held out")
    parser.add_argument("--seed", type=int, default=0, help="of the order, the held-out part and dropout")
    parser.add_argument("--cache-mb", type=float, default=512, help="most megabytes of features on disk")
    parser.add_argument("--cache-dir", type=Path, default=None, metavar="DIR", help="default: the system's")


def run(arguments: argparse.Namespace) -> int:
    """Check the artefact, train, write, tell."""
    from fedloom_client.finetune.data import read_data
    from fedloom_client.finetune.tune import Cache, served_metric, split, tune, write_tuned
    from fedloom_edge.artefact.check import check
    from fedloom_edge.artefact.storage import Artefact

    if not 0 <= arguments.validation < 1:
        raise InputError(f"--validation {arguments.validation}: give a part from 0 to below 1")
    artefact = Artefact(arguments.artefact)
    check(artefact)
    training = _training(artefact.manifest.training, arguments)
    samples, classes = read_data(arguments.data, artefact.manifest, arguments.target)
    shard = split(samples, arguments.validation, arguments.seed)
    if len(shard.train) < 2:
        raise DataError(f"{arguments.data} has {len(samples)} samples: two at least must remain to train on")
    out = arguments.out or _beside(arguments.artefact)
    cache = Cache(arguments.cache_dir or Path(tempfile.gettempdir()), int(arguments.cache_mb * 1e6))
    facts = {name: getattr(training, name) for name in _SETTINGS} | {
        "seed": arguments.seed,
        "samples": len(shard.train),
    }

    def keep(arrays: Any) -> None:
        write_tuned(artefact, arrays, classes, facts | {"stopped": "not finite"}, out)

    try:
        tuned = tune(artefact, shard, training, arguments.seed, cache, _say, keep)
    except TrainingError as error:
        kept = f"; they are in {out}" if "are kept" in str(error) and out.exists() else ""
        raise TrainingError(f"{error}{kept}") from error
    manifest = write_tuned(artefact, tuned.arrays, classes, facts, out)
    metric = "accuracy" if manifest.loss.endswith("cross_entropy") else "mae"
    if len(shard.validation):
        served = served_metric(Artefact(out), shard.validation)
        held = len(shard.validation)
        _say(f"{metric} on {held} held-out samples: {tuned.before:.4f} before, {served:.4f} now")
    _say(f"{out} serves {manifest.serve}")
    return 0


def _training(given: Any, arguments: argparse.Namespace) -> Any:
    from fedloom_client.training import Training

    try:
        names = {field.name for field in fields(Training)}
        training = Training(**{name: value for name, value in given.items() if name in names})
    except TypeError as error:
        raise DataError(f"the artefact's training settings are damaged ({error}); export it again") from error
    chosen = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    return replace(training, **chosen)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-tuned{path.suffix}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
