"""Hints in a SQLite file, shared by processes: buffered writes, patient reads, never an error.

A note costs an append to a buffer; `flush` (or `run`, every few seconds) writes them in one transaction, off
the delivery path. A look waits `PATIENCE` at most and then knows nothing; what will be asked next is read
along. Answers are cached for a while (`hints.recent`), and what this process noted but has not written yet is
seen at once. When the file cannot be used, the reason is logged once, deliveries go on without hints, and it
is tried again after a minute (`hints.trouble`). Only who asks for the MTA-STS policy of a domain is told that
it could not be read (`hints.policies`).

A look at a file that is open happens on the loop's thread: it takes some rows, and waits for nothing but the
disk; where it did, threads look for a while. Threads: one writer, two readers and two claimers per file; a
read that outlasts its patience is abandoned (it changes nothing), a claim too (it gives the ticket back), a
write never is.

TLS sessions are sealed when they are written, with the key in `hints.key` beside the file (its suffix made
.key). One that waits to be written is claimed from the buffer; one that is being written, from the file only:
it is never in two places from which it could be handed out.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Event

import trio

from hints import port as contract, sessions
from hints.check import accept, accept_key, accept_session
from hints.engine import Busy
from hints.file import HintsFile
from hints.location import file_of
from hints.memory import added, current, fold
from hints.policies import Policies
from hints.port import AddressView
from hints.prune import PRUNE_EVERY
from hints.reading import Known
from hints.recent import MAX_CACHE, Key, Reading, Recent
from hints.records import EhloAnswer, Feature, LevelSeen, Note, Reachability, SessionKey, StsSeen, TlsSession
from hints.seal import KeyUnusable, Sealer, load_key
from hints.tables import Stamped
from hints.trouble import Trouble

MAX_BUFFER = 10_000  # notes; beyond that new ones are dropped,
MAX_SPARED = 1_000  # policies only beyond that
MAX_SESSIONS = 1_000  # keys whose sessions wait to be written
MAX_ADDRESSES = 64  # of one look; further ones are unknown
FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 10.0
WAITED = 0.02  # seconds of waiting in a look that make a disk slow,
SLOW_FOR = 10.0  # seconds for which threads then look

_Waiting = dict[SessionKey, tuple[tuple[TlsSession, str, str], ...]]  # with source and reason


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
        self._claimers = trio.CapacityLimiter(2)
        self._flushing = trio.Lock()
        self._sealer: Sealer | None = None
        self._sessions: _Waiting = {}
        self._forgotten: dict[SessionKey, float] = {}
        self._buffer: list[Stamped] = []
        self._unwritten: dict[tuple[str, int], list[Stamped]] = {}  # the same by address and port
        self._folded: dict[Key, tuple[AddressView, int, AddressView]] = {}  # view, notes folded in, result
        self._recent = Recent()
        self._trouble = Trouble(self._file.path, "mail goes on without hints")
        self._policies = Policies(self._file)
        self._uses: Counter[Key] = Counter()
        self._next_prune = 0.0
        self._slow_until = -math.inf  # by trio's clock
        self.dropped = 0  # notes that made no sense or found the buffer full

    @property
    def invalid(self) -> int:
        """Rows that were not believed when read."""
        return self._file.invalid

    async def look(
        self, host: str, addresses: Sequence[str], port: int, domain: str | None = None
    ) -> tuple[AddressView, ...]:
        """One view per address, in the given order; empty ones where nothing is known in time."""
        host, now = host.lower(), self._clock()
        recent = self._recent
        await trio.lowlevel.checkpoint_if_cancelled()  # nothing more: every attempt waits for its server
        if len(addresses) == 1 and (seen := recent.view((host, addresses[0], port), now)) is not None:
            self._count((host, addresses[0], port))
            return (self._with_unwritten(seen, host, port),)
        asked = tuple(dict.fromkeys(addresses))[:MAX_ADDRESSES]
        known = {one: view for one in asked if (view := recent.view((host, one, port), now)) is not None}
        unknown = tuple(one for one in asked if one not in known)
        if unknown and not self._trouble.lasts(now):
            domain = None if domain is None else domain.lower()
            known |= await self._read(Reading(host, unknown, port, domain, now, recent.generation))
        for one in asked:
            self._count((host, one, port))
        return tuple(self._with_unwritten(known.get(one, AddressView(one)), host, port) for one in addresses)

    def note(self, note: Note, *, source: str, reason: str, now: float) -> None:
        """Remember; buffered, returns at once, never raises."""
        kept = accept(note)
        limit = MAX_BUFFER + MAX_SPARED * isinstance(kept, StsSeen)
        if kept is None or len(self._buffer) >= limit:
            self.dropped += 1
            return
        self._buffer.append(Stamped(kept, source, reason, now))
        self._remember_unwritten(self._buffer[-1])

    async def best_level(self, domain: str, host: str) -> str | None:
        """The best level of the last 90 days; None where nothing is known in time."""
        domain, host, now = domain.lower(), host.lower(), self._clock()
        fresh, known = self._recent.level(domain, host, now)
        if not fresh and not self._trouble.lasts(now):
            try:
                with trio.move_on_after(self._patience):
                    known = await trio.to_thread.run_sync(
                        partial(self._file.best_level, domain, host, now),
                        limiter=self._readers,
                        abandon_on_cancel=True,
                    )
            except Exception as error:  # the contract: never an error
                self._trouble.meet(error, now)
        highest = self._recent.highest_level(domain, host, known)
        if highest is not None and (not fresh or highest != known):  # what is not known may only be late
            self._recent.keep_level(domain, host, highest, now)
        return highest

    async def sts_policy(self, domain: str) -> StsSeen | None:
        """The policy of a domain that still counts. Raises Unreadable."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await self._policies.ask(domain.lower(), self._clock())
        finally:
            self._say_invalid()

    async def claim_session(self, key: SessionKey) -> TlsSession | None:
        """A session of this key, in time; one of TLS 1.3 is handed out once."""
        await trio.lowlevel.checkpoint_if_cancelled()
        asked, now = accept_key(key), self._clock()
        if asked is None:
            return None
        waiting = self._sessions.get(asked, ())
        found = current((one for one, _, _ in waiting), now)
        if found:
            if found[-1].single_use:
                self._sessions[asked] = tuple(one for one in waiting if one[0] is not found[-1])
            return found[-1]
        if asked in self._forgotten or self._trouble.lasts(now):
            return None
        if self._recent.without_sessions(asked.host, asked.port, now):
            return None
        return await self._claim(asked, now)

    def keep_session(self, session: TlsSession, *, source: str, reason: str, now: float) -> None:
        """Remember, sealed; buffered, returns at once, never raises."""
        kept = accept_session(session)
        if kept is None or (kept.key not in self._sessions and len(self._sessions) >= MAX_SESSIONS):
            self.dropped += 1
            return
        self._sessions[kept.key] = _added(self._sessions.get(kept.key, ()), (kept, source, reason))
        self._recent.forget_lack(kept.key.host, kept.key.port)

    def forget_sessions(self, key: SessionKey, *, now: float) -> None:
        """Offer none that was saved up to now; buffered, returns at once, never raises."""
        asked = accept_key(key)
        if asked is not None:
            self._sessions.pop(asked, None)
            self._forgotten[asked] = now

    async def flush(self) -> None:
        """Write what is buffered. Failures are logged once, not raised."""
        async with self._flushing:
            now = self._clock()
            if self._trouble.lasts(now):
                return
            prune = now >= self._next_prune
            if not (self._buffer or self._uses or self._sessions or self._forgotten or prune):
                return
            batch, uses = tuple(self._buffer), dict(self._uses)
            waiting, self._sessions = self._sessions, {}
            forgotten = tuple(self._forgotten.items())
            try:
                done = await trio.to_thread.run_sync(
                    partial(self._write, batch, uses, now, waiting, forgotten, prune), limiter=self._writer
                )
            except trio.Cancelled:  # before the thread began
                self._take_back(waiting)
                raise
            except Exception as error:  # the contract: never an error
                self._trouble.meet(error, now)
                self._take_back(waiting)
                return
            for key, until in forgotten:
                if self._forgotten.get(key) == until:
                    del self._forgotten[key]
            self._written(len(batch), uses, waiting)
            self._next_prune = now + PRUNE_EVERY if prune and done else self._next_prune
            self._trouble.end()

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

    def _write(
        self,
        batch: tuple[Stamped, ...],
        uses: dict[Key, int],
        now: float,
        waiting: _Waiting,
        forgotten: tuple[tuple[SessionKey, float], ...],
        prune: bool,
    ) -> bool:
        """In the writer's thread."""
        sealer = self._opened_sealer() if any(waiting.values()) else None
        rows = tuple(
            sessions.row_of(session, sealer, source=source, reason=reason)
            for several in (waiting.values() if sealer is not None else ())
            for session, source, reason in several
            if sealer is not None
        )
        changes = sessions.Changes(forgotten, rows)
        return self._file.write(batch, uses, now, prune=prune, tickets=changes)

    async def _claim(self, key: SessionKey, now: float) -> TlsSession | None:
        given_up = Event()
        invalid = self._file.invalid
        try:
            with trio.move_on_after(self._patience):
                return await trio.to_thread.run_sync(
                    partial(self._claim_from_file, key, now, given_up.is_set),
                    limiter=self._claimers,
                    abandon_on_cancel=True,
                )
        except Busy:
            return None  # a missing hint, and no reason to leave the file alone
        except Exception as error:  # the contract: never an error
            self._trouble.meet(error, now)
        finally:
            given_up.set()
            if self._file.invalid > invalid:
                self._say_invalid()
        return None

    def _claim_from_file(
        self, key: SessionKey, now: float, given_up: Callable[[], bool]
    ) -> TlsSession | None:
        """In a claimer's thread."""
        sealer = self._opened_sealer()
        return None if sealer is None else self._file.claim(key, now, sealer, given_up)

    def _opened_sealer(self) -> Sealer | None:
        if self._sealer is None:
            try:
                self._sealer = Sealer(load_key(self._file.path.with_suffix(".key")))
            except KeyUnusable as error:
                self._trouble.say(f"{error}; TLS sessions are not kept")
        return self._sealer

    def _take_back(self, waiting: _Waiting) -> None:
        """What could not be written waits again, behind what came meanwhile, unless it was forgotten."""
        for key, several in waiting.items():
            forgotten = self._forgotten.get(key)
            together: tuple[tuple[TlsSession, str, str], ...] = ()
            for one in (*several, *self._sessions.get(key, ())):
                if forgotten is None or one[0].saved_at > forgotten:
                    together = _added(together, one)
            self._sessions[key] = together

    async def _read(self, reading: Reading) -> dict[str, AddressView]:
        views: tuple[AddressView, ...] = ()
        try:
            known = self._read_here(reading)
            views = await self._read_in_a_thread(reading) if known is None else known.views
        except Exception as error:  # the contract: never an error
            self._trouble.meet(error, reading.at)
        self._say_invalid()
        self._recent.take_in()
        return {view.address: view for view in views}

    def _read_here(self, reading: Reading) -> Known | None:
        """On the loop's thread, where a look takes a part of what asking another thread does.

        None where somebody has to be waited for, or the disk was waited for lately.
        """
        if trio.current_time() < self._slow_until:
            return None
        began, worked = time.perf_counter(), time.thread_time()
        known = self._file.read_now(reading.host, reading.addresses, reading.port, reading.at, reading.domain)
        if time.perf_counter() - began - (time.thread_time() - worked) > WAITED:
            self._slow_until = trio.current_time() + SLOW_FOR
        if known is not None:
            self._recent.add(reading, known)
        return known

    async def _read_in_a_thread(self, reading: Reading) -> tuple[AddressView, ...]:
        """None in time: no views."""
        with trio.move_on_after(self._patience):
            return await trio.to_thread.run_sync(
                partial(self._read_from_file, reading), limiter=self._readers, abandon_on_cancel=True
            )
        return ()

    def _read_from_file(self, reading: Reading) -> tuple[AddressView, ...]:
        """In a reader's thread."""
        known = self._file.read(reading.host, reading.addresses, reading.port, reading.at, reading.domain)
        self._recent.add(reading, known)
        return known.views

    def _count(self, key: Key) -> None:
        if key in self._uses:
            self._uses[key] += 1
        elif len(self._uses) < MAX_CACHE:
            self._uses[key] = 1

    def _with_unwritten(self, view: AddressView, host: str, port: int) -> AddressView:
        """The view with the notes that are not in the file yet; each note is folded in once per view."""
        noted = self._unwritten.get((view.address, port))
        if not noted:
            return view
        key = (host, view.address, port)
        base, done, folded = self._folded.get(key, (view, 0, view))
        if base is not view and base != view:
            done, folded = 0, view
        if done == len(noted):
            return folded
        folded = _folded(folded, host, noted[done:])
        if len(self._folded) >= MAX_CACHE:
            self._folded.clear()
        self._folded[key] = (view, len(noted), folded)
        return folded

    def _remember_unwritten(self, stamped: Stamped) -> None:
        note = stamped.note
        if isinstance(note, LevelSeen):
            self._recent.note_level(note, stamped.at)
        elif isinstance(note, StsSeen):
            self._policies.note(note, stamped.at)
        else:
            self._unwritten.setdefault((note.address, note.port), []).append(stamped)

    def _written(self, count: int, uses: dict[Key, int], sessions: Iterable[SessionKey]) -> None:
        """The first `count` notes are in the file now; what is cached knows them too, and is no fresher."""
        for one in sessions:
            self._recent.forget_lack(one.host, one.port)
        self._uses.subtract(uses)
        self._uses = +self._uses  # drops the zeroes
        written: dict[tuple[str, int], list[Stamped]] = {}
        for stamped in self._buffer[:count]:
            if not isinstance(stamped.note, LevelSeen | StsSeen):
                written.setdefault((stamped.note.address, stamped.note.port), []).append(stamped)
        del self._buffer[:count]
        self._unwritten, self._folded = {}, {}
        self._policies.written()
        self._recent.written(lambda key, view: _folded(view, key[0], written.get(key[1:], ())))
        for stamped in self._buffer:
            self._remember_unwritten(stamped)

    def _say_invalid(self) -> None:
        if self._file.invalid:
            self._trouble.say("some rows make no sense and are not believed")


def _added(
    known: tuple[tuple[TlsSession, str, str], ...], one: tuple[TlsSession, str, str]
) -> tuple[tuple[TlsSession, str, str], ...]:
    kept = added(tuple(session for session, _, _ in known), one[0])
    return tuple(each for each in (*known, one) if any(each[0] is session for session in kept))


def _folded(view: AddressView, host: str, noted: Sequence[Stamped]) -> AddressView:
    """The view with the notes about its address that concern `host`."""
    for stamped in noted:
        note = stamped.note
        if isinstance(note, EhloAnswer) or (isinstance(note, Reachability | Feature) and note.host == host):
            view = fold(view, note, stamped.at)
    return view
