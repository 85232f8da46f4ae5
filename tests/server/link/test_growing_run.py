"""A run goes on with devices whose data has grown while the coordinator was away."""

import json
import signal

from fedloom_server.store.run_store import RunStore

from .conftest import free_ports, until
from .test_gateway_run import fedloom, joined, opened, rounds
from .test_mixed import running

TASK = """
from torch import nn
from fedloom_client import Data, Standardize, Task, Training
from fedloom_client.sources import csv, split

def data(folder):
    return split(csv(folder, "label"), test=0.25)

def model():
    return nn.Linear(2, 2)

task = Task(name="sensor", model=model, data=data, preprocess=Standardize(), training=Training(batch_size=4))
"""


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("a,b,label\n" + "".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(rows)))


def test_a_run_is_resumed_with_more_data_than_before(tmp_path):
    (tmp_path / "sensor.py").write_text(TASK)
    link, enrol = free_ports()
    fedloom(tmp_path, "fleet", "init", "127.0.0.1")
    write(tmp_path / "test" / "all.csv", 40)
    address = ["--listen", f"127.0.0.1:{link}", "--enrol", f"127.0.0.1:{enrol}"]
    options = ["--min-devices", "2", "--rounds", "40", "--data", "test", "--out", "run", *address]
    with running(tmp_path, "serve", "serve", "sensor.py", *options) as coordinator:
        opened(tmp_path, "serve", coordinator)
        for index in range(2):
            write(tmp_path / f"data-{index}" / "monday.csv", 40)
            options = ["--task", "sensor.py", "--data", f"data-{index}"]
            joined(tmp_path, "fleet", enrol, f"device-{index}", *options)
        homes = ["device-0", "device-1"]
        agents = [running(tmp_path, home, "device", "run", "--home", home) for home in homes]
        with agents[0], agents[1]:
            until(lambda: rounds(tmp_path / "run") > 2, 90)
            coordinator.send_signal(signal.SIGTERM)
            assert coordinator.wait(30) == 130
            write(tmp_path / "data-1" / "tuesday.csv", 20)
            fedloom(tmp_path, "resume", "run")
    assert len(json.loads((tmp_path / "run" / "result.json").read_text())["rounds"]) == 40
    with RunStore.open(tmp_path / "run") as store:
        assert [row.examples for row in store.clients()] == [30, 45]
        warnings = [event["data"]["reason"] for event in store.events("warning")]
    assert "its data has grown from 30 to 45 examples" in warnings
