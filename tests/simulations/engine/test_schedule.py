"""Batches as TorchTrainer takes them, and chunks that waste little."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedloom_client import Training
from fedloom_client.trainer import Assignment
from fedloom_simulations.engine.vectorised.schedule import WASTE, chunks, courses, steps

EXAMPLES = st.lists(st.integers(1, 200), min_size=1, max_size=60)
TRAINING = st.builds(
    Training, batch_size=st.integers(1, 40), epochs=st.integers(1, 3), steps=st.integers(0, 9)
)


@given(st.integers(1, 200), TRAINING, st.integers(0, 2**62))
def test_a_course_has_the_steps_that_are_foretold(examples, training, seed):
    way = courses([examples], [Assignment(training=training, seed=seed)])[0]
    assert len(way.batches) == steps(examples, training)
    assert 1 <= way.epochs <= training.epochs


@given(st.integers(1, 200), st.integers(1, 40))
def test_an_epoch_takes_every_example_once(examples, size):
    way = courses([examples], [Assignment(training=Training(batch_size=size), seed=0)])[0]
    assert sorted(np.concatenate(way.batches)) == list(range(examples))


@given(EXAMPLES, TRAINING, st.integers(1, 30))
def test_chunks_hold_everybody_once_in_descending_order_of_steps(examples, training, largest):
    found = chunks(examples, training, largest)
    assert sorted(client for chunk in found for client in chunk) == list(range(len(examples)))
    for chunk in found:
        taken = [steps(examples[client], training) for client in chunk]
        assert len(chunk) <= largest
        assert taken == sorted(taken, reverse=True)
        assert len({min(examples[client], training.batch_size) == 1 for client in chunk}) == 1


@given(EXAMPLES, TRAINING, st.integers(1, 30))
def test_little_of_a_chunk_is_padding(examples, training, largest):
    for chunk in chunks(examples, training, largest):
        sizes = [
            [len(b) for b in courses([examples[client]], [Assignment(training=training, seed=0)])[0].batches]
            for client in chunk
        ]
        padded = sum(
            max(active) * len(active)
            for step in range(max(map(len, sizes)))
            if (active := [s[step] for s in sizes if len(s) > step])
        )
        one_epoch = training.epochs == 1 and not training.steps
        assert not one_epoch or 1 - sum(map(sum, sizes)) / padded <= WASTE + 1e-9
