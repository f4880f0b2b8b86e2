"""Hints in a dictionary: the same contract as `hints.sql`, gone with the process.

For `hints.url = "memory"`, one-shot tools and simulations (no threads, so a simulated clock is safe).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec import structs

from hints.check import accept, accept_key, accept_session
from hints.levels import dropped
from hints.port import AddressView, FeatureView
from hints.prune import LEVEL_SEEN, MAX_EVIDENCE, decayed, expired, lifetime
from hints.records import (
    EhloAnswer,
    EhloPhase,
    Feature,
    LevelSeen,
    Note,
    Reachability,
    SessionKey,
    StsSeen,
    TlsSession,
    Word,
)
from hints.sts import counts, latest

K = TypeVar("K")
V = TypeVar("V")

MAX_TICKETS = 4  # sessions of TLS 1.3 per key; the newest stay
MAX_ENTRIES = 100_000  # of each kind; the one not touched for longest goes first


class MemoryHints:
    """See `hints.port.Hints`. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float], max_entries: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._ehlo: OrderedDict[tuple[str, int, EhloPhase], tuple[float, EhloAnswer]] = OrderedDict()
        self._reach: OrderedDict[tuple[str, str, int], tuple[float, AddressView]] = OrderedDict()
        self._levels: OrderedDict[tuple[str, str], tuple[float, Best]] = OrderedDict()
        self._features: OrderedDict[tuple[str, str, int, Word], tuple[float, FeatureView]] = OrderedDict()
        self._policies: OrderedDict[str, StsSeen] = OrderedDict()
        self._sessions: OrderedDict[SessionKey, tuple[TlsSession, ...]] = OrderedDict()

    async def look(
        self, host: str, addresses: Sequence[str], port: int, domain: str | None = None
    ) -> tuple[AddressView, ...]:
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
                pair = (kept.domain, kept.host)
                seen = self._levels.get(pair)
                before = seen[1] if seen is not None and not expired(seen[0], now) else None
                _put(self._levels, pair, (expires, best(before, kept.level, now)), self._max_entries)
            case Feature():
                use = (kept.host, kept.address, kept.port, kept.word)
                until, worked = self._features.get(use, (0.0, FeatureView(kept.word)))
                if expired(until, now):
                    worked = FeatureView(kept.word)
                _put(self._features, use, (expires, used(worked, kept.worked, now)), self._max_entries)
            case StsSeen():
                policy = latest(self._policies.get(kept.domain), kept, now)
                _put(self._policies, kept.domain, policy, self._max_entries)

    async def best_level(self, domain: str, host: str) -> str | None:
        """The best level of the last 90 days."""
        until, seen = self._levels.get((domain.lower(), host.lower()), (0.0, None))
        return None if seen is None or expired(until, self._clock()) else seen.level

    async def sts_policy(self, domain: str) -> StsSeen | None:
        """The policy of a domain that still counts; never Unreadable."""
        policy = self._policies.get(domain.lower())
        return policy if policy is not None and counts(policy, self._clock()) else None

    async def claim_session(self, key: SessionKey) -> TlsSession | None:
        """The newest session of this key; one of TLS 1.3 is gone then."""
        asked, now = accept_key(key), self._clock()
        if asked is None:
            return None
        found = current(self._sessions.get(asked, ()), now)
        if not found:
            return None
        chosen = found[-1]
        self._sessions[asked] = found[:-1] if chosen.single_use else found
        return chosen

    def keep_session(self, session: TlsSession, *, source: str, reason: str, now: float) -> None:
        """Remember; never raises."""
        kept = accept_session(session)
        if kept is not None:
            known = current(self._sessions.get(kept.key, ()), now)
            _put(self._sessions, kept.key, added(known, kept), self._max_entries)

    def forget_sessions(self, key: SessionKey, *, now: float) -> None:
        """Forget; never raises."""
        asked = accept_key(key)
        if asked is not None:
            self._sessions.pop(asked, None)

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
        kept = (self._features.get((host, address, port, word), (0.0, FeatureView(word))) for word in Word)
        features = tuple(faded(one, now) for until, one in kept if not expired(until, now))
        return structs.replace(view, ehlo=answers, features=tuple(sorted(features, key=lambda one: one.word)))


@dataclass(frozen=True, slots=True)
class Best:
    """The best level reached, and when."""

    level: str
    at: float


def best(before: Best | None, level: str, now: float) -> Best:
    """The best level after a delivery at `level`; one of more than 90 days ago counts no more."""
    if before is None or before.at + LEVEL_SEEN <= now or not dropped(before.level, level):
        return Best(level, now)
    return before


def used(view: FeatureView, worked: bool, now: float) -> FeatureView:
    """What is known of a feature after one more use."""
    if worked:
        count = min(MAX_EVIDENCE, decayed(view.worked, view.last_worked, now) + 1)
        return structs.replace(view, worked=count, last_worked=now)
    count = min(MAX_EVIDENCE, decayed(view.failed, view.last_failed, now) + 1)
    return structs.replace(view, failed=count, last_failed=now)


def faded(view: FeatureView, now: float) -> FeatureView:
    """The same with what the counts still weigh."""
    worked, failed = view.worked, view.failed
    return structs.replace(
        view, worked=decayed(worked, view.last_worked, now), failed=decayed(failed, view.last_failed, now)
    )


def current(sessions: Iterable[TlsSession], now: float) -> tuple[TlsSession, ...]:
    """Those that are not past their time, nor saved in the future."""
    return tuple(one for one in sessions if one.saved_at <= now < one.expires)


def added(known: tuple[TlsSession, ...], session: TlsSession) -> tuple[TlsSession, ...]:
    """One more: of TLS 1.2 in place of the others, of TLS 1.3 beside the newest few."""
    if not session.single_use:
        return (session,)
    others = (one for one in known if one.single_use and one.session != session.session)
    return (*others, session)[-MAX_TICKETS:]


def fold(view: AddressView, note: Note, now: float) -> AddressView:
    """What a view becomes by a note about the same address (host and port are the caller's to compare)."""
    match note:
        case Reachability(error=None):
            return structs.replace(view, failures=0, last_success=now)
        case Reachability(error=error):
            return structs.replace(view, failures=view.failures + 1, last_error=error, last_failure=now)
        case EhloAnswer(phase=phase):
            others = (answer for answer in view.ehlo if answer.phase is not phase)
            return structs.replace(view, ehlo=tuple(sorted((*others, note), key=lambda one: one.phase)))
        case Feature(word=word, worked=worked):
            seen = next((one for one in view.features if one.word is word), FeatureView(word))
            others_seen = (one for one in view.features if one.word is not word)
            together = (*others_seen, used(seen, worked, now))
            return structs.replace(view, features=tuple(sorted(together, key=lambda one: one.word)))
        case LevelSeen() | StsSeen():
            return view


def _put(kept: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)
