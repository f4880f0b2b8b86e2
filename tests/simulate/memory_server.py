"""An honest SMTP server in memory that remembers what it took responsibility for."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from tests.simulate.talk import Talk

KEYWORDS = ("PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "PRDR")


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
        self._script = script if isinstance(script, Script) else Script(script)
        self._talk = Talk(stream, self._script.portion)
        self._secured = False
        self._offered: tuple[str, ...] = ()
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
            await self.leave()

    async def leave(self) -> None:
        """Close the connection without a word."""
        await self._talk.stream.aclose()

    async def _serve(self) -> None:
        if self._script.listens:
            with trio.move_on_after(self._script.listens):
                await self._talk.more()
        self.early = self._talk.unread
        await self._reply("greeting", "220 mx")
        while True:
            line = (await self._talk.line()).decode("latin-1")
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
                await self._talk.say("250 sender")
            elif verb == "RCPT":
                await self._rcpt(line.partition("<")[2].partition("@")[0])
            elif verb == "DATA":
                await self._data()
            elif verb == "BDAT" and "CHUNKING" in self._offered:
                await self._bdat(line.split())
            elif verb == "RSET":
                self._rcpts = []
                await self._talk.say("250 reset")
            elif verb == "QUIT":
                await self._talk.say("221 bye")
                return
            else:
                await self._talk.say("500 5.5.1 what?")

    async def _ehlo(self) -> None:
        script = self._script
        inside = script.keywords if script.keywords_tls is None else script.keywords_tls
        self._offered = inside if self._secured else script.keywords
        offers = (*self._offered, "STARTTLS") if script.tls and not self._secured else self._offered
        if script.drains:
            self._talk.unread = b""
        reply = "\r\n".join([f"250-{script.name}", *(f"250-{word}" for word in offers), "250 HELP"])
        await self._reply("EHLO-TLS" if self._secured else "EHLO", reply)

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        await self._talk.say("220 go ahead")
        await self._talk.start_tls(context)
        self._secured = True

    async def _reply(self, point: str, ordinary: str) -> None:
        text = self._script.replies.get(point, ordinary)
        if text is None:
            raise HangUp
        await self._talk.say(text)

    async def _rcpt(self, who: str) -> None:
        if not self._mail:
            await self._talk.say("503 5.5.1 no sender")
        elif who.startswith("no"):
            await self._talk.say("550 5.1.1 unknown")
        else:
            self._rcpts.append(who)
            await self._talk.say("250 recipient")

    async def _data(self) -> None:
        if not self._rcpts:
            await self._talk.say("503 5.5.1 nobody")
            return
        await self._talk.say("354 go on")
        self._content += await self._talk.dotted()
        await self._end()

    async def _bdat(self, words: list[str]) -> None:
        self._content += await self._talk.chunk(int(words[1]))
        if not self._rcpts:
            await self._talk.say("503 5.5.1 nobody")
        elif len(words) > 2:
            await self._end()
        else:
            await self._talk.say("250 chunk")

    async def _end(self) -> None:
        tasted = [who for who in self._rcpts if who.startswith("taste")] if self._prdr else []
        self.taken.append((frozenset(self._rcpts) - frozenset(tasted), self._content))
        if self._prdr:
            await self._talk.say("353 one by one")
            for who in self._rcpts:
                await self._talk.say("550 5.7.1 taste" if who in tasted else "250 fine")
        self._rcpts = []
        await self._talk.say("250 taken")
