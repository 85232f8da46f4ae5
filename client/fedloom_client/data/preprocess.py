"""Preprocessing that is fitted over all clients without a sample leaving any of them.

Each client summarises its training part; the coordinator merges the summaries, in a fixed order,
into constants; every client applies the constants to its own samples.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import ArraySamples, Indices, Samples
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import DataError

_CHUNK = 1024  # samples read at a time, so that a shard on disk never has to fit in memory


class Preprocess(Protocol):
    """Pure functions. A protocol, because what is summed really varies (moments, words)."""

    def summarise(self, samples: Samples) -> Arrays:
        """What a client tells about its training part. It holds no sample."""
        ...

    def combine(self, summaries: Iterable[Arrays]) -> Arrays:
        """One summary, as of one client that has the samples of all: what a gateway tells."""
        ...

    def merge(self, summaries: Iterable[Arrays]) -> Arrays:
        """The constants that all summaries amount to."""
        ...

    def apply(self, x: NDArray[Any], constants: Arrays) -> NDArray[Any]:
        """Inputs (B, ...) made ready for the model."""
        ...


@dataclass(frozen=True)
class Standardize:
    """Zero mean and unit variance, per feature or per channel, over all clients' training parts.

    Attributes:
        axis: axis of x that indexes features (tabular: -1) or channels (images (N, C, H, W): 1);
            None for one mean and variance over everything.
    """

    axis: int | None = -1

    def summarise(self, samples: Samples) -> Arrays:
        """Count (), sums (F,) and sums of squares (F,) in float64."""
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for x, _ in _chunks(samples):
            rows = self._rows(x)
            count += len(rows)
            total = total + rows.sum(axis=0)
            squares = squares + np.square(rows).sum(axis=0)
        return {"count": np.array(count, np.int64), "sum": total, "squares": squares}

    def combine(self, summaries: Iterable[Arrays]) -> Arrays:
        """Count (), sums (F,) and sums of squares (F,) of all."""
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for summary in summaries:
            count += int(summary["count"])
            total = total + summary["sum"]
            squares = squares + summary["squares"]
        return {"count": np.array(count, np.int64), "sum": total, "squares": squares}

    def merge(self, summaries: Iterable[Arrays]) -> Arrays:
        """Mean and standard deviation (F,) in float64; a constant feature gets deviation 1."""
        whole = self.combine(summaries)
        count = int(whole["count"])
        mean = whole["sum"] / count
        variance = np.maximum(whole["squares"] / count - np.square(mean), 0)
        # A feature that never varies leaves rounding noise of about eps * mean^2.
        varies = variance > 1e-12 * np.maximum(np.square(mean), 1e-12)
        return {"mean": mean, "deviation": np.where(varies, np.sqrt(variance), 1.0)}

    def apply(self, x: NDArray[Any], constants: Arrays) -> NDArray[np.float32]:
        """(x - mean) / deviation in float32, same shape as x."""
        shape = [1] * x.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        mean, deviation = (constants[name].reshape(shape) for name in ("mean", "deviation"))
        return ((x - mean) / deviation).astype(np.float32)

    def _rows(self, x: NDArray[Any]) -> NDArray[np.float64]:
        if self.axis is None:
            return x.reshape(-1, 1).astype(np.float64)
        return np.moveaxis(x, self.axis, -1).reshape(-1, x.shape[self.axis]).astype(np.float64)


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|[!?]+|[:;=][-o]?[()DPp/]")


def words(text: str) -> list[str]:
    """Lower-case words, runs of ! and ?, and emoticons of `text`."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words to integers, from words that stand in enough clients' training parts.

    Index 0 pads and index 1 stands for every word outside the vocabulary.

    Attributes:
        size: rows of the embedding, both special ones included.
        length: tokens a text is cut or padded to.
        min_count: a client reports only words it has at least so often: a rare word can identify.
    """

    size: int
    length: int
    min_count: int = 2

    def summarise(self, samples: Samples) -> Arrays:
        """The client's frequent words (UTF-8, separated by newlines, uint8 (B,)) and counts (W,)."""
        counts: dict[str, int] = {}
        for x, _ in _chunks(samples):
            for text in x:
                for word in words(str(text)):
                    counts[word] = counts.get(word, 0) + 1
        kept = sorted(word for word, count in counts.items() if count >= self.min_count)
        return {"words": _encode(kept), "counts": np.array([counts[word] for word in kept], np.int64)}

    def combine(self, summaries: Iterable[Arrays]) -> Arrays:
        """The words of all and their counts, as of a client."""
        totals = self._totals(summaries)
        kept = sorted(totals)
        return {"words": _encode(kept), "counts": np.array([totals[word] for word in kept], np.int64)}

    def merge(self, summaries: Iterable[Arrays]) -> Arrays:
        """The `size - 2` most frequent words, ties in alphabetical order: uint8 (B,)."""
        totals = self._totals(summaries)
        ranked = sorted(totals, key=lambda word: (-totals[word], word))
        if not ranked:
            raise DataError(f"no client has a word {self.min_count} times or more; are the inputs texts?")
        return {"words": _encode(ranked[: self.size - 2])}

    def apply(self, x: NDArray[Any], constants: Arrays) -> NDArray[np.int64]:
        """Token indices (B, length) of texts (B,)."""
        index = {word: i for i, word in enumerate(_decode(constants["words"]), start=2)}
        tokens = np.zeros((len(x), self.length), np.int64)
        for row, text in zip(tokens, x, strict=True):
            found = [index.get(word, 1) for word in words(str(text))[: self.length]]
            row[: len(found)] = found
        return tokens

    def _totals(self, summaries: Iterable[Arrays]) -> dict[str, int]:
        totals: dict[str, int] = {}
        for summary in summaries:
            for word, count in zip(_decode(summary["words"]), summary["counts"].tolist(), strict=True):
                totals[word] = totals.get(word, 0) + count
        return totals


def _encode(vocabulary: list[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(vocabulary).encode(), np.uint8).copy()


def _decode(encoded: NDArray[Any]) -> list[str]:
    return encoded.tobytes().decode().split("\n") if encoded.size else []


def prepare(samples: Samples, preprocess: Preprocess, constants: Arrays) -> Samples:
    """Samples with ready inputs, in memory and made once; targets and groups are kept."""
    parts = [(preprocess.apply(x, constants), y) for x, y in _chunks(samples)]
    if not parts:
        return samples
    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ArraySamples(x, y, samples.groups, samples.blocks)


def _chunks(samples: Samples) -> Iterable[tuple[NDArray[Any], NDArray[Any]]]:
    for start in range(0, len(samples), _CHUNK):
        indices: Indices = np.arange(start, min(start + _CHUNK, len(samples)))
        yield samples.take(indices)
