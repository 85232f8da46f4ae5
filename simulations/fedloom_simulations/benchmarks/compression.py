"""Bytes sent against accuracy: the same federation with and without each codec of `--compress`.

    python -m fedloom_simulations.benchmarks.compression [--rounds 20] [CODEC ...]

Each run is a process of its own, as a user starts it; equal seeds, so runs differ by the codec alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

CODECS = ("int8", "topk:0.01", "float16", "lowrank:4")
_LAST = 3  # rounds whose accuracy is averaged


def main() -> None:
    """Print a table, a row a codec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", default=CODECS, metavar="CODEC")
    parser.add_argument("--task", default="fashion")
    parser.add_argument("--clients", default="50")
    parser.add_argument("--partition", default="dirichlet:0.3")
    parser.add_argument("--rounds", default="20")
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    command = [sys.executable, "-m", "fedloom_edge.cli", "simulate", options.task]
    for name in ("clients", "partition", "rounds", "seed"):
        command += [f"--{name}", getattr(options, name)]
    whole = _run(command, "")
    _say("none", whole, whole)
    for codec in options.codecs:
        _say(codec, _run(command, codec), whole)


def _run(command: list[str], codec: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        extra = ["--compress", codec] if codec else []
        out = Path(folder) / "run"
        subprocess.run([*command, *extra, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
        result: dict[str, Any] = json.loads((out / "result.json").read_text())
        return result


def _say(name: str, result: dict[str, Any], whole: dict[str, Any]) -> None:
    accuracy, before = _accuracy(result), _accuracy(whole)
    sent, full = (sum(entry["bytes_up"] for entry in r["rounds"]) for r in (result, whole))
    sys.stdout.write(
        f"{name:12} {sent / 1e6:9.2f} MB up  {100 * sent / full:6.2f} %  "
        f"accuracy {100 * accuracy:.2f} ({100 * (accuracy - before):+.2f} points)  "
        f"{result['seconds']:.0f} s\n"
    )
    sys.stdout.flush()


def _accuracy(result: dict[str, Any]) -> float:
    return float(mean(entry["accuracy"] for entry in result["rounds"][-_LAST:]))


if __name__ == "__main__":
    main()
