"""A gateway's work: its devices do it, and one weighted mean of what they give goes up."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flwr.app import Message, MessageType

from fedloom_client.data.preprocess import Preprocess
from fedloom_client.device.workshop import Watch
from fedloom_client.flower.records import from_record
from fedloom_client.orders import ALGORITHM, COMPRESS
from fedloom_client.secure.concealing import asks_for_secrecy
from fedloom_client.wire import Content, figures, read_settings
from fedloom_edge.arrays import Arrays
from fedloom_edge.energy import ESTIMATED, JOULES, SILENT
from fedloom_edge.errors import FedloomError, RunError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.gateway.site import Site, SiteMember
from fedloom_server.guard.guard import Finding, Guard
from fedloom_server.guard.norms import NO_LIMIT, PAST, GuardSettings, RoundNorms, bucket, limit
from fedloom_server.link.exchange import Errand
from fedloom_server.link.jobs import Outcome
from fedloom_server.link.records import (
    DEVICES,
    MOST_DEVICES,
    Place,
    identified,
    reply_content,
    set_seed,
)
from fedloom_server.rounds.messages import DOWNLOAD, UPLOAD
from fedloom_server.strategies.updates import WEIGHT, MeanOfUpdates, mean_metrics

_MOST_WARNINGS = 14
_NOT_SUMMED = {WEIGHT, "seconds", DOWNLOAD, UPLOAD, JOULES, ESTIMATED}


class SiteWorker:
    """Does a coordinator's works with a site's devices.

    The mean that goes up is exact (`ExactMean`) and rounded once to the arrays' dtype; with the sum of the
    examples as its weight it counts at the coordinator as its devices would one by one. The guard looks
    at every device's update here, where it is a single one.

    Args:
        site: the devices.
        preprocess: of the task; None without one.
        guard: what is done with outliers, and how many updates must be good.
    """

    def __init__(self, site: Site, preprocess: Preprocess | None, guard: GuardSettings) -> None:
        self._site, self._preprocess, self._guard = site, preprocess, guard

    def do(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> tuple[pb.Result, Arrays]:
        """See `Worker`.

        Raises:
            RunError: too few devices gave something usable, with the first reason.
        """
        _check(work)
        match work.kind:
            case pb.KIND_DESCRIBE:
                return self._describe(work, watch)
            case pb.KIND_TRAIN:
                return self._train(work, arrays, constants, watch)
            case pb.KIND_EVALUATE:
                return self._evaluate(work, arrays, constants, watch), {}
            case _:
                raise FedloomError(f"work of the unknown kind {work.kind}; update fedloom on this gateway")

    def rest(self) -> None:
        """Nothing is held between two works."""

    def _describe(self, work: pb.Work, watch: Watch) -> tuple[pb.Result, Arrays]:
        members = self._site.gather(watch.check)
        said: dict[int, tuple[SiteMember, int, Arrays]] = {}
        for client, outcome in self._outcomes(work, {}, {}, members, watch):
            if outcome.result is None:
                raise RunError(f"{outcome.device}: {outcome.reason}")
            content: Any = self._content(work, client, outcome)
            metrics = content["metrics"]
            devices = int(metrics.get(DEVICES, 0))
            if not 0 <= devices <= MOST_DEVICES:
                raise RunError(f"{outcome.device}: it says that {devices} devices stand behind it")
            member = SiteMember(outcome.device, metrics[WEIGHT], max(devices, 1), gateway=devices > 0)
            said[client] = (member, metrics["validation-examples"], from_record(content["summary"]))
        self._site.keep([said[client][0] for client in sorted(said)])
        result = pb.Result(work=work.id, examples=sum(member.examples for member, _, _ in said.values()))
        validation = sum(count for _, count, _ in said.values())
        devices = sum(member.size for member, _, _ in said.values())
        result.figures.extend(figures({"validation-examples": validation, DEVICES: devices}))
        if self._preprocess is None:
            return result, {}
        return result, self._preprocess.combine(said[client][2] for client in sorted(said))

    def _train(
        self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch
    ) -> tuple[pb.Result, Arrays]:
        members = self._members()
        declared = {client: member.examples for client, member in enumerate(members)}
        guard = Guard(arrays, ("train-loss",), declared)
        updates = MeanOfUpdates(arrays, frozenset(), max(declared.values(), default=1))
        norms: dict[int, float] = {}
        spent: dict[str, float] = {}
        notes: list[str] = []
        for client, outcome in self._outcomes(work, arrays, constants, members, watch):
            finding = Finding(outcome.reason)
            if outcome.result is not None:
                _add_energy(spent, outcome.result)
                reply = Message(self._content(work, client, outcome), 1, MessageType.TRAIN)
                finding = guard.check_update(reply, work.round, client)
                notes += [f"{outcome.device}: {warning}" for warning in outcome.result.warnings]
            if finding.norm is None or finding.reason:
                self._note(notes, "rejected" if outcome.result else "failed", outcome.device, finding.reason)
                continue
            updates.add(client, reply, finding.norm)
            norms[client] = finding.norm
        good = self._settle(work, updates, norms, members, notes)
        self._enough(good, len(members), notes)
        replies, _ = updates.for_strategy()
        mean: Any = replies[0].content
        result = pb.Result(work=work.id, examples=mean["metrics"][WEIGHT])
        means = {k: v for k, v in mean["metrics"].items() if k not in _NOT_SUMMED}
        result.figures.extend(figures(means | spent))
        result.warnings.extend(note[:1024] for note in notes[:_MOST_WARNINGS])
        return result, from_record(mean["arrays"])

    def _members(self) -> list[SiteMember]:
        if not (members := self._site.members):
            raise RunError("the gateway's folder was lost since the run began; start the run again")
        return members

    def _settle(
        self,
        work: pb.Work,
        updates: MeanOfUpdates,
        norms: dict[int, float],
        members: Sequence[SiteMember],
        notes: list[str],
    ) -> int:
        """Deal with outliers by norm; gives the number of updates that count."""
        policy = self._guard.norms
        highest = limit(self._guard, norms, self._site.past(work.round))
        beyond = [client for client, norm in norms.items() if bucket(norm) > highest]
        for client in beyond:
            reason = f"norm: {norms[client]:.4g} from the global arrays, at most {2.0 ** (highest / 2):.4g}"
            kind = {"quarantine": "rejected", "clip": "clipped", "accept": "warning"}[policy]
            self._note(notes, kind, members[client].device, reason)
        updates.settle(NO_LIMIT if policy == "accept" else highest, policy == "clip")
        good = [norm for c, norm in norms.items() if policy != "quarantine" or c not in beyond]
        if good:
            self._site.remember(work.round, RoundNorms.of(good), PAST)
        return len(good)

    def _evaluate(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> pb.Result:
        members, guard = self._members(), Guard(arrays)
        rows: list[dict[str, Any]] = []
        spent: dict[str, float] = {}
        notes: list[str] = []
        for client, outcome in self._outcomes(work, arrays, constants, members, watch):
            finding = Finding(outcome.reason)
            if outcome.result is not None:
                _add_energy(spent, outcome.result)
                content: Any = self._content(work, client, outcome)
                finding = guard.check_evaluation(Message(content, 1, MessageType.EVALUATE), work.round)
            if finding.reason:
                self._note(notes, "rejected" if outcome.result else "failed", outcome.device, finding.reason)
            else:
                rows.append(dict(content["metrics"]))
        self._enough(len(rows), len(members), notes)
        examples = sum(row[WEIGHT] for row in rows)
        measured = [row for row in rows if row[WEIGHT]]
        means = mean_metrics(measured) if measured else rows[0]
        result = pb.Result(work=work.id, examples=examples)
        result.figures.extend(figures({k: v for k, v in means.items() if k not in _NOT_SUMMED} | spent))
        result.warnings.extend(note[:1024] for note in notes[:_MOST_WARNINGS])
        return result

    def _outcomes(
        self,
        work: pb.Work,
        arrays: Arrays,
        constants: Arrays,
        members: Sequence[SiteMember],
        watch: Watch,
    ) -> Iterator[tuple[int, Outcome]]:
        """What comes of a work at each member: (index of the member, outcome)."""
        clients = {member.device: client for client, member in enumerate(members)}
        given = Content(arrays), Content(constants)
        errands = [
            Errand(member.device, self._part(work, client, members), *given)
            for client, member in enumerate(members)
        ]
        deadline = min(self._site.settings.quorum.deadline, watch.until - time.monotonic())
        for outcome in self._site.ask(errands, max(deadline, 0.1), watch.check):
            yield clients[outcome.device], outcome

    def _part(self, work: pb.Work, client: int, members: Sequence[SiteMember]) -> pb.Work:
        """The work of one member: the same, with the seed that it would have without the gateway."""
        own = pb.Work()
        own.CopyFrom(work)
        for field in ("id", "seed", "seconds", "behind"):
            own.ClearField(field)
        if work.kind == pb.KIND_TRAIN:
            if not work.HasField("behind"):
                raise RunError("the coordinator does not know gateways; install the same fedloom on both")
            first = work.behind.first + sum(member.size for member in members[:client])
            set_seed(own, work.behind.seed, Place(client, first, members[client].gateway))
        return identified(own, self._site.run, client)

    def _content(self, work: pb.Work, client: int, outcome: Outcome) -> Any:
        assert outcome.result is not None
        path = self._site.content(outcome.work)
        return reply_content(work.kind, work.round, outcome.result, client, path)

    def _note(self, notes: list[str], kind: str, device: str, reason: str) -> None:
        self._site.note(kind, device, reason)
        notes.append(f"{device}: {reason}")

    def _enough(self, good: int, asked: int, notes: Sequence[str]) -> None:
        needed = max(math.ceil(self._guard.quorum * asked), 1)
        if good < needed:
            why = f"; {notes[0]}" if notes else ""
            raise RunError(f"{good} of {asked} devices gave something usable, at least {needed} must{why}")


def _add_energy(spent: dict[str, float], result: pb.Result) -> None:
    """A site takes what its devices take, estimates where one of them does, and says how many are silent."""
    told = {figure.name: figure.value for figure in result.figures}
    if JOULES in told:
        spent[JOULES] = spent.get(JOULES, 0.0) + told[JOULES]
        spent[ESTIMATED] = max(spent.get(ESTIMATED, 0.0), told.get(ESTIMATED, 0.0))
    else:
        spent[SILENT] = spent.get(SILENT, 0.0) + 1


def _check(work: pb.Work) -> None:
    """What a mean of updates cannot stand for is refused in words."""
    asked = read_settings(work.settings)
    if name := asked.get(ALGORITHM):
        raise FedloomError(
            f"gateway: {name} needs each device's own answer; connect the devices to the coordinator itself"
        )
    if asks_for_secrecy(asked):
        raise FedloomError("gateway: it sees its devices' updates; connect them to the coordinator itself")
    if asked.get(COMPRESS):
        raise FedloomError("gateway: it sends whole means; run without --compress")
