"""Before round 1: a model and data that do not fit are refused in one line that shows why."""

import numpy as np
import pytest
import torch
from torch import nn

from fedloom_client import ArraySamples, Data, LazySamples, Standardize, Task
from fedloom_client.torch_trainer.checks import check_task
from fedloom_edge.errors import InputError

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3


def check(x=X, y=Y, model=lambda: nn.Linear(4, 3), samples=ArraySamples, **parts):
    part = samples(x, y)
    check_task(Task(name="t", model=model, data=lambda folder: None, **parts), Data(part, part))


def with_bad(array, index, value):
    array = array.astype(np.float32 if isinstance(value, float) else array.dtype)
    array[index] = value
    return array


def test_a_task_that_fits_passes_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    check()
    check(preprocess=Standardize())
    check(y=Y.astype(np.float32), model=lambda: nn.Linear(4, 1), loss="huber")
    check(y=Y % 2, model=lambda: nn.Linear(4, 1), loss="binary_cross_entropy")
    assert torch.equal(torch.get_rng_state(), state)


class TwoOutputs(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"y": with_bad(Y, 7, 5)}, "label of train sample 7 is 5, but the model gives (8, 3)"),
        ({"y": with_bad(Y, 2, -1)}, "label of train sample 2 is -1"),
        ({"y": Y, "model": lambda: nn.Linear(4, 1), "loss": "binary_cross_entropy"}, "from 0 to 1"),
        ({"x": with_bad(X, 9, np.nan)}, "input of train sample 9 is NaN"),
        ({"y": with_bad(Y, 3, np.inf), "loss": "mse"}, "target of train sample 3"),
        (
            {"model": lambda: nn.Linear(4, 2), "loss": "mse", "y": Y.astype(np.float32)},
            "(8, 2) for targets (8,)",
        ),
        ({"model": lambda: nn.Flatten(0)}, "no trainable parameter"),
        ({"model": lambda: nn.Linear(7, 3)}, "shapes cannot be multiplied"),
        ({"model": lambda: nn.Linear(4, 3).weight}, "gave Parameter"),
        ({"model": lambda: TwoOutputs(4, 3)}, "return one tensor"),
        ({"model": lambda: 1 / 0}, "division by zero"),
        ({"y": Y.astype(np.float32)}, "integer labels"),
        ({"y": np.stack([Y, Y], 1)}, "cross_entropy needs"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_and_where(parts, expected):
    with pytest.raises(InputError) as caught:
        check(**parts)
    assert expected in str(caught.value)


def test_samples_read_when_needed_are_checked_at_the_first_few():
    def lazy(x, y):
        return LazySamples(lambda index: x[index], y)

    check(samples=lazy)
    with pytest.raises(InputError, match="train sample 2"):
        check(x=with_bad(X, 2, np.nan), samples=lazy)
