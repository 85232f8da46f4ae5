"""The house keeps its rules: who imports whom, and what a device never loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "flwr", "onnx", "onnxruntime", "matplotlib", "sklearn", "pandas", "ray", "rich")


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `statement`."""
    code = f"{statement}\nimport sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_imports_run_down_the_table():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("statement", ["import fedloom_edge, fedloom_client", "import fedloom_edge.cli"])
def test_a_device_loads_neither_torch_nor_flower(statement):
    assert not loaded_after(statement) & set(HEAVY)


def test_a_device_trains_without_torch_and_onnx():
    loaded = loaded_after("import fedloom_edge.train_step, fedloom_client.onnx_trainer")
    assert "onnxruntime" in loaded
    assert not loaded & set(HEAVY) - {"onnxruntime"}


def test_help_imports_nothing_heavy():
    help_text = "from fedloom_edge.cli import main; main(['--help'])"
    assert not loaded_after(help_text) & {*HEAVY, "numpy"}


def test_help_of_simulate_imports_nothing_heavy():
    code = "from fedloom_edge.cli import main\ntry: main(['simulate', '--help'])\nexcept SystemExit: pass"
    assert not loaded_after(code) & set(HEAVY)


def test_telemetry_is_off_before_anything_could_send_it():
    names = ("ORT_DISABLE_TELEMETRY", "FLWR_TELEMETRY_ENABLED")
    code = f"import os, fedloom_client; print(*(os.environ[name] for name in {names}))"
    environment = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k and k != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["1", "0"]
