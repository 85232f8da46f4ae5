"""Our own algorithms as a Flower strategy: one class for all of them, around `init` and `apply`."""

from collections.abc import Callable, Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from fedloom_client.algorithms.base import Algorithm, Collected, Reply, named, part
from fedloom_client.flower.records import arrays_in, from_record, to_record, values_in
from fedloom_client.orders import ALGORITHM, Orders
from fedloom_client.trainer import Trainer
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_server.guard.guard import GROWTH

_BEGUN = "begun"
_SELDOM = 0.2  # share of the clients in a round, below which some algorithms collapse


class Composed(FedAvg):
    """Asks clients for an algorithm's client half, and applies its server half to what they send.

    Attributes:
        draw: gives other initial arrays of the model, by number; set by whoever has its trainer.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        clients: int,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
    ) -> None:
        """`clients` are the nodes in the federation; the rest is FedAvg's."""
        super().__init__(
            fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        )
        self.algorithm = algorithm
        self.clients = clients
        self.draw: Callable[[int], Arrays] = lambda number: self._arrays
        self.only_weighted_mean = algorithm.streams
        self.uniform_weights = algorithm.uniform
        self._state: Arrays | None = None
        self._arrays: Arrays = {}
        self._training = Training()

    @property
    def warnings(self) -> list[str]:
        """What is known to go wrong with this algorithm in this setting, in sentences."""
        said = self.algorithm.low_participation
        if self.algorithm.personal_models:
            return ["every client gets a model of its own: look at the clients' figures, not the test set's"]
        return [f"{self.fraction_train:.0%} of the clients a round: {said}"] if said and self._seldom else []

    @property
    def _seldom(self) -> bool:
        return max(self.fraction_train, self.min_train_nodes / self.clients) < _SELDOM

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages, with the algorithm's name, options and broadcast."""
        self._arrays = from_record(arrays)
        self._training = Training.from_config(config)
        if self._state is None:
            self._state = self.algorithm.init(self._arrays, self.draw)
        return self._with_broadcast(super().configure_train(server_round, arrays, self._asking(config), grid))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same for evaluation: clients measure what they use themselves."""
        return self._with_broadcast(
            super().configure_evaluate(server_round, arrays, self._asking(config), grid)
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The algorithm's server half."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        collected = Collected(
            arrays=self._arrays,
            replies=[self._reply(message) for message in valid],
            clients=self.clients,
            training=self._training,
        )
        arrays, self._state = self.algorithm.apply(self._state or {}, collected)
        metrics = self.train_metrics_aggr_fn([message.content for message in valid], self.weighted_by_key)
        return to_record(arrays), metrics

    def fault(self, reply: Message, declared: int) -> str:
        """Why an update that the guard has accepted is no possible one of this algorithm."""
        return self.algorithm.fault(
            dict(values_in(reply.content, "metrics")), self._training.most_steps(GROWTH * declared)
        )

    def state(self) -> Arrays:
        """The server half's state."""
        begun = {} if self._state is None else {_BEGUN: np.array(1)}
        return {**begun, **named("state", self._state or {})}

    def restore(self, state: Arrays) -> None:
        """Take over what `state` gave."""
        self._state = part(state, "state") if _BEGUN in state else None

    def _asking(self, config: ConfigRecord) -> ConfigRecord:
        return ConfigRecord({**config, **Orders(algorithm=self.algorithm).to_config()})

    def _with_broadcast(self, messages: Iterable[Message]) -> list[Message]:
        asked = list(messages)
        if broadcast := self.algorithm.broadcast(self._state or {}):
            record = to_record(broadcast)
            for message in asked:
                message.content[ALGORITHM] = record
        return asked

    def _reply(self, message: Message) -> Reply:
        figures = dict(values_in(message.content, "metrics"))
        alone = self.algorithm.uniform and not self.algorithm.streams
        weight = 1 if alone else int(figures["num-examples"])
        return Reply(arrays_in(message.content, "arrays"), weight, figures)


def check_model(strategy: Strategy, make_trainer: Callable[[], Trainer]) -> None:
    """Refuse a model that the strategy's algorithm, if it is one of ours, cannot train.

    Raises:
        InputError: it is one.
    """
    if isinstance(strategy, Composed):
        trainer = make_trainer()
        strategy.algorithm.check(trainer.statistics, trainer.initial_arrays)
