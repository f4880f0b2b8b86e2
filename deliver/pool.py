"""Idle sessions, kept for the next message that demands nothing which was not proven on them.

The pool only stores. Whether a session may serve is asked twice: its `terms` must equal those of the message
(see `deliver.reusing`), and whoever takes it judges it again before it is used. Whoever takes one looks what
the server has said meanwhile; a session that stays idle for longer than UNHEARD is listened to by a task, so
that a server which says 421 or hangs up is noticed then and not by the next message.

    put     keep it, or close it where there is no room, no time left, or nobody to listen
    take    the session used last for these terms that is still in order; it belongs to the caller alone
    idle    `pool.idle` seconds without use, or `pool.max_age` since it was opened: QUIT

Reuse is limited by time, not by count: a count would draw most connections to the slowest server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from deliver.settings import Pool as Limits
from events.catalogue import Event

FAREWELL = 2.0  # seconds for QUIT on everything when the pool ends
UNHEARD = 1.5  # seconds without a listener: where mail flows, sessions are taken before that
ENDED = "the server ended the session"
UNNEEDED = "not needed any more"

_log = logging.getLogger("outrider.connection")

Told = Callable[[Sequence[Event]], Awaitable[None]]


class Idle(Protocol):
    """What a pool needs of a session."""

    @property
    def terms(self) -> Hashable:
        """What it was opened under; a message with other terms never gets it."""
        ...

    @property
    def opened_at(self) -> float:
        """When it was opened, on trio's clock."""
        ...

    @property
    def messages(self) -> int:
        """How many messages it has served."""
        ...

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin on it."""
        ...

    async def catch_up(self) -> None:
        """Take note of what the server has said by now; waits for a moment at most."""
        ...

    async def overhear(self) -> None:
        """Wait until the server says something unasked or hangs up; may be cancelled without loss."""
        ...

    async def part(self, why: str) -> Sequence[Event]:
        """Close it within bounded time, in good order where it can be; what there is to tell of it."""
        ...

    async def cut_off(self) -> None:
        """Close it without a word."""
        ...


class Pool(Protocol):
    """Where a delivery looks for an open session before it connects."""

    async def take(self, terms: Hashable) -> Idle | None:
        """A session opened under these terms, out of the pool."""
        ...

    def put(self, session: Idle) -> bool:
        """Keep it; False: the caller closes it."""
        ...


class NoPool:
    """Keeps nothing: every message has its own connection."""

    async def take(self, terms: Hashable) -> None:
        """Nothing."""

    def put(self, session: Idle) -> bool:
        """Not taken."""
        return False


@dataclass(eq=False, slots=True)
class _Listener:
    """The scope of the task, and whether it is over."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False, slots=True)
class _Resting:
    """A session in the pool; a task listens to it from `due` to `until` at most."""

    session: Idle
    due: float
    until: float
    listener: _Listener | None = None
    taken: bool = False


async def _tell_nobody(events: Sequence[Event]) -> None:
    """For a pool whose owner commits no events."""


class SessionPool:
    """Idle sessions of one process. `told` gets the events of sessions that end in the pool."""

    def __init__(self, limits: Limits, told: Told = _tell_nobody) -> None:
        self._limits = limits
        self._told = told
        self._resting: dict[Hashable, list[_Resting]] = {}
        self._count = 0
        self._unheard: dict[_Resting, None] = {}
        self._stirred = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def count(self) -> int:
        """How many sessions wait."""
        return self._count

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SessionPool]:
        """Keep sessions during the block, and say QUIT on all of them after it; cancelled, cut them off."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                keeping = await nursery.start(self._listen_in_time)
                yield self
                self._nursery = None  # nothing more is kept
                nursery.cancel_scope.deadline = trio.current_time() + FAREWELL
                keeping.cancel()
                for resting in self._all():
                    self._dismiss(resting, nursery)
        finally:
            self._nursery = None
            for resting in tuple(self._unheard):
                self._forget(resting)
                await resting.session.cut_off()

    def put(self, session: Idle) -> bool:
        """Keep it if there is time left and somebody to listen; where there is no room the oldest goes."""
        if self._nursery is None or not session.usable:
            return False
        now = trio.current_time()
        patience = self._patience(session, now)
        if patience <= 0:
            return False
        if self._count >= self._limits.max_sessions:
            oldest = min(self._all(), key=lambda resting: resting.session.opened_at)
            self._dismiss(oldest, self._nursery)
        resting = _Resting(session, now + min(patience, UNHEARD), now + patience)
        self._resting.setdefault(session.terms, []).append(resting)
        self._count += 1
        self._unheard[resting] = None
        self._stirred.set()
        return True

    async def take(self, terms: Hashable) -> Idle | None:
        """The one used last: the others grow old and are closed."""
        while found := self._resting.get(terms):
            resting = found[-1]
            resting.taken = True
            self._forget(resting)
            session = resting.session
            try:
                await self._hear(resting)
            except BaseException:
                await self._let_go(session, UNNEEDED)
                raise
            if session.usable and self._patience(session, trio.current_time()) > 0:
                return session
            await self._let_go(session, ENDED)
        return None

    async def _let_go(self, session: Idle, why: str) -> None:
        """It is out of the pool, and nobody wants it."""
        if self._nursery is None:
            await session.cut_off()
        else:
            self._nursery.start_soon(self._part, session, why)

    async def _hear(self, resting: _Resting) -> None:
        """What it said until now is known; nobody reads from it any more."""
        if resting.listener is not None:
            resting.listener.scope.cancel()
            with trio.CancelScope(shield=True):  # at once: until then the listener may still read
                await resting.listener.over.wait()
        else:
            await resting.session.catch_up()

    def _patience(self, session: Idle, now: float) -> float:
        """How many seconds it may stay, from now on."""
        if self._limits.max_messages is not None and session.messages >= self._limits.max_messages:
            return 0
        age = now - session.opened_at
        return min(float(self._limits.idle), self._limits.max_age - age)

    async def _listen_in_time(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Begin to listen to whatever stays idle, until the scope is cancelled."""
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                while not self._unheard:
                    self._stirred = trio.Event()
                    await self._stirred.wait()
                await trio.sleep_until(next(iter(self._unheard)).due)
                now, nursery = trio.current_time(), self._nursery
                for resting in [each for each in self._unheard if each.due <= now]:
                    assert nursery is not None, "the pool is open"
                    del self._unheard[resting]
                    resting.listener = _Listener()
                    nursery.start_soon(self._listen, resting, resting.listener)

    def _dismiss(self, resting: _Resting, nursery: trio.Nursery) -> None:
        """Close it, in its own time."""
        self._forget(resting)
        if resting.listener is not None:
            resting.listener.scope.cancel()
        else:
            nursery.start_soon(self._part, resting.session, UNNEEDED)

    async def _listen(self, resting: _Resting, listener: _Listener) -> None:
        """Until it is taken, the server speaks, its time is over, or the pool closes."""
        session, why = resting.session, UNNEEDED
        try:
            listener.scope.deadline = resting.until
            with listener.scope:
                await session.overhear()
                why = ENDED
            if why != ENDED and trio.current_time() >= resting.until:
                why = "idle for long enough"
        except BaseException:
            self._forget(resting)
            if not resting.taken:
                await session.cut_off()
            raise
        finally:
            listener.over.set()
        if not resting.taken:
            self._forget(resting)
            await self._part(session, why)

    async def _part(self, session: Idle, why: str) -> None:
        try:
            await self._told(await session.part(why))
        except Exception:  # one session must not take the others with it
            _log.exception("closing an idle session failed unexpectedly")

    def _forget(self, resting: _Resting) -> None:
        terms = resting.session.terms
        found = self._resting.get(terms)
        if found is None or resting not in found:
            return
        found.remove(resting)
        self._count -= 1
        self._unheard.pop(resting, None)
        if not found:
            del self._resting[terms]

    def _all(self) -> list[_Resting]:
        return [resting for found in self._resting.values() for resting in found]
