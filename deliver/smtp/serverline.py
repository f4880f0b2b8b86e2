"""The lower half of the SMTP server machine: octets in, lines and actions out, and an end to patience.

Lines end with CRLF only: a line that ends with a bare LF is refused and the connection closed, since nobody
can tell what the sender of it meant to be a command.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from deliver.smtp.action import QUESTIONS, AbandonContent, Action, Close, Question
from deliver.smtp.answer import encode
from deliver.smtp.offer import Limits
from deliver.smtp.reply import Reply
from deliver.smtp.serverstates import State

MAX_COMMAND = 2048  # octets with CRLF; RFC 5321 4.5.3.1.4 asks for 512, our longest address needs 520
MAX_DISCARD = 65536  # octets of one line, after which we stop waiting for its end


class LineMachine(ABC):
    """What of a session does not depend on the commands."""

    protocol = "ESMTP"  # in the greeting

    def __init__(self, limits: Limits, hostname: str) -> None:
        self._limits = limits
        self._hostname = hostname
        self._buffer = b""
        self._line_length = 0  # octets of the unfinished line that were thrown away
        self._output = bytearray()
        self._actions: deque[Action | bytes] = deque()  # octets among them: replies to what follows on them
        self._question: Question | None = None
        self._errors = 0
        self._idle_commands = 0
        self.state = State.FRESH
        self._send(Reply(220, (f"{hostname} {self.protocol} Outrider",)))

    def receive(self, data: bytes) -> None:
        """Take octets from the client; empty means that it closed its side."""
        if self.state is State.CLOSED:
            return
        assert self.state is not State.HANDSHAKE, "these octets are for TLS"
        if not data:
            self._close("the client closed the connection without QUIT")
            return
        self._buffer = self._buffer + data if self._buffer else data

    def next_action(self) -> Action | None:
        """What to do now, or None: then more octets are needed. Not while a question waits for its answer."""
        assert self._question is None, "the last question was not answered"
        while True:
            while self._actions:
                action = self._actions.popleft()
                if isinstance(action, bytes):
                    self._output += action
                    continue
                if type(action) in QUESTIONS:
                    self._question = action  # type: ignore[assignment]  # QUESTIONS are the types of Question
                return action
            if not self._progress():
                return None

    def take_output(self) -> bytes:
        """The replies so far; to be written before anything is waited for, a handshake, or the end."""
        if not self._output:
            return b""
        output = bytes(self._output)
        self._output.clear()
        return output

    def close(self, reply: Reply, why: str) -> None:
        """Say `reply` (a 421) and close; content that was begun is abandoned (RFC 5321 3.8)."""
        if self.state is not State.CLOSED:
            self._actions.extend(self._abandoned(why))
            self._send(reply)
            self._close(why)

    def turn_away(self, reply: Reply, why: str) -> None:
        """Say `reply` instead of the greeting, and close."""
        assert self.state is State.FRESH, "the greeting was sent"
        self._output.clear()
        self.close(reply, why)

    # What the upper half decides

    @abstractmethod
    def _progress(self) -> bool:
        """Do the next thing that the buffer allows; False when more octets are needed."""

    @abstractmethod
    def _take(self, line: bytes, length: int) -> None:
        """A line without its CRLF; `length` counts that too, and octets that were thrown away before."""

    @abstractmethod
    def _abandoned(self, why: str) -> tuple[AbandonContent, ...]:
        """What is to be said of content that will not be completed."""

    @property
    def _longest_line(self) -> int:
        return MAX_COMMAND

    # Lines and replies

    def _read_line(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0:
            if self._line_length + len(self._buffer) > MAX_DISCARD:
                self.close(Reply(421, ("4.7.0 Line too long, closing connection",)), "endless command line")
                return True
            if len(self._buffer) > self._longest_line:  # already refused; only its end is still of interest
                self._line_length += len(self._buffer) - 1
                self._buffer = self._buffer[-1:]
            return False
        line, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
        length, self._line_length = self._line_length + len(line), 0
        if length > MAX_DISCARD:
            self.close(Reply(421, ("4.7.0 Line too long, closing connection",)), "endless command line")
        elif not line.endswith(b"\r\n"):
            self.close(Reply(500, ("5.5.2 Lines must end with CRLF",)), "a command ended with a bare LF")
        else:
            self._take(line[:-2], length)
        return True

    def _close(self, why: str) -> None:
        """Nothing more to say: the client is gone, or was told."""
        self._actions.extend(self._abandoned(why))
        self._actions.append(Close(why))
        self.state = State.CLOSED

    def _respond_idle(self, reply: Reply) -> None:
        if not self._is_idle_too_long():
            self._send(reply)

    def _is_idle_too_long(self) -> bool:
        self._idle_commands += 1
        if self._idle_commands <= self._limits.idle_commands:
            return False
        self.close(Reply(421, ("4.7.0 Too many commands without a message",)), "too many idle commands")
        return True

    def _respond(self, reply: Reply, *, count: bool) -> None:
        self._errors += count
        if self._errors > self._limits.errors:
            self.close(Reply(421, ("4.7.0 Too many errors, closing connection",)), "too many errors")
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        self._say(encode(reply))

    def _say(self, octets: bytes) -> None:
        """An encoded reply, behind what is to be done before it."""
        if self._actions:
            self._actions.append(octets)
        else:
            self._output += octets
