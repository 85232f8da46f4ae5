"""Early stopping within a round: the epoch with the lowest validation loss is the one that is sent."""

import math
from collections.abc import Callable

from fedloom_edge.arrays import Arrays


class Best:
    """The arrays of the best epoch so far.

    Attributes:
        patience: epochs without a better one after which training should stop.
        arrays: of the best epoch; empty before the first.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.arrays: Arrays = {}
        self._lowest = math.inf
        self._waited = 0

    def note(self, loss: float, read: Callable[[], Arrays]) -> None:
        """Take in the validation loss after an epoch; `read` copies its arrays if they are wanted.

        The first epoch counts even if its loss is not finite.
        """
        self._waited += 1
        if loss < self._lowest or not self.arrays:
            self._lowest, self._waited = (math.inf if math.isnan(loss) else loss), 0
            self.arrays = read()

    @property
    def over(self) -> bool:
        """Whether training should stop."""
        return self._waited >= self.patience
