"""A client's state (Flower's `Context.state`) as arrays and JSON, for a grid that keeps it here."""

import base64
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedloom_client.flower.records import from_record, to_record
from fedloom_client.secure.flower import SECRETS
from fedloom_edge.arrays import Arrays
from fedloom_server.grids.wrapped import GridWrapper


@runtime_checkable
class KeepsState(Protocol):
    """A grid whose nodes' states live in the coordinator's process and would die with it.

    A protocol, because devices keep their own and a simulation does not.
    """

    def changed_states(self) -> Mapping[int, RecordDict]:
        """Node id -> state of the nodes that ran since the last call and have one."""
        ...

    def restore_states(self, states: Mapping[int, RecordDict]) -> None:
        """Give nodes their states; every other node starts without one."""
        ...


def states_keeper(grid: Grid) -> KeepsState | None:
    """The grid in or below `grid` that keeps its nodes' states, if there is one."""
    while isinstance(grid, GridWrapper) and not isinstance(grid, KeepsState):
        grid = grid.inner
    return grid if isinstance(grid, KeepsState) else None


def encode_state(state: RecordDict) -> tuple[dict[str, Any], Arrays]:
    """A state as a JSON object and arrays, without the secrets of a round, which die with the process."""
    records: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, record in state.items():
        if name == SECRETS:
            continue
        if isinstance(record, ArrayRecord):
            records[name] = ["arrays", list(record)]
            arrays |= {f"{name}/{key}": array for key, array in from_record(record).items()}
        elif isinstance(record, MetricRecord):
            records[name] = ["metrics", dict(record)]
        else:
            records[name] = ["config", {key: _to_json(value) for key, value in record.items()}]
    return records, arrays


def decode_state(records: Mapping[str, Any], arrays: Arrays) -> RecordDict:
    """The state that `encode_state` took apart."""
    state = RecordDict()
    for name, (kind, content) in records.items():
        if kind == "arrays":
            state[name] = to_record({key: arrays[f"{name}/{key}"] for key in content})
        elif kind == "metrics":
            state[name] = MetricRecord(content)
        else:
            state[name] = ConfigRecord({key: _from_json(value) for key, value in content.items()})
    return state


def _to_json(value: Any) -> Any:
    """Bytes, alone or in a list, as {"bytes": base64}; everything else is JSON already."""
    if isinstance(value, list):
        return [_to_json(entry) for entry in value]
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(entry) for entry in value]
    return base64.b64decode(value["bytes"]) if isinstance(value, dict) else value
