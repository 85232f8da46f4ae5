"""What benchmarks leave in the documentation: a table between two marks, and the plot beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path("docs/benchmarks.md")
PICTURE = Path("docs/img/simulators.png")


@dataclass(frozen=True)
class Point:
    """One side at one number of clients: seconds a round, MB at most."""

    side: str
    clients: int
    seconds: float
    megabytes: float


def write_section(name: str, text: str) -> None:
    """Put `text` between `<!-- NAME -->` and `<!-- /NAME -->` of docs/benchmarks.md.

    Raises:
        SystemExit: the working directory has no such document, or the document no such marks.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    content = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    before, found, rest = content.partition(first)
    _, closed, after = rest.partition(last)
    if not (found and closed):
        raise SystemExit(f"{DOCUMENT} has no marks {first.strip()} and {last}; run this in the repository")
    DOCUMENT.write_text(before + first + "\n" + text + "\n" + last + after)


def draw(points: Sequence[Point]) -> None:
    """Time and memory against clients a round, logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for side in dict.fromkeys(point.side for point in points):
        own = sorted((point for point in points if point.side == side), key=lambda point: point.clients)
        clients = [point.clients for point in own]
        panels[0].plot(clients, [point.seconds for point in own], "o-", label=side)
        panels[1].plot(clients, [point.megabytes for point in own], "o-", label=side)
    for panel, title in zip(panels, ("seconds a round", "MB, all processes"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="clients a round", title=title)
        panel.grid(True, alpha=0.3)
    panels[0].legend(fontsize="small")
    figure.savefig(PICTURE, dpi=120)
