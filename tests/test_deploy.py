"""The files of deploy/ are ones that their tools accept."""

import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(
    "unit", ["fedloom-device.service", "fedloom-coordinator.service", "fedloom-gateway.service"]
)
def test_systemd_takes_the_unit_and_finds_it_hardened(unit, tmp_path):
    text = (DEPLOY / unit).read_text()
    assert "NoNewPrivileges=yes" in text
    # Only the program itself is not installed here.
    copy = tmp_path / unit
    copy.write_text(text.replace("/opt/fedloom/bin/fedloom", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert unit not in done.stderr, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", copy]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_install_script_is_valid_shell():
    assert subprocess.run(["sh", "-n", DEPLOY / "install-device.sh"]).returncode == 0
