"""Which of two models answers, and why."""

import pytest

from fedloom_edge.artefact.manifest import INFER, INT8
from fedloom_edge.artefact.serving import choose


def figures(metric, ms, name="accuracy"):
    return {name: metric, "p50_ms": ms}


@pytest.mark.parametrize(
    ("plain", "small", "serves", "says"),
    [
        (figures(0.9, 2.0), figures(0.9, 1.0), INT8, "as good and faster"),
        (figures(0.9, 2.0), figures(0.896, 1.0), INT8, "as good and faster"),
        (figures(0.9, 2.0), figures(0.894, 1.0), INFER, "loses too much accuracy"),
        (figures(0.9, 1.0), figures(0.95, 1.5), INFER, "slower here"),
        (figures(1.0, 2.0, "mae"), figures(1.009, 1.0, "mae"), INT8, "as good and faster"),
        (figures(1.0, 2.0, "mae"), figures(1.02, 1.0, "mae"), INFER, "loses too much accuracy"),
    ],
)
def test_int8_is_served_where_it_is_as_good_and_no_slower(plain, small, serves, says):
    file, why = choose({INFER: plain, INT8: small})
    assert file == serves
    assert says in why


def test_without_an_int8_model_float_is_served():
    assert choose({INFER: figures(0.9, 1.0)}) == (INFER, "there is no int8 model")
