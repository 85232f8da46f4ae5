"""`--compress`: fewer bytes on every grid, refused payloads, and the same weights after kill -9."""

import json

import numpy as np
import pytest
import zstandard
from flwr.app import Array

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_client.orders import Orders
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.cli import main
from fedloom_edge.compression import PAYLOAD
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_server.rounds.federation import Federation
from fedloom_server.rounds.plan import Plan
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.registry import make_strategy
from fedloom_simulations.engine.inline import InlineGrid

from .test_resume import OPTIONS, compare, killed_after_round

RUN = ("digits", "--clients", 3, "--rounds", 4, "--seed", 1)


def sent(done):
    return sum(entry["bytes_up"] for entry in done.result["rounds"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    assert main(["simulate", *map(str, RUN), "--out", str(folder)]) == 0
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("codec", "share", "points"),
    [("float16", 0.5, 0.01), ("int8", 0.27, 0.02), ("topk:0.05", 0.1, 0.06), ("lowrank:4", 0.45, 0.08)],
)
def test_result_json_counts_the_bytes_that_were_sent_and_the_model_learns(
    simulate, plain, codec, share, points
):
    done = simulate(*RUN, "--compress", codec)
    assert done.code == 0
    assert sent(done) <= share * sum(entry["bytes_up"] for entry in plain["rounds"])
    assert done.result["final"]["accuracy"] > plain["final"]["accuracy"] - points


def test_a_killed_run_goes_on_with_what_its_clients_have_kept(tmp_path):
    options = ("--compress", "topk:0.02")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert main(["simulate", *OPTIONS, *options, "--out", str(whole)]) == 0
    killed_after_round(2, folder, *options)
    assert main(["resume", str(folder)]) == 0
    assert compare(whole, folder) == []


def federate(tmp_path, change):
    """A federation of 4 clients whose encoded replies go through `change(client, array)`."""

    class Tampering(GridWrapper):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in self.inner.send_and_receive(messages):
                if reply.metadata.message_type == "train":
                    record = reply.content["arrays"]
                    changed = change(reply.metadata.src_node_id - 2, record[PAYLOAD].numpy())
                    record[PAYLOAD] = Array(changed)
                yield reply

    recipe = ShardRecipe("digits", None, "iid", 4, 0)
    shards = recipe.open()
    with RunStore.create(tmp_path / "run", {}) as store:
        plan = Plan(
            task=shards.task,
            training=shards.task.training,
            rounds=1,
            clients=4,
            seed=0,
            orders=Orders(compress="int8"),
        )
        strategy = make_strategy("fedavg", {}, clients=4, lr=0.1)
        federation = Federation(plan, strategy, TorchTrainer(shards.task), shards.data.test, store)
        federation.run(Tampering(InlineGrid(make_client_app(recipe), 4)))
        return store.rounds()[-1], store.events("rejected")


def test_a_payload_that_cannot_be_decoded_is_rejected_and_named(tmp_path):
    entry, events = federate(tmp_path, lambda client, array: array[:50] if client == 2 else array)
    assert (entry.clients_ok, entry.rejected) == (3, 1)
    assert events[0]["client"] == 2
    assert events[0]["data"]["reason"].startswith("encoding: ")


def test_the_guard_sees_what_was_decoded(tmp_path):
    def infinite(client, array):
        if client != 1:
            return array
        raw = bytearray(zstandard.ZstdDecompressor().decompress(array.tobytes()))
        # A statistic of batch norm or the first block's scale.
        raw[:4] = np.float32(np.inf).tobytes()
        return np.frombuffer(zstandard.ZstdCompressor().compress(bytes(raw)), np.uint8)

    entry, events = federate(tmp_path, infinite)
    assert (entry.clients_ok, entry.rejected) == (3, 1)
    assert "finite" in events[0]["data"]["reason"]


def test_an_unknown_codec_is_refused_before_a_run_begins(simulate):
    done = simulate("digits", "--compress", "auto")
    assert done.code == 2
    assert "which only fedloom serve has" in done.err
    done = simulate("digits", "--compress", "int7")
    assert done.code == 2
    assert "unknown --compress" in done.err
    assert done.err.count("\n") == 1
    assert not done.folder.exists()
