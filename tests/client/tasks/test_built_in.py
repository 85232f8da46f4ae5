"""The built-in tasks: real data, split without a leak, that their models learn from."""

import numpy as np
import pytest

from fedloom_client.data.preprocess import words
from fedloom_client.loading import BUILT_IN, load_data, load_task
from fedloom_client.tasks import stocks
from fedloom_client.torch_trainer.checks import check_task

SIZES = {
    "digits": (1437, 360),
    "mnist": (4000, 1000),
    "stocks": (140_700, 25_140),
    "sentiment": (28_916, 7_229),
    "activity": (2832, 773),
    "tabular": (455, 114),
}


def everything(samples):
    return samples.take(np.arange(len(samples)))


@pytest.fixture(scope="module", params=SIZES)
def loaded(request):
    task = load_task(request.param)
    return task, load_data(task, None)


def test_every_built_in_task_is_held_here():
    assert {*SIZES, "fashion", "transfer", "sentences"} == set(BUILT_IN)


def test_all_of_the_data_is_there_and_the_model_fits_it(loaded):
    task, data = loaded
    assert (len(data.train), len(data.test)) == SIZES[task.name]
    check_task(task, data)


def test_no_example_is_in_both_parts(loaded):
    _, data = loaded
    train, test = ({x.tobytes() for x in everything(part)[0]} for part in (data.train, data.test))
    assert not train & test


def test_a_recording_and_a_person_are_on_one_side_only():
    data = load_data(load_task("activity"), None)
    for column in ("groups", "blocks"):
        train, test = (set(getattr(part, column).tolist()) for part in (data.train, data.test))
        assert not train & test
    assert len(set(data.train.groups)) == 8


def test_a_forecast_sees_the_days_before_and_is_tested_on_later_ones():
    data = load_data(load_task("stocks"), None)
    x, y = everything(data.train)
    apple = np.flatnonzero(data.train.groups == 0)
    # The window of a day ends with the return that the day before had to forecast.
    assert np.array_equal(x[apple[1:], -1, 0], y[apple[:-1], 0])
    later, _ = everything(data.test)
    first_test = np.flatnonzero(data.test.groups == 0)[0]
    assert later[first_test, -1, 0] == y[apple[-1], 0]
    assert stocks.naive_zero(data) == pytest.approx(np.abs(everything(data.test)[1]).mean())


def test_the_vocabulary_holds_no_word_of_the_test_set_alone():
    task = load_task("sentiment")
    data = load_data(task, None)
    halves = [type(data.train)(*(part[i::2] for part in everything(data.train))) for i in range(2)]
    constants = task.preprocess.merge(map(task.preprocess.summarise, halves))
    known = set(constants["words"].tobytes().decode().split("\n"))
    seen = {word for text in everything(data.train)[0] for word in words(text)}
    assert known <= seen
    assert 7000 < len(known) < task.preprocess.size


@pytest.mark.parametrize("name", ["stocks", "sentiment", "activity"])
def test_baselines_are_computed_from_the_data(name):
    task = load_task(name)
    data = load_data(task, None)
    values = {name: compute(data) for name, compute in task.baselines.items()}
    assert len(values) == 2
    assert all(0 < value < 2 for value in values.values())
    if name != "stocks":  # the other baseline has learnt something
        assert values["majority class"] < min(
            value for key, value in values.items() if key != "majority class"
        )
