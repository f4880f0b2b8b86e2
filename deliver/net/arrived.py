"""Whether something has arrived on a socket, without reading it and without waiting."""

from __future__ import annotations

import select

import trio


def has_arrived(stream: trio.SocketStream) -> bool:
    """Whether octets, or the end of the stream, wait to be read."""
    poll = select.poll()
    poll.register(stream.socket, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
