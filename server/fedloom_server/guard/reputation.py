"""Which clients are left out for a while: repeat offenders, with back-off."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST = 64  # rounds on the bench
_FORGIVEN_AFTER = 4  # good updates in a row that take one strike away


@dataclass
class Record:
    """One client's past: strikes, good updates since the last, and the first round it may be asked again."""

    strikes: int = 0
    good: int = 0
    back_in: int = 0


class Reputation:
    """The first refused update costs nothing; the nth of a client leaves it out for 2**(n-1) rounds.

    Failing (a crash, no reply, no network) is no offence: weak devices must not be punished.
    """

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}

    def refused(self, client: int, round_number: int) -> int:
        """Note a refused update; returns for how many rounds the client is left out."""
        record = self._records.setdefault(client, Record())
        record.strikes, record.good = record.strikes + 1, 0
        rounds = 0 if record.strikes == 1 else min(2 ** (record.strikes - 1), _LONGEST)
        record.back_in = round_number + 1 + rounds
        return rounds

    def accepted(self, client: int) -> None:
        """Note a good update."""
        record = self._records.get(client)
        if record is None:
            return
        record.good += 1
        if record.good == _FORGIVEN_AFTER:
            record.strikes, record.good = record.strikes - 1, 0
            if record.strikes == 0:
                del self._records[client]

    def benched(self, round_number: int) -> set[int]:
        """Clients that are not to be asked in a round."""
        return {client for client, record in self._records.items() if record.back_in > round_number}

    def trusted_first(self, clients: Iterable[int]) -> list[int]:
        """Clients by strikes, fewest first: who is asked all the same where too few are left."""
        return sorted(clients, key=lambda client: (self._strikes(client), client))

    def state(self) -> dict[str, list[int]]:
        """As JSON values."""
        return {str(client): [r.strikes, r.good, r.back_in] for client, r in sorted(self._records.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self._records = {int(client): Record(*values) for client, values in state.items()}

    def _strikes(self, client: int) -> int:
        record = self._records.get(client)
        return 0 if record is None else record.strikes
