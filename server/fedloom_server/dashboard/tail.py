"""Notices what is new in the runs' stores and tells every open stream, in batches."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fedloom_server.dashboard.catalog import Catalog
from fedloom_server.dashboard.database import Database, connect, is_written
from fedloom_server.dashboard.state import LIVE, State, state
from fedloom_server.store.run_store import DATABASE

POLL = 0.05  # seconds between looks at a live run
_LOOK = 1.0  # seconds between looks for new or woken runs
PING = 15.0  # seconds of silence before a stream says that it is alive
STREAMS = 64


class Stream:
    """One open page: what it has not been told yet, at most one notice a run."""

    def __init__(self) -> None:
        self._pending: dict[str, Any] = {}
        self._ready = asyncio.Event()
        self._over = False

    def end(self) -> None:
        """Let the reader go."""
        self._over = True
        self._ready.set()

    def tell(self, notices: dict[str, Any]) -> None:
        """Add notices; a newer one replaces an older one, so a slow reader makes nothing grow."""
        self._pending |= notices
        self._ready.set()

    async def frames(self) -> AsyncIterator[str]:
        """Server-sent events: a batch of notices, or a ping so that a reader knows it is not cut off."""
        yield "retry: 1000\nevent: hello\ndata: {}\n\n"
        while True:
            try:
                await asyncio.wait_for(self._ready.wait(), PING)
            except TimeoutError:
                yield "event: ping\ndata: {}\n\n"
                continue
            if self._over:
                return
            self._ready.clear()
            notices, self._pending = self._pending, {}
            yield f"event: runs\ndata: {json.dumps({'time': time.time(), 'runs': notices})}\n\n"


class Tail:
    """Follows every run of a catalog; a notice says how far a run is, and a page fetches what it lacks."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._live: dict[str, Follower] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self.streams: set[Stream] = set()

    async def follow(self) -> None:
        """Look for what is new until cancelled."""
        looked = 0.0
        while True:
            notices: dict[str, Any] = {}
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                notices |= self._look()
            for run, follower in list(self._live.items()):
                if (news := follower.news()) is not None:
                    notices[run] = news.as_json()
                if follower.over:
                    follower.close()
                    del self._live[run]
                    if follower.failed:  # a store that could not be read just now is looked at again
                        self._seen.pop(run, None)
            if notices:
                for stream in self.streams:
                    stream.tell(notices)
            await asyncio.sleep(POLL)

    def end_streams(self) -> None:
        """Let every reader go."""
        for stream in self.streams:
            stream.end()

    def close(self) -> None:
        """Let go of every store."""
        for follower in self._live.values():
            follower.close()
        self._live.clear()

    def _look(self) -> dict[str, Any]:
        """Follow runs that are new or were written to since; say which are gone."""
        runs = self._catalog.runs()
        for run, folder in runs.items():
            mark = _mark(folder)
            if run not in self._live and self._seen.get(run) != mark:
                self._seen[run] = mark
                try:
                    self._live[run] = Follower(folder)
                except sqlite3.Error:
                    del self._seen[run]  # being made: look again
        gone = [run for run in self._seen if run not in runs]
        for run in gone:
            del self._seen[run]
        return dict.fromkeys(gone)


class Follower:
    """One live run's store, kept open, read only when SQLite says that somebody has written."""

    def __init__(self, folder: Path) -> None:
        self._written = is_written(folder)
        self._database = Database(connect(folder))
        self._version = -1
        self._checked = 0.0
        self._state: State | None = None
        self.over = False
        self.failed = False

    def news(self) -> State | None:
        """Where the run stands if that has changed; None if not."""
        try:
            version = int(self._database.value("PRAGMA data_version"))
            # A crash writes nothing, so the status is looked at now and then all the same.
            if version == self._version and time.monotonic() - self._checked < _LOOK:
                return None
            self._version, self._checked = version, time.monotonic()
            before, self._state = self._state, state(self._database)
        except sqlite3.Error:
            self.over = self.failed = True
            return None
        # A store that nobody writes to is opened as unchanging; it is looked at anew when it changes.
        self.over = self._state.status not in LIVE or not self._written
        return self._state if self._state != before else None

    def close(self) -> None:
        """Close the connection."""
        self._database.connection.close()


def _mark(folder: Path) -> tuple[int, ...]:
    marks = []
    for name in (DATABASE, f"{DATABASE}-wal"):
        try:
            stat = (folder / name).stat()
            marks += [stat.st_mtime_ns, stat.st_size]
        except OSError:
            marks += [0, 0]
    return tuple(marks)
