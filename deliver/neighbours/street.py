"""What worker processes have of each other from before they are forked: addresses, and how much waits where.

Each worker listens on a socket without a path that this user's processes alone may use. The supervisor keeps
all of them, so that a worker that is started again has its address; it is at home only once it says so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from mmap import mmap
from typing import Final

from deliver.net.local import user_of

AWAY: Final = -1
BACKLOG: Final = 64


class Street:
    """Of `workers` processes; made by the supervisor."""

    def __init__(self, workers: int) -> None:
        """Raises OSError."""
        self._waiting = memoryview(mmap(-1, 8 * workers)).cast("q")
        self._listening: list[socket.socket] = []
        for number in range(workers):
            self._waiting[number] = AWAY
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listening.append(listening)
            listening.bind("")  # Linux finds an address (unix(7))
            listening.listen(BACKLOG)

    def house(self, number: int) -> House:
        """That worker's, in its own process: the sockets of the others are closed there."""
        addresses = [each.getsockname() for each in self._listening]
        for other, each in enumerate(self._listening):
            if other != number:
                each.close()
        return House(number, self._listening[number], addresses, self._waiting)

    def clear(self, number: int) -> None:
        """That worker has ended."""
        self._waiting[number] = AWAY

    def close(self) -> None:
        """The last worker has ended."""
        for each in self._listening:
            each.close()


class House:
    """Worker `number`'s own. `waiting` counts messages that wait for their first attempt."""

    def __init__(
        self, number: int, listening: socket.socket, addresses: Sequence[bytes], waiting: memoryview
    ) -> None:
        self.number = number
        self.listening = listening
        self.addresses = addresses
        self._all = waiting
        self._taken = 0
        self._begun = 0
        self._home = False

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self.addresses)

    def waiting(self, number: int) -> float:
        """How many messages wait at that worker; infinity: it takes none."""
        count: int = self._all[number]
        return float("inf") if count == AWAY else count

    def move_in(self) -> None:
        """From now on others may hand over."""
        self._home = True
        self._tell()

    def move_out(self) -> None:
        """They should no more."""
        self._home = False
        self._all[self.number] = AWAY

    def took(self, messages: int) -> None:
        """So many more are durable here."""
        self._taken += messages
        self._tell()

    def began(self) -> None:
        """The first attempt of one has begun; of old ones, too, which nobody counted."""
        self._begun = min(self._begun + 1, self._taken)
        self._tell()

    def fade(self) -> None:
        """Half of what waits is forgotten: some mail is held, and not waiting for anybody's processor."""
        self._taken, self._begun = (self._taken - self._begun) // 2, 0
        self._tell()

    def _tell(self) -> None:
        if self._home:
            self._all[self.number] = self._taken - self._begun


def is_ours(connected: socket.socket) -> bool:
    """Whether the process at the other end has our user."""
    try:
        return user_of(connected) == os.geteuid()
    except OSError:
        return False
