"""The dashboard lets nobody in who should not be: a test for each line of the promise."""

import http.client
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloom_edge.cli import main
from fedloom_server.dashboard.access import LOGINS, Access
from fedloom_server.dashboard.catalog import run_id
from fedloom_server.dashboard.gate import host_name

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
JSON = {"content-type": "application/json", "x-fedloom": "1"}
TOKEN = "0123456789abcdef-a-long-token"


@pytest.fixture(scope="session")
def token_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def test_without_a_session_nothing_is_shown(serve, finished):
    server = serve(finished, log_in=False)
    assert server.ask("/api/v1/runs").status == 401
    assert server.ask("/metrics").status == 401
    assert server.ask("/api/v1/stream").status == 401
    assert server.ask("/api/v1/openapi.json").status == 401
    page = server.ask("/")
    assert page.status == 200
    assert b"finished" not in page.body


def test_the_printed_link_works_once(serve, finished):
    server = serve(finished, log_in=False)
    secret = server.link.split("#")[1]
    assert server.host.startswith("127.0.0.1:")
    assert server.log_in(secret).status == 200
    assert server.get("/runs")
    assert server.log_in(secret).status == 401


def test_the_cookie_is_kept_from_scripts_and_other_sites_and_outlives_a_restart(serve, finished):
    server = serve(finished, log_in=False)
    cookie = server.log_in().headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    port = server.host.split(":")[1]
    server.stop()
    again = serve(finished, "--port", port, log_in=False)
    again.cookie = server.cookie
    assert again.get("/runs")
    forged = server.cookie[:-1] + ("0" if server.cookie[-1] != "0" else "1")
    assert again.ask("/api/v1/runs", cookie=forged).status == 401


def test_a_session_ends(monkeypatch):
    access = Access(b"key")
    session = access.log_in(access.new_link(), "here")
    assert access.who(session)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert access.who(session) is None
    assert access.who("") is None
    assert Access(b"other key").who(session) is None


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--host", "0.0.0.0"], "TLS|--tls-cert"),
        (["--host", "0.0.0.0", "--token-file", "TOKEN"], "--tls-cert"),
        (["--host", "0.0.0.0", "--tls-cert", "CERT", "--tls-key", "KEY"], "--token-file"),
        (["--tls-cert", "CERT"], "belong together"),
        (["--token-file", "OPEN"], "chmod 600"),
        (["--token-file", "SHORT"], "at least 16"),
        (["--port", "70000"], "65535"),
    ],
)
def test_beyond_loopback_needs_tls_and_a_token(
    options, wanted, finished, token_file, certificate, tmp_path, capsys
):
    (tmp_path / "open").write_text(TOKEN)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    names = {
        "TOKEN": token_file, "CERT": certificate[0], "KEY": certificate[1],
        "OPEN": tmp_path / "open", "SHORT": tmp_path / "short",
    }  # fmt: skip
    code = main(["dashboard", str(finished), *(str(names.get(word, word)) for word in options)])
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert any(part in err for part in wanted.split("|"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    named = "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(f"{made} {named}".split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_and_the_token_open_it_beyond_loopback(serve, finished, certificate, token_file):
    options = ("--host", "0.0.0.0", "--tls-cert", certificate[0], "--tls-key", certificate[1])
    server = serve(finished, *map(str, options), "--token-file", str(token_file), log_in=False)
    assert "#" not in server.line
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    port = int(server.base.rsplit(":", 1)[1])

    def ask(path, method="GET", body=None, **headers):
        connection = http.client.HTTPSConnection("localhost", port, context=trust, timeout=20)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    assert ask("/api/v1/runs")[0] == 401
    assert ask("/api/v1/runs", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask("/api/v1/runs", Authorization=f"Bearer {TOKEN}x")[0] == 401
    status, headers, _ = ask("/api/v1/login", "POST", f'{{"secret": "{TOKEN}"}}', **JSON)
    assert status == 200
    assert "secure" in headers["set-cookie"].lower()
    assert headers["set-cookie"].startswith("__Host-")
    assert "max-age" in headers["strict-transport-security"]


def test_a_post_of_another_site_is_refused(serve, copied):
    server = serve(copied)
    path, body = f"/api/v1/runs/{run_id(copied)}/commands", {"action": "pause"}
    kind = {"content_type": "application/json"}
    assert server.ask(path, "POST", body, **kind).status == 403  # without the header
    assert server.ask(path, "POST", body, **kind, x_fedloom="1", sec_fetch_site="cross-site").status == 403
    assert server.ask(path, "POST", body, **kind, x_fedloom="1", origin="http://evil.example").status == 403
    assert server.ask(path, "POST", body, x_fedloom="1", content_type="text/plain").status == 415
    own = server.ask(
        path, "POST", body, **kind, x_fedloom="1", origin=server.base, sec_fetch_site="same-origin"
    )
    assert own.status == 409  # let through to the run, which has ended
    assert "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "169.254.169.254"])
def test_another_host_name_is_refused(watched, host):
    assert watched.ask("/api/v1/runs", host=host).status == 421
    assert watched.ask("/", host=host).status == 421


def test_an_allowed_host_name_is_served(serve, finished):
    server = serve(finished, "--allow-host", "Board.Local")
    assert server.ask("/api/v1/runs", host="board.local:9").status == 200


@pytest.mark.parametrize(
    ("given", "name"), [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("A.b:1", "a.b"), ("a", "a"), ("", "")]
)
def test_the_name_in_a_host_header(given, name):
    assert host_name(given) == name


@pytest.mark.parametrize(
    "path", ["/", "/login", "/api/v1/runs", "/static/js/main.js", "/nothing", "/api/v1/runs/x"]
)
def test_every_answer_has_the_strict_headers(serve, finished, path):
    headers = serve(finished).ask(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_no_page_has_inline_script_or_an_address_elsewhere():
    static = Path(__import__("fedloom_server").__file__).parent / "dashboard" / "static"
    page = (static / "index.html").read_text()
    assert "<script>" not in page
    assert "style=" not in page
    for path in [*static.rglob("*.js"), *static.rglob("*.css"), *static.rglob("*.html")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        text = text.replace("https://github.com/leeoniya/uPlot", "")
        assert "http://" not in text and "https://" not in text, path
        assert "innerHTML" not in text or "vendor" in str(path), path


@pytest.mark.parametrize(
    "path",
    [
        "/static/../serve.py", "/static/%2e%2e/serve.py", "/static/..%2fserve.py", "/static//etc/passwd",
        "/static/%00", "//etc/passwd", "/static/js/../../../serve.py", "/static",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_assets(watched, path):
    answer = watched.ask(path)
    assert answer.status in (400, 404)


def test_no_name_leads_out_of_the_run(serve, copied):
    (copied.parent / "secret").write_text("secret")
    # A link with an allowed name that points elsewhere.
    linked = "arrays/" + "0" * 64 + ".safetensors"
    (copied / linked).symlink_to(copied.parent / "secret")
    names = ["../secret", "..%2fsecret", "%2e%2e/secret", "/etc/passwd", "arrays/../run.db", "model.onnx%00"]
    server = serve(copied)
    for name in [*names, linked, "run.db", ".", ""]:
        answer = server.ask(f"/api/v1/runs/{run_id(copied)}/artifacts/{name}")
        assert answer.status in (404, 422), name
        assert b"secret" not in answer.body
    assert server.ask(f"/api/v1/runs/{run_id(copied)}/artifacts/model.onnx").status == 200


def test_nothing_can_be_uploaded(watched):
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        assert watched.ask("/api/v1/runs", method, b"x").status == 405
    large = watched.ask("/api/v1/login", "POST", b"{" + b" " * 5000 + b"}", **JSON)
    assert large.status == 413
    endless = {"transfer_encoding": "chunked", "content_length": "x"}
    chunked = watched.ask("/api/v1/login", "POST", None, **JSON, **endless)
    assert chunked.status in (400, 413)


def test_read_only_takes_no_command_and_offers_none(serve, copied):
    server = serve(copied, "--read-only")
    run = run_id(copied)
    assert server.post(f"/runs/{run}/commands", {"action": "stop"}).status == 403
    assert server.get(f"/runs/{run}")["actions"] == []
    assert server.get("/session")["read_only"]


def test_browsers_that_go_away_in_the_middle_of_an_answer_do_not_end_it(serve, finished):
    server = serve(finished)
    host, port = server.host.split(":")
    for number in range(300):
        path = ("/api/v1/stream", "/static/vendor/uPlot.iife.min.js", "/api/v1/runs")[number % 3]
        request = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\nCookie: {server.cookie}\r\n\r\n"
        try:
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(request.encode() * 3)
                time.sleep(number % 10 / 2000)
        except ConnectionError as error:
            raise AssertionError(server.fate()) from error
    assert server.get("/runs")
    assert "Traceback" not in server.log()


def test_wrong_secrets_are_slowed_down(serve, finished):
    server = serve(finished, log_in=False)
    for _ in range(LOGINS):
        assert server.log_in("wrong").status == 401
    refused = server.log_in(server.link.split("#")[1])  # even the right one
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 61


def test_wrong_tokens_of_tools_are_slowed_down_too(serve, finished, token_file):
    server = serve(finished, "--token-file", str(token_file), log_in=False)
    for guess in range(LOGINS):
        assert server.ask("/metrics", authorization=f"Bearer {guess}").status == 401
    assert server.ask("/metrics", authorization=f"Bearer {TOKEN}").status == 401


def test_the_key_of_sessions_is_the_users_alone(serve, finished, tmp_path):
    serve(finished)
    key = tmp_path / "state" / "fedloom" / "dashboard.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32


def test_the_port_in_use_is_said_in_one_line(watched, finished):
    port = watched.host.split(":")[1]
    done = subprocess.run(
        [*FEDLOOM, "dashboard", str(finished), "--port", port], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "choose another" in done.stderr
