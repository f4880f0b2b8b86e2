"""Where a worker process stands when it begins: what it has from its supervisor."""

from __future__ import annotations

import signal
import socket
from dataclasses import dataclass, field
from typing import Final

from deliver.doorway import Doorway
from deliver.neighbours.street import House
from deliver.queue.leases import Desk
from deliver.relay.binding import Bound
from deliver.relay.commons import Seat

HELD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # from the start until somebody listens to them


@dataclass(frozen=True, slots=True)
class Station:
    """Its number among so many, its line to the supervisor, what it shares with others, and the sockets.

    Without a `house` it has no neighbours that take its mail.
    """

    number: int
    workers: int
    line: socket.socket
    seat: Seat
    desk: Desk
    sockets: Bound = field(default_factory=dict)
    metrics: Bound = field(default_factory=dict)
    doorway: Doorway = field(default_factory=Doorway)
    house: House | None = None


def detach() -> None:
    """What a terminal and an administrator send to all processes is the supervisor's to heed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
