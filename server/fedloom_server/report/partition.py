"""`--show-partition`: how a partition lets the examples and their labels fall, as picture and as text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedloom_server.report.labels import Counts, draw_labels
from fedloom_server.report.style import check_format, header, page, save, shorten

_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR = 40  # characters of the longest bar
_ROWS = 40  # so many clients are listed
_CLASSES = 40  # so many classes are drawn as columns


def draw_partition(
    counts: Counts | None, sizes: Sequence[int], class_names: Sequence[str], title: str, path: Path
) -> None:
    """Draw the label distribution per client to `path` (.png, .pdf or .svg).

    Args:
        counts: examples (clients, classes); None without classes.
        sizes: examples of each client.
        class_names: by index; may be empty.
        title: a line that names the partition.
        path: of the picture.
    """
    check_format(path)
    classes = 0 if counts is None else min(counts.shape[1], 30)
    height = 4.6 + 0.12 * classes
    figure = page((9.5, height))
    header(figure, title, partition_summary(counts, sizes), 0.11, 1 - 0.5 / height, width=7.8)
    place = figure.add_gridspec(1, 1, left=0.11, right=0.93, top=1 - 1.25 / height, bottom=0.6 / height)[0]
    draw_labels(figure, place, counts, sizes, class_names)
    save(figure, path)


def partition_summary(counts: Counts | None, sizes: Sequence[int]) -> str:
    """One line: smallest, median and largest client, and how many classes a client holds."""
    text = f"{sum(sizes):,} examples over {len(sizes)} clients: {_spread(sizes)} a client"
    if counts is None:
        return text
    return f"{text}; {_spread((counts > 0).sum(axis=1))} of {counts.shape[1]} classes"


def partition_text(
    counts: Counts | None, sizes: Sequence[int], class_names: Sequence[str], title: str
) -> str:
    """The label distribution per client in Unicode blocks, for a terminal.

    A column's height is the class's share of the client's examples; a dot is a class that it lacks.
    Without classes a bar shows each client's examples.
    """
    lines = [title, partition_summary(counts, sizes), ""]
    if counts is None or counts.shape[1] > _CLASSES:
        lines += _size_lines(sizes)
    else:
        lines += _label_lines(counts, sizes, class_names)
    if len(sizes) > _ROWS:
        lines.append(f"… and {len(sizes) - _ROWS:,} more clients")
    return "\n".join(lines)


def _label_lines(counts: Counts, sizes: Sequence[int], class_names: Sequence[str]) -> list[str]:
    classes = counts.shape[1]
    names = [class_names[i] if i < len(class_names) else str(i) for i in range(classes)]
    short = all(len(name) <= 3 for name in names)
    heads = names if short else [str(i) for i in range(classes)]
    width = max(map(len, heads))
    lines = [f"client  examples  {' '.join(f'{head:>{width}}' for head in heads)}"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for client, row in enumerate(shares[:_ROWS]):
        marks = " ".join(f"{_block(share):>{width}}" for share in row)
        lines.append(f"{client:>6}  {sizes[client]:>8,}  {marks}")
    if not short:
        legend = ", ".join(f"{i} {shorten(name, 20)}" for i, name in enumerate(names))
        lines.append(f"classes: {legend}")
    return lines


def _size_lines(sizes: Sequence[int]) -> list[str]:
    largest = max([*sizes, 1])
    return [
        "client  examples",
        *(f"{i:>6}  {size:>8,}  {_bar(size / largest)}" for i, size in enumerate(sizes[:_ROWS])),
    ]


def _block(share: float) -> str:
    return "·" if share <= 0 else _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]


def _bar(share: float) -> str:
    """A horizontal bar of at most _BAR characters, to an eighth of one."""
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _spread(values: Sequence[int] | Counts) -> str:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {middle:,.0f})"
