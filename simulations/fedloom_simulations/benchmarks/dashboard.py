"""How fast the dashboard is: first paint, commit to pixel, browser heap, and the server's share of a core.

    python -m fedloom_simulations.benchmarks.dashboard --clients 1000 --rounds 200 --rate 3.4

A producer writes rounds of realistic size into a run store through the writer of the round loop, a
`fedloom dashboard` serves it, and headless Chromium shows the Run page (needs the extra `dev`).
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_server.dashboard.catalog import run_id
from fedloom_server.store.process_mark import process_mark
from fedloom_server.store.rows import ClientRound, ClientRow, Round
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.benchmarks.processes import cpu_seconds

# Notes when the frame with a new round is shown: two frames after the change, the first has painted.
_WATCH = """() => {
  const main = document.getElementById("main");
  globalThis.shown = [];
  new MutationObserver(() => {
    const round = Number(main.dataset.round);
    requestAnimationFrame(() => setTimeout(() =>
      globalThis.shown.push([round, (performance.timeOrigin + performance.now()) / 1000])));
  }).observe(main, { attributeFilter: ["data-round"] });
}"""


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rate", type=float, default=3.4, help="rounds a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(Path(temporary) / "run", arguments.clients, arguments.rounds, arguments.rate)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, clients: int, rounds: int, rate: float) -> dict[str, Any]:
    """Watch a run of `clients` x `rounds` that goes on at `rate` rounds a second."""
    from playwright.sync_api import sync_playwright

    started = multiprocessing.get_context("spawn").Event()
    producer = multiprocessing.get_context("spawn").Process(
        target=produce, args=(folder, clients, rounds, rate, started)
    )
    producer.start()
    while not (folder / "run.db").exists():
        time.sleep(0.05)
    state = {**os.environ, "XDG_STATE_HOME": str(folder.parent / "state")}
    command = [sys.executable, "-m", "fedloom_edge.cli", "dashboard", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=state)
    assert server.stdout is not None
    link = server.stdout.readline().split()[1]
    address = f"{link.split('/login')[0]}/runs/{run_id(folder)}"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(link)
            page.wait_for_selector("h1")
            page.goto(address)
            page.wait_for_selector("#main[data-round]", state="attached")
            page.evaluate(_WATCH)
            idle = _cpu_share(server.pid, 3.0)
            before, began = cpu_seconds(server.pid), time.monotonic()
            started.set()
            last = "(n) => Number(document.getElementById('main').dataset.round) >= n"
            page.wait_for_function(last, arg=rounds, timeout=600_000)
            busy = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
            page.wait_for_timeout(3000)
            latencies = _latencies(folder, page.evaluate("() => globalThis.shown"))
            heap = _heap(page)
            cold = [_paint(browser, link, page, address) for _ in range(5)]
            browser.close()
    finally:
        server.terminate()
        server.wait()
        producer.join()
    return {
        "clients": clients,
        "rounds": rounds,
        "updates_per_second": round(rate * clients),
        "event_to_pixel_ms": {
            "p50": round(statistics.median(latencies)),
            "p95": round(float(np.quantile(latencies, 0.95))),
            "rounds_measured": len(latencies),
        },
        "browser_heap_mb": round(heap, 1),
        "server_share_of_a_core": {"idle": round(idle, 4), "while_rounds_come": round(busy, 4)},
        "whole_history_open_ms": {
            "first_contentful_paint": round(statistics.median(entry[0] for entry in cold)),
            "figures_and_curves": round(statistics.median(entry[1] for entry in cold)),
        },
    }


def produce(folder: Path, clients: int, rounds: int, rate: float, started: Any) -> None:
    """Write a run as the round loop does: one transaction a round, a train and an evaluate row a client."""
    draw = np.random.default_rng(1)
    facts = {
        "task": "benchmark", "engine": "inline", "strategy": "fedavg", "partition": "iid", "seed": 1,
        "clients": clients, "planned_rounds": rounds, "metric": "accuracy", "process": process_mark(),
        "class_names": [str(name) for name in range(10)],
    }  # fmt: skip
    with RunStore.create(folder, facts) as store:
        labels = draw.integers(0, 30, (clients, 10))
        rows = (
            ClientRow(i, f"client {i}", int(labels[i].sum()), 20, labels[i].tolist()) for i in range(clients)
        )
        with store.transaction():
            store.add_clients(rows)
            store.event("started", clients=clients)
            store.add_round(Round(0, 2.3, 0.1, {"accuracy": 0.1}), [])
        started.wait()
        skill = draw.normal(0, 0.08, clients)
        for number in range(1, rounds + 1):
            began = time.monotonic()
            entry, parts = _round(number, rounds, skill, draw)
            with store.transaction():
                store.add_round(entry, parts)
                store.event("round", round_number=number)
                for part in parts:
                    if part.status == "failed":
                        store.event("failed", round_number=number, client=part.client, reason=part.reason)
            time.sleep(max(1 / rate - (time.monotonic() - began), 0))
        store.set_facts({"status": "finished"})
        store.event("finished", reason="")


def _round(
    number: int, rounds: int, skill: Any, draw: np.random.Generator
) -> tuple[Round, list[ClientRound]]:
    clients = len(skill)
    level = 0.95 - 0.8 * np.exp(-6 * number / rounds)
    metrics = np.clip(level + skill + draw.normal(0, 0.02, clients), 0, 1)
    seconds = draw.gamma(4, 0.05, clients)
    bad = draw.random(clients) < 0.01
    parts = []
    for i in range(clients):
        told = {"num-examples": 150, "train-loss": float(1 - metrics[i]), "epochs": 1, "steps": 5}
        status, reason = ("failed", "no reply") if bad[i] else ("ok", "")
        parts.append(
            ClientRound(
                number, i, "train", status, reason, 150, float(1 - metrics[i]), None, 1.0,
                float(seconds[i]), 50_000, metrics=told, finished=float(seconds[i] * 1.3),
            )
        )  # fmt: skip
        parts.append(
            ClientRound(
                number, i, "evaluate", "ok", "", 20, float(1 - metrics[i]), float(metrics[i]), metrics=told
            )
        )
    failed = int(bad.sum())
    worst = float(np.sort(metrics)[: clients // 20 + 1].mean())
    entry = Round(
        number, float(1 - level), float(level), {"accuracy": float(level)}, float(1 - level),
        float(1 - level), float(level), worst, clients - failed, failed, 0,
        50_000 * clients, 50_000 * clients, 0.3,
    )  # fmt: skip
    return entry, parts


def _latencies(folder: Path, shown: list[tuple[int, float]]) -> list[float]:
    """Milliseconds from a round's event to the frame that shows it, or a later round, for each round."""
    with RunStore.open(folder) as store:
        written = {event["round"]: event["time"] for event in store.events("round")}
    seen: dict[int, float] = {}
    for number, at in shown:
        for earlier in range(number, 0, -1):
            if earlier in seen:
                break
            seen[earlier] = at
    return [1000 * (at - written[number]) for number, at in seen.items() if number in written]


def _heap(page: Any) -> float:
    """The page's JavaScript heap in MB after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["JSHeapUsedSize"]) / 1e6


def _paint(browser: Any, link: str, page: Any, address: str) -> tuple[float, float]:
    """First contentful paint, and figures and curves drawn, in ms, of a page with the whole history."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, storage_state=page.context.storage_state()
    )
    fresh = context.new_page()
    fresh.goto(address)
    drawn = fresh.wait_for_function(
        "() => document.getElementById('main').dataset.round !== undefined && performance.now()"
    ).json_value()
    fresh.wait_for_timeout(300)
    first = fresh.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return float(first), float(drawn)


def _cpu_share(pid: int, seconds: float) -> float:
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds


if __name__ == "__main__":
    main()
