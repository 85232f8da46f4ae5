"""Local differential privacy: every client clips its update and adds noise before anybody sees it.

The Gaussian mechanism on a client's whole update (Dwork and Roth, 2014, appendix A), whose sensitivity is
twice the bound: another set of data may give the opposite update.
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloom_client.update_privacy import UpdatePrivacy
from fedloom_server.privacy.private_mean import FixedClipping
from fedloom_server.strategies.updates import uses_only_mean


class LocalPrivacy(Strategy):
    """Asks clients for noisy updates, and leaves the rest to a strategy, any: what it does costs nothing."""

    def __init__(self, strategy: Strategy, clipping: FixedClipping) -> None:
        self.strategy = strategy
        self.asked = UpdatePrivacy(clip=clipping.clipping_norm, noise=clipping.noise_multiplier)
        self.only_weighted_mean = uses_only_mean(strategy)

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of a client's noise over the sensitivity of its update."""
        return self.asked.noise / 2

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's messages, with what is asked for."""
        asking = ConfigRecord({**config, **self.asked.to_config()})
        return self.strategy.configure_train(server_round, arrays, asking, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's own."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's own."""
        return self.strategy.aggregate_train(server_round, replies)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The strategy's own."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The strategy's own."""
        self.strategy.summary()
