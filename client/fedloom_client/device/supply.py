"""What a device trains with, from the coordinator's welcome to a trainer that is equipped."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from fedloom_client.device.artefacts import Artefacts
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsStub

Equip = Callable[[Path], None]
_PAUSE = 2.0
_NO_ARTEFACT = "this run has no artefact; train with torch on this device"


class Supply:
    """Fetches the run's artefact and equips the trainer with it; does nothing for one that needs none.

    Args:
        home: the device's folder.
        equip: takes an artefact's path; None if none is needed.
    """

    def __init__(self, home: Path, equip: Equip | None) -> None:
        self._artefacts = Artefacts(home / "artefacts")
        self._equip = equip
        self._equipped = b""

    @property
    def needed(self) -> bool:
        """Whether the device cannot train before it is supplied."""
        return self._equip is not None

    async def settle(self, welcome: pb.Welcome, stub: ArtefactsStub) -> str:
        """Be ready for the run's work; tries again until the connection ends.

        Returns:
            Empty when the trainer is ready, or why it cannot be.
        """
        if self._equip is None or (self._equipped and self._equipped == welcome.artefact.sha256):
            return ""
        if not welcome.HasField("artefact"):
            return f"artefact: {welcome.no_artefact[:900] or _NO_ARTEFACT}"
        while True:
            try:
                self._equip(await self._artefacts.get(stub, welcome.artefact))
            except grpc.aio.AioRpcError:
                await asyncio.sleep(random.uniform(0, _PAUSE))
            except FedloomError as error:
                return str(error) if str(error).startswith("artefact:") else f"artefact: {error}"
            else:
                self._equipped = welcome.artefact.sha256
                return ""
