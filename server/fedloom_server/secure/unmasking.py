"""What a coordinator knows of the masks of a session: enough to take them off a sum, and no more."""

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from fedloom_client.secure.masks import KeyPair, Vector, add_masks, commitment, pair_mask
from fedloom_client.secure.participant import SEALED_BYTES
from fedloom_client.secure.shamir import join
from fedloom_edge.errors import FedloomError
from fedloom_server.secure.graph import threshold

Bytes = NDArray[np.uint8]


class UnmaskingError(FedloomError):
    """A sum stays masked; what it was made of is not known."""


class Keyring:
    """The public keys, commitments and sealed shares of a session, and the shares that come to light.

    Args:
        session: its name.
        graph: client -> its neighbours in order.
        keys: client -> public key of its masks.
    """

    def __init__(self, session: str, graph: Mapping[int, list[int]], keys: Mapping[int, bytes]) -> None:
        self.graph = graph
        self._session, self._keys = session, keys
        self._places = {
            client: {other: place for place, other in enumerate(others)} for client, others in graph.items()
        }
        self._commitments: dict[int, bytes] = {}
        self._sealed: dict[int, Bytes] = {}

    def add(self, client: int, seed: bytes, sealed: Bytes) -> None:
        """Keep the commitment to a client's seed and what it sealed for its neighbours (N, 148)."""
        self._commitments[client], self._sealed[client] = seed, sealed

    @property
    def sharing(self) -> Set[int]:
        """Clients whose secrets can be given back by others."""
        return self._sealed.keys()

    def sealed_for(self, client: int) -> Bytes:
        """What its neighbours sealed for a client (N, 148); zeros of those who gave nothing."""
        rows = np.zeros((len(self.graph[client]), SEALED_BYTES), np.uint8)
        for place, other in enumerate(self.graph[client]):
            if other in self._sealed:
                rows[place] = self._sealed[other][self._places[other][client]]
        return rows

    def take_off(self, total: Vector, left: Set[int], answers: Mapping[int, Bytes]) -> None:
        """Take the masks off a sum (D,), in place.

        Args:
            total: of the vectors of the clients `left`.
            left: clients.
            answers: client -> shares (1 + N, 66): of its own seed, and of a secret of each neighbour.

        Raises:
            UnmaskingError: too few shares of a secret, or wrong ones; `total` is as it was.
        """
        masks = [(self._seed(client, answers), -1) for client in sorted(left)]
        for client in sorted(self.sharing - left):
            others = [other for other in self.graph[client] if other in left]
            if others:  # else nobody's mask with it is in the sum
                pair = self._pair(client, answers)
                masks += [pair_mask(pair, self._keys[other], self._session) for other in others]
        add_masks(total, masks)

    def _seed(self, client: int, answers: Mapping[int, Bytes]) -> bytes:
        secret = self._joined(client, answers)
        if commitment(self._session, secret) != self._commitments[client]:
            raise UnmaskingError(f"a share of client {client}'s seed is wrong")
        return secret

    def _pair(self, client: int, answers: Mapping[int, Bytes]) -> KeyPair:
        pair = KeyPair.of(self._joined(client, answers))
        if pair.public != self._keys[client]:
            raise UnmaskingError(f"a share of client {client}'s key is wrong")
        return pair

    def _joined(self, client: int, answers: Mapping[int, Bytes]) -> bytes:
        """The one secret of a client of which shares were given."""
        needed = threshold(len(self.graph[client]))
        shares: dict[int, bytes] = {}
        if client in answers:
            shares[1] = answers[client][0].tobytes()
        for place, other in enumerate(self.graph[client], start=2):
            if other in answers and len(shares) < needed:
                row = answers[other][1 + self._places[other][client]]
                if row.any():
                    shares[place] = row.tobytes()
        if len(shares) < needed:
            raise UnmaskingError(
                f"{len(shares)} shares of a secret of client {client} were given, {needed} are needed"
            )
        try:
            return join(shares)
        except ValueError as error:
            raise UnmaskingError(f"client {client}: {error}") from None
