"""Is the process that writes a run still there?"""

import os
import socket
from pathlib import Path
from typing import Any


def process_mark() -> dict[str, Any]:
    """What tells this process from every other: machine, process id, and when it began."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def is_gone(mark: Any) -> bool:
    """Whether the process with this mark has certainly ended; False where nobody can tell."""
    if not isinstance(mark, dict) or mark.get("host") != socket.gethostname():
        return False
    pid = mark.get("pid")
    if not isinstance(pid, int) or not Path("/proc/self").exists():
        return False
    return _began(pid) != mark.get("began")


def _began(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (proc(5), field 22); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, a space or a parenthesis too.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
