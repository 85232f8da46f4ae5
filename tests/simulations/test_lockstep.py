"""Calls that take turns: what they ask at the same time is answered together."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_simulations.engine.lockstep import Lockstep


@given(st.lists(st.integers(0, 4), max_size=9))
def test_calls_that_ask_differently_often_are_answered_round_by_round(questions):
    rounds = []

    def answer(asked):
        rounds.append(len(asked))
        return [question + 1 for question in asked]

    lockstep = Lockstep(answer)

    def call(count):
        return [lockstep.ask(10 * k) for k in range(count)]

    found = lockstep.run([lambda count=count: call(count) for count in questions])
    assert found == [[10 * k + 1 for k in range(count)] for count in questions]
    assert rounds == [sum(count > k for count in questions) for k in range(max(questions, default=0))]


def test_one_call_runs_at_a_time():
    running, most = [], []
    lockstep = Lockstep(lambda asked: asked)

    def call():
        for _ in range(3):
            running.append(1)
            most.append(len(running))
            running.pop()
            lockstep.ask(None)

    lockstep.run([call] * 8)
    assert set(most) == {1}


def test_an_exception_reaches_the_call_that_asked_and_no_other():
    lockstep = Lockstep(lambda asked: [ValueError("odd") if question % 2 else question for question in asked])

    def call(question):
        try:
            return lockstep.ask(question)
        except ValueError as error:
            return str(error)

    assert lockstep.run([lambda k=k: call(k) for k in range(4)]) == [0, "odd", 2, "odd"]


def test_what_a_call_raises_is_raised_and_leaves_nothing_behind():
    lockstep, ended = Lockstep(lambda asked: asked), []

    def waiting():
        try:
            lockstep.ask(None)
        finally:
            ended.append(True)

    with pytest.raises(ZeroDivisionError):
        lockstep.run([waiting, lambda: 1 / 0])
    gc.collect()
    assert ended == [True]
    assert lockstep.ask(1) == 1


def test_outside_of_a_call_a_question_is_answered_at_once():
    assert Lockstep(lambda asked: [question + 1 for question in asked]).ask(1) == 2
