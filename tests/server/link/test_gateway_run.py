"""Gateways as users start them: the result of a flat run, also when a gateway is killed on the way."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fedloom_client.device.home import DeviceSettings, ShardOf
from fedloom_server.store.run_store import RunStore

from .conftest import free_ports, until
from .test_mixed import FEDLOOM, running

RUN = (
    "digits",
    "--rounds",
    "8",
    "--seed",
    "1",
    "--set",
    "training.epochs=3",
    "--set",
    "training.batch_size=8",
)
KEEP = ("--set", "checkpoints.last=20")
SITES = {"east": (0, 1), "west": (2, 3)}


def fedloom(folder, *arguments):
    done = subprocess.run([*FEDLOOM, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def joined(folder, fleet, enrol, name, *options):
    """A device or gateway joins the fleet in `fleet` by the printed line; its folder has its name."""
    line = fedloom(folder, "fleet", "invite", name, "--fleet", fleet)
    invitation = next(word for word in line.split() if word.startswith(f"{name}."))
    fedloom(folder, "device", "join", f"127.0.0.1:{enrol}", invitation, "--home", name, *options)


def opened(folder, name, process):
    """Wait until a process says that devices can connect."""
    log = folder / f"{name}.log"
    until(lambda: "devices connect at port" in log.read_text() or process.poll() is not None, 90)
    assert process.poll() is None, log.read_text()


def rounds(folder):
    try:
        with RunStore.open(folder) as store:
            return len(store.rounds())
    except Exception:  # noqa: BLE001  (the database is being made)
        return 0


def after_round_one(folder):
    """The global arrays of round 1."""
    with RunStore.open(folder) as store:
        return store.get_arrays(store.rounds()[1].arrays)


def gateway(folder, name, ports):
    options = ["--home", name, "--fleet", f"{name}-fleet", "--min-devices", "2", "--quorum", "1"]
    link, enrol = ports
    return running(
        folder, name, "gateway", *options, "--listen", f"127.0.0.1:{link}", "--enrol", f"127.0.0.1:{enrol}"
    )


@pytest.mark.slow
def test_gateways_come_to_the_flat_runs_model_though_one_is_killed(tmp_path):
    flat = ["serve", *RUN, *KEEP, "--local", "4", "--trainer", "onnx", "--out", "flat"]
    fedloom(tmp_path, *flat)
    link, enrol = free_ports()
    ports = {name: free_ports() for name in SITES}
    for fleet in ("fleet", *(f"{name}-fleet" for name in SITES)):
        fedloom(tmp_path, "fleet", "init", "127.0.0.1", "--fleet", fleet)
    address = ["--listen", f"127.0.0.1:{link}", "--enrol", f"127.0.0.1:{enrol}"]
    stack = [running(tmp_path, "serve", "serve", *RUN, *KEEP, *address, "--quorum", "1", "--out", "run")]
    started = {}
    try:
        started["serve"] = stack[0].__enter__()
        opened(tmp_path, "serve", started["serve"])
        for name, shards in SITES.items():
            joined(tmp_path, "fleet", enrol, name, "--task", "digits")
            stack.append(gateway(tmp_path, name, ports[name]))
            started[name] = stack[-1].__enter__()
            opened(tmp_path, name, started[name])
            for index in shards:
                device = f"device-{index}"
                joined(tmp_path, f"{name}-fleet", ports[name][1], device, "--task", "digits")
                shard = ShardOf(partition="iid", clients=4, seed=1, index=index)
                home = tmp_path / device
                DeviceSettings.load(home).changed(shard=shard).save(home)
                stack.append(running(tmp_path, device, "device", "run", "--home", device))
                stack[-1].__enter__()
        for done in (2, 5):
            until(lambda done=done: rounds(tmp_path / "run") > done, 120)
            time.sleep(0.3)
            started["west"].send_signal(signal.SIGKILL)
            started["west"].wait()
            stack.append(gateway(tmp_path, "west", ports["west"]))
            started["west"] = stack[-1].__enter__()
        assert started["serve"].wait(180) == 0, (tmp_path / "serve.log").read_text()
    finally:
        for entered in reversed(stack):
            entered.__exit__(*sys.exc_info())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    expected = json.loads((tmp_path / "flat" / "result.json").read_text())
    assert [entry["clients_ok"] for entry in result["rounds"]] == [2] * 8
    ours, theirs = (after_round_one(tmp_path / run) for run in ("run", "flat"))
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-6, atol=1e-7)
    # What is rounded in another place differs in the last bit, and a thousand steps make more of it.
    losses = [(x["loss"], y["loss"]) for x, y in zip(result["rounds"], expected["rounds"], strict=True)]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=5e-3)
    assert abs(result["final"]["accuracy"] - expected["final"]["accuracy"]) < 0.006
    # A site's uplink carries one update a round and phase, not one a device.
    assert result["rounds"][-1]["bytes_up"] < 0.6 * expected["rounds"][-1]["bytes_up"]
