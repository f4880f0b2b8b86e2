"""Accepting beside other processes on the same socket: who has more clients than another lets it go first.

All of them wake when a client comes, and the quickest would have it. With few clients that stay, as other
MTAs are, one process would be busy with most of them while another has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

PAUSE = 0.005  # seconds that others have to accept


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """As `inner`, but for a pause whenever `ahead`."""

    def __init__(self, inner: trio.SocketListener, ahead: Callable[[], bool]) -> None:
        self._inner = inner
        self._ahead = ahead

    async def accept(self) -> trio.SocketStream:
        """The next client. Raises OSError as `trio.SocketListener.accept`."""
        while True:
            await trio.lowlevel.wait_readable(self._inner.socket)
            if self._ahead():
                await trio.sleep(PAUSE)
                if not self._inner.socket.is_readable():
                    continue  # another has taken it
            with trio.move_on_after(PAUSE):  # another may take it in this very moment
                return await self._inner.accept()

    async def aclose(self) -> None:
        """Close the socket; in this process only."""
        await self._inner.aclose()
