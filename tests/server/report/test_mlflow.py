"""`fedloom report --mlflow`: a run in MLflow has the run's settings, figures and files."""

import sys

import pytest

from fedloom_edge.cli import main


def test_a_run_in_mlflow_is_the_run(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a database keeps its artifacts in ./mlruns
    mlflow = pytest.importorskip("mlflow", reason="needs pip install 'fedloom[mlflow]'")
    store = make_run(tmp_path / "run", rounds=4, training={"training.lr": 0.1})
    (store.folder / "result.json").write_text("{}")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    pytest.importorskip("sqlalchemy")
    (store.folder / "explain.png").touch()
    assert main(["report", str(store.folder), "--mlflow", uri]) == 0
    identity = capsys.readouterr().out.split("run ")[1].split()[0]
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(identity)
    assert run.data.params["strategy"] == "fedavg"
    assert run.data.params["training.lr"] == "0.1"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(identity, "test.loss")
    assert [(entry.step, entry.value) for entry in history] == [
        (entry.number, pytest.approx(entry.loss)) for entry in store.rounds()
    ]
    assert [file.path for file in client.list_artifacts(identity)] == ["explain.png", "result.json"]


def test_without_a_uri_or_without_mlflow_it_says_what_to_do(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = str(make_run(tmp_path / "run").folder)
    assert main(["report", folder, "--mlflow"]) == 2
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["report", folder, "--mlflow", "sqlite:///x.db"]) == 2
    assert "fedloom[mlflow]" in capsys.readouterr().err
