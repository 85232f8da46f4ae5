"""The JSON API: each answer is made of a run's store and nothing else."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from fedloom_edge.errors import RunError
from fedloom_server.dashboard import clients, control, devices, tables
from fedloom_server.dashboard.alerts import alerts
from fedloom_server.dashboard.artifacts import artifact_path, artifacts
from fedloom_server.dashboard.catalog import Catalog
from fedloom_server.dashboard.compare import FEWEST, MOST, comparison
from fedloom_server.dashboard.database import Database, reading
from fedloom_server.dashboard.endpoint import ApiError
from fedloom_server.dashboard.gate import client_address
from fedloom_server.dashboard.history import events, run_history
from fedloom_server.dashboard.matrix import Matrices, heat_map
from fedloom_server.dashboard.state import status, summary

Values = dict[str, Any]


class Api:
    """Answers about the runs of a catalog. Every method takes the request and its checked values."""

    def __init__(self, catalog: Catalog, *, read_only: bool) -> None:
        self.catalog = catalog
        self.read_only = read_only
        self._matrices = Matrices()
        self._restarts = control.Restarts()

    def runs(self, request: Request, values: Values) -> Any:
        """Every run, the newest first."""
        found = [summary(run, folder) for run, folder in self.catalog.runs().items()]
        return sorted(found, key=lambda run: run.get("started") or 0.0, reverse=True)

    def run(self, request: Request, values: Values) -> Any:
        """A run from a round and an event on."""
        with self._run(values) as (run, folder, database):
            answer = run_history(run, folder, database, values["after_round"], values["after_event"])
            answer["actions"] = [] if self.read_only else control.actions(answer["status"])
            answer["restart"] = self._restarts.told(folder, database.fact("process"))
            if answer["restart"]["starting"]:
                answer["actions"] = [name for name in answer["actions"] if name != "restart"]
            return answer

    def spread(self, request: Request, values: Values) -> Any:
        """Quantiles over clients."""
        run, folder = self._folder(values)
        matrix = self._matrices.of(run, folder)
        with matrix.lock:
            return matrix.quantiles(values["after_round"])

    def matrix(self, request: Request, values: Values) -> Any:
        """Every client in every round."""
        run, folder = self._folder(values)
        matrix = self._matrices.of(run, folder)
        with matrix.lock:
            return heat_map(matrix, values["value"], values["rows"], values["after_round"])

    def round_clients(self, request: Request, values: Values) -> Any:
        """Every client of a round."""
        with self._run(values) as (_, _, database):
            return clients.round_clients(database, values["round"])

    def clients(self, request: Request, values: Values) -> Any:
        """Who takes part."""
        with self._run(values) as (_, _, database):
            return clients.clients(database)

    def client(self, request: Request, values: Values) -> Any:
        """One client over the run."""
        with self._run(values) as (_, _, database):
            found = clients.client(database, values["client"])
        if found is None:
            raise ApiError(404, f"this run has no client {values['client']}")
        return found

    def failures(self, request: Request, values: Values) -> Any:
        """Clients that failed or were refused."""
        with self._run(values) as (_, _, database):
            return clients.failures(database, values["limit"])

    def events(self, request: Request, values: Values) -> Any:
        """A run's events."""
        with self._run(values) as (_, _, database):
            return events(database, values["after"], values["limit"], kind=values["kind"])

    def artifacts(self, request: Request, values: Values) -> Any:
        """A run's files."""
        with self._run(values) as (_, folder, database):
            return artifacts(folder, database)

    def artifact(self, request: Request, values: Values) -> Response:
        """Download one of a run's files."""
        run, folder = self._folder(values)
        path = artifact_path(folder, values["name"])
        if path is None:
            raise ApiError(404, "this run has no such file")
        media = "image/png" if path.suffix == ".png" else "application/octet-stream"
        return FileResponse(path, media_type=media, filename=f"{run}-{path.name}")

    def table(self, request: Request, values: Values) -> Response:
        """Download one of a run's tables."""
        with self._run(values) as (run, _, database):
            name, form = values["table"], values["format"]
            content = tables.table(database, name, form)
        disposition = {"content-disposition": f'attachment; filename="{run}-{name}.{form}"'}
        return Response(content, media_type=tables.MEDIA[form], headers=disposition)

    def devices(self, request: Request, values: Values) -> Any:
        """Every run's devices."""
        return [
            {"run": run, **device}
            for run, _, database in self._readable()
            for device in devices.devices(database)
        ]

    def device(self, request: Request, values: Values) -> Any:
        """A device's last samples."""
        with self._run(values) as (_, _, database):
            return devices.samples(database, values["device"])

    def models(self, request: Request, values: Values) -> Any:
        """Every run's models, with where they come from."""
        found = []
        for run, folder, database in self._readable():
            facts = database.facts()
            found.append(
                {
                    "run": run,
                    "name": folder.name,
                    "status": status(facts),
                    **{key: facts.get(key) for key in ("task", "strategy", "seed", "metric")},
                    "value": database.value("SELECT metric FROM round ORDER BY number DESC LIMIT 1"),
                    "versions": facts.get("versions", {}),
                    "onnx_difference": facts.get("onnx_difference"),
                    "artifacts": artifacts(folder, database),
                }
            )
        return found

    def alerts(self, request: Request, values: Values) -> Any:
        """Every run's alerts, or one run's."""
        if values["run"]:
            with self._run(values) as (run, folder, database):
                return [{"run": run, "name": folder.name, **asdict(alert)} for alert in alerts(database)]
        found = [
            {"run": run, "name": folder.name, **asdict(alert)}
            for run, folder, database in self._readable()
            for alert in alerts(database)
        ]
        return sorted(found, key=lambda alert: alert["severity"] != "critical")

    def compare(self, request: Request, values: Values) -> Any:
        """Several runs side by side."""
        wanted = list(dict.fromkeys(name for name in values["runs"].split(",") if name))
        if not FEWEST <= len(wanted) <= MOST:
            raise ApiError(422, f"runs: give {FEWEST} to {MOST} different runs with commas between them")
        with ExitStack() as stack:
            chosen = {}
            for run in wanted:
                folder = self._folder({"run": run})[1]
                chosen[run] = (folder.name, stack.enter_context(reading(folder)))
            return comparison(chosen)

    def command(self, request: Request, values: Values) -> Any:
        """Ask a run for something."""
        folder = self._folder(values)[1]
        body = values["body"]
        who = f"{request.state.who} at {client_address(request)}"
        return control.ask(folder, str(body.get("action")), body.get("client"), who, self._restarts)

    def _folder(self, values: Values) -> tuple[str, Path]:
        run = values["run"]
        folder = self.catalog.folder(run) if re.fullmatch(r"[a-z0-9-]{1,80}", run) else None
        if folder is None:
            raise ApiError(404, "there is no such run")
        return run, folder

    def _readable(self) -> Iterator[tuple[str, Path, Database]]:
        """Every run; what cannot be read is left out, and the list of runs says why."""
        for run, folder in self.catalog.runs().items():
            with suppress(RunError), reading(folder) as database:
                yield run, folder, database

    @contextmanager
    def _run(self, values: Values) -> Iterator[tuple[str, Path, Database]]:
        run, folder = self._folder(values)
        with reading(folder) as database:
            yield run, folder, database
