"""The API tells what the store holds: of a real run, of a live one, of older and damaged ones."""

import base64
import csv
import io
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from fedloom_server.dashboard.catalog import run_id
from fedloom_server.dashboard.database import reading
from fedloom_server.dashboard.matrix import Matrix, heat_map
from fedloom_server.store.rows import ClientRound, ClientRow, Round
from fedloom_server.store.run_store import RunStore

STATIC = Path(__import__("fedloom_server").__file__).parent / "dashboard" / "static"


def test_a_run_is_told_as_its_store_has_it(watched, finished):
    run = run_id(finished / "finished")
    listed = watched.get("/runs")
    assert [(entry["id"], entry["status"], entry["round"]) for entry in listed] == [(run, "finished", 3)]
    told = watched.get(f"/runs/{run}")
    with RunStore.open(finished / "finished") as store:
        rounds = store.rounds()
        assert told["rounds"]["number"] == [0, 1, 2, 3]
        assert told["rounds"]["metric"] == [entry.metric for entry in rounds]
        assert told["rounds"]["bytes_up"] == [entry.bytes_up for entry in rounds]
        assert told["facts"]["partition"] == "dirichlet:0.5"
        evaluated = [part for part in store.client_rounds("evaluate") if part.round == 2]
        clients = watched.get(f"/runs/{run}/rounds/2/clients")
        assert clients["metric"] == [part.metric for part in evaluated]
        known = [part.metric for part in evaluated if part.metric is not None]
    spread = watched.get(f"/runs/{run}/spread?after_round=1")
    assert spread["number"] == [2, 3]
    assert [column[0] for column in spread["values"]] == pytest.approx(
        np.quantile(known, spread["quantiles"]), abs=1e-6
    )


def test_only_what_is_new_is_sent(watched, finished):
    run = run_id(finished / "finished")
    news = watched.get(f"/runs/{run}?after_round=2&after_event=1")
    assert news["rounds"]["number"] == [3]
    assert min(event["id"] for event in news["events"]) == 2


def test_downloads_are_the_tables_and_the_files(watched, finished):
    run = run_id(finished / "finished")
    text = watched.ask(f"/api/v1/runs/{run}/tables/round.csv").body.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    parquet = watched.ask(f"/api/v1/runs/{run}/tables/client_round.parquet").body
    table = pyarrow.parquet.read_table(io.BytesIO(parquet))
    with RunStore.open(finished / "finished") as store:
        assert [float(row["loss"]) for row in rows] == [entry.loss for entry in store.rounds()]
        assert table.num_rows == len(store.client_rounds("train")) + len(store.client_rounds("evaluate"))
    files = {file["name"]: file for file in watched.get(f"/runs/{run}/artifacts")}
    body = watched.ask(f"/api/v1/runs/{run}/artifacts/model.onnx").body
    assert body == (finished / "finished" / "model.onnx").read_bytes()
    assert files["model.onnx"]["bytes"] == len(body)
    sha = subprocess.run(["sha256sum", finished / "finished" / "model.onnx"], capture_output=True, text=True)
    assert sha.stdout.split()[0] == files["model.onnx"]["sha256"]


def test_metrics_are_aggregates_in_the_format_of_prometheus(watched, finished):
    answer = watched.ask("/metrics")
    run = run_id(finished / "finished")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    assert f'fedloom_round{{run="{run}",task="digits",strategy="fedavg"}} 3' in lines
    assert not any("client=" in line for line in lines)
    named = {line.split("{")[0] for line in lines if not line.startswith("#")}
    documented = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert named <= documented


def test_the_grafana_board_asks_for_metrics_that_there_are(watched):
    board = json.loads(Path("deploy/grafana/fedloom.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    known = {
        line.split()[2] for line in watched.ask("/metrics").body.decode().splitlines() if "# TYPE" in line
    }
    assert len(queries) >= 8
    assert all(any(name in query for name in known) for query in queries)


def test_every_endpoint_of_the_document_answers(watched, finished):
    document = watched.get("/openapi.json")
    values = {
        "{run}": run_id(finished / "finished"), "{client}": "1", "{round}": "2", "{name}": "model.onnx",
        "{table}": "event", "{format}": "csv", "{device}": "pi",
    }  # fmt: skip
    asked = 0
    for path, operations in document["paths"].items():
        if "get" not in operations or "compare" in path:
            continue
        for name, value in values.items():
            path = path.replace(name, value)
        assert watched.ask(path).status == 200, path
        asked += 1
    assert asked > 12


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs/nope", 404), ("/runs/RUN?after_round=x", 422), ("/runs/RUN/clients/99", 404),
        ("/runs/RUN/matrix?value=weights", 422), ("/runs/RUN/matrix?rows=0", 422), ("/compare?runs=RUN", 422),
        ("/compare", 422), ("/runs/RUN/tables/secret.csv", 422),
        ("/runs/RUN/clients/9999999999999999999999", 422), ("/nothing", 404),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said(watched, finished, path, status):
    answer = watched.ask("/api/v1" + path.replace("RUN", run_id(finished / "finished")))
    assert answer.status == status
    assert answer.json["error"]


def test_reading_leaves_no_file_in_the_folder(serve, copied):
    before = {path.name for path in copied.iterdir()}
    server = serve(copied)
    server.get(f"/runs/{run_id(copied)}/matrix")
    server.ask("/metrics")
    assert {path.name for path in copied.iterdir()} == before


def test_an_asset_is_sent_once(watched):
    first = watched.ask("/static/js/main.js")
    again = watched.ask("/static/js/main.js", if_none_match=first.headers["etag"])
    assert (first.status, again.status, again.body) == (200, 304, b"")
    assert again.headers["content-security-policy"]


def test_a_damaged_run_and_an_older_one_are_shown_as_far_as_they_go(serve, copied):
    other = copied.parent / "damaged"
    other.mkdir()
    (other / "run.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    connection = sqlite3.connect(copied / "run.db")
    for column in ("train_seconds", "aggregate_seconds"):
        connection.execute(f"ALTER TABLE round DROP COLUMN {column}")
    connection.execute("DROP TABLE command")
    connection.commit()
    connection.close()
    server = serve(copied.parent)
    listed = {run["name"]: run for run in server.get("/runs")}
    assert listed["damaged"]["status"] == "unreadable"
    assert "damaged" in listed["damaged"]["reason"]
    assert listed["copied"]["status"] == "finished"
    assert server.get(f"/runs/{run_id(copied)}")["rounds"]["train_seconds"] == [None] * 4
    assert server.ask(f"/api/v1/runs/{run_id(other)}").status == 503
    for path in ("/alerts", "/models", "/devices"):
        assert server.get(path) is not None


def test_two_runs_differ_where_their_settings_do(serve, copied, finished):
    with sqlite3.connect(copied / "run.db") as connection:
        connection.execute("UPDATE run SET value = '7' WHERE key = 'seed'")
    connection.close()
    (finished_copy := copied.parent / "other").mkdir()
    for name in ("run.db",):
        (finished_copy / name).write_bytes((finished / "finished" / name).read_bytes())
    server = serve(copied.parent)
    told = server.get(f"/compare?runs={run_id(copied)},{run_id(finished_copy)}")
    assert told["differences"] == [{"key": "seed", "values": ["7", "0"]}]
    assert [run["name"] for run in told["runs"]] == ["copied", "other"]


def test_the_guards_line_and_the_attackers_are_told(serve, attacked):
    server = serve(attacked)
    run = run_id(attacked)
    told = server.get(f"/runs/{run}")
    facts = told["facts"]
    assert (facts["attack"], facts["faults"], len(facts["attackers"])) == ("scale:0.25:30", "drop=0.2", 2)
    refused = set()
    for number, line in zip(told["rounds"]["number"], told["rounds"]["norm_limit"], strict=True):
        if number == 0:
            assert line is None
            continue
        clients = server.get(f"/runs/{run}/rounds/{number}/clients")
        rows = zip(*(clients[name] for name in ("client", "status", "update_norm", "reason")), strict=True)
        for client, status, norm, reason in rows:
            if status == "ok":
                assert line is None or norm <= line
            elif status == "rejected":
                assert norm > line
                assert f"at most {line:.4g}" in reason
                refused.add(client)
    assert refused == set(facts["attackers"])
    kinds = {(entry["client"], entry["kind"]) for entry in server.get(f"/runs/{run}/failures")}
    assert {(client, "rejected") for client in refused} <= kinds
    assert "failed" in {kind for _, kind in kinds}
    assert server.get(f"/runs/{run}/clients/{min(refused)}")["attacker"]
    kept = server.ask(f"/api/v1/runs/{run}/tables/quarantine.csv").body.decode()
    assert len(list(csv.DictReader(io.StringIO(kept)))) >= 2
    with sqlite3.connect(f"file:{attacked / 'run.db'}?mode=ro", uri=True) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
    for name in set(names) - {"sqlite_sequence"}:
        for form in ("csv", "parquet"):
            assert server.ask(f"/api/v1/runs/{run}/tables/{name}.{form}").status == 200, (name, form)


def test_the_privacy_spent_is_told_where_a_run_accounts_for_it(tmp_path, serve):
    with RunStore.create(tmp_path / "run", {"privacy": {"budget": 8.0, "delta": 1e-5}}) as store:
        for number in range(3):
            metrics = {"accuracy": 0.5, **({"epsilon": 1.5 * number} if number else {})}
            with store.transaction():
                store.add_round(Round(number, 0.1, 0.5, metrics), [])
    told = serve(tmp_path / "run").get(f"/runs/{run_id(tmp_path / 'run')}")
    assert told["rounds"]["epsilon"] == [None, 1.5, 3.0]
    assert told["facts"]["privacy"] == {"budget": 8.0, "delta": 1e-5}


def test_a_spreadsheet_takes_no_reason_for_a_formula(tmp_path, serve):
    with RunStore.create(tmp_path / "run", {"clients": 1}) as store:
        store.event("failed", client=0, reason="x")
        store._connection.execute("UPDATE event SET kind = '=cmd()'")
    server = serve(tmp_path / "run")
    assert "'=cmd()" in server.ask(f"/api/v1/runs/{run_id(tmp_path / 'run')}/tables/event.csv").body.decode()


def test_a_large_heat_map_shares_rows_and_keeps_the_worst_status(tmp_path):
    with RunStore.create(tmp_path / "run", {}) as store:
        store.add_clients(ClientRow(i, f"client {i}", 1, 1) for i in range(10))
        parts = [ClientRound(1, i, "train", "failed" if i == 7 else "ok", loss=float(i)) for i in range(10)]
        parts += [ClientRound(1, i, "evaluate", "ok", metric=i / 10) for i in range(10)]
        with store.transaction():
            store.add_round(Round(1, 0.1, 0.5), parts)
        matrix = Matrix()
        with reading(tmp_path / "run") as database:
            matrix.refresh(database)
    assert heat_map(Matrix(), "metric", 5, -1)["cells"] == ""
    nothing_new = heat_map(matrix, "metric", 5, 1)
    assert (nothing_new["rounds"], nothing_new["cells"]) == ([], "")
    whole = heat_map(matrix, "metric", 512, -1)
    shared = heat_map(matrix, "status", 5, -1)
    assert whole["clients_per_row"] == 1
    assert (whole["low"], whole["high"]) == pytest.approx((0.0, 0.9))
    assert shared["clients_per_row"] == 2
    assert list(base64.b64decode(shared["cells"])) == [1, 1, 1, 2, 1]
    assert list(base64.b64decode(whole["cells"])) == [int(254 * i / 9) for i in range(10)]


def test_the_assets_weigh_less_than_400_kb_and_keep_their_licence():
    weight = sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file())
    assert weight < 400_000
    assert (STATIC / "vendor" / "uPlot.LICENSE.txt").read_text().startswith("The MIT License")


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_the_document_does_not_allow(serve, copied, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123")
    token.chmod(0o600)
    server = serve(copied, "--token-file", str(token), log_in=False)
    header = "Authorization: Bearer 0123456789abcdef0123"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("st"), "run", f"{server.base}/api/v1/openapi.json", "-H", header,
            "--checks", "not_a_server_error,status_code_conformance,response_schema_conformance",
            "--max-examples", "20", "--seed", "1", "--phases", "examples,coverage,fuzzing",
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
