"""A device's own folder: its settings, its identity, and the spool of results that wait to be taken."""

import json
import os
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from fedloom_edge.errors import InputError, unknown
from fedloom_edge.files import write_private

TrainerName = Literal["auto", "torch", "onnx"]
SETTINGS = "device.toml"


@dataclass(frozen=True, kw_only=True)
class ShardOf:
    """Which part of a task's data is this device's: that of client `index` in a simulation.

    For trials on one machine (`fedloom serve --local`); a device in the field reads its own data.
    """

    partition: str
    clients: int
    seed: int
    index: int


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """What a device is told once; `device.toml` in its folder.

    Attributes:
        coordinator: host:port of the link.
        task: built-in task or `path/to/file.py[:name]`, installed on the device; code never arrives.
        data: folder that the task reads, or empty.
        trainer: torch, onnx or auto.
        max_temperature_c: work that is offered while the board is hotter is refused.
        serve: whether the newest model is kept for `fedloom device predict`.
        shard: see `ShardOf`; None for the device's own data.
    """

    coordinator: str = ""
    task: str = "digits"
    data: str = ""
    trainer: TrainerName = "auto"
    max_temperature_c: float = 85.0
    serve: bool = True
    shard: ShardOf | None = None

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read `device.toml`; defaults where there is none.

        Raises:
            InputError: it cannot be read, or has an unknown key or a value of the wrong kind.
        """
        path = home / SETTINGS
        if not path.exists():
            return cls()
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}; mend the file") from error
        values = _checked(path, cls, content)
        if "shard" in values:
            values["shard"] = ShardOf(**_checked(path, ShardOf, values["shard"]))
        if values.get("trainer", "auto") not in get_args(TrainerName):
            raise unknown(f"trainer in {path}", values["trainer"], get_args(TrainerName))
        return cls(**values)

    def save(self, home: Path) -> None:
        """Write `device.toml`."""
        plain = asdict(self)
        shard = plain.pop("shard")
        # A JSON string, number or boolean is the same in TOML.
        lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
        if shard is not None:
            lines += ["", "[shard]", *(f"{key} = {json.dumps(value)}" for key, value in shard.items())]
        write_private(home / SETTINGS, ("\n".join(lines) + "\n").encode())

    def changed(self, **changes: Any) -> Self:
        """The same with every change that is not None."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})


def default_home() -> Path:
    """Where a device keeps its things: $FEDLOOM_HOME, or what systemd gives, or ~/.fedloom."""
    given = os.environ.get("FEDLOOM_HOME") or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if given else Path.home() / ".fedloom"


_KINDS: dict[str, type | tuple[type, ...]] = {
    "max_temperature_c": (int, float),
    "serve": bool,
    "clients": int,
    "seed": int,
    "index": int,
    "shard": dict,
}


def _checked(path: Path, kind: Any, content: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in fields(kind)]
    for key, value in content.items():
        if key not in known:
            raise unknown(f"key of {path}", key, known)
        if not isinstance(value, _KINDS.get(key, str)):
            raise InputError(f"{path}: {key} is {value!r}, of the wrong kind; mend the file")
    return content
