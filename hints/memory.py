"""Hints in a dictionary: the same contract as `hints.sql`, gone with the process.

For `hints.url = "memory"`, one-shot tools and simulations (no threads, so a simulated clock is safe).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from hints.check import accept
from hints.port import AddressView
from hints.prune import expired, lifetime
from hints.records import EhloAnswer, EhloPhase, LevelSeen, Note, Reachability

K = TypeVar("K")
V = TypeVar("V")

MAX_ENTRIES = 100_000  # of each kind; the one not touched for longest goes first


class MemoryHints:
    """See `hints.port.Hints`. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float], max_entries: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._ehlo: OrderedDict[tuple[str, int, EhloPhase], tuple[float, EhloAnswer]] = OrderedDict()
        self._reach: OrderedDict[tuple[str, str, int], tuple[float, AddressView]] = OrderedDict()
        self._levels: OrderedDict[tuple[str, str], tuple[float, LevelSeen]] = OrderedDict()

    async def look(self, host: str, addresses: Sequence[str], port: int) -> tuple[AddressView, ...]:
        """One view per address, in the given order."""
        now = self._clock()
        return tuple(self._view(host.lower(), address, port, now) for address in addresses)

    def note(self, note: Note, *, source: str, reason: str, now: float) -> None:
        """Remember; never raises."""
        kept = accept(note)
        if kept is None:
            return
        expires = now + lifetime(kept)
        match kept:
            case EhloAnswer():
                _put(self._ehlo, (kept.address, kept.port, kept.phase), (expires, kept), self._max_entries)
            case Reachability():
                key = (kept.host, kept.address, kept.port)
                until, known = self._reach.get(key, (0.0, AddressView(kept.address)))
                if expired(until, now):
                    known = AddressView(kept.address)
                _put(self._reach, key, (expires, fold(known, kept, now)), self._max_entries)
            case LevelSeen():
                _put(self._levels, (kept.domain, kept.host), (expires, kept), self._max_entries)

    async def flush(self) -> None:
        """Nothing to write."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def _view(self, host: str, address: str, port: int, now: float) -> AddressView:
        until, view = self._reach.get((host, address, port), (0.0, AddressView(address)))
        if expired(until, now):
            view = AddressView(address)
        known = (self._ehlo.get((address, port, phase)) for phase in EhloPhase)
        answers = tuple(one[1] for one in known if one is not None and not expired(one[0], now))
        return replace(view, ehlo=answers)


def fold(view: AddressView, note: Note, now: float) -> AddressView:
    """What a view becomes by a note about the same address (host and port are the caller's to compare)."""
    match note:
        case Reachability(error=None):
            return replace(view, failures=0, last_success=now)
        case Reachability(error=error):
            return replace(view, failures=view.failures + 1, last_error=error, last_failure=now)
        case EhloAnswer(phase=phase):
            others = (answer for answer in view.ehlo if answer.phase is not phase)
            return replace(view, ehlo=tuple(sorted((*others, note), key=lambda one: one.phase)))
        case LevelSeen():
            return view


def _put(kept: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)
