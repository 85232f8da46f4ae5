"""What operators ask for is taken up between rounds, and written down with who and what came of it."""

from types import SimpleNamespace

import pytest

from fedloom_server.rounds.commands import Operators, Stopped
from fedloom_server.rounds.roster import Member, OrderedGrid
from fedloom_server.store.run_store import RunStore


@pytest.fixture
def run(tmp_path):
    with RunStore.create(tmp_path / "run", {}) as store:
        grid = OrderedGrid(None, [Member(10 + i, i, 5, 1, {}) for i in range(3)])
        operators = Operators(store, grid, SimpleNamespace(min_available_nodes=2))

        def ask(action, client=None):
            store._connection.execute(
                "INSERT INTO command (time, who, action, client) VALUES (1, 'ada', ?, ?)", (action, client)
            )

        yield SimpleNamespace(store=store, grid=grid, operators=operators, ask=ask)


def test_an_excluded_client_is_no_node_until_it_is_included(run):
    run.ask("exclude", 1)
    run.operators.obey(4)
    assert run.grid.get_node_ids() == [10, 12]
    assert run.store.facts()["excluded"] == [1]
    assert OrderedGrid(None, [Member(10 + i, i, 5, 1, {}) for i in range(3)]).get_node_ids() == [10, 11, 12]
    run.ask("include", 1)
    run.operators.obey(5)
    assert run.grid.get_node_ids() == [10, 11, 12]
    told = run.store.events("exclude")[0]
    assert (told["round"], told["client"], told["data"]["who"]) == (4, 1, "ada")
    assert run.store.open_commands() == []


def test_what_was_excluded_stays_so_when_the_run_goes_on_in_another_process(run):
    run.ask("exclude", 2)
    run.operators.obey(1)
    grid = OrderedGrid(None, [Member(10 + i, i, 5, 1, {}) for i in range(3)])
    Operators(run.store, grid, SimpleNamespace())
    assert grid.get_node_ids() == [10, 11]


def test_a_strategy_is_left_enough_clients(run):
    run.ask("exclude", 0)
    run.ask("exclude", 1)
    run.operators.obey(1)
    assert run.grid.get_node_ids() == [11, 12]
    assert "needs 2 clients" in run.store.events("exclude")[1]["data"]["refused"]


def test_pause_then_resume_lets_the_round_begin_and_stop_ends_the_run(run):
    run.ask("pause")
    run.ask("resume")
    run.operators.obey(2)
    assert run.store.facts()["status"] == "running"
    run.ask("stop")
    with pytest.raises(Stopped, match="stopped before round 3 by ada"):
        run.operators.obey(3)
    assert run.store.open_commands() == []
