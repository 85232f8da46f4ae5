"""A federation of quadratics: small enough to know the answer, driven by an algorithm's own functions."""

import numpy as np
import pytest

from fedloom_client.algorithms.base import Collected, Reply, Work, mean
from fedloom_client.seeds import generator
from fedloom_client.trainer import Assignment, Update
from fedloom_client.training import Training

DIMENSION = 4


class Quadratics:
    """Clients i with losses 0.5 (w - b_i)' A_i (w - b_i), trained by plain gradient descent.

    Attributes:
        memories: client -> what it keeps.
    """

    def __init__(self, algorithm, clients=5, steps=None, lr=0.05, weights=None, spread=1.0, seed=0):
        rng = np.random.default_rng(seed)
        self.algorithm, self.clients = algorithm, clients
        self.steps = steps or [5] * clients
        self.weights = weights or [1] * clients
        self.lr = lr
        self.curvatures = [np.diag(1 + 4 * rng.random(DIMENSION)) for _ in range(clients)]
        self.centres = [spread * rng.standard_normal(DIMENSION) for _ in range(clients)]
        self.arrays = {"w": np.zeros(DIMENSION)}
        self.state = algorithm.init(self.arrays, lambda number: {"w": np.full(DIMENSION, 0.1 * number)})
        self.memories = [{} for _ in range(clients)]

    def optimum(self, weights=None):
        weights = weights or self.weights
        pairs = list(zip(weights, self.curvatures, self.centres, strict=True))
        return np.linalg.solve(sum(p * a for p, a, _ in pairs), sum(p * a @ b for p, a, b in pairs))

    def gradient(self, client, w):
        return self.curvatures[client] @ (w - self.centres[client])

    def work(self, client, number):
        def fit(arrays, job):
            w, start = arrays["w"].copy(), (job.anchor or arrays)["w"]
            steps = job.training.steps or self.steps[client]
            for _ in range(steps):
                g = self.gradient(client, w) + job.proximal_mu * (w - start) + job.offset.get("w", 0)
                w = w if "w" in job.frozen else w - job.training.lr * g
            return Update({"w": w}, self.weights[client], {"steps": float(steps), "train-loss": 0.0})

        def loss(arrays):
            move = arrays["w"] - self.centres[client]
            return float(0.5 * move @ self.curvatures[client] @ move)

        training = Training(optimizer="sgd", lr=self.lr, epochs=self.steps[client], batch_size=1)
        return Work(
            arrays=self.arrays,
            broadcast=self.algorithm.broadcast(self.state),
            memory=self.memories[client],
            assignment=Assignment(training=training, seed=number * 100 + client),
            examples=1,
            statistics=frozenset(),
            fit=fit,
            loss=loss,
        )

    def round(self, number, sampled=None):
        replies = []
        for client in sampled if sampled is not None else range(self.clients):
            update, self.memories[client] = self.algorithm.fit(self.work(client, number))
            weight = 1 if self.algorithm.uniform else update.examples
            replies.append(Reply(update.arrays, weight, update.metrics))
        if self.algorithm.streams:
            total = sum(reply.weight for reply in replies)
            figures = {
                name: sum(reply.weight * reply.figures[name] for reply in replies) / total
                for name in replies[0].figures
            }
            replies = [Reply(mean(replies), total, figures)]
        training = Training(optimizer="sgd", lr=self.lr)
        collected = Collected(arrays=self.arrays, replies=replies, clients=self.clients, training=training)
        self.arrays, self.state = self.algorithm.apply(self.state, collected)

    def run(self, rounds, share=None):
        for number in range(1, rounds + 1):
            sampled = None
            if share:
                sampled = sorted(generator("sampled", number).permutation(self.clients)[:share])
            self.round(number, sampled)
        return self.arrays["w"]

    def personal(self, client):
        return self.algorithm.personal(self.work(client, 0))["w"]


@pytest.fixture
def quadratics():
    return Quadratics
