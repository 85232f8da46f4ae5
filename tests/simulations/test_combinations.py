"""Options together: each pair works in a short run, or is refused by one sentence before it begins."""

import pytest

from fedloom_client.algorithms.registry import ALGORITHMS

SGD = ("--set", "training.optimizer=momentum", "--set", "training.lr=0.05")
SHORT = ("--clients", 3, "--rounds", 1, *SGD)
DPSGD = ("--set", "training.dp_noise=1", "--set", "training.dp_clip=1")
DP = ("--set", "strategy.noise_multiplier=0.1", "--set", "strategy.clipping_norm=1")


@pytest.mark.parametrize(
    "options",
    [
        *[("--strategy", name, "--compress", "int8") for name in ALGORITHMS],
        ("--strategy", "scaffold", "--attack", "signflip:0.3"),
        ("--strategy", "ditto", "--attack", "labelflip:0.3"),
        ("--strategy", "scaffold", "--faults", "nan=0.2,drop=0.1,crash=0.1"),
        ("--strategy", "fedadam", "--compress", "topk:0.05"),
        ("--strategy", "rfa", "--compress", "lowrank:2"),
        ("--strategy", "krum", "--compress", "float16"),
        ("--strategy", "dp-server-fixed:fedavg", *DP, "--compress", "int8"),
        ("--strategy", "dp-client-fixed:fedavg", *DP, "--compress", "int8"),
        ("--strategy", "dp-server-fixed:fedavg", *DP, "--attack", "signflip:0.3", "--faults", "drop=0.2"),
        ("--strategy", "dp-server-fixed:fedadam", *DP),
        ("--strategy", "dp-local:krum", *DP, "--compress", "int8"),
        ("--strategy", "dp-server-fixed:fedavg", *DP, "--mode", "semisync"),
        ("--strategy", "dp-local:fedadam", *DP, "--secure-aggregation"),
        ("--compress", "int8", "--attack", "labelflip:0.3"),
        ("--compress", "int8", "--faults", "drop=0.1,stale=0.2"),
        ("--strategy", "fedbn", "--backend", "torch"),
        ("--strategy", "dp-client-fixed", *DP, "--backend", "vmap"),
        ("--mode", "async", "--backend", "onnx", "--workers", 2),
        ("--strategy", "scaffold", "--backend", "onnx"),
    ],
)
def test_these_work_together(simulate, task_file, options):
    model = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))"
    done = simulate(task_file(model=model), *SHORT, *options)
    assert done.code == 0, done.err
    assert done.result["status"] == "finished"
    assert done.result["rounds"][0]["clients_ok"] >= 1


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--strategy", "fedadam", "--compress", "int8"),
        ("--strategy", "fedprox", "--set", "strategy.proximal_mu=0.1"),
        ("--strategy", "dp-server-fixed:fedadam", *DP),
        ("--mode", "semisync"),
        ("--attack", "labelflip:0.3", "--faults", "drop=0.2"),
        ("--workers", 2),
        ("--secure-aggregation",),
    ],
)
def test_private_training_works_with_these(simulate, task_file, options):
    done = simulate(task_file(), *SHORT, *DPSGD, *options)
    assert done.code == 0, done.err
    assert done.result["rounds"][0]["epsilon"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--compress", "int8", "--attack", "signflip:0.2"), "--attack signflip changes updates"),
        (("--compress", "int8", "--faults", "nan=0.2"), "--faults nan"),
        (("--strategy", "dp-server-fixed:ditto", *DP), "goes around Flower's strategies only"),
        (("--strategy", "dp-local", *DP, "--mode", "async"), "counts round by round"),
        (("--strategy", "dp-server-fixed", *DP, "--set", "guard.norms=clip"), "not covered by the noise"),
        (("--strategy", "ditto", *DPSGD), "accounts for one training a round"),
        (DPSGD, "mixes the examples"),
        ((*DPSGD, "--backend", "vmap"), "leave out --backend"),
        ((*DPSGD, "--set", "training.patience=2"), "leave one out"),
        (("--set", "training.dp_noise=1"), "needs both"),
        ((*DPSGD, "--partition", "virtual:20"), "use another partition"),
        (("--privacy", ""), "unknown key of --privacy"),
        (("--privacy", "epsilon=3"), "needs noise to account for"),
        (("--privacy", "epsilon=3", "--strategy", "dp-local", *DP), "round 1 alone would spend"),
        (("--privacy", "epsilon=-1", "--strategy", "dp-local", *DP), "epsilon must be above 0"),
        (("--privacy", "budget=1"), "unknown key of --privacy"),
        (("--strategy", "scaffold", "--set", "training.optimizer=adam"), "steps are sums of gradients"),
    ],
)
def test_these_are_refused_by_one_sentence(simulate, options, said):
    done = simulate("digits", *SGD, *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not done.folder.exists()
