"""Every endpoint of the API in one table, from which the routes and the OpenAPI document are made."""

from typing import Any

from fedloom_server.dashboard.api import Api
from fedloom_server.dashboard.control import ACTIONS
from fedloom_server.dashboard.endpoint import Endpoint, Parameter
from fedloom_server.dashboard.login import Login
from fedloom_server.dashboard.matrix import VALUES
from fedloom_server.dashboard.tables import MEDIA, TABLES

ROOT = "/api/v1"
_RUN = Parameter("run", "a run's id, from /runs", in_path=True)
_AFTER_ROUND = Parameter("after_round", "rounds with a larger number", whole=True, default=-1)
_AFTER_EVENT = Parameter("after_event", "events with a larger id", whole=True, default=0, least=0)
_NO_RUN = {404: "there is no such run", 503: "the run's store cannot be read now"}
_OBJECTS = {"type": "array", "items": {"type": "object"}}


def endpoints(api: Api, login: Login) -> list[Endpoint]:
    """All of them."""
    return [*_session(login), *_runs(api), *_clients(api), *_files(api), *_everything(api)]


def _session(login: Login) -> list[Endpoint]:
    secret = {
        "type": "object",
        "required": ["secret"],
        "properties": {"secret": {"type": "string", "maxLength": 500}},
    }
    refused = {401: "the secret is wrong, used or too old", 429: "too many wrong secrets; see Retry-After"}
    return [
        Endpoint(
            f"{ROOT}/login", login.log_in, "Change a one-time link's secret or the token for a cookie.",
            method="POST", body=secret, statuses=refused,
        ),
        Endpoint(
            f"{ROOT}/logout", login.log_out, "Forget the cookie.", method="POST", body={"type": "object"}
        ),
        Endpoint(f"{ROOT}/session", login.session, "Whether this is a session, and what it may do."),
    ]  # fmt: skip


def _runs(api: Api) -> list[Endpoint]:
    action = {
        "type": "object",
        "required": ["action"],
        "properties": {
            "action": {"type": "string", "enum": list(ACTIONS)},
            "client": {"type": "integer", "minimum": 0, "description": "for exclude and include"},
        },
    }
    conflict = {**_NO_RUN, 409: "the run's state does not allow it", 403: "the dashboard is read-only"}
    return [
        Endpoint(f"{ROOT}/runs", api.runs, "Every run, the newest first.", result=_OBJECTS),
        Endpoint(
            f"{ROOT}/runs/{{run}}", api.run,
            "Where a run stands, with its rounds and last events after given ones: opens a page and keeps "
            "it fresh. Rounds are columns: `rounds.loss[i]` belongs to round `rounds.number[i]`.",
            (_RUN, _AFTER_ROUND, _AFTER_EVENT), statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/events", api.events, "Events in order.",
            (
                _RUN,
                Parameter("after", "events with a larger id", whole=True, default=0, least=0),
                Parameter("limit", "how many", whole=True, default=100, least=1, most=1000),
                Parameter("kind", "of one kind only", optional=True),
            ),
            result=_OBJECTS, statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/commands", api.command,
            "Ask for pause (after the round), resume, stop, exclude or include (a client), or restart (go on "
            "with a run that ended early). The round loop takes it up between rounds.",
            (_RUN,), method="POST", body=action, statuses=conflict,
        ),
    ]  # fmt: skip


def _clients(api: Api) -> list[Endpoint]:
    number = Parameter("client", "index of its shard", whole=True, least=0, in_path=True)
    rows = Parameter(
        "rows", "at most so many; neighbours share one", whole=True, default=512, least=1, most=4096
    )
    return [
        Endpoint(
            f"{ROOT}/runs/{{run}}/clients", api.clients, "Who takes part, as columns; labels count examples.",
            (_RUN,), statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/clients/{{client}}", api.client, "One client over the whole run.",
            (_RUN, number), statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/failures", api.failures, "Clients that failed or were refused.",
            (_RUN, Parameter("limit", "how many", whole=True, default=20, least=1, most=1000)),
            result=_OBJECTS, statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/rounds/{{round}}/clients", api.round_clients,
            "What every client did in a round, as columns.",
            (_RUN, Parameter("round", "its number", whole=True, least=0, in_path=True)), statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/spread", api.spread,
            "Quantiles of the clients' standard metric in each round: `values[q][i]`.",
            (_RUN, _AFTER_ROUND), statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/matrix", api.matrix,
            "Every client in every round as base64 of one byte a cell, row by row: `low + byte / 254 * "
            "(high - low)`, 255 where there is none; for status 0 not asked, 1 ok, 2 failed, 3 rejected.",
            (_RUN, Parameter("value", "what", default="metric", choices=VALUES), rows, _AFTER_ROUND),
            statuses=_NO_RUN,
        ),
    ]  # fmt: skip


def _files(api: Api) -> list[Endpoint]:
    binary: dict[str, Any] = {"type": "string", "format": "binary"}
    table = (
        _RUN,
        Parameter("table", "which", choices=TABLES, in_path=True),
        Parameter("format", "csv or parquet", choices=tuple(MEDIA), in_path=True),
    )
    absent = {**_NO_RUN, 404: "there is no such run, table or file"}
    return [
        Endpoint(
            f"{ROOT}/runs/{{run}}/artifacts", api.artifacts, "Files to download, with sha256 and round.",
            (_RUN,), result=_OBJECTS, statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/artifacts/{{name:path}}", api.artifact, "Download a file.",
            (_RUN, Parameter("name", "as the list of files has it", in_path=True)),
            result=binary, media="application/octet-stream", statuses=absent,
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/tables/{{table}}.{{format}}", api.table, "Download a table.", table,
            result=binary, media="text/csv",
            statuses={**absent, 501: "pyarrow is not installed where the dashboard runs"},
        ),
    ]  # fmt: skip


def _everything(api: Api) -> list[Endpoint]:
    one = Parameter("run", "of one run only", optional=True)
    several = Parameter("runs", "2 to 6 ids with commas between them")
    device = Parameter("device", "its id", in_path=True)
    return [
        Endpoint(
            f"{ROOT}/devices", api.devices, "Every run's devices and their last samples.", result=_OBJECTS
        ),
        Endpoint(
            f"{ROOT}/runs/{{run}}/devices/{{device}}", api.device, "A device's last samples.", (_RUN, device),
            result=_OBJECTS, statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/models", api.models, "Every run's models, with sha256 and provenance.", result=_OBJECTS
        ),
        Endpoint(
            f"{ROOT}/alerts", api.alerts, "What to look at, the critical first.", (one,),
            result=_OBJECTS, statuses=_NO_RUN,
        ),
        Endpoint(
            f"{ROOT}/compare", api.compare, "Runs side by side, and where their settings differ.", (several,),
            statuses=_NO_RUN,
        ),
    ]  # fmt: skip
