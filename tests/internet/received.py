"""What a scripted SMTP server saw: values for tests to look at."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """One finished handshake. `server_name` is the SNI that the client sent."""

    version: str
    cipher: str
    server_name: str | None
    resumed: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command line. `pipelined`: it was here before the reply to the command ahead of it was sent."""

    verb: str
    argument: str
    pipelined: bool
    tls: bool


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A content that arrived whole, with the final dot.

    `recipients` are the accepted ones. `content` is without dot-stuffing and final dot. `reply` is what the
    server answered (or would have, had the client waited), None when it fell silent or dropped the connection.
    """

    sender: str
    mail_parameters: tuple[str, ...]
    recipients: tuple[str, ...]
    rcpt_parameters: tuple[tuple[str, ...], ...]
    content: bytes
    reply: str | None
    helo: str
    tls: TlsFacts | None
    pipelined: bool

    @property
    def accepted(self) -> bool:
        """Whether the reply took responsibility."""
        return self.reply is not None and self.reply.startswith("2")


@dataclass(slots=True)
class Connection:
    """One connection, filled as it goes. `ended`: quit, closed (by the client), dropped (by us), broken."""

    client: str
    commands: list[Command] = field(default_factory=list)
    tls: TlsFacts | None = None
    tls_error: str | None = None
    incomplete: int | None = None  # octets of a content whose final dot never came
    ended: str | None = None

    @property
    def verbs(self) -> tuple[str, ...]:
        """The commands in order."""
        return tuple(command.verb for command in self.commands)
