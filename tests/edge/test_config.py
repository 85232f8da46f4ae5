"""Settings given as text become the fields of a dataclass, checked."""

import pytest

from fedloom_client.training import Training
from fedloom_edge.config import convert, override, parse_settings
from fedloom_edge.errors import InputError


def test_settings_are_sorted_into_their_sections_and_the_last_wins():
    parsed = parse_settings(
        ["training.lr=0.1", "strategy.eta=1", "training.lr=0.2"], ["training", "strategy"]
    )
    assert parsed == {"training": {"lr": "0.2"}, "strategy": {"eta": "1"}}


@pytest.mark.parametrize("setting", ["lr=0.1", "training.lr", "training.=1", "trainnig.lr=1"])
def test_a_malformed_setting_is_refused(setting):
    with pytest.raises(InputError):
        parse_settings([setting], ["training"])


def test_text_is_converted_by_the_fields_type():
    changed = override(Training(), {"lr": "0.1", "epochs": "3", "optimizer": "adam"}, "training")
    assert changed == Training(lr=0.1, epochs=3, optimizer="adam")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lrr", "1", "did you mean 'lr'"),
        ("lr", "fast", "expected a number"),
        ("epochs", "1.5", "expected a whole number"),
        ("optimizer", "adma", "did you mean 'adam'"),
        ("lr", "-1", "it must be from"),
        ("lr", "nan", "it must be from"),
    ],
)
def test_a_wrong_value_is_refused_with_the_mend(key, value, message):
    with pytest.raises(InputError, match=message):
        override(Training(), {key: value}, "training")


def test_optional_kinds_take_none_and_bools_take_words():
    assert convert("x", "none", float | None) is None
    assert convert("x", "0.5", float | None) == 0.5
    assert convert("x", "true", bool) is True
    with pytest.raises(InputError, match="true or false"):
        convert("x", "perhaps", bool)
