"""The entries of the suite, as data."""

from collections.abc import Mapping

from fedloom_simulations.conformance.entry import (
    Entry,
    Run,
    around,
    auc_of,
    best_at_clients,
    excess_ratio,
    last,
    one_area,
    rounds_ratio,
)


def _pfllib(name: str, strategy: str, rounds: int, published: float, deviation: float) -> Entry:
    return Entry(
        name=name,
        source="PFLlib (Zhang et al., 2025), leaderboard, pathological label skew, Fashion-MNIST",
        published=f"{published} ± {deviation} %",
        setup=(
            "70,000 images, 20 clients of two classes and unequal size, all in every round; CNN of two 5x5 "
            "convolutions and two linear layers, batch 10, one local epoch, SGD 0.005; best round, accuracy "
            "on the clients' own quarter. Their division, from their seed; the quarter is drawn anew by "
            "seed. Theirs were 2,000 rounds."
        ),
        runs={"run": Run("pathological", rounds, ("--strategy", strategy), validation=0.25)},
        figure=best_at_clients("run"),
        interval=around(published, deviation, test=17_500),
        unit="%",
    )


def _niid(name: str, strategy: str, published: float, *options: str) -> Entry:
    return Entry(
        name=name,
        source="NIID-Bench (Li et al., 2022), Fashion-MNIST, Dirichlet(0.5)",
        published=f"{published} %",
        setup=(
            "60,000 images, 10 clients, all in every round; LeNet, batch 64, 10 local epochs, SGD 0.01 with "
            "momentum 0.9, 50 rounds; the 10,000 test images, mean of the last three rounds. Their way to "
            "divide, one draw; a point either side, as the deviation over three runs was not at hand."
        ),
        runs={"run": Run("niid", 50, ("--strategy", strategy, *options))},
        figure=last("run"),
        interval=(published - 1, published + 1),
        unit="%",
    )


def _unifed(name: str, task: str, model: str, published: float) -> Entry:
    return Entry(
        name=name,
        source=f"UniFed (Liu et al., 2022), breast_horizontal, {model}, Flower",
        published=f"{published}",
        setup=(
            "569 biopsies standardised, 114 to test, two clients; batch 32, 5 local epochs, SGD 0.01 with "
            "momentum 0.9, 10 rounds. The rows are theirs, which of them are the test's is not; the interval "
            "is two standard errors of an area on 114 rows (Hanley & McNeil, 1982)."
        ),
        runs={"run": Run(task, 10, ("--strategy", "fedavg"))},
        figure=auc_of("run"),
        interval=one_area(published, positive=72, negative=42),
        unit="AUC",
        short=True,
    )


def _scaffold(name: str, task: str, similar: str, published: str) -> Entry:
    options = ("--set", "strategy.fraction_train=0.2", "--set", "strategy.fraction_evaluate=0")
    runs: Mapping[str, Run] = {
        strategy: Run(task, 80, ("--strategy", strategy, *options)) for strategy in ("scaffold", "fedavg")
    }
    return Entry(
        name=name,
        source="SCAFFOLD (Karimireddy et al., 2020), table 3",
        published=published,
        setup=(
            f"Logistic regression, 100 clients, 20 a round, {similar} of the data dealt at random and the "
            "rest by class, batches of a fifth of a client, 5 local epochs, SGD 0.1 (0.03 is worse for both)."
            " EMNIST comes with no package: Fashion-MNIST, to .75 instead of .5. Below 1 SCAFFOLD is sooner."
        ),
        runs=runs,
        figure=rounds_ratio("scaffold", "fedavg", 0.75),
        interval=(0.0, 0.95),
        unit="rounds over FedAvg's",
    )


_FEDNOVA = Entry(
    name="fednova-consistent",
    source="FedNova (Wang et al., 2020), theorems 1 and 2",
    published=(
        "with unequally many local steps FedAvg ends at the minimum of another objective, FedNova at that of "
        "the true one"
    ),
    setup=(
        "Least squares on 442 patients, 6 clients by target, each twice as large as the one before; batch "
        "16, 4 local epochs, SGD 0.002, 150 rounds. How far above the closed-form minimum FedAvg ends, over "
        "how far FedNova does; at a step size above 0 FedNova is not at 0 either."
    ),
    runs={name: Run("linear", 150, ("--strategy", name)) for name in ("fedavg", "fednova")},
    figure=excess_ratio("fedavg", "fednova"),
    interval=(5.0, float("inf")),
    unit="times nearer",
    short=True,
)

ENTRIES = (
    _unifed("unifed-linear", "breast_linear", "logistic regression", 0.9818),
    _unifed("unifed-mlp", "breast_mlp", "MLP of three times 128", 0.9869),
    _FEDNOVA,
    _scaffold("scaffold-dissimilar", "logistic0", "none", "152 rounds against 428: a ratio of 0.36"),
    _scaffold("scaffold-similar", "logistic10", "a tenth", "20 rounds against 34: a ratio of 0.59"),
    _pfllib("pfllib-ditto", "ditto", 100, 99.44, 0.06),
    _pfllib("pfllib-apfl", "apfl", 100, 99.41, 0.02),
    _pfllib("pfllib-fedrep", "fedrep", 100, 99.56, 0.03),
    _niid("niid-fedavg", "fedavg", 88.1),
    _niid("niid-fedprox", "fedprox", 88.2, "--set", "strategy.proximal_mu=0.01"),
    _niid("niid-scaffold", "scaffold", 88.4),
    _niid("niid-fednova", "fednova", 88.2),
)
