"""What a device needs before it can work for a run, from the coordinator's welcome on."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import grpc.aio

from fedloom_client.device.artefacts import Artefacts
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsStub

_PAUSE = 2.0
_NO_ARTEFACT = "this run has no artefact; train with torch on this device"


class Supply(Protocol):
    """Readies a worker for a run. A protocol: a device trains with the artefact, a gateway passes it on."""

    async def settle(self, welcome: pb.Welcome, stub: ArtefactsStub) -> str:
        """Be ready for the run's work; tries again until the connection ends.

        Returns:
            Empty when the worker is ready, or why it cannot be.
        """
        ...


class TrainerSupply:
    """Fetches the run's artefact and equips the trainer with it.

    Args:
        home: the device's folder.
        equip: takes an artefact's path.
    """

    def __init__(self, home: Path, equip: Callable[[Path], None]) -> None:
        self._artefacts = Artefacts(home / "artefacts")
        self._equip = equip
        self._equipped = b""

    async def settle(self, welcome: pb.Welcome, stub: ArtefactsStub) -> str:
        """See `Supply`."""
        if self._equipped and self._equipped == welcome.artefact.sha256:
            return ""
        if not welcome.HasField("artefact"):
            return f"artefact: {welcome.no_artefact[:900] or _NO_ARTEFACT}"
        try:
            self._equip(await fetched(self._artefacts, stub, welcome.artefact))
        except FedloomError as error:
            return str(error) if str(error).startswith("artefact:") else f"artefact: {error}"
        self._equipped = welcome.artefact.sha256
        return ""


async def fetched(artefacts: Artefacts, stub: ArtefactsStub, file: pb.File) -> Path:
    """The artefact's path; a transfer that is cut goes on until the connection ends.

    Raises:
        LinkError: what came is not what was announced.
        RunError: the disk has no room.
    """
    while True:
        try:
            return await artefacts.get(stub, file)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(random.uniform(0, _PAUSE))
