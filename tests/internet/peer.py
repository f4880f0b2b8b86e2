"""A client that writes whatever it is told and reads SMTP replies: for talking to servers, also wrongly."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio


class Peer:
    """One end of a connection. Use as an async context manager, so that it is closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    @classmethod
    async def connect(cls, address: str, port: int) -> Self:
        """Connect in clear text; OSError when nobody listens."""
        return cls(await trio.open_tcp_stream(address, port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await trio.aclose_forcefully(self.stream)

    async def reply(self) -> str:
        """One complete reply, its lines joined by LF, or what came of it before the end of the stream."""
        lines: list[str] = []
        while True:
            while b"\n" not in self._buffer:
                octets = await self.stream.receive_some(65536)
                if not octets:
                    return "\n".join(lines)
                self._buffer += octets
            line, self._buffer = self._buffer.split(b"\n", 1)
            lines.append(line.rstrip(b"\r").decode("latin-1"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    async def say(self, *commands: str | bytes, replies: int | None = None) -> list[str]:
        """Send all in one write (CRLF is added to text, octets go as they are) and read one reply for each."""
        octets = [c if isinstance(c, bytes) else f"{c}\r\n".encode() for c in commands]
        await self.stream.send_all(b"".join(octets))
        return [await self.reply() for _ in range(len(commands) if replies is None else replies)]

    async def greet(self, name: str = "client.test") -> str:
        """Read the banner, say EHLO, return its reply."""
        await self.reply()
        [reply] = await self.say(f"EHLO {name}")
        return reply
