"""How verdicts are shown: a line on the terminal, a row of the documentation."""

from collections.abc import Sequence
from pathlib import Path

from fedloom_simulations.conformance.entries import ENTRIES
from fedloom_simulations.conformance.entry import Entry
from fedloom_simulations.conformance.runner import Verdict, kept

DOCUMENT = Path("docs/conformance.md")
_FIRST, _LAST = "<!-- table -->\n", "<!-- /table -->"


def line(verdict: Verdict) -> str:
    """One entry in a line."""
    mark = "inside" if verdict.inside else "outside"
    return f"{verdict.entry.name:20} {mark:8} {_ours(verdict)}; interval {_interval(verdict.entry)}"


def write_table(seeds: Sequence[int], folder: Path) -> None:
    """Put what the runs in `folder` have come to into the documentation, a row an entry."""
    lines = ["| entry | published | interval | ours | rounds | |", "|---|---|---|---|---|---|"]
    setups: dict[str, list[str]] = {}
    for entry in ENTRIES:
        verdict = kept(entry, seeds, folder)
        ours = _ours(verdict) if verdict else "not run to its end"
        rounds = max(run.rounds for run in entry.runs.values())
        mark = "" if verdict is None else "inside" if verdict.inside else "outside"
        lines.append(
            f"| `{entry.name}` | {entry.published} | {_interval(entry)} | {ours} | {rounds} | {mark} |"
        )
        setups.setdefault(f"{entry.source}. {entry.setup}", []).append(f"`{entry.name}`")
    before, _, rest = DOCUMENT.read_text().partition(_FIRST)
    after = rest.partition(_LAST)[2]
    notes = [f"- {', '.join(names)}: {text}" for text, names in setups.items()]
    text = "\n".join([*lines, "", *notes])
    DOCUMENT.write_text(f"{before}{_FIRST}\n{text}\n\n{_LAST}{after}")


def _ours(verdict: Verdict) -> str:
    figures = ", ".join(f"{figure:.4g}" for figure in verdict.figures)
    return f"{verdict.mean:.4g} {verdict.entry.unit} ({figures})"


def _interval(entry: Entry) -> str:
    low, high = entry.interval
    return f"{low:.4g} to {high:.4g}"
