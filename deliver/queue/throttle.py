"""Limits by the administrator: messages in a time, and attempts at a time. No I/O; `now` is given.

A limit holds for each domain, site, sender or source address by itself, or for all mail together; `match`
narrows it to some. A rate is a token bucket: `messages` per `per` seconds, evenly spaced, with bursts of what
falls into a minute, or of `burst`. In any span of time `per` no more than `messages + burst` begin.

Counts live in memory: they begin anew with the process, buckets full. Where several workers count together,
they are in their leases.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from deliver.queue.share import WHOLE, Share

Kind = Literal["domain", "site", "sender", "source", "all"]

MINUTE: Final = 60.0
MAX_BUCKETS: Final = 20_000  # beyond that the full ones are forgotten: they say nothing


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` tokens come back, at most `burst` are kept."""

    per_second: float
    burst: float

    @classmethod
    def of(cls, messages: int, per: float, burst: int | None) -> Rate:
        """`messages` in `per` seconds; without `burst` what falls into a minute, one at least."""
        per_second = messages / per
        kept = float(burst) if burst else min(float(messages), max(1.0, per_second * MINUTE))
        return cls(per_second, kept)


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` at the moment `at` (seconds since the epoch)."""

    tokens: float
    at: float

    def tokens_at(self, rate: Rate, now: float) -> float:
        """How many there are now; a clock that was set back takes none away."""
        return min(rate.burst, self.tokens + max(0.0, now - self.at) * rate.per_second)

    def ready_at(self, rate: Rate) -> float:
        """When a token is there: seconds since the epoch."""
        missing = 1.0 - self.tokens
        return self.at + missing / rate.per_second if missing > 1e-9 else -math.inf

    def take(self, rate: Rate, now: float) -> Bucket:
        """One token less."""
        return Bucket(self.tokens_at(rate, now) - 1.0, now)


@dataclass(frozen=True, slots=True)
class Limit:
    """One entry of `queue.limit`; `match` are globs over the names, empty for every one."""

    of: Kind
    match: tuple[str, ...] = ()
    rate: Rate | None = None
    at_a_time: int | None = None

    def concerns(self, name: str) -> bool:
        """Whether it counts `name`; a site's name is the list of its hosts, of which one must match."""
        return not self.match or _matches(self.match, name)


Key = tuple[Limit, str]  # a limit, and whom it counts
NOTHING: Final[Mapping[Key, int]] = {}


@lru_cache(maxsize=65_536)
def _matches(patterns: tuple[str, ...], name: str) -> bool:
    words = name.lower().replace(",", " ").split() or [""]
    return any(fnmatch.fnmatchcase(word, pattern.lower()) for word in words for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked for: one attempt. `sender` None: not known yet."""

    domain: str
    site: str
    sender: str | None = None
    sources: tuple[str, ...] = ()

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Whom a limit of that kind counts."""
        match kind:
            case "domain":
                return (self.domain,)
            case "site":
                return (self.site,)
            case "sender":
                return () if self.sender is None else (self.sender,)
            case "source":
                return self.sources
            case "all":
                return ("",)


class Throttle:
    """The limits and their counts. `take` may be called in the database's thread, by one at a time."""

    def __init__(
        self, limits: tuple[Limit, ...] = (), sources: Callable[[str], tuple[str, ...]] = lambda _: ()
    ) -> None:
        """`sources`: the source addresses that mail for a domain may leave from."""
        self._limits = limits
        self._sources = sources
        self._buckets: dict[Key, Bucket] = {}
        self._running: Counter[Key] = Counter()
        self.share: Share = WHOLE  # what we may have of the limits

    @property
    def limited(self) -> bool:
        """Whether there are limits at all."""
        return bool(self._limits)

    @property
    def by_sender(self) -> bool:
        """Whether senders have limits."""
        return any(limit.of == "sender" for limit in self._limits)

    def subject(self, domain: str, site: str, sender: str | None = None) -> Subject:
        """One attempt for the domain."""
        sources = self._sources(domain) if any(limit.of == "source" for limit in self._limits) else ()
        return Subject(domain, site, sender, sources)

    def opens_at(self, subject: Subject, taken: Mapping[Key, int] = NOTHING) -> float:
        """From when on it may begin: -inf is now, inf is when another attempt has ended.

        `taken`: places that were claimed and are not held yet.
        """
        return max((self._key_opens_at(key, taken) for key in self._keys(subject)), default=-math.inf)

    def reserve(self, subject: Subject, now: float, taken: Mapping[Key, int] = NOTHING) -> bool:
        """Whether we have what it needs, where others have a share too. `taken` as in `opens_at`."""
        return self.share.parts == 1 or all(self._reserve(key, now, taken) for key in self._keys(subject))

    def _reserve(self, key: Key, now: float, taken: Mapping[Key, int]) -> bool:
        limit, name = key[0], _text(key)
        if limit.at_a_time is not None:
            wanted = self._running[key] + taken.get(key, 0) + 1
            if not self.share.reserve(limit.at_a_time, name, wanted):
                return False
        return limit.rate is None or self.share.reserve_token(name, limit.rate, now)

    def take(self, subject: Subject, now: float) -> tuple[Key, ...]:
        """It was claimed: take a token from every bucket; returns what `hold` and `release` need."""
        held: list[Key] = []
        for key in self._keys(subject):
            limit = key[0]
            if limit.rate is not None and self.share.parts > 1:
                self.share.spend_token(_text(key))
            elif limit.rate is not None:
                before = self._buckets.get(key, Bucket(limit.rate.burst, now))
                self._buckets[key] = before.take(limit.rate, now)
            if limit.at_a_time is not None:
                held.append(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._forget_full(now)
        return tuple(held)

    def hold(self, held: tuple[Key, ...]) -> None:
        """It begins: its places are taken until `release`."""
        if not held:
            return
        self._running.update(held)
        if self.share.parts > 1:
            for key in held:
                self.share.begin(_text(key))

    def release(self, held: tuple[Key, ...]) -> None:
        """It has ended."""
        for key in held:
            if self.share.parts > 1:
                self.share.end(_text(key))
            self._running[key] -= 1
            if self._running[key] <= 0:
                del self._running[key]

    def set_back(self, now: float) -> None:
        """The clock was set back to `now`: no bucket is of a later time."""
        for key, bucket in self._buckets.items():
            self._buckets[key] = Bucket(bucket.tokens, min(bucket.at, now))

    def reconfigure(
        self, limits: tuple[Limit, ...], sources: Callable[[str], tuple[str, ...]] | None = None
    ) -> None:
        """Other limits from now on; the counts of those that did not change stay."""
        self._limits = limits
        self._sources = sources or self._sources
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key[0] in limits}

    def _keys(self, subject: Subject) -> Iterator[Key]:
        for limit in self._limits:
            for name in subject.names(limit.of):
                if limit.concerns(name):
                    yield limit, name

    def _key_opens_at(self, key: Key, taken: Mapping[Key, int]) -> float:
        limit = key[0]
        if limit.at_a_time is not None:
            running = self._running[key] + taken.get(key, 0)
            if running >= self.share.places(limit.at_a_time, _text(key)):
                return math.inf
        if limit.rate is None:
            return -math.inf
        if self.share.parts > 1:
            return self.share.token_at(_text(key), limit.rate)
        bucket = self._buckets.get(key)
        return -math.inf if bucket is None else bucket.ready_at(limit.rate)

    def _forget_full(self, now: float) -> None:
        for key, bucket in tuple(self._buckets.items()):
            rate = key[0].rate
            if rate is None or _is_full(bucket, rate, now):
                del self._buckets[key]


def _is_full(bucket: Bucket, rate: Rate, now: float) -> bool:
    return bucket.tokens_at(rate, now) >= rate.burst


def _text(key: Key) -> str:
    """A key that other processes know by the same words."""
    limit, name = key
    return f"{limit.of} {' '.join(limit.match)} {name}"
