"""Hints in a SQLite file, shared by processes: buffered writes, patient reads, never an error.

A note costs an append to a buffer; `flush` (or `run`, every few seconds) writes them in one transaction, off
the delivery path. A look waits `PATIENCE` at most and then knows nothing; answers are cached for a while, and
what this process noted but has not written yet is seen at once. When the file cannot be used, the reason is
logged once, deliveries go on without hints, and it is tried again after `RETRY` seconds.

Threads: one writer and two readers per file; a read that outlasts its patience is abandoned (it changes
nothing), a write never is.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path

import trio
from sqlalchemy.engine import make_url

from hints import port as contract
from hints.check import accept
from hints.file import HintsFile, Unavailable
from hints.memory import fold
from hints.port import AddressView
from hints.prune import PRUNE_EVERY
from hints.records import LevelSeen, Note, Reachability
from hints.tables import Stamped

MAX_BUFFER = 10_000  # notes; beyond that new ones are dropped
MAX_CACHE = 10_000  # views
CACHE_SECONDS = 30.0  # other processes learn too
MAX_ADDRESSES = 64  # of one look; further ones are unknown
FLUSH_SECONDS = 5.0
RETRY = 60.0  # seconds without the file after trouble
CLOSE_SECONDS = 10.0
MAX_SAID = 100  # different complaints in the log

_log = logging.getLogger("outrider.hints")

_Key = tuple[str, str, int]  # host, address, port


class SqlHints:
    """See `hints.port.Hints`. `url` is `sqlite:///PATH`; `clock` gives seconds since the epoch."""

    def __init__(
        self, url: str, *, clock: Callable[[], float], max_size: int, patience: float = contract.PATIENCE
    ) -> None:
        """Opens nothing yet. Raises ValueError for a URL that names no SQLite file."""
        self._file = HintsFile(file_of(url), max_size=max_size)
        self._clock = clock
        self._patience = patience
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(2)
        self._flushing = trio.Lock()
        self._buffer: list[Stamped] = []
        self._unwritten: dict[tuple[str, int], list[Stamped]] = {}  # the same by address and port
        self._cache: OrderedDict[_Key, tuple[float, AddressView]] = OrderedDict()
        self._generation = 0  # counts writes, so that a read begun before one is not cached after it
        self._uses: Counter[_Key] = Counter()
        self._next_prune = 0.0
        self._not_before = 0.0
        self._said: set[str] = set()
        self.dropped = 0  # notes that made no sense or found the buffer full

    @property
    def invalid(self) -> int:
        """Rows that were not believed when read."""
        return self._file.invalid

    async def look(self, host: str, addresses: Sequence[str], port: int) -> tuple[AddressView, ...]:
        """One view per address, in the given order; empty ones where nothing is known in time."""
        await trio.lowlevel.checkpoint()
        host, now = host.lower(), self._clock()
        asked = tuple(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        known = {one: view for one in asked if (view := self._cached((host, one, port), now)) is not None}
        unknown = tuple(one for one in asked if one not in known)
        if unknown and now >= self._not_before:
            known |= await self._read(host, unknown, port, now)
        if len(self._uses) < MAX_CACHE:
            self._uses.update((host, one, port) for one in asked)
        return tuple(self._with_unwritten(known.get(one, AddressView(one)), host, port) for one in addresses)

    def note(self, note: Note, *, source: str, reason: str, now: float) -> None:
        """Remember; buffered, returns at once, never raises."""
        kept = accept(note)
        if kept is None or len(self._buffer) >= MAX_BUFFER:
            self.dropped += 1
            return
        self._buffer.append(Stamped(kept, source, reason, now))
        if not isinstance(kept, LevelSeen):
            self._unwritten.setdefault((kept.address, kept.port), []).append(self._buffer[-1])

    async def flush(self) -> None:
        """Write what is buffered. Failures are logged once, not raised."""
        async with self._flushing:
            now = self._clock()
            if now < self._not_before:
                return
            prune = now >= self._next_prune
            if not (self._buffer or self._uses or prune):
                return
            batch, uses = tuple(self._buffer), dict(self._uses)
            try:
                await trio.to_thread.run_sync(
                    partial(self._file.write, batch, uses, now, prune=prune), limiter=self._writer
                )
            except Exception as error:  # the contract: never an error
                self._trouble(error, now)
                return
            self._written(len(batch), uses)
            self._next_prune = now + PRUNE_EVERY if prune else self._next_prune
            self._not_before = 0.0

    async def run(self) -> None:
        """Flush every few seconds until cancelled."""
        while True:
            await trio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def aclose(self) -> None:
        """Flush and close, also when cancelled."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.flush()
            await trio.to_thread.run_sync(self._file.close, limiter=self._writer)

    async def _read(
        self, host: str, addresses: tuple[str, ...], port: int, now: float
    ) -> dict[str, AddressView]:
        generation = self._generation
        views: tuple[AddressView, ...] = ()
        try:
            with trio.move_on_after(self._patience):
                views = await trio.to_thread.run_sync(
                    partial(self._file.read, host, addresses, port, now),
                    limiter=self._readers,
                    abandon_on_cancel=True,
                )
        except Exception as error:  # the contract: never an error
            self._trouble(error, now)
        if self._file.invalid:
            self._say("some rows make no sense and are not believed")
        if generation == self._generation:
            for view in views:
                self._remember((host, view.address, port), view, now)
        return {view.address: view for view in views}

    def _cached(self, key: _Key, now: float) -> AddressView | None:
        found = self._cache.get(key)
        return found[1] if found is not None and found[0] <= now < found[0] + CACHE_SECONDS else None

    def _remember(self, key: _Key, view: AddressView, now: float) -> None:
        self._cache[key] = (now, view)
        self._cache.move_to_end(key)
        while len(self._cache) > MAX_CACHE:
            self._cache.popitem(last=False)

    def _with_unwritten(self, view: AddressView, host: str, port: int) -> AddressView:
        noted = (
            stamped
            for stamped in self._unwritten.get((view.address, port), ())
            if not isinstance(stamped.note, Reachability) or stamped.note.host == host
        )
        return reduce(lambda known, stamped: fold(known, stamped.note, stamped.at), noted, view)

    def _written(self, count: int, uses: dict[_Key, int]) -> None:
        """The first `count` notes are in the file now: what was read before is out of date."""
        self._generation += 1
        self._uses.subtract(uses)
        self._uses = +self._uses  # drops the zeroes
        touched = {(one.note.address, one.note.port) for one in self._buffer[:count] if _has_address(one)}  # type: ignore[union-attr]
        del self._buffer[:count]
        self._unwritten = {}
        for stamped in self._buffer:
            if not isinstance(stamped.note, LevelSeen):
                self._unwritten.setdefault((stamped.note.address, stamped.note.port), []).append(stamped)
        for key in [key for key in self._cache if key[1:] in touched]:
            del self._cache[key]

    def _trouble(self, error: Exception, now: float) -> None:
        self._not_before = now + RETRY
        text = str(error) if isinstance(error, Unavailable) else repr(error)[:200]
        self._say(f"{text}; mail goes on without hints")

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            _log.warning("hints file %s: %s", self._file.path, text)


def _has_address(stamped: Stamped) -> bool:
    return not isinstance(stamped.note, LevelSeen)


def file_of(url: str) -> Path:
    """The path in `sqlite:///PATH`. Raises ValueError for anything else."""
    try:
        parsed = make_url(url)
    except Exception:
        raise ValueError(f"{url!r} is not an SQLAlchemy URL such as sqlite:///hints.db") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ValueError("hints are kept in a SQLite file: sqlite:///PATH, or in memory: memory")
    return Path(parsed.database)
