"""A run's rounds as TensorBoard events: `tensorboard --logdir RUN/tensorboard` shows them live."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from fedloom_server.store.rows import Round


class TensorBoardLog:
    """A watcher of the round loop that writes each round's figures, with the round as the step."""

    def __init__(self, folder: Path) -> None:
        """Write below `folder`, the run's, in `tensorboard/`."""
        (folder / "tensorboard").mkdir(exist_ok=True)
        # Not SummaryWriter: its queue and thread write some time after a flush, and die with a crash.
        self._writer = EventsWriter(str(folder / "tensorboard" / "events"))

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Nothing: TensorBoard shows whole rounds."""

    def round_done(self, entry: Round) -> None:
        """Write a round's figures so that a reader sees them at once."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(entry)]
        event = Event(wall_time=time.time(), step=entry.number, summary=Summary(value=values))
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self._writer.close()


def scalars(entry: Round) -> Iterator[tuple[str, float]]:
    """The names and values of a round's figures; what was not measured or is not finite is left out."""
    standard = next(iter(entry.metrics), "metric")  # the task's standard metric stands first
    figures = {
        "test/loss": entry.loss,
        **{f"test/{name}": value for name, value in entry.metrics.items()},
        "train/loss": entry.train_loss,
        "federated/loss": entry.federated_loss,
        f"federated/{standard}": entry.federated_metric,
        f"federated/{standard}-worst-5-percent": entry.worst_metric,
        "clients/ok": entry.clients_ok,
        "clients/failed": entry.clients_failed,
        "clients/rejected": entry.rejected,
        "bytes/up": entry.bytes_up,
        "bytes/down": entry.bytes_down,
        "seconds": entry.seconds,
    }
    for name, value in figures.items():
        if value is not None and math.isfinite(value):
            yield name, float(value)
