"""`fedloom explain`: attributions that add up and matter, and contributions that share out the gain."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from fedloom_edge.cli import main
from fedloom_simulations.explain.attribution import attribute
from fedloom_simulations.explain.contribution import jain

METHODS = ("integrated-gradients", "saliency", "occlusion")


def explain(*argv: object) -> int:
    return main(["explain", *map(str, argv)])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "run"
    options = ["digits", "--clients", "3", "--rounds", "3", "--seed", "1", "--out", str(folder)]
    assert main(["simulate", *options]) == 0
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_of_a_linear_model_every_method_gives_the_weights(method):
    weights = torch.tensor([[0.5, -2.0, 0.25, 1.0]])
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = weights
    x = torch.tensor([[1.0, -1.0, 4.0, 0.5], [2.0, 1.0, 1.0, 1.0]])
    found = attribute(model, x, method).values
    expected = weights.abs().expand(2, 4) if method == "saliency" else weights * x
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_of_a_text_the_word_that_decides_stands_out(method):
    table = nn.Embedding(5, 1, padding_idx=0)
    table.weight.data = torch.tensor([[0.0], [0.1], [3.0], [0.2], [-0.1]])

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = table

        def forward(self, tokens):
            return self.table(tokens).sum(1).square()  # (B, L) -> (B, 1)

    found = attribute(Sum(), torch.tensor([[1, 2, 3, 0]]), method)
    assert found.values.shape == (1, 4)
    if method == "saliency":  # of a sum, each word has the same gradient
        assert np.ptp(found.values) < 1e-6
    else:
        assert found.values[0].argmax() == 1


def test_gradients_of_a_model_of_tokens_without_an_embedding_are_refused():
    class Count(nn.Module):
        def forward(self, tokens):
            return tokens.float().sum(1, keepdim=True)

    with pytest.raises(Exception, match="--method occlusion"):
        attribute(Count(), torch.tensor([[1, 2]]), "saliency")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_attributed_matters_more_than_chance(digits, method, capsys):
    assert explain(digits, "--method", method, "--samples", 12) == 0
    said = json.loads((digits / "explain.json").read_text())
    if method != "saliency":  # a gradient's magnitude has no sign to fall by
        assert said["fall_best"] > 2 * said["fall_random"]
    if method == "integrated-gradients":
        assert said["completeness_gap"] < 0.05
    assert len(said["samples"]) == 12
    assert (digits / "explain.png").stat().st_size > 10_000


def test_a_clients_own_samples_can_be_explained(digits):
    assert explain(digits, "--on", 2, "--samples", 2) == 0
    assert json.loads((digits / "explain.json").read_text())["on"] == "2"


def test_a_run_that_failed_before_round_1_says_that_its_model_is_untrained(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["simulate", "digits", "--clients", "2", "--faults", "nan=1", "--out", str(run)]) == 1
    capsys.readouterr()
    assert explain(run, "--samples", 1) == 0
    said = "the run is not finished (failed): its model is untrained"
    assert capsys.readouterr().out.startswith(f"{said}\n")
    assert json.loads((run / "explain.json").read_text())["warning"] == said


@pytest.mark.parametrize("command", ["explain", "edge explain"])
def test_help_says_a_default_once(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "(default: integrated-gradients)" in words
    assert not re.search(r"default: \S+ \(default", words)


def test_contributions_share_out_the_whole_gain(digits, capsys):
    assert explain(digits, "--contribution", "--permutations", 4) == 0
    said = json.loads((digits / "contribution.json").read_text())
    shares = sum(client["shapley"] for client in said["clients"])
    # A permutation that is cut short leaves out less than the truncation's 0.001 a round.
    assert shares == pytest.approx(said["gain"], abs=3 * 1e-3)
    assert said["same_run"]
    assert [client["client"] for client in said["clients"]] == [0, 1, 2]
    assert (digits / "contribution.png").exists()


def test_jains_index_is_one_where_all_are_equal():
    assert jain(np.full(7, 0.3)) == pytest.approx(1)
    assert jain(np.array([1.0, 0, 0, 0])) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--on", "9"), "a client from 0 to 2"),
        (("--on", "kitchen"), "give test, or a client"),
        (("--samples", "0"), "--samples 0"),
        (("--contribution", "--permutations", "0"), "--permutations 0"),
        (("--contribution", "--on", "2"), "--on 2 is about samples"),
        (("--contribution", "--method", "saliency"), "--method saliency is about samples"),
        (("--contribution", "--samples", "3"), "--samples 3 is about samples"),
        (("--permutations", "3"), "--permutations 3 needs --contribution"),
    ],
)
def test_bad_input_is_one_line(digits, options, words, capsys):
    assert explain(digits, *options) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
