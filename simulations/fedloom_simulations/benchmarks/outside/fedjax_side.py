"""fedjax 0.0.17 (Ro et al., 2021) on JAX: PYTHON fedjax_side.py FILE."""

import random
from typing import Any

import fedjax
import jax
import jax.numpy as jnp
from fedjax.algorithms import fed_avg
from given import Given, Laps
from jax.example_libraries import stax

NETS: dict[str, Any] = {
    "logistic": stax.serial(stax.Flatten, stax.Dense(10)),
    "logistic50": stax.serial(stax.Flatten, stax.Dense(10)),
    "mlp": stax.serial(stax.Flatten, stax.Dense(64), stax.Relu, stax.Dense(10)),
    "cnn": stax.serial(
        stax.Conv(32, (3, 3)),
        stax.Relu,
        stax.Conv(64, (3, 3)),
        stax.Relu,
        stax.MaxPool((2, 2), (2, 2)),
        stax.Flatten,
        stax.Dense(128),
        stax.Relu,
        stax.Dense(10),
    ),
}


def main() -> None:
    """Run the workload."""
    given, laps = Given.read(), Laps()
    settings = given.settings
    channels_last = given.x.transpose(0, 2, 3, 1) if given.x.ndim == 4 else given.x
    test = given.test_x.transpose(0, 2, 3, 1) if given.test_x.ndim == 4 else given.test_x
    init, apply = NETS[settings["task"]]
    _, params = init(jax.random.PRNGKey(0), (-1, *channels_last.shape[1:]))

    def loss(params: Any, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(apply(params, x)), y[:, None], 1).mean()

    algorithm = fed_avg.federated_averaging(
        lambda params, batch, _: jax.grad(loss)(params, batch["x"], batch["y"]),
        fedjax.optimizers.sgd(settings["lr"], settings["momentum"]),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(settings["batch_size"], num_epochs=settings["epochs"]),
    )
    clients = [fedjax.ClientDataset({"x": channels_last[part], "y": given.y[part]}) for part in given.parts]
    measure = jax.jit(loss)
    state = algorithm.init(params)
    for number in range(settings["rounds"]):
        laps.start()
        cohort = random.sample(range(len(clients)), settings["cohort"])
        keys = jax.random.split(jax.random.PRNGKey(number), len(cohort))
        told = [(str(client).encode(), clients[client], keys[k]) for k, client in enumerate(cohort)]
        state, _ = algorithm.apply(state, told)
        measure(state.params, test, given.test_y).block_until_ready()
        laps.lap()
    laps.print()


if __name__ == "__main__":
    main()
