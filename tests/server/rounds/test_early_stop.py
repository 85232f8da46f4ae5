"""A run stops when the clients' validation figure has stopped getting better."""

import pytest

from fedloom_edge.errors import InputError
from fedloom_server.rounds.early_stop import EarlyStop
from fedloom_server.store.rows import Round


def rounds(*values, column="federated_metric"):
    return [Round(number, 0.0, 0.0, **{column: value}) for number, value in enumerate(values)]


def test_stops_after_patience_rounds_without_a_better_accuracy():
    stop = EarlyStop.parse("accuracy:2", "accuracy")
    assert not stop.reached(rounds(None, 0.5, 0.6, 0.55))
    assert "round 2" in stop.reached(rounds(None, 0.5, 0.6, 0.55, 0.6))


def test_lower_is_better_for_loss_and_mae():
    assert EarlyStop.parse("loss:1", "accuracy").reached(rounds(None, 0.5, 0.6, column="federated_loss"))
    assert not EarlyStop.parse("mae:1", "mae").reached(rounds(None, 0.6, 0.5))


@pytest.mark.parametrize("text", ["accuracy", "accuracy:0", "mae:3", "loss:x"])
def test_a_malformed_rule_is_refused(text):
    with pytest.raises(InputError):
        EarlyStop.parse(text, "accuracy")
