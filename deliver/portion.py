"""What one of several worker processes gets of the settings. Pure.

What counts at a time or in memory is divided, so that the settings mean the whole service; limits towards
sites are leased by `deliver.queue.leases`, those of clients are kept together in `deliver.relay.commons`.
Spool directories are worker 0's: there is nothing in them that says who takes which file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from deliver.quantity import Duration, Size
from deliver.settings import Settings

_NUMBERS: Final[Mapping[type, Callable[[Any], object]]] = {Duration: Duration, Size: Size}  # of the settings


def portion(settings: Settings, worker: int, workers: int) -> Settings:
    """The settings of worker number `worker` of so many."""

    def part(amount: int) -> int:
        return max(1, -(-amount // workers))

    changed: dict[str, Any] = {
        "queue": replace(
            settings.queue,
            workers=part(settings.queue.workers),
            slow_workers=part(settings.queue.slow_workers),
            connections=part(settings.queue.connections),
        ),
        "lmtp": replace(settings.lmtp, max_connections=part(settings.lmtp.max_connections)),
        "send": replace(settings.send, max_connections=part(settings.send.max_connections)),
        "pool": replace(settings.pool, max_sessions=part(settings.pool.max_sessions)),
        "events": replace(settings.events, backlog=part(settings.events.backlog)),
    }
    if settings.bounce.per_sender:
        changed["bounce"] = replace(settings.bounce, per_sender=part(settings.bounce.per_sender))
    if worker:
        changed["spool"] = replace(settings.spool, directories=())
    return replace(settings, **changed)


def packed(settings: Settings) -> bytes:
    """The settings on their way to another process of the same program."""

    def plain(value: object) -> object:
        return int(value) if isinstance(value, Size) else float(value)  # type: ignore[arg-type]

    return msgspec.json.encode(settings, enc_hook=plain)


def unpacked(data: bytes) -> Settings:
    """What was packed, without the checks of files by people. Raises msgspec.ValidationError."""
    return msgspec.json.decode(data, type=Settings, dec_hook=_exact)


def _exact(kind: type, value: Any) -> object:
    return _NUMBERS[kind](value)
