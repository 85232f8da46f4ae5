"""`fedloom device plan`: what a device would do in a round, measured on it."""

import json
from dataclasses import replace

import pytest

from fedloom_client.device.forecast import chosen, forecast, parse_rate
from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.pace import PaceBook
from fedloom_client.loading import load_data, load_task
from fedloom_client.orders import Orders
from fedloom_client.planner.plan import Choice
from fedloom_edge.artefact.storage import SUFFIX
from fedloom_edge.cli import main
from fedloom_edge.errors import InputError
from fedloom_server.link.artefact import run_artefact
from fedloom_server.rounds.plan import Plan
from fedloom_server.strategies.registry import make_strategy


def exported(folder, orders):
    task = load_task("digits")
    plan = Plan(task=task, training=task.training, rounds=1, clients=1, seed=0, orders=orders)
    strategy = make_strategy("fedavg", {}, clients=1, lr=0.05)
    path, why = run_artefact(plan, strategy, load_data(task, None), folder)
    assert path, why
    return path


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("run"), Orders())


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """With steps for parts of the model."""
    return exported(tmp_path_factory.mktemp("planned"), Orders(plan=True))


def test_a_tight_deadline_and_a_thin_line_are_planned_for_with_reasons(artefact, tmp_path, capsys):
    options = ["--home", str(tmp_path), "--deadline", "0.5", "--bandwidth", "64kbit/s"]
    assert main(["device", "plan", str(artefact), *options]) == 0
    said = capsys.readouterr().out
    assert "uplink       0.064 Mbit/s" in said
    assert "topk:0.01: the update takes" in said
    assert "digits, trains all" in said


def test_json_has_what_was_measured_and_the_plan(artefact, tmp_path, capsys):
    assert main(["device", "plan", str(artefact), "--home", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (only,) = found["artefacts"]
    assert found["chosen"] == only["path"] == str(artefact)
    assert [point["batch"] for point in only["measured"]] == [4, 16]
    assert all(point["seconds"] > 0 and point["bytes"] > 0 for point in only["measured"])
    assert (only["part"], only["plan"]["share"]) == ("all", 1)
    assert only["plan"]["fits"]
    assert (found["uplink_bytes_per_second"], only["plan"]["seconds"]) == (None, None)


def test_what_it_measures_of_its_own_artefact_the_next_round_need_not(artefact, tmp_path, capsys):
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "artefacts" / f"abc{SUFFIX}").write_bytes(artefact.read_bytes())
    assert main(["device", "plan", "--home", str(tmp_path)]) == 0
    assert [point.batch for point in PaceBook(tmp_path / "pace.json").points("abc", "")] == [4, 16]


def test_where_all_of_it_takes_too_long_the_part_that_does_not_is_planned(planned, tmp_path, capsys):
    options = ["--home", str(tmp_path), "--deadline", "1e-12", "--json"]
    assert main(["device", "plan", str(planned), *options]) == 0
    (only,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert only["part"] == "last:1"  # nothing fits: it is the least there is
    assert not only["plan"]["fits"]
    assert main(["device", "plan", str(planned), *options[:-1]]) == 0
    said = capsys.readouterr().out
    assert "plan         trains last:1 alone: for all, batch size" in said


def test_of_several_artefacts_the_first_that_does_everything_in_time_is_chosen(artefact, tmp_path):
    from fedloom_client.device.forecast import Wishes

    wishes = Wishes(deadline=60, uplink=None, compress="")
    (made,) = forecast(tmp_path, DeviceSettings(), [artefact], wishes)

    def like(**changes):
        return replace(made, choice=Choice("", replace(made.plan, **changes)))

    slow, part, good, better = like(fits=False), like(share=0.1), like(steps=5), like(steps=7)
    assert chosen([slow, part, good, better]) is good
    assert chosen([slow, part]) is part
    assert chosen([slow]) is None


@pytest.mark.parametrize(("text", "rate"), [("8Mbit/s", 1e6), ("300kB/s", 3e5), ("1.5 Gbit/s", 187.5e6)])
def test_a_rate_is_read_as_bytes_a_second(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "2", "0bit/s", "2Mb", "-1kB/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(InputError, match="write for example 2Mbit/s"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "has no artefact yet"),
        (("--deadline", "0"), "--deadline 0"),
        (("--compress", "int7"), "unknown --compress"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, said):
    assert main(["device", "plan", "--home", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_artefact_of_another_task_is_refused(artefact, tmp_path, capsys):
    assert main(["device", "plan", str(artefact), "--task", "tabular", "--home", str(tmp_path)]) == 2
    assert "is for digits, this device's task is" in capsys.readouterr().err
