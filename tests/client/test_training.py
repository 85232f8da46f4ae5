"""Training settings: checked, sent as flat values, and with a learning rate for each round."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fedloom_client.training import Training
from fedloom_edge.errors import InputError

settings = st.builds(
    Training,
    optimizer=st.sampled_from(["sgd", "adam", "rmsprop"]),
    lr=st.floats(1e-6, 10),
    schedule=st.sampled_from(["constant", "step", "exponential", "cosine"]),
    decay=st.floats(0.01, 1),
    decay_rounds=st.integers(1, 20),
    warmup_rounds=st.integers(0, 5),
)


@given(settings)
def test_settings_survive_the_trip_to_a_client(training):
    assert Training.from_config(training.to_config()) == training


@given(settings, st.integers(1, 60))
def test_the_learning_rate_stays_positive_and_never_exceeds_its_setting(training, rounds):
    rates = [training.lr_at(number, rounds) for number in range(1, rounds + 1)]
    assert all(0 < rate <= training.lr for rate in rates)
    falling = rates[training.warmup_rounds :]
    assert falling == sorted(falling, reverse=True)


def test_schedules_by_hand():
    assert Training(lr=1, schedule="step", decay=0.5, decay_rounds=2).lr_at(5, 9) == 0.25
    assert Training(lr=1, schedule="exponential", decay=0.5).lr_at(4, 9) == 0.125
    assert Training(lr=1, schedule="cosine").lr_at(6, 10) == pytest.approx(0.5)
    assert Training(lr=1, warmup_rounds=3).lr_at(2, 9) == 0.5
    assert Training(lr=1, warmup_rounds=3).lr_at(4, 9) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": float("inf")},
        {"epochs": 0},
        {"momentum": 1},
        {"batch_size": 0},
        {"decay": 2},
        {"schedule": "x"},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        Training(**wrong)
