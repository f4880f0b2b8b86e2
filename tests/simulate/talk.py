"""What a server in memory hears and says: lines, chunks and dot-stuffed content (RFC 5321 4.5.2, RFC 3030)."""

from __future__ import annotations

import ssl

import trio


class Talk:
    """The server's end of one connection; hearing raises EOFError once the client has gone.

    `unread` is what came and was not asked for yet; `portion`: so many octets leave with one write.
    """

    def __init__(self, stream: trio.abc.Stream, portion: int | None = None) -> None:
        self.stream = stream
        self.unread = b""
        self._portion = portion

    async def line(self) -> bytes:
        """The next line, without its CRLF."""
        while b"\r\n" not in self.unread:
            await self.more()
        line, _, self.unread = self.unread.partition(b"\r\n")
        return line

    async def chunk(self, size: int) -> bytes:
        """The next `size` octets."""
        while len(self.unread) < size:
            await self.more()
        chunk, self.unread = self.unread[:size], self.unread[size:]
        return chunk

    async def dotted(self) -> bytes:
        """Content up to the final dot, as it was before dots were stuffed."""
        content = b""
        while (line := await self.line()) != b".":
            content += (line[1:] if line.startswith(b".") else line) + b"\r\n"
        return content

    async def more(self) -> None:
        """Wait for octets."""
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self.unread += data

    async def say(self, text: str) -> None:
        """A reply, to which the last CRLF is added."""
        octets = text.encode() + b"\r\n"
        size = self._portion or len(octets)
        for at in range(0, len(octets), size):
            await self.stream.send_all(octets[at : at + size])

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Forget what came in clear (RFC 3207 4.2) and shake hands."""
        self.unread = b""
        secured = trio.SSLStream(self.stream, context, server_side=True)
        self.stream = secured
        await secured.do_handshake()
