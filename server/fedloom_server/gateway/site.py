"""A gateway's own devices: their link, and what must be known of them after a restart."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedloom_client.device.artefacts import Artefacts
from fedloom_client.device.supply import fetched
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsStub
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.guard.norms import RoundNorms
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.depot import Depot
from fedloom_server.link.exchange import Errand, exchange, gathered
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.jobs import Outcome
from fedloom_server.link.quorum import Quorum
from fedloom_server.link.telemetry import DeviceLog
from fedloom_server.store.process_mark import process_mark
from fedloom_server.store.run_store import DATABASE, RunStore

log = logging.getLogger("fedloom.link")

Check = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """What a site is told once.

    Attributes:
        home: the gateway's folder; the site's run store is in it.
        task: its name.
        task_digest: SHA-256 of its source, as of every device's.
        listen: host:port where devices connect.
        enrol: host:port where they enrol.
        min_devices: how many to wait for when a run begins.
        quorum: when a phase is over.
        heartbeat: seconds between two heartbeats of a device.
    """

    home: Path
    task: str
    task_digest: bytes
    listen: str
    enrol: str
    min_devices: int
    quorum: Quorum
    heartbeat: float = 5.0


@dataclass(frozen=True)
class SiteMember:
    """A device of the site in this run, as it said when it was asked.

    Attributes:
        device: its name.
        examples: in its training part.
        size: devices that it speaks for: 1, or more of a gateway; 0 as long as it was not asked.
        gateway: whether it is one.
    """

    device: str
    examples: int = 0
    size: int = 0
    gateway: bool = False


class Site:
    """Holds the link to the site's devices, for one run at a time.

    Who takes part in the run and what they said is in the site's run store before it is used, so that a
    gateway that was killed goes on with the same devices in the same order, and its works have the same
    ids. Its methods may be called from any thread.
    """

    def __init__(self, settings: SiteSettings, fleet: Fleet) -> None:
        self.settings = settings
        self._fleet = fleet
        self._folder = settings.home / "site"
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._run = ""
        self._coordinator: Coordinator | None = None
        self._store: RunStore | None = None
        self._listen, self._enrol = settings.listen, settings.enrol

    @property
    def run(self) -> str:
        """Id of the run that the site works for; empty before there is one."""
        return self._run

    @property
    def ports(self) -> tuple[int, int]:
        """Of the link and of enrolment, once they are open."""
        return self._open.link_port, self._open.enrol_port

    def begin(self, run: str, artefact: Path | None, why: str) -> None:
        """Open the link for a run, if it is not open for it already.

        Args:
            run: its id.
            artefact: what devices without torch train with, or None.
            why: there is no artefact.

        Raises:
            InputError: an address cannot be used.
        """
        with self._lock:
            if run == self._run:
                return
            self._end("another run begins", 1.0)
            self._store = self._stored(run)
            coordinator = Coordinator(
                self._fleet,
                Inbox(self._folder / "inbox"),
                DeviceLog(self._folder / DATABASE),
                run=run,
                task=self.settings.task,
                task_digest=self.settings.task_digest,
                heartbeat=self.settings.heartbeat,
                depot=Depot(artefact, why),
            ).start(self._listen, self._enrol)
            self._coordinator, self._run = coordinator, run
            # The next run's devices find the same ports, also where the system chose them.
            self._listen = f"{self._listen.rpartition(':')[0]}:{coordinator.link_port}"
            self._enrol = f"{self._enrol.rpartition(':')[0]}:{coordinator.enrol_port}"
            if members := self.members:
                coordinator.enlist([member.device for member in members])
            self._begun.set()
            log.info("devices connect at port %d and enrol at port %d", *self.ports)

    def close(self) -> None:
        """Tell the devices to come back later, and end."""
        with self._lock:
            self._end("the gateway stops", 5.0)
            self._fleet.close()

    @property
    def members(self) -> list[SiteMember]:
        """Who takes part in the run, in order; nobody before `gather`."""
        assert self._store is not None
        return [SiteMember(**member) for member in self._store.facts().get("members", [])]

    def gather(self, check: Check) -> list[SiteMember]:
        """The run's members; the first time, those who are connected once there are enough.

        Raises:
            RunError: too few came before the deadline.
        """
        while not self._begun.wait(0.2):  # what is asked first may come before the artefact
            check()
        if not (members := self.members):
            deadline = self.settings.quorum.deadline
            devices = gathered(self._open, self.settings.min_devices, deadline, check)
            members = [SiteMember(device) for device in devices]
            self.keep(members)
            self._open.enlist(devices)
        return members

    def keep(self, members: Sequence[SiteMember]) -> None:
        """Note what the members said."""
        self._facts({"members": [asdict(member) for member in members]})

    def past(self, before: int) -> list[RoundNorms]:
        """Statistics of the norms in the rounds before this one, in order."""
        assert self._store is not None
        kept: dict[str, list[float]] = self._store.facts().get("norms", {})
        return [RoundNorms(*kept[key]) for key in sorted(kept, key=int) if int(key) < before]

    def remember(self, number: int, norms: RoundNorms, most: int) -> None:
        """Keep a round's statistics, and those of at most `most` rounds."""
        assert self._store is not None
        kept = {**self._store.facts().get("norms", {}), str(number): [norms.centre, norms.spread]}
        self._facts({"norms": {key: kept[key] for key in sorted(kept, key=int)[-most:]}})

    def ask(self, errands: Sequence[Errand], deadline: float, check: Check) -> Iterator[Outcome]:
        """See `exchange`."""
        return exchange(self._open, self.settings.quorum, errands, deadline, check)

    def content(self, work: str) -> Path:
        """The file with the arrays of a work's result."""
        return self._open.inbox.content(work)

    def note(self, kind: str, device: str, reason: str) -> None:
        """Log what is wrong with a device, and keep it as an event."""
        log.warning("%s: %s", device, reason)
        self._open.note(kind, device, reason)

    @property
    def _open(self) -> Coordinator:
        if self._coordinator is None:
            raise FedloomError("the gateway has no link to its devices yet")
        return self._coordinator

    def _facts(self, facts: dict[str, object]) -> None:
        assert self._store is not None
        self._store.set_facts(facts)

    def _stored(self, run: str) -> RunStore:
        """The site's store of this run; that of another run is removed."""
        facts = {"task": self.settings.task, "engine": "gateway", "link_run": run, "process": process_mark()}
        if (self._folder / DATABASE).exists():
            store = RunStore.reopen(self._folder)
            if store.facts().get("link_run") == run:
                store.set_facts({"process": process_mark()})
                return store
            store.close()
            shutil.rmtree(self._folder)
        return RunStore.create(self._folder, facts)

    def _end(self, reason: str, reconnect_seconds: float) -> None:
        if self._coordinator is not None:
            self._coordinator.stop(reason, reconnect_seconds)
        if self._store is not None:
            self._store.close()
        self._coordinator, self._store, self._run = None, None, ""
        self._begun.clear()


class SiteSupply:
    """A gateway's supply: it takes the run's artefact in and passes it on to its devices."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._artefacts = Artefacts(site.settings.home / "artefacts")

    async def settle(self, welcome: pb.Welcome, stub: ArtefactsStub) -> str:
        """Open the site for the run; see `Supply`."""
        path: Path | None = None
        try:
            if welcome.HasField("artefact"):
                path = await fetched(self._artefacts, stub, welcome.artefact)
            await asyncio.to_thread(self._site.begin, welcome.run, path, welcome.no_artefact)
        except FedloomError as error:
            log.error("%s", error)
            return f"gateway: {error}"[:1024]
        return ""
