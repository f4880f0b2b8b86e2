"""An honest SMTP server in memory that remembers what it took responsibility for, and a stream that is cut."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import trio

KEYWORDS = ("PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "PRDR")


class Cut(trio.abc.Stream):
    """A stream that breaks once `octets` of them have passed in either direction (None: never)."""

    def __init__(
        self, inner: trio.abc.HalfCloseableStream, out: int | None = None, into: int | None = None
    ) -> None:
        self._inner = inner
        self._out = out
        self._into = into
        self.sent = 0
        self.received = 0
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        octets = bytes(data)
        if self._out is not None and self.sent + len(octets) >= self._out:
            passed = octets[: max(0, self._out - self.sent)]
            self.sent += len(passed)
            if passed:
                await self._pass_on(passed)
            await self._break()
        self.sent += len(octets)
        await self._pass_on(octets)

    async def _pass_on(self, octets: bytes) -> None:
        try:
            await self._inner.send_all(octets)
        except trio.ClosedResourceError:  # the other direction was cut meanwhile
            raise trio.BrokenResourceError("cut") from None

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = None if self._into is None else self._into - self.received
        if limit is not None and limit <= 0:
            await self._break()
        data = bytes(await self._inner.receive_some(limit))
        self.received += len(data)
        return data

    async def _break(self) -> NoReturn:
        self._out = self._into = 0
        with suppress(trio.ClosedResourceError):
            await self._inner.send_eof()
        raise trio.BrokenResourceError("cut")

    async def aclose(self) -> None:
        self.closed = True
        await self._inner.aclose()


@dataclass(frozen=True)
class Script:
    """How a server behaves. `replies` take the place of the ordinary ones; None hangs up.

    Their keys are the verbs, "greeting", and "EHLO-TLS" for EHLO inside TLS. With `listens` seconds it waits so
    long for commands before it greets; with `drains` it throws away what it read before it answers EHLO.
    """

    keywords: tuple[str, ...] = KEYWORDS
    keywords_tls: tuple[str, ...] | None = None
    name: str = "mx"
    tls: ssl.SSLContext | None = None
    replies: Mapping[str, str | None] = field(default_factory=dict)
    listens: float = 0
    drains: bool = False
    portion: int | None = None  # octets per write


class HangUp(Exception):
    """The server leaves."""


class MemoryServer:
    """One connection. `taken` has a set of recipients per message that it answered 2yz, or meant to.

    Recipients that begin with "no" are refused at RCPT, those with "taste" by PRDR. `commands` has the lines
    that it took for commands, `early` what it had got before it greeted.
    """

    def __init__(self, stream: trio.abc.Stream, script: Script | tuple[str, ...] = KEYWORDS) -> None:
        self._stream = stream
        self._script = script if isinstance(script, Script) else Script(script)
        self._secured = False
        self._offered: tuple[str, ...] = ()
        self._unread = b""
        self._mail = False
        self.early = b""
        self.commands: list[str] = []
        self.in_clear: list[str] = []  # those of them that came without TLS
        self._rcpts: list[str] = []
        self._prdr = False
        self._content = b""
        self.taken: list[tuple[frozenset[str], bytes]] = []

    async def serve(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, EOFError, HangUp):
            await self._serve()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(1):
            await self._stream.aclose()

    async def _serve(self) -> None:
        if self._script.listens:
            with trio.move_on_after(self._script.listens):
                await self._more()
        self.early = self._unread
        await self._reply("greeting", "220 mx")
        while True:
            line = (await self._line()).decode("latin-1")
            self.commands.append(line)
            if not self._secured:
                self.in_clear.append(line)
            verb = line.split()[0].upper() if line.split() else ""
            if verb in self._script.replies and verb != "EHLO":
                self._mail = verb == "MAIL" and (self._script.replies[verb] or "").startswith("2")
                await self._reply(verb, "")
            elif verb == "EHLO":
                await self._ehlo()
            elif verb == "STARTTLS" and self._script.tls is not None:
                await self._start_tls(self._script.tls)
            elif verb == "MAIL":
                self._mail, self._rcpts, self._content = True, [], b""
                self._prdr = line.endswith("PRDR")
                await self._say("250 sender")
            elif verb == "RCPT":
                await self._rcpt(line.partition("<")[2].partition("@")[0])
            elif verb == "DATA":
                await self._data()
            elif verb == "BDAT" and "CHUNKING" in self._offered:
                await self._bdat(line.split())
            elif verb == "RSET":
                self._rcpts = []
                await self._say("250 reset")
            elif verb == "QUIT":
                await self._say("221 bye")
                return
            else:
                await self._say("500 5.5.1 what?")

    async def _ehlo(self) -> None:
        script = self._script
        inside = script.keywords if script.keywords_tls is None else script.keywords_tls
        self._offered = inside if self._secured else script.keywords
        offers = (*self._offered, "STARTTLS") if script.tls and not self._secured else self._offered
        if script.drains:
            self._unread = b""
        reply = "\r\n".join([f"250-{script.name}", *(f"250-{word}" for word in offers), "250 HELP"])
        await self._reply("EHLO-TLS" if self._secured else "EHLO", reply)

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        await self._say("220 go ahead")
        self._unread = b""
        self._stream = trio.SSLStream(self._stream, context, server_side=True)
        self._secured = True

    async def _reply(self, point: str, ordinary: str) -> None:
        text = self._script.replies.get(point, ordinary)
        if text is None:
            raise HangUp
        await self._say(text)

    async def _rcpt(self, who: str) -> None:
        if not self._mail:
            await self._say("503 5.5.1 no sender")
        elif who.startswith("no"):
            await self._say("550 5.1.1 unknown")
        else:
            self._rcpts.append(who)
            await self._say("250 recipient")

    async def _data(self) -> None:
        if not self._rcpts:
            await self._say("503 5.5.1 nobody")
            return
        await self._say("354 go on")
        while (line := await self._line()) != b".":
            self._content += (line[1:] if line.startswith(b".") else line) + b"\r\n"
        await self._end()

    async def _bdat(self, words: list[str]) -> None:
        size = int(words[1])
        while len(self._unread) < size:
            await self._more()
        self._content += self._unread[:size]
        self._unread = self._unread[size:]
        if not self._rcpts:
            await self._say("503 5.5.1 nobody")
        elif len(words) > 2:
            await self._end()
        else:
            await self._say("250 chunk")

    async def _end(self) -> None:
        tasted = [who for who in self._rcpts if who.startswith("taste")] if self._prdr else []
        self.taken.append((frozenset(self._rcpts) - frozenset(tasted), self._content))
        if self._prdr:
            await self._say("353 one by one")
            for who in self._rcpts:
                await self._say("550 5.7.1 taste" if who in tasted else "250 fine")
        self._rcpts = []
        await self._say("250 taken")

    async def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            await self._more()
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    async def _more(self) -> None:
        data = await self._stream.receive_some()
        if not data:
            raise EOFError
        self._unread += data

    async def _say(self, text: str) -> None:
        octets = text.encode() + b"\r\n"
        size = self._script.portion or len(octets)
        for at in range(0, len(octets), size):
            await self._stream.send_all(octets[at : at + size])
