"""Work goes to devices and comes back, whatever happens to streams and processes in between."""

import shutil
import time

import numpy as np
import pytest

from fedloom_client.device import agent as agent_module
from fedloom_client.device import desk as desk_module
from fedloom_client.device.node_worker import NodeWorker
from fedloom_client.flower.records import from_record
from fedloom_client.trainer import Update
from fedloom_edge.errors import RunError
from fedloom_server.link.quorum import Quorum

from .conftest import AddOne, Site, model, questions, until


def metrics(reply):
    return dict(reply.content.metric_records["metrics"])


def test_each_kind_of_message_is_answered_as_the_round_loop_expects(site):
    for name in ("b", "a"):
        site.agent(name, AddOne(examples={"a": 10, "b": 20}[name]))
    assert site.grid.gather(2, 20) == ["a", "b"]
    described = sorted(
        (metrics(reply) for reply in site.grid.send_and_receive(questions(site.grid, "query"))),
        key=lambda row: row["partition-id"],
    )
    assert [row["num-examples"] for row in described] == [10, 20]
    assert [row["validation-examples"] for row in described] == [2, 2]
    for reply in site.grid.send_and_receive(questions(site.grid, arrays=model(value=1.5))):
        arrays = from_record(reply.content.array_records["arrays"])
        assert list(arrays) == ["w", "b"]
        assert (arrays["w"] == 2.5).all()
        assert arrays["b"].shape == ()
        assert metrics(reply)["train-loss"] == 0.5
    for reply in site.grid.send_and_receive(questions(site.grid, "evaluate")):
        assert metrics(reply)["accuracy"] == 0.75
        assert metrics(reply)["num-examples"] == 2


def test_a_device_trains_with_the_seed_that_a_simulated_client_has(site):
    from fedloom_client.seeds import derive_seed

    worker = AddOne()
    site.agent("a", worker)
    site.grid.gather(1, 20)
    list(site.grid.send_and_receive(questions(site.grid, number=7, **{"proximal-mu": 0.5})))
    assert worker.assignments[0].seed == derive_seed(1, 7, 0)
    assert worker.assignments[0].proximal_mu == 0.5


def test_a_model_of_many_chunks_arrives_whole(site):
    site.agent("a")
    site.grid.gather(1, 20)
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=1_000_000).astype(np.float32), "odd": rng.integers(0, 9, 12345, np.uint8)}
    (reply,) = site.grid.send_and_receive(questions(site.grid, arrays=arrays))
    got = from_record(reply.content.array_records["arrays"])
    assert all(np.array_equal(got[name], arrays[name] + 1) for name in arrays)


def test_a_device_that_fails_is_an_error_reply_with_its_reason(site):
    class Broken(AddOne):
        def train(self, arrays, constants, assignment):
            raise RuntimeError("no camera")

    site.agent("a", Broken())
    site.grid.gather(1, 20)
    (reply,) = site.grid.send_and_receive(questions(site.grid))
    assert reply.error.reason == "a: RuntimeError: no camera"


def test_too_few_devices_end_the_wait_with_a_reason(site):
    site.agent("a")
    with pytest.raises(RunError, match="1 of 2 devices connected"):
        site.grid.gather(2, 1.0)


def test_a_stream_that_breaks_during_training_loses_nothing_and_trains_once(site):
    worker = AddOne(seconds=1.5)
    site.agent("a", worker)
    site.grid.gather(1, 20)
    replies = site.grid.send_and_receive(questions(site.grid))
    import threading

    def cut():
        until(lambda: worker.trained == 1)
        session = site.coordinator.connected()["a"]
        import grpc

        site.coordinator._loop.call_soon_threadsafe(
            session.close, grpc.StatusCode.UNAVAILABLE, "cut by a test"
        )

    threading.Thread(target=cut, daemon=True).start()
    (reply,) = replies
    assert not reply.has_error()
    assert worker.trained == 1


def test_a_result_waits_in_the_spool_while_the_coordinator_is_away_and_is_counted_once(tmp_path):
    site = Site(tmp_path)
    worker = AddOne(seconds=1.0)
    site.agent("a", worker)
    site.grid.gather(1, 20)
    asked = iter(site.grid.send_and_receive(questions(site.grid)))
    import threading

    threading.Thread(target=lambda: next(asked, None), daemon=True).start()
    until(lambda: worker.trained == 1)
    site.stop()  # the coordinator goes away in the middle of training
    until(lambda: list((tmp_path / "a" / "spool").glob("*.result")))
    site.start()
    site.grid.gather(1, 30)
    (reply,) = site.grid.send_and_receive(questions(site.grid))
    assert not reply.has_error()
    assert worker.trained == 1
    until(lambda: not list((tmp_path / "a" / "spool").glob("*.result")))
    site.close()


def test_a_result_that_was_complete_before_a_restart_is_not_asked_for_again(tmp_path):
    site = Site(tmp_path)
    worker = AddOne()
    site.agent("a", worker)
    site.grid.gather(1, 20)
    (first,) = site.grid.send_and_receive(questions(site.grid))
    site.stop()
    site.start()
    site.grid.enlist(["a"])
    (again,) = site.grid.send_and_receive(questions(site.grid))
    assert from_record(again.content.array_records["arrays"])["w"].tobytes() == (
        from_record(first.content.array_records["arrays"])["w"].tobytes()
    )
    assert worker.trained == 1
    site.close()


def test_a_result_of_a_closed_round_is_acknowledged_and_not_counted(tmp_path, caplog):
    site = Site(tmp_path, Quorum(share=0.5, deadline=1.5))
    slow = AddOne(seconds=3.0)
    site.agent("fast")
    site.agent("slow", slow)
    site.grid.gather(2, 20)
    replies = list(site.grid.send_and_receive(questions(site.grid)))
    assert sorted(reply.has_error() for reply in replies) == [False, True]
    second = list(site.grid.send_and_receive(questions(site.grid, number=2)))
    assert any(not reply.has_error() for reply in second)
    site.close()


def test_without_a_quorum_at_the_deadline_the_run_ends_with_a_reason(tmp_path):
    site = Site(tmp_path, Quorum(share=1.0, deadline=1.0))
    site.agent("a", AddOne(seconds=5))
    site.grid.gather(1, 20)
    with pytest.raises(RunError, match="0 of 1 devices answered in 1 s, the quorum is 1"):
        list(site.grid.send_and_receive(questions(site.grid)))
    site.close()


def test_a_device_that_went_silent_is_lost_after_the_grace_and_the_others_go_on(tmp_path):
    site = Site(tmp_path, Quorum(share=0.5, grace=1.0))
    site.agent("stays")
    site.agent("goes")
    site.grid.gather(2, 20)
    site.stop_agent("goes")
    replies = list(site.grid.send_and_receive(questions(site.grid)))
    assert next(reply.error.reason for reply in replies if reply.has_error()).startswith("goes: lost")
    site.close()


def test_telemetry_and_devices_are_in_the_runs_database(site):
    site.agent("a")
    site.grid.gather(1, 20)
    until(lambda: site.store._connection.execute("SELECT count(*) FROM device_sample").fetchone()[0])
    device = dict(site.store._connection.execute("SELECT * FROM device").fetchone())
    assert (device["id"], device["client"], device["connected"], device["trainer"]) == ("a", 0, 1, "torch")
    assert device["memory_total"] > 0
    sample = dict(site.store._connection.execute("SELECT * FROM device_sample").fetchone())
    assert sample["rss"] > 0
    assert site.events("device-connected") == [{"device": "a", "reason": ""}]


def test_a_full_disk_on_a_device_is_a_warning_and_loses_no_update(site, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def full(path):
        raise OSError(28, "No space left on device")
        yield

    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("fedloom_client.device.spool.disk_usage", lambda folder: usage)
    monkeypatch.setattr("fedloom_client.device.spool.replacing", full)
    site.agent("a")
    site.grid.gather(1, 20)
    (reply,) = site.grid.send_and_receive(questions(site.grid))
    assert "disk is full" in reply.content.config_records["warnings"]["warnings"][0]
    assert (from_record(reply.content.array_records["arrays"])["w"] == 1).all()


def test_a_device_that_cannot_finish_in_time_returns_what_it_has(tmp_path):
    class Slow(AddOne):
        def train(self, arrays, constants, assignment):
            steps = 0
            while not assignment.enough():
                time.sleep(0.01)
                steps += 1
            return Update({n: a + 1 for n, a in arrays.items()}, steps, {"train-loss": 0.5, "steps": steps})

    site = Site(tmp_path, quorum=Quorum(share=1.0, deadline=3.0))
    try:
        site.agent("a", Slow())
        site.grid.gather(1, 20)
        (reply,) = site.grid.send_and_receive(questions(site.grid))
        assert 0 < metrics(reply)["num-examples"] == metrics(reply)["steps"]
        (warning,) = reply.content.config_records["warnings"]["warnings"]
        assert warning.startswith("partial work: the time was over after")
    finally:
        site.close()


def test_an_agent_without_work_rests_once_and_not_before_it_has_worked(site, monkeypatch):
    rested = []
    monkeypatch.setattr(agent_module, "REST_SECONDS", 0.4)
    monkeypatch.setattr(NodeWorker, "rest", lambda self: rested.append(time.monotonic()))
    site.agent("a")
    site.grid.gather(1, 20)
    time.sleep(1.0)
    assert not rested
    for number in (1, 2):
        list(site.grid.send_and_receive(questions(site.grid, number=number)))
        until(lambda number=number: len(rested) == number)
        time.sleep(1.0)
        assert len(rested) == number


@pytest.mark.parametrize(
    ("figure", "value", "said"),
    [
        (
            "available_memory",
            10_000,
            "memory: training a model of 0 MB takes about 0 MB, and 0 MB are available",
        ),
        ("temperature", 91.0, "temperature: the board has 91 °C, more than 85 °C"),
    ],
)
def test_a_board_refuses_what_is_too_much_for_it_and_goes_on_later(site, monkeypatch, figure, value, said):
    worker = AddOne()
    site.agent("a", worker)
    site.grid.gather(1, 20)
    with monkeypatch.context() as patch:
        patch.setattr(desk_module, figure, lambda: value)
        (reply,) = site.grid.send_and_receive(questions(site.grid, number=1))
    assert said in reply.error.reason
    assert worker.trained == 0
    (reply,) = site.grid.send_and_receive(questions(site.grid, number=2))
    assert not reply.has_error()
