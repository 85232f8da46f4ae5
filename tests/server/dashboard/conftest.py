"""Real runs, and real dashboards that watch them, as processes of their own."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"phone": (390, 844), "desktop": (1440, 900)}
JSON = {"content-type": "application/json", "x-fedloom": "1"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A `fedloom dashboard` process and a client of it."""

    def __init__(self, folder: Path, *options: str, state: Path) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(state)}
        port = [] if "--port" in options else ["--port", "0"]
        command = [*FEDLOOM, "dashboard", str(folder), *port, *options]
        state.mkdir(exist_ok=True)
        # A file, which cannot fill up as a pipe does, and a session of its own: signals that other
        # tests send to their group are not for it.
        number, self._log = tempfile.mkstemp(prefix="dashboard-", suffix=".log", dir=state)
        with os.fdopen(number, "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        until(lambda: "\n" in self.log() or self.process.poll() is not None)
        self.line = self.log().partition("\n")[0] + "\n"
        assert self.line.startswith("dashboard: "), self.fate()
        self.base = re.search(r"https?://[^/ ]+", self.line)[0]
        self.host = self.base.split("//")[1]
        self.link = self.line.split()[1]
        self.cookie = ""

    def log(self) -> str:
        """What the server has said so far."""
        return Path(self._log).read_text()

    def fate(self) -> str:
        """How the server fares, for the message of a test that cannot reach it."""
        code = self.process.poll()
        ended = "is still running" if code is None else f"ended with code {code}"
        return f"the dashboard (process {self.process.pid}) {ended}; it said:\n{self.log()[-4000:]}"

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str) -> Answer:
        """One request, exactly as given: nothing tidies the path."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie and "cookie" not in sent and "authorization" not in sent:
            sent["cookie"] = self.cookie
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host="host" in sent, skip_accept_encoding=True)
            if content is not None and "content-length" not in sent:
                sent["content-length"] = str(len(content))
            for name, value in sent.items():
                connection.putheader(name, value)
            try:
                connection.endheaders(content)
                answer = connection.getresponse()
            except (ConnectionError, TimeoutError) as error:
                raise AssertionError(f"{method} {path}: {error!r}; {self.fate()}") from error
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def get(self, path: str) -> Any:
        answer = self.ask(f"/api/v1{path}")
        assert answer.status == 200, answer.body
        return answer.json

    def post(self, path: str, body: object) -> Answer:
        return self.ask(f"/api/v1{path}", "POST", body, **JSON)

    def log_in(self, secret: str | None = None) -> Answer:
        answer = self.post("/login", {"secret": secret or self.link.split("#")[1]})
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].split(";")[0]
        return answer

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


def until(condition, seconds: float = 60.0) -> Any:
    """What `condition()` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


@pytest.fixture
def serve(tmp_path) -> Iterator[Any]:
    """`serve(folder, "--read-only")` -> a Server, logged in; all are stopped at the end."""
    servers: list[Server] = []

    def start(folder: Path, *options: str, log_in: bool = True) -> Server:
        servers.append(Server(folder, *options, state=tmp_path / "state"))
        if log_in:
            servers[-1].log_in()
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder of runs with a finished, real one in it; nobody writes here."""
    runs = tmp_path_factory.mktemp("runs")
    options = ["--clients", "4", "--rounds", "3", "--partition", "dirichlet:0.5"]
    command = [*FEDLOOM, "simulate", "digits", *options, "--out", str(runs / "finished")]
    subprocess.run(command, check=True, capture_output=True)
    return runs


@pytest.fixture(scope="session")
def watched(finished, tmp_path_factory) -> Iterator[Server]:
    """A dashboard of the finished run, logged in, for tests that change nothing."""
    server = Server(finished, state=tmp_path_factory.mktemp("state"))
    server.log_in()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def attacked(tmp_path_factory) -> Path:
    """The folder of a finished run in which two of eight clients attack and others fail now and then."""
    folder = tmp_path_factory.mktemp("attacked") / "attacked"
    options = ["--clients", "8", "--rounds", "2", "--attack", "scale:0.25:30", "--faults", "drop=0.2"]
    command = [*FEDLOOM, "simulate", "digits", *options, "--seed", "1", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A run's folder to do anything with."""
    return Path(shutil.copytree(finished / "finished", tmp_path / "runs" / "copied"))


@pytest.fixture
def simulate(tmp_path) -> Iterator[Any]:
    """`simulate("--rounds", 500)` starts a real run below tmp_path/runs and gives its folder and process."""
    processes: list[subprocess.Popen[str]] = []

    def start(*options: object, task: object = "digits", name: str = "live") -> Any:
        folder = tmp_path / "runs" / name
        folder.parent.mkdir(exist_ok=True)
        command = [*FEDLOOM, "simulate", str(task), *map(str, options), "--out", str(folder)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        until(lambda: (folder / "run.db").exists() or process.poll() is not None)
        return folder, process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def moody_task(tmp_path) -> Path:
    """Handwritten digits where the sensors of some clients are unplugged."""
    path = tmp_path / "moody.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from torch import nn\n"
        "from fedloom_client.tasks.digits import task as digits\n"
        "class Moody(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = digits.model()\n"
        "    def forward(self, x):\n"
        "        if self.training and len(x) % 4 == 3:\n"
        "            raise ValueError('sensor unplugged')\n"
        "        return self.net(x)\n"
        "task = replace(digits, name='moody', model=Moody)\n"
    )
    return path


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield browser
        browser.close()


class Tab:
    """A page that notes everything which should not happen."""

    def __init__(self, browser: Browser, server: Any, size: str = "desktop", theme: str = "light") -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, bypass_csp=False
        )
        name, _, value = server.cookie.partition("=")
        self.context.add_cookies([{"name": name, "value": value, "url": server.base}])
        self.page: Page = self.context.new_page()
        self.base = server.base
        self.bad: list[str] = []
        self.page.on("pageerror", lambda error: self.bad.append(str(error)))
        self.page.on("console", lambda said: self.bad.append(said.text) if said.type == "error" else None)
        self.context.on("request", lambda request: self.note_request(request.url))

    def note_request(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.base).netloc:
            self.bad.append(f"a request to {url}")

    def open(self, path: str) -> Page:
        self.page.goto(self.base + path)
        self.page.wait_for_selector("h1")
        return self.page

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def tab(browser):
    """`tab(server, "phone", "dark")` -> a Tab; at the end none of them may have noted anything."""
    tabs: list[Tab] = []

    def make(server: Any, size: str = "desktop", theme: str = "light") -> Tab:
        tabs.append(Tab(browser, server, size, theme))
        return tabs[-1]

    yield make
    bad = [line for one in tabs for line in one.bad]
    for one in tabs:
        one.close()
    assert bad == []


def at_least(page: Page, number: int) -> None:
    # While the browser goes from one page to another there is a moment without any element.
    page.wait_for_function(
        "(n) => Number(document.getElementById('main')?.dataset.round) >= n", arg=number, timeout=120_000
    )


def shown_round(page: Page) -> int:
    return int(page.get_attribute("#main[data-round]", "data-round") or "")
