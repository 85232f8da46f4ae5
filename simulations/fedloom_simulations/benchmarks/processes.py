"""What a process takes, as the kernel counts it."""

import os
from pathlib import Path


def _status(pid: int, key: str) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def rss_mb(pid: int) -> float:
    """A process's resident set in MB."""
    return _status(pid, "VmRSS")


def anonymous_mb(pid: int) -> float:
    """The same without the files that it maps."""
    return _status(pid, "RssAnon")


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has taken."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
