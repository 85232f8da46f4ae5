"""The attack kit: who attacks is the seed's, and each attack does what its paper says."""

import json

import numpy as np
import pytest

from fedloom_client.data.samples import View
from fedloom_client.data.shards import ShardRecipe
from fedloom_edge.errors import InputError
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.adversity.attacks import STRENGTHS, Attack, craft
from fedloom_simulations.adversity.poison import PoisonedRecipe, stamped

ORIGIN = {"w": np.ones(4, np.float32)}
UPDATES = [{"w": np.array(row, np.float32)} for row in ([2, 1, 1, 1], [4, 1, 1, 3])]


def crafted(text, updates=UPDATES):
    attack = Attack.parse(text, seed=3)
    return [made["w"] for made in craft(attack, ORIGIN, updates, [0, 1], 1, 10)]


def test_sign_flip_and_scale_by_hand():
    assert crafted("signflip:0.2")[0].tolist() == [0, 1, 1, 1]
    assert crafted("scale:0.2:10")[1].tolist() == [-29, 1, 1, -19]


def test_noise_has_the_norm_that_was_asked_for():
    made = crafted("noise:0.2:10")
    assert np.linalg.norm(made[0] - ORIGIN["w"]) == pytest.approx(10 * 1.0, rel=1e-5)
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], crafted("noise:0.2:10")[0])


def test_ipm_is_against_the_attackers_mean():
    made = crafted("ipm:0.2:0.5")
    assert made[0].tolist() == made[1].tolist() == [0.0, 1.0, 1.0, 0.5]


def test_a_little_is_enough_by_hand():
    # Mean of the differences (2, 0, 0, 1), standard deviations (1, 0, 0, 1), moved by z = 1.
    assert crafted("alie:0.2:1")[0].tolist() == [2.0, 1.0, 1.0, 1.0]
    # The paper's z for 20 clients, 4 of them attackers: s = 7 are needed, phi^-1(9/16) = 0.1573.
    made = craft(Attack.parse("alie:0.2", 3), ORIGIN, UPDATES, [0, 1], 1, 20)[0]["w"]
    assert made[0] == pytest.approx(1 + 2 - 0.1573, abs=1e-4)


def test_the_same_clients_attack_for_the_same_seed():
    attack = Attack.parse("signflip:0.3", 5)
    assert attack.attackers(10) == Attack.parse("scale:0.3", 5).attackers(10)
    assert len(attack.attackers(10)) == 3
    assert len({Attack.parse("signflip:0.3", seed).attackers(10) for seed in range(9)}) > 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("signflop:0.2", "did you mean 'signflip'"),
        ("scale", "write NAME:SHARE"),
        ("scale:lots", "write NAME:SHARE"),
        ("scale:1.5", "between 0 and 1"),
        ("scale:0.2:-1", "at least 0"),
        ("scale:nan", "between 0 and 1"),
    ],
)
def test_wrong_attacks_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        Attack.parse(text, 0)


def shards(text):
    values = ("digits", None, "iid", 5, 1)
    attack = Attack.parse(text, 1)
    return ShardRecipe(*values).open(), PoisonedRecipe(*values, attack=attack).open(), attack.attackers(5)


def taken(samples: View):
    return samples.take(np.arange(len(samples)))


def test_label_flips_touch_the_attackers_training_parts_alone():
    clean, poisoned, attackers = shards("labelflip:0.4")
    for client in range(5):
        (x, y), (x_poisoned, y_poisoned) = taken(clean[client].train), taken(poisoned[client].train)
        assert np.array_equal(x, x_poisoned)
        assert np.array_equal(y_poisoned, 9 - y if client in attackers else y)
        assert np.array_equal(taken(clean[client].validation)[1], taken(poisoned[client].validation)[1])


def test_a_backdoor_stamps_a_patch_and_means_class_0():
    clean, poisoned, attackers = shards("backdoor:0.2:0.5")
    (client,) = attackers
    (x, y), (x_poisoned, y_poisoned) = taken(clean[client].train), taken(poisoned[client].train)
    changed = (x != x_poisoned).any(axis=(1, 2, 3))
    assert 0.3 < changed.mean() < 0.7
    assert (y_poisoned[changed] == 0).all()
    assert (x_poisoned[changed][..., -3:, -3:] == 1).all()
    assert np.array_equal(y_poisoned[~changed], y[~changed])


def test_a_flat_square_image_is_stamped_too_and_a_table_is_refused():
    assert stamped(np.zeros((2, 16)), high=1.0).sum() == 2 * 9
    with pytest.raises(InputError, match="no"):
        stamped(np.zeros((2, 7)), high=1.0)


@pytest.mark.parametrize("attack", STRENGTHS)
def test_every_attack_runs_and_the_guard_stops_those_that_stand_out(simulate, attack):
    done = simulate("digits", "--clients", 6, "--rounds", 2, "--attack", f"{attack}:0.3")
    assert done.code == 0, done.err
    attackers = Attack.parse(f"{attack}:0.3", 0).attackers(6)
    with RunStore.open(done.folder) as store:
        refused = {event["client"] for event in store.events("rejected")}
    assert refused == (attackers if attack in ("scale", "noise") else set())


def test_clipping_keeps_the_outliers_and_bounds_them(simulate):
    options = ("digits", "--clients", 6, "--rounds", 1, "--attack", "scale:0.3:1000")
    clipped = simulate(*options, "--set", "guard.norms=clip")
    accepted = simulate(*options, "--set", "guard.norms=accept")
    with RunStore.open(clipped.folder) as store:
        assert {event["kind"] for event in store.events()} >= {"clipped"}
        assert store.rounds()[-1].clients_ok == 6
    assert clipped.result["final"]["loss"] < accepted.result["final"]["loss"]


def test_report_lists_the_quarantine(simulate, capsys):
    from fedloom_edge.cli import main

    done = simulate("digits", "--clients", 6, "--rounds", 1, "--attack", "scale:0.3:1000")
    assert main(["report", str(done.folder), "--quarantine"]) == 0
    out = capsys.readouterr().out
    assert out.count("arrays/") == 2
    assert "from the global arrays" in out
    assert json.loads((done.folder / "result.json").read_text())["rounds"][0]["rejected"] == 2


def test_an_attacked_run_that_asks_nobody_to_evaluate_goes_on(simulate):
    options = ("--attack", "alie:0.5", "--set", "strategy.fraction_evaluate=0")
    done = simulate("digits", "--clients", 4, "--rounds", 1, *options)
    assert done.code == 0, done.err
    assert done.result["rounds"][0]["clients_ok"] == 4
