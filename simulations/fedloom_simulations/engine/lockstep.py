"""Calls that take turns, so that what they wait for can be done for all of them at once."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class Lockstep(Generic[Question, Answer]):
    """Runs calls one at a time, each until it asks something; what all have asked is answered together.

    Args:
        answer: questions -> an answer to each; an exception is raised where the question was asked.
    """

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]]) -> None:
        self._answer = answer
        self._caller: greenlet | None = None

    def ask(self, question: Question) -> Answer:
        """The answer to a question; from within a call that waits until all others ask too, or are done."""
        if self._caller is None:
            answer: Any = self._answer([question])[0]
        else:
            answer = self._caller.switch(question)
        if isinstance(answer, Exception):
            raise answer
        result: Answer = answer
        return result

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the calls return, in their order.

        Raises:
            Exception: what one of them raised; those that wait are given up.
        """
        self._caller = getcurrent()
        try:
            turns = [greenlet(call) for call in calls]
            told: list[Any] = [turn.switch() for turn in turns]
            while waiting := [k for k, turn in enumerate(turns) if not turn.dead]:
                answers = self._answer([told[k] for k in waiting])
                for k, answer in zip(waiting, answers, strict=True):
                    told[k] = turns[k].switch(answer)
            return told
        finally:
            self._caller = None
