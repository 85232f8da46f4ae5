"""What a federation is to do, and who is told how it goes on."""

from dataclasses import dataclass, field
from typing import Protocol

from fedloom_client.orders import Orders
from fedloom_client.task import Task
from fedloom_client.training import Training
from fedloom_server.guard.norms import GuardSettings
from fedloom_server.privacy.budget import Budget
from fedloom_server.recovery.checkpoints import Keep
from fedloom_server.rounds.early_stop import EarlyStop
from fedloom_server.secure.settings import SecureSettings
from fedloom_server.store.rows import Round


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a federation is to do.

    Attributes:
        task: what is learned.
        training: settings of local training.
        rounds: how many, at most.
        clients: how many nodes take part.
        seed: of everything that is drawn at random.
        early_stop: when to stop before `rounds`, or None.
        orders: what clients do around training.
        guard: what is done with outliers, and how many good updates a round needs.
        keep: which checkpoints stay on disk.
        secure: how updates are summed without being seen; None to look at each.
        deadline: seconds that a phase of a round waits for replies; None to wait for all.
        save_seconds: least time between two saves of an open round.
        privacy: how much privacy may be spent; None for no limit.
        secret: whether noise for privacy is the operating system's, as it must be where others than the
            user see what is released. A simulation's follows from the seed, to be the same again.
    """

    task: Task
    training: Training
    rounds: int
    clients: int
    seed: int
    early_stop: EarlyStop | None = None
    orders: Orders = field(default_factory=Orders)
    guard: GuardSettings = field(default_factory=GuardSettings)
    keep: Keep = field(default_factory=Keep)
    secure: SecureSettings | None = None
    deadline: float | None = None
    save_seconds: float = 2.0
    privacy: Budget | None = None
    secret: bool = False


class Watcher(Protocol):
    """Is told how a run goes on (a progress bar, TensorBoard). It never changes the run."""

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """A client's reply has come in."""
        ...

    def round_done(self, entry: Round) -> None:
        """A round is finished and in the store."""
        ...
