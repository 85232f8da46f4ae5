"""Targets of a torch Dataset are those that its items hold."""

import numpy as np
import pytest

from fedloom_client import sources
from fedloom_edge.errors import DataError


class Items:
    def __init__(self, targets, /, **attributes):
        self.held = targets
        vars(self).update(attributes)

    def __len__(self):
        return len(self.held)

    def __getitem__(self, index):
        return np.zeros(2, np.float32), self.held[index]


@pytest.mark.parametrize(
    "attributes",
    [
        {"labels": ["cat", "dog"]},
        {"labels": ["cat", "dog", "eel", "fox"]},
        {"targets": [1, 1, 0, 0], "target_transform": lambda y: 1 - y},
        {"targets": [0, 0, 0, 0]},
        {"labels": lambda: [0, 0]},
    ],
)
def test_a_column_that_is_not_what_the_items_hold_is_not_believed(attributes):
    assert sources.torch_dataset(Items([1, 0, 0, 1], **attributes)).y.tolist() == [1, 0, 0, 1]


def test_a_column_that_agrees_saves_reading_every_item():
    class Counting(Items):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    dataset = Counting(list(range(100)), targets=list(range(100)))
    assert sources.torch_dataset(dataset).y.tolist() == list(range(100))
    assert dataset.reads == 1


def test_truth_values_are_classes():
    samples = sources.torch_dataset(Items([True, False]))
    assert (samples.labels.tolist(), samples.y.dtype) == ([1, 0], np.int64)


@pytest.mark.parametrize(("targets", "message"), [([], "is empty"), (["a", "b"], "no numbers")])
def test_no_items_and_words_are_refused(targets, message):
    with pytest.raises(DataError, match=message):
        sources.torch_dataset(Items(targets))
