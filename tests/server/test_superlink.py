"""The walkthrough of docs/superlink.md: the same task under Flower's own SuperLink and SuperNodes."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fedloom_edge.cli import main

from .link.conftest import until

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).parents[2] / "deploy" / "superlink"
PORT = 19391


DOCUMENT = Path(__file__).parents[2] / "docs" / "superlink.md"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture
def start(tmp_path):
    """Starts programs of the environment, and ends them in the other order."""
    started = []
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{PORT}"\ninsecure = true\n'
    )

    def run(*command):
        with (tmp_path / f"{Path(command[0]).name}-{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log))

    yield run, environment
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(30)


def simulated(folder, clients=2, *more):
    options = ["--clients", str(clients), "--rounds", "1", "--out", str(folder), *more]
    assert main(["simulate", "digits", *options, "--backend", "torch"]) == 0
    return json.loads((folder / "result.json").read_text())


def served(start, tmp_path, address, *trust, clients=2, more=""):
    """One round by some nodes at `address`."""
    run, environment = start
    for index in range(clients):
        where = ("--superlink", address, "--port", str(PORT + 3 + index))
        run("flower-supernode", *trust, *where, "--node-config", f"partition-id={index}")
    config = f"out='{tmp_path / 'run'}' rounds=1 clients={clients} {more}"
    command = [BIN / "flwr", "run", PROJECT, "here", "--run-config", config]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    until((tmp_path / "run" / "result.json").exists, 300)
    return json.loads((tmp_path / "run" / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_same_weights_as_in_a_simulation(start, tmp_path):
    start[0]("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(PORT))
    time.sleep(6)  # it has no sign of being ready but answering
    result = served(start, tmp_path, f"127.0.0.1:{PORT}", "--insecure")
    assert result["arrays_sha256"] == simulated(tmp_path / "simulated")["arrays_sha256"]
    assert result["engine"] == "superlink"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_masked_updates_come_to_the_same_weights(start, tmp_path):
    start[0]("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(PORT))
    time.sleep(6)
    more = {"clients": 3, "more": "secure-aggregation=true"}
    result = served(start, tmp_path, f"127.0.0.1:{PORT}", "--insecure", **more)
    expected = simulated(tmp_path / "simulated", 3, "--secure-aggregation")
    assert result["arrays_sha256"] == expected["arrays_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nodes_come_through_the_documents_proxy_and_nobody_else(start, tmp_path):
    assert main(["fleet", "init", "127.0.0.1", "localhost", "--fleet", str(tmp_path / "fleet")]) == 0
    server = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
    port = PORT + 10
    server = server.replace("listen 443", f"listen 127.0.0.1:{port}").replace(":9391", f":{PORT}")
    server = server.replace("/etc/fedloom/", f"{tmp_path}/fleet/")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {tmp_path}/{kind}; " for kind in kinds)
    user = "user root; " if os.geteuid() == 0 else ""  # its workers write large bodies below tmp_path
    (tmp_path / "nginx.conf").write_text(
        f"{user}daemon off; pid {tmp_path}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {places}\n{server}\n}}\n"
    )
    start[0]("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(PORT))
    start[0](NGINX, "-p", str(tmp_path), "-c", "nginx.conf")
    time.sleep(6)
    trust = tmp_path / "fleet" / "ca.pem"
    context = ssl.create_default_context(cafile=str(trust))
    for path in ("/v1/control/start-run", "/v1/runtime/", "/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"https://localhost:{port}{path}", b"", context=context, timeout=10)
        assert refused.value.code == 403
    result = served(start, tmp_path, f"localhost:{port}", "--root-certificates", str(trust))
    assert result["arrays_sha256"] == simulated(tmp_path / "simulated")["arrays_sha256"]
