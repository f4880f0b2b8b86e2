"""Happy Eyeballs: the addresses of a host tried one beside the other, the first connection counts (RFC 8305).

Only the opening of connections races. What is sent over the winner begins after the race, the others are
closed without an octet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain, zip_longest

import trio

SHORTEST = 0.01  # seconds; RFC 8305 8 allows no shorter delay

Racer = Callable[[], Awaitable[bool]]


def interleave(addresses: Iterable[str]) -> tuple[str, ...]:
    """The families in turn, beginning with that of the first address; else as they are (RFC 8305 4)."""
    ordered = tuple(addresses)
    if not ordered:
        return ()
    first = _family(ordered[0])
    ours = [address for address in ordered if _family(address) == first]
    others = [address for address in ordered if _family(address) != first]
    return tuple(address for address in chain(*zip_longest(ours, others)) if address is not None)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


async def race(racers: Sequence[Racer], delay: float) -> int | None:
    """The place of the first racer that returns True; the others are cancelled. None: all returned False.

    The next one starts `delay` seconds after the one before, or as soon as that has failed (RFC 8305 5). A
    racer that was cancelled may have been about to succeed: the caller puts away what it holds.
    """
    if len(racers) == 1:
        return 0 if await racers[0]() else None
    winner: int | None = None

    async def run(place: int, failed: trio.Event) -> None:
        nonlocal winner
        if await racers[place]() and winner is None:
            winner = place
            nursery.cancel_scope.cancel()
        failed.set()

    async with trio.open_nursery() as nursery:
        for place in range(len(racers)):
            failed = trio.Event()
            nursery.start_soon(run, place, failed)
            with trio.move_on_after(max(delay, SHORTEST)):
                await failed.wait()
    return winner
