"""Calls that take turns, so that what they wait for can be done for all of them at once."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

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
        self._mine = threading.local()

    def ask(self, question: Question) -> Answer:
        """The answer to a question; from within a call that waits until all others ask too, or are done."""
        turn: _Turn[Question, Answer] | None = getattr(self._mine, "turn", None)
        answer = self._answer([question])[0] if turn is None else turn.ask(question)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the calls return, in their order.

        Raises:
            Exception: the first that one of them raised, once all are done.
        """
        results: dict[int, Result | BaseException] = {}

        def work(place: int, turn: _Turn[Question, Answer]) -> None:
            self._mine.turn = turn
            try:
                results[place] = calls[place]()
            except BaseException as error:  # noqa: BLE001  (it belongs to whoever called `run`)
                results[place] = error

        turns: list[_Turn[Question, Answer]] = [_Turn() for _ in calls]
        for place, turn in enumerate(turns):
            turn.begin(lambda place=place, turn=turn: work(place, turn))  # type: ignore[misc]
        while waiting := [turn for turn in turns if turn.questions]:
            answers = self._answer([turn.questions.pop() for turn in waiting])
            for turn, answer in zip(waiting, answers, strict=True):
                turn.go_on(answer)
        for turn in turns:
            turn.end()
        return [_returned(results[place]) for place in range(len(calls))]


class _Turn(Generic[Question, Answer]):
    """A call in a thread of its own, of which it is in turn the caller's and the call's to run."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self._answers: list[Answer | Exception] = []
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def begin(self, call: Callable[[], None]) -> None:
        """Run the call until it asks something or is done."""

        def run() -> None:
            call()
            self._stopped.release()

        # A daemon: one that waits when the caller is interrupted is not waited for.
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def ask(self, question: Question) -> Answer | Exception:
        """Hand a question out, and wait for its answer."""
        self.questions.append(question)
        self._stopped.release()
        self._go.acquire()
        return self._answers.pop()

    def go_on(self, answer: Answer | Exception) -> None:
        """Answer the question, and run the call until it asks another or is done."""
        self._answers.append(answer)
        self._go.release()
        self._stopped.acquire()

    def end(self) -> None:
        """Wait for the thread of a call that is done."""
        assert self._thread is not None
        self._thread.join()


def _returned(result: Result | BaseException) -> Result:
    if isinstance(result, BaseException):
        raise result
    return result
