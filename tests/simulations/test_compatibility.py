"""docs/compatibility.md says what the program says, and what it says works does."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_simulations import compatibility as table

CHUNKS = 24
HERE = {
    **table.SIMULATE,
    "engine": {name: flags for name, flags in table.SIMULATE["engine"].items() if name != "ray"},
}
MODEL = "lambda: nn.Sequential(nn.Linear(4, 8), nn.{}(8), nn.ReLU(), nn.Linear(8, 3))"


@functools.cache
def refused():
    return [cell for cell in table.pairs(HERE) if table.refusal(HERE, cell)]


@functools.cache
def cells():
    return table.covering(HERE, refused())


def test_the_page_is_what_the_program_says():
    assert table.DOCUMENT.read_text() == table.render(), "run: python -m fedloom_simulations.compatibility"


def test_the_cells_that_are_run_have_every_pair_that_is_not_refused():
    bad = {frozenset(cell.items()) for cell in refused()}
    for pair in table.pairs(HERE):
        has = [cell for cell in cells() if pair.items() <= cell.items()]
        assert bool(has) == (frozenset(pair.items()) not in bad), pair


@given(st.fixed_dictionaries({name: st.sampled_from(list(options)) for name, options in HERE.items()}))
def test_a_combination_is_refused_only_for_a_pair_in_it_and_by_one_sentence(cell):
    said = table.refusal(HERE, cell)
    assert bool(said) == any(pair.items() <= cell.items() for pair in refused())
    assert "\n" not in said


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_not_refused_works(simulate, task_file, tmp_path, chunk):
    norms = ("BatchNorm1d", "LayerNorm")  # without the first there is no fedbn, with it no private samples
    paths = [task_file(model=MODEL.format(name)).rename(tmp_path / f"{name}.py") for name in norms]
    for cell in cells()[chunk::CHUNKS]:
        private = {cell["privacy"], cell["samples"]} != {table.NOTHING}
        run = simulate(paths[private], "--clients", 4, "--rounds", 1, "--seed", 1, *table.flags(HERE, cell))
        assert run.code == 0, (cell, run.err)
        assert run.result["status"] == "finished", cell
        assert run.result["rounds"][0]["clients_ok"] >= 1, cell
