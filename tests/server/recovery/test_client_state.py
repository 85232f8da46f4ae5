"""A client's state comes back from arrays and JSON as it was."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedloom_server.recovery.client_state import decode_state, encode_state

NAMES = st.text("abcdef-.", min_size=1, max_size=6)
FLOATS = st.floats(allow_nan=False)
METRICS = st.dictionaries(NAMES, st.one_of(st.integers(-(2**60), 2**60), FLOATS, st.lists(FLOATS)))
CONFIG = st.dictionaries(
    NAMES,
    st.one_of(
        st.integers(-(2**60), 2**60),
        FLOATS,
        st.booleans(),
        st.text(),
        st.binary(),
        st.lists(st.binary(), min_size=1),
        st.lists(st.text(), min_size=1),
    ),
)


@given(METRICS, CONFIG, st.integers(0, 5))
def test_any_state_comes_back(metrics, config, size):
    arrays = {"w": Array(np.arange(size, dtype=np.float32)), "s": Array(np.array(3.0))}
    state = RecordDict(
        {
            "m": MetricRecord(metrics),
            "c": ConfigRecord(config),
            "a": ArrayRecord(arrays),
            "e": ConfigRecord({}),
        }
    )
    records, kept = encode_state(state)
    back = decode_state(json.loads(json.dumps(records)), kept)
    assert list(back) == list(state)
    assert dict(back["m"]) == metrics
    assert dict(back["c"]) == config
    assert [type(value) for value in back["c"].values()] == [type(value) for value in config.values()]
    assert back["a"]["w"].numpy().tolist() == list(range(size))
    assert back["a"]["s"].numpy().shape == ()
