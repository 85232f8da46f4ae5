"""The laws of a plan: never beyond memory or deadline, and no device is punished for being better."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_client.planner.plan import ENOUGH, Limits, Pace, Plan, choose, plan
from fedloom_client.training import Training

_CODECS = ("", "float16", "int8", "topk:0.01")
_SHARES = (4, 2, 1, 0.04)

paces = st.builds(
    Pace,
    step=st.floats(0, 10),
    example=st.floats(1e-6, 1),
    memory=st.floats(0, 1e9),
    memory_example=st.floats(0, 1e8),
    uplink=st.sampled_from([0.0]) | st.floats(1e2, 1e8),
    hot=st.booleans(),
)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    elements = draw(st.integers(100, 10_000_000))
    return Limits(
        training=Training(
            batch_size=draw(st.integers(1, 256)),
            epochs=draw(st.integers(1, 20)),
            steps=draw(st.sampled_from([0, 1, 7, 300])),
        ),
        examples=draw(st.integers(1, 5000)),
        seconds=draw(st.floats(0.1, 1e4) | st.just(math.inf)),
        memory=draw(st.floats(1e6, 4e9) | st.just(math.inf)),
        sendings=tuple((c, int(s * elements)) for c, s in zip(_CODECS, _SHARES, strict=True)),
    )


def _seen(made: Plan, given: Limits) -> int:
    """Examples that the planned steps show, up to what the run asks for."""
    asked = given.training
    most = asked.epochs * given.examples
    if asked.steps:
        most = min(most, asked.steps * min(asked.batch_size, given.examples))
    return min(made.steps * made.batch_size, most)


@given(paces, limits())
def test_a_plan_that_fits_is_within_memory_and_deadline_and_asks_no_more_than_the_run(
    pace: Pace, given: Limits
) -> None:
    made = plan(pace, given)
    assert 1 <= made.batch_size <= min(given.training.batch_size, given.examples)
    assert made.steps >= 1
    assert len(made.reasons) >= 3
    if made.fits:
        assert pace.bytes(made.batch_size) <= given.memory
        assert (made.seconds or made.train_seconds) <= given.seconds
    if made.whole and made.batch_size == given.training.batch_size:
        assert made.steps == given.training.most_steps(given.examples)


@given(paces, limits())
def test_it_fits_whenever_anything_does(pace: Pace, given: Limits) -> None:
    smallest = min(2, given.training.batch_size, given.examples)
    sending = min(size for _, size in given.sendings) / pace.uplink if pace.uplink else 0.0
    allowed = min(0.8 * given.seconds, given.seconds - sending) * 0.9 * (0.5 if pace.hot else 1)
    possible = pace.bytes(3) <= given.memory and pace.seconds(3) <= allowed  # 3: halves of 3, 5, 7, ...
    if possible and smallest > 1:
        assert plan(pace, given).fits


@given(paces, limits(), st.floats(0.01, 1))
def test_a_faster_device_never_gets_less_work(pace: Pace, given: Limits, factor: float) -> None:
    faster = replace(pace, step=pace.step * factor, example=pace.example * factor)
    assert _seen(plan(faster, given), given) >= _seen(plan(pace, given), given)


@given(paces.filter(lambda pace: pace.uplink > 0), limits(), st.floats(0.001, 1))
def test_a_slower_uplink_never_gets_less_compression(pace: Pace, given: Limits, factor: float) -> None:
    slower = replace(pace, uplink=pace.uplink * factor)
    assert _CODECS.index(plan(slower, given).compress) >= _CODECS.index(plan(pace, given).compress)


@given(paces, limits(), st.floats(1, 100))
def test_a_later_deadline_never_gets_less_work(pace: Pace, given: Limits, factor: float) -> None:
    later = replace(given, seconds=given.seconds * factor)
    assert _seen(plan(pace, later), given) >= _seen(plan(pace, given), given)


@given(paces, limits(), st.floats(0.01, 1))
def test_less_memory_never_gets_a_larger_batch(pace: Pace, given: Limits, factor: float) -> None:
    small = replace(given, memory=given.memory * factor)
    unhurried, hurried = replace(given, seconds=math.inf), replace(small, seconds=math.inf)
    assert plan(pace, hurried).batch_size <= plan(pace, unhurried).batch_size


def test_without_deadline_or_want_of_memory_it_is_what_the_run_asks_for() -> None:
    made = plan(Pace(step=1, example=1), Limits(training=Training(epochs=3), examples=100))
    assert (made.batch_size, made.steps, made.compress, made.whole, made.fits) == (32, 12, "", True, True)


def test_the_reasons_say_what_held_it_back() -> None:
    pace = Pace(step=0.1, example=0.01, memory=50e6, memory_example=10e6, uplink=1e4)
    given = Limits(
        training=Training(epochs=5),
        examples=400,
        seconds=30,
        memory=250e6,
        sendings=(("", 400_000), ("int8", 101_000)),
    )
    made = plan(pace, given)
    assert (made.batch_size, made.compress, made.whole, made.fits) == (16, "int8", False, True)
    batch, steps, codec = made.reasons
    assert batch == "batch size 16, not 32: 32 would take 370 MB of the 250 MB that may be taken"
    assert steps == "68 of 125 steps: 17.9 s of the 30 s may be spent on training"
    assert codec == "int8: the update takes 10 s at 0.08 Mbit/s"


def test_nothing_fits_is_said_with_the_least_there_is() -> None:
    given = Limits(training=Training(), examples=100, seconds=1, memory=1e6)
    made = plan(Pace(step=5, example=0.1, memory=2e6), given)
    assert (made.batch_size, made.steps, made.share, made.fits) == (2, 1, 0, False)
    assert "even this takes 2 MB" in made.reasons[0]


@pytest.mark.parametrize(("hot", "steps"), [(False, 7), (True, 3)])
def test_a_hot_board_is_given_half_the_work(hot: bool, steps: int) -> None:
    given = Limits(training=Training(epochs=9), examples=32, seconds=10)
    assert plan(Pace(step=1, example=0, hot=hot), given).steps == steps


parts = st.lists(paces, min_size=1, max_size=4).map(
    lambda found: {f"last:{4 - i}": p for i, p in enumerate(found)}
)


@given(parts, limits())
def test_the_part_that_is_chosen_fits_if_any_does_and_no_larger_one_does_enough(
    parts: dict[str, Pace], given: Limits
) -> None:
    plans = {part: plan(pace, given) for part, pace in parts.items()}
    choice = choose(plans.items())
    assert choice is not None
    assert choice.plan == plans[choice.part]
    assert choice.plan.fits == any(made.fits for made in plans.values())
    larger = list(plans)[: list(plans).index(choice.part)]
    assert not any(plans[part].fits and plans[part].share >= ENOUGH for part in larger)
    assert (choice.why == "") == (choice.part == next(iter(plans)))
    if choice.plan.fits:
        assert all(made.share < 2 * choice.plan.share for made in plans.values() if made.fits)


def test_parts_are_looked_at_only_until_one_does_enough() -> None:
    given = Limits(training=Training(epochs=3), examples=100, seconds=10)

    def plans() -> Iterator[tuple[str, Plan]]:
        yield "", plan(Pace(step=5, example=0), given)
        yield "last:2", plan(Pace(step=1, example=0), given)
        raise AssertionError("last:1 is not needed")

    choice = choose(plans())
    assert choice is not None
    assert choice.part == "last:2"
    assert choice.why == "1 of 12 steps: 7.2 s of the 10 s may be spent on training"


def test_nothing_known_is_no_choice() -> None:
    assert choose([]) is None
