"""Which worker does what: shards to workers, and when a worker that died is started again. Pure.

Worker number n owns shard n. Shards beyond that (there were more workers once), and those of a worker that
is down for longer, are others' meanwhile: each shard has one place in the ring of workers, and the next
worker in the ring that is up has it. A worker that comes back gets its shard back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

FIRST_PAUSE: Final = 1.0  # seconds before a worker that ended soon is started again; doubles
LONGEST_PAUSE: Final = 60.0
SETTLED: Final = 60.0  # a worker that lived so long is started again at once


@dataclass(frozen=True, slots=True)
class Handing:
    """What is to be told: open these shards (shard, worker), close those."""

    opens: tuple[tuple[int, int], ...] = ()
    closes: tuple[tuple[int, int], ...] = ()


def owner(shard: int, workers: int, up: Collection[int]) -> int | None:
    """The worker that should have the shard; None while nobody is up."""
    return next((w for w in ((shard + step) % workers for step in range(workers)) if w in up), None)


def handing(
    shards: Iterable[int],
    workers: int,
    up: Collection[int],
    held: Mapping[int, int],
    closing: Collection[int],
) -> Handing:
    """From who holds what (`held`: shard, worker; those in `closing` were told to close) to what should be.

    A shard is opened by the next worker only when the one before has closed it, or is gone.
    """
    opens, closes = [], []
    for shard in shards:
        wanted = owner(shard, workers, up)
        has = held.get(shard)
        if wanted is None or wanted == has:
            continue
        if has is None:
            opens.append((shard, wanted))
        elif shard not in closing:
            closes.append((shard, has))
    return Handing(tuple(opens), tuple(closes))


def pause(lived: float, failures: int) -> float:
    """Seconds until a worker is started again that lived `lived` seconds, after so many short lives."""
    if lived >= SETTLED or not failures:
        return 0.0
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
