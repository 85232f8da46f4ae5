"""Texts to pieces of words from a fixed vocabulary, as BERT without upper case reads them.

Devlin et al., 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3; the greedy longest
match of Wu et al., 2016, "Google's Neural Machine Translation System", section 4.1.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import Samples
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import DataError

START, END, UNKNOWN, PAD = "[CLS]", "[SEP]", "[UNK]", "[PAD]"
_LONGEST_WORD = 100


@dataclass(frozen=True)
class WordPieces:
    """A preprocess whose constants are a pretrained model's vocabulary: nothing is fitted.

    Attributes:
        length: pieces that a text is cut or padded to, with the marks of its start and end.
        vocabulary: reads the pieces in the order of their indices. Only who merges calls it: the
            vocabulary then travels as a constant.
    """

    length: int
    vocabulary: Callable[[], Sequence[str]] = tuple

    def summarise(self, samples: Samples) -> Arrays:
        """Nothing: a client tells nothing about its texts."""
        return {}

    def combine(self, summaries: Iterable[Arrays]) -> Arrays:
        """Nothing."""
        return {}

    def merge(self, summaries: Iterable[Arrays]) -> Arrays:
        """The vocabulary in UTF-8, separated by newlines: uint8 (B,)."""
        return {"words": np.frombuffer("\n".join(self.vocabulary()).encode(), np.uint8)}

    def apply(self, x: NDArray[Any], constants: Arrays) -> NDArray[np.int64]:
        """Indices (B, length) of texts (B,).

        Raises:
            DataError: the vocabulary lacks a mark.
        """
        index = {word: i for i, word in enumerate(constants["words"].tobytes().decode().split("\n"))}
        try:
            start, end, pad = (index[mark] for mark in (START, END, PAD))
            known: dict[str, list[int]] = {"": [index[UNKNOWN]]}
        except KeyError as error:
            raise DataError(f"the vocabulary has no {error}; give a BERT vocabulary") from error
        tokens = np.full((len(x), self.length), pad, np.int64)
        for row, text in zip(tokens, x, strict=True):
            found = [start]
            for word in split(str(text)):
                if word not in known:
                    known[word] = pieces(word, index) or known[""]
                found += known[word]
            found = [*found[: self.length - 1], end]
            row[: len(found)] = found
        return tokens


def split(text: str) -> Iterator[str]:
    """Words of `text` in lower case without accents; a punctuation mark or Chinese character is one."""
    word = ""
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)
        if kind == "Mn" or (kind[0] == "C" and character not in "\t\n\r") or character == "\ufffd":
            continue
        alone = _is_mark(character, kind) or _is_chinese(ord(character))
        if not alone and not character.isspace():
            word += character.lower()
            continue
        if word:
            yield word
        word = ""
        if alone:
            yield character
    if word:
        yield word


def pieces(word: str, index: Mapping[str, int]) -> list[int]:
    """Indices of the longest pieces from the left, `##` before all but the first; empty if none fit."""
    found: list[int] = []
    start = 0
    while start < len(word) <= _LONGEST_WORD:
        for end in range(len(word), start, -1):
            piece = word[start:end] if start == 0 else f"##{word[start:end]}"
            if piece in index:
                found.append(index[piece])
                start = end
                break
        else:
            return []
    return found


def _is_mark(character: str, kind: str) -> bool:
    return kind[0] == "P" or (character.isascii() and kind[0] == "S")


def _is_chinese(code: int) -> bool:
    """Whether a character is a CJK ideograph, which stands for a word."""
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
              (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip
    return any(low <= code <= high for low, high in blocks)
