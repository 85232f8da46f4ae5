"""The walkthrough of docs/superlink.md: the same task under Flower's own SuperLink and SuperNodes."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedloom_edge.cli import main

from .link.conftest import free_ports, until

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).parents[2] / "deploy" / "superlink"
PORT, PROXY, *NODES = free_ports(5)
ROUNDS = 1

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
        f'[superlink.fleet]\naddress = "localhost:{PORT}"\nroot-certificates = "{tmp_path}/fleet/ca.pem"\n'
    )

    def run(*command):
        with (tmp_path / f"{Path(command[0]).name}-{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log))
        return started[-1]

    yield run, environment
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(30)


def simulated(folder, clients=2, *more):
    options = ["--clients", str(clients), "--rounds", str(ROUNDS), "--out", str(folder), *more]
    assert main(["simulate", "digits", *options, "--backend", "torch"]) == 0
    return json.loads((folder / "result.json").read_text())


def listening():
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def flwr(environment, *arguments):
    command = [BIN / "flwr", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def served(
    start, tmp_path, address, *trust, superlink="here", keys=("", ""), meanwhile=lambda: None, more=""
):
    """Rounds by a node a key at `address`: as many as `simulated` has."""
    run, environment = start
    for index, key in enumerate(keys):
        where = ("--superlink", address, "--port", str(NODES[index]))
        proof = ("--auth-supernode-private-key", key) if key else ()
        run("flower-supernode", *trust, *where, *proof, "--node-config", f"partition-id={index}")
    config = f"out='{tmp_path / 'run'}' rounds={ROUNDS} clients={len(keys)} {more}"
    flwr(environment, "run", PROJECT, superlink, "--run-config", config)
    meanwhile()
    until((tmp_path / "run" / "result.json").exists, 300)
    return json.loads((tmp_path / "run" / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_same_weights_as_in_a_simulation(start, tmp_path):
    start[0]("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(PORT))
    until(listening, 60)
    result = served(start, tmp_path, f"127.0.0.1:{PORT}", "--insecure")
    assert result["arrays_sha256"] == simulated(tmp_path / "simulated")["arrays_sha256"]
    assert result["engine"] == "superlink"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_masked_updates_come_to_the_same_weights(start, tmp_path):
    start[0]("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(PORT))
    until(listening, 60)
    more = {"keys": ("", "", ""), "more": "secure-aggregation=true"}
    result = served(start, tmp_path, f"127.0.0.1:{PORT}", "--insecure", **more)
    expected = simulated(tmp_path / "simulated", 3, "--secure-aggregation")
    assert result["arrays_sha256"] == expected["arrays_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nodes_come_through_the_documents_proxy_and_nobody_else(start, tmp_path):
    assert main(["fleet", "init", "127.0.0.1", "localhost", "--fleet", str(tmp_path / "fleet")]) == 0
    server = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
    server = server.replace("listen 443", f"listen 127.0.0.1:{PROXY}").replace(":9391", f":{PORT}")
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
    until(listening, 60)
    trust = tmp_path / "fleet" / "ca.pem"
    context = ssl.create_default_context(cafile=str(trust))
    for path in ("/v1/control/start-run", "/v1/runtime/", "/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"https://localhost:{PROXY}{path}", b"", context=context, timeout=10)
        assert refused.value.code == 403
    result = served(start, tmp_path, f"localhost:{PROXY}", "--root-certificates", str(trust))
    assert result["arrays_sha256"] == simulated(tmp_path / "simulated")["arrays_sha256"]


def node_key(tmp_path, name):
    """A key pair as `ssh-keygen -t ecdsa -b 384` makes it; gives the file of the private one."""
    key = ec.generate_private_key(ec.SECP384R1())
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    (tmp_path / name).write_bytes(key.private_bytes(*kinds))
    kinds = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(*kinds))
    return str(tmp_path / name)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_killed_superlink_with_a_database_loses_no_round_and_lets_in_known_keys_alone(start, tmp_path):
    run, environment = start
    assert main(["fleet", "init", "127.0.0.1", "localhost", "--fleet", str(tmp_path / "fleet")]) == 0
    (tmp_path / "secret").write_bytes(os.urandom(32))
    secret = ("--superexec-auth-secret-file", "secret")
    trust = ("--root-certificates", "fleet/ca.pem")
    certificates = {"ca-certfile": "ca.pem", "certfile": "coordinator.pem", "keyfile": "coordinator.key"}
    superlink = (
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(PORT)),
        *(text for name, file in certificates.items() for text in (f"--ssl-{name}", f"fleet/{file}")),
        *("--enable-supernode-auth", "--database", "state.db", "--isolation", "process", *secret),
    )
    process = run(*superlink)
    until(listening, 60)
    run("flower-superexec", "--runtime-api-address", f"localhost:{PORT}", *trust, *secret)
    keys = [node_key(tmp_path, f"node-{index}") for index in (0, 1)]
    for key in keys:
        flwr(environment, "supernode", "register", f"{key}.pub", "fleet")
    where = ("--superlink", f"localhost:{PORT}", "--port", str(NODES[2]), "--max-retries", "1")
    stranger = run(
        "flower-supernode", *trust, *where, "--auth-supernode-private-key", node_key(tmp_path, "other")
    )
    assert stranger.wait(60) != 0

    def killed_in_the_round():
        until((tmp_path / "run" / "run.db").exists, 120)
        process.kill()
        process.wait()
        run(*superlink)

    options = {"superlink": "fleet", "keys": keys, "meanwhile": killed_in_the_round}
    result = served(start, tmp_path, f"localhost:{PORT}", *trust, **options)
    assert result["arrays_sha256"] == simulated(tmp_path / "simulated")["arrays_sha256"]
    nodes = flwr(environment, "supernode", "list", "fleet")
    assert nodes.count("online") == 2, nodes
