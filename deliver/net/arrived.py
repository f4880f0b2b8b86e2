"""Whether something has arrived on a socket, without reading it and without waiting."""

from __future__ import annotations

import select

import trio

from deliver.net.prompt import PromptStream


def has_arrived(stream: trio.SocketStream | PromptStream) -> bool:
    """Whether octets, or the end of the stream, wait to be read."""
    if isinstance(stream, PromptStream):
        return stream.arrived()
    poll = select.poll()
    poll.register(stream.socket, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
