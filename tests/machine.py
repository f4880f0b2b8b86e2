"""A driver of the server machine for tests: says yes to every question unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from deliver.message import Mailbox
from deliver.smtp.action import (
    AbandonContent,
    AbandonExchange,
    AuthExchange,
    BeginContent,
    Close,
    ContentChunk,
    EndContent,
    Handshake,
    Question,
)
from deliver.smtp.reply import Reply
from deliver.smtp.server import Limits, ServerMachine

LIMITS = Limits(message_size=10_000, recipients=3, errors=5, idle_commands=10)
GREETED = b"EHLO client.test\r\n"
OPENED = GREETED + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"


@dataclass
class Driver:
    """Answers every question with yes, except those in `refusals`."""

    machine: ServerMachine = field(default_factory=lambda: ServerMachine(LIMITS, "relay.test"))
    refusals: dict[type, Reply] = field(default_factory=dict)
    written: bytes = b""
    questions: list[object] = field(default_factory=list)
    messages: list[tuple[EndContent, bytes]] = field(default_factory=list)
    content: bytes = b""
    abandoned: int = 0
    closed: str | None = None
    handshakes: int = 0
    exchanges_abandoned: int = 0

    def __post_init__(self) -> None:
        self.run()
        assert self.written == b"220 relay.test ESMTP Outrider\r\n"

    def say(self, data: bytes) -> list[str]:
        """Feed octets; the lines that came back."""
        before = len(self.written)
        self.machine.receive(data)
        self.run()
        return self.written[before:].decode("ascii").splitlines()

    def run(self) -> None:
        while (action := self.machine.next_action()) is not None:
            self.written += self.machine.take_output()
            match action:
                case ContentChunk(data=data):
                    self.content += data
                case AbandonContent():
                    self.abandoned += 1
                    self.content = b""
                case Close(why=why):
                    self.closed = why
                case Handshake():
                    self.handshakes += 1
                case AbandonExchange():
                    self.exchanges_abandoned += 1
                case _:
                    self.answer(action)
        self.written += self.machine.take_output()

    def answer(self, question: Question) -> None:
        self.questions.append(question)
        if type(question) in self.refusals:
            self.machine.refuse(self.refusals[type(question)])
            return
        if isinstance(question, BeginContent):
            self.content = b""
        if isinstance(question, EndContent):
            self.messages.append((question, self.content))
            if question.individually:
                self.machine.accept_some(self.verdicts(question), Reply(250, ("2.0.0 Ok: queued as X1",)))
            else:
                self.machine.accept(Reply(250, ("2.0.0 Ok: queued as X1",)))
            return
        if isinstance(question, AuthExchange):
            if question.response is None or question.response == b"more":
                self.machine.challenge(b"go on")
            else:
                self.machine.authenticate("ann")
            return
        self.machine.accept()

    def verdicts(self, question: EndContent) -> dict[Mailbox, Reply]:
        refused = Reply(550, ("5.7.1 Not this",))
        return {
            box: refused if box.local_part == "no" else Reply(250, ("2.1.5 Ok",))
            for box in question.recipients
        }

    def codes(self, data: bytes) -> list[int]:
        return [int(line[:3]) for line in self.say(data) if line[3:4] == " "]
