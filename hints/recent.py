"""What was read from a hints file lately: believed for CACHE_SECONDS, as other processes learn too.

Readers hand in what they found from their threads (`add`); it counts only if this process has written nothing
since they began.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from hints.levels import dropped
from hints.memory import Best, best
from hints.port import AddressView
from hints.reading import Known
from hints.records import LevelSeen

MAX_CACHE = 10_000  # of each kind
CACHE_SECONDS = 30.0

Key = tuple[str, str, int]  # host, address, port
K = TypeVar("K")
V = TypeVar("V")


class Reading(Struct, frozen=True):
    """What is asked of the file; `generation`: of the writes before it."""

    host: str
    addresses: tuple[str, ...]
    port: int
    domain: str | None
    at: float  # seconds since the epoch
    generation: int


class Recent:
    """See the module; only `add` may be called in another thread."""

    def __init__(self) -> None:
        self.generation = 0
        self._found: deque[tuple[Reading, Known]] = deque()
        self._views: OrderedDict[Key, tuple[float, AddressView]] = OrderedDict()
        self._levels: OrderedDict[tuple[str, str], tuple[float, str | None]] = OrderedDict()
        self._without: OrderedDict[tuple[str, int], float] = OrderedDict()  # hosts and ports without sessions
        self._noted: dict[tuple[str, str], Best] = {}  # levels that are not in the file yet

    def add(self, reading: Reading, known: Known) -> None:
        """What comes too late for who asked is there for who asks next."""
        self._found.append((reading, known))

    def view(self, key: Key, now: float) -> AddressView | None:
        """What was read about an address."""
        self.take_in()
        found = self._views.get(key)
        return found[1] if found is not None and _fresh(found[0], now) else None

    def level(self, domain: str, host: str, now: float) -> tuple[bool, str | None]:
        """Whether the best level is known, and which it is."""
        self.take_in()
        found = self._levels.get((domain, host))
        return (True, found[1]) if found is not None and _fresh(found[0], now) else (False, None)

    def highest_level(self, domain: str, host: str, known: str | None) -> str | None:
        """That, or what was reached and is not in the file yet."""
        noted = self._noted.get((domain, host))
        return known if noted is None or dropped(known, noted.level) else noted.level

    def keep_level(self, domain: str, host: str, level: str | None, now: float) -> None:
        """It was read just now."""
        _keep(self._levels, (domain, host), (now, level))

    def note_level(self, note: LevelSeen, at: float) -> None:
        """A delivery has reached it."""
        pair = (note.domain, note.host)
        self._levels.pop(pair, None)
        self._noted[pair] = best(self._noted.get(pair), note.level, at)

    def without_sessions(self, host: str, port: int, now: float) -> bool:
        """Whether there was none in the file."""
        self.take_in()
        read_at = self._without.get((host, port))
        return read_at is not None and _fresh(read_at, now)

    def forget_lack(self, host: str, port: int) -> None:
        """There is a session now."""
        self._without.pop((host, port), None)

    def written(self, folded: Callable[[Key, AddressView], AddressView]) -> None:
        """All notes are in the file now; `folded` gives each view with those about it."""
        self.generation += 1
        self._noted = {}
        for key, (read_at, view) in self._views.items():
            self._views[key] = (read_at, folded(key, view))

    def take_in(self) -> None:
        """What readers have handed in counts, unless something was written since they began."""
        while self._found:
            reading, known = self._found.popleft()
            if reading.generation != self.generation:
                continue
            host, port, at = reading.host, reading.port, reading.at
            for view in known.views:
                key = (host, view.address, port)
                if key not in self._views or self._views[key][0] <= at:
                    _keep(self._views, key, (at, view))
            if reading.domain is not None and (reading.domain, host) not in self._noted:
                self.keep_level(reading.domain, host, known.level, at)
            if not known.sessions:
                _keep(self._without, (host, port), at)


def _fresh(read_at: float, now: float) -> bool:
    return read_at <= now < read_at + CACHE_SECONDS


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MAX_CACHE:
        kept.popitem(last=False)
