"""Secure aggregation in a Flower ClientApp: one handler, and a mod around training."""

import time
from dataclasses import asdict
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedloom_client.flower.messages import CLIENT_FAILED, read_seed, reply_content
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.secure.concealing import asks_for_secrecy, conceal
from fedloom_client.secure.participant import Participant, Secrets
from fedloom_client.trainer import Update
from fedloom_edge.errors import FedloomError

ACTION = "secure"
"""Of a `query` message: steps 1, 2 and 4."""
QUESTION = f"{MessageType.QUERY}.{ACTION}"
"""Type of such a message."""
OWN = "secure"
"""Name of the record of a `train` message with the settings that are one client's own."""
SECRETS = "secrets"
"""Name of the record in a node's `Context.state`, the only place that Flower's engines keep from one
message to the next. Nobody may write it to a disk (`fedloom_server.recovery.client_state`)."""


def secure_step(message: Message, context: Context) -> RecordDict:
    """The answer to step 1, 2 or 4.

    Raises:
        SecureError: the step is not taken.
    """
    participant = _restored(context)
    given = message.content.array_records.get("arrays")
    settings: Any = message.content.config_records["config"]
    answer = participant.answer(settings, {} if given is None else from_record(given))
    _keep(participant, context)
    return RecordDict({"arrays": to_record(answer)})


def masking(statistics: frozenset[str]) -> Mod:
    """A mod that lets nothing but masked updates out; it belongs outside of all others.

    `statistics` are the trainer's.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        began = time.perf_counter()
        records = message.content.config_records
        settings: Any = {**records["config"], **records.get(OWN, {})}
        figures: Any = reply.content.metric_records["metrics"]
        participant = _restored(context)
        try:
            if not asks_for_secrecy(settings):
                raise FedloomError("secure: this client sends masked updates only")
            origin, arrays = (from_record(m.content.array_records["arrays"]) for m in (message, reply))
            seed = read_seed(message, int(context.node_config["partition-id"]))
            update = Update(arrays, int(figures["num-examples"]), dict(figures))
            masked = conceal(participant, settings, origin, update, statistics, seed)
        except FedloomError as error:
            return Message(Error(CLIENT_FAILED, str(error)), reply_to=message)
        finally:
            _keep(participant, context)
        seconds = figures.get("seconds", 0.0) + time.perf_counter() - began
        metrics = {"num-examples": masked.examples, "seconds": seconds}
        return Message(reply_content(message, metrics, masked.arrays), reply_to=message)

    return mod


def _restored(context: Context) -> Participant:
    record: Any = context.state.config_records.get(SECRETS)
    return Participant(None if record is None else Secrets(**record))


def _keep(participant: Participant, context: Context) -> None:
    if participant.secrets is not None:
        context.state[SECRETS] = ConfigRecord(asdict(participant.secrets))
    else:
        context.state.pop(SECRETS, None)
