"""The privacy of a run that goes on: its ledger, its figures, and whether another round fits the budget."""

import math
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedloom_client.seeds import derive_seed
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError
from fedloom_server.privacy.accountant import Composition, largest
from fedloom_server.privacy.budget import FIGURES, Budget
from fedloom_server.privacy.ledger import EVERYBODY, Ledger, Unit, composition
from fedloom_server.privacy.mechanisms import Mechanisms, check_budget
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.store.run_store import RunStore

if TYPE_CHECKING:
    from fedloom_server.rounds.open_round import OpenRound
    from fedloom_server.rounds.plan import Plan


class RunPrivacy:
    """Accounts for what a run releases.

    Attributes:
        secret: whether noise is the operating system's. Then no release can be made again: each asking
            counts, and the ledger is on disk before anybody is asked or told.
    """

    def __init__(self, plan: "Plan", mechanisms: Mechanisms, store: RunStore) -> None:
        self.secret = plan.secret
        self._mechanisms, self._store = mechanisms, store
        self._budget = plan.privacy or Budget()
        self._ledger = Ledger(store)
        self._declared: Mapping[int, int] = {}
        self._fresh: dict[Unit, set[Composition]] = {}  # what one round costs who has spent nothing

    def begin(self, strategy: object, declared: Mapping[int, int], started: bool) -> None:
        """Before the first round of this process; `declared` are the clients' examples.

        Raises:
            InputError: not one round fits the budget, or the run began without a ledger.
        """
        facts = self._store.facts()
        if started and "privacy" not in facts:
            raise InputError("this run began before privacy was accounted for; start it again")
        sizes = set(declared.values())
        if not started:
            check_budget(self._budget, self._mechanisms, sizes)
        self._declared, self._fresh = declared, self._mechanisms.first_round(sizes)
        if self.secret:  # who takes part must be nobody's to know, and the same after a crash
            kept = facts.get("privacy_key") or secrets.token_hex(16)
            self._store.set_facts({"privacy_key": kept})
            if isinstance(strategy, PrivateMean):
                strategy.key, strategy.seeded = derive_seed(kept, "privacy"), False
        limit = self._budget.epsilon
        said = {
            "budget": limit if math.isfinite(limit) else None,
            "delta": self._budget.delta,
            "unit": self._mechanisms.units[0],
            "mechanism": self._mechanisms.said,
        }
        self._store.set_facts({"privacy": said})

    def asked(self, round_number: int, clients: Iterable[int]) -> None:
        """Clients are about to be asked to train: what they will send is a release already.

        From seeds a client's update is the same whenever it is asked in a round, so it counts once; from
        the operating system's entropy it is another each time.
        """
        key = secrets.token_hex(8) if self.secret else ""
        sizes = {client: self._declared[client] for client in clients}
        self._ledger.note(self._mechanisms.asked(round_number, key, sizes))
        if self.secret:
            with self._store.transaction(durable=True):
                self._ledger.write()

    def answered(self, round_number: int, attempt: int, examples: Mapping[int, int]) -> None:
        """What clients say they have trained on: whose data has grown has taken more steps."""
        for client, now in examples.items():
            before = self._declared[client]
            if now > before:
                key = f"grown, attempt {attempt}"
                self._ledger.note(self._mechanisms.grown(round_number, key, client, before, now))

    def made(self, round_number: int, digest: str) -> None:
        """New global arrays, whose hash is `digest`, are about to be shown to somebody."""
        self._ledger.note(self._mechanisms.made(round_number, digest))

    def write(self) -> None:
        """Write the ledger down; call it inside `transaction`."""
        self._ledger.write()

    def figures(self) -> dict[str, float]:
        """What has been spent: `epsilon`, and `sample_epsilon` beside it where both units are hidden."""
        units = self._mechanisms.units
        return {name: self._epsilon(unit, ahead=False) for name, unit in zip(FIGURES, units, strict=False)}

    def over(self, round_number: int, opened: "OpenRound | None" = None) -> str:
        """Why round `round_number` must not begin, or not go on where it is open; empty if it may.

        An open round's releases are in the ledger. What is left of one costs nothing where noise is
        seeded, or where training is over.
        """
        paid = opened is not None and (not self.secret or opened.batch.phase == "evaluate")
        if paid or math.isinf(self._budget.epsilon):
            return ""
        for unit in self._mechanisms.units:
            if (spent := self._epsilon(unit, ahead=True)) > self._budget.epsilon:
                return (
                    f"round {round_number} would spend epsilon {spent:.4g} of {self._budget.epsilon:g} "
                    f"at delta {self._budget.delta:g}"
                )
        return ""

    def _epsilon(self, unit: Unit, *, ahead: bool) -> float:
        """Of the unit that has lost most; with `ahead` as if every client took part once more."""
        if not ahead:
            return self._ledger.epsilon(unit, self._budget.delta)
        parts = set(self._fresh[unit])
        for client, counts in self._ledger.spent(unit).items():
            examples = 0 if client == EVERYBODY else self._declared[client]
            noise, rate, count = self._mechanisms.cost(unit, examples)
            parts.add(composition(counts + Counter({(noise, rate): count})))
        return largest(parts, self._budget.delta)


def keep_whole(before: Arrays, after: Arrays, statistics: frozenset[str]) -> Arrays:
    """Statistics that noise made negative, which a variance cannot be, stay as they were."""
    mended = dict(after)
    for name in statistics & after.keys():
        if (before[name] >= 0).all():
            mended[name] = np.where(after[name] < 0, before[name], after[name])
    return mended
