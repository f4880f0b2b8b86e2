"""Small content, which nobody reads beside: an answer that came before it left says nothing of it."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from deliver.net.prompt import PromptStream
from deliver.net.wire import Wire
from deliver.outcome import Deferred
from deliver.settings import Timeouts
from tests.unit.net.wirescene import EHLO, HELLO, Text, transaction


class Held(Text):
    """Content that is read only after the server has said more than it should."""

    def __init__(self, octets: bytes, server: socket.socket, *, reset: bool) -> None:
        super().__init__(octets)
        self._server = server
        self._reset = reset

    async def read(self, offset: int, length: int) -> bytes:
        self._server.sendall(b"250 ok\r\n")
        if self._reset:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._server.close()
        return await super().read(offset, length)


async def answered_early(*, reset: bool) -> tuple[list[object], list[object]]:
    """Outcomes, and what was put down as delivered; the server takes the content and then refuses it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with ours, server:
        wire = Wire(PromptStream(ours), Timeouts())
        server.sendall(HELLO.encode())
        await wire.greeting()
        server.sendall(EHLO.encode())
        await wire.ehlo("me")
        text, noted = b"x\r\n" * 500, list[object]()
        server.sendall(b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n")
        job = transaction(wire, len(text))
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                if not reset:
                    nursery.start_soon(trio.to_thread.run_sync, _refuse, server)
                found = await wire.transact(
                    job, Held(text, server, reset=reset), lambda who, said: noted.append(who)
                )
                ours.close()
        return [outcome for _, outcome in found], noted


def _refuse(server: socket.socket) -> None:
    got = b""
    while not got.endswith(b"\r\n.\r\n") and (more := server.recv(65536)):
        got += more
    if got.endswith(b"\r\n.\r\n"):
        server.sendall(b"554 refused\r\n")


@pytest.mark.parametrize("reset", [True, False])
async def test_a_message_is_not_delivered_by_a_reply_before_its_content(reset: bool) -> None:
    outcomes, noted = await answered_early(reset=reset)
    assert outcomes
    assert all(isinstance(outcome, Deferred) and not outcome.in_doubt for outcome in outcomes)
    assert not noted
