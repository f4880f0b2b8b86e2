"""The LMTP server without I/O (RFC 2033): SMTP with LHLO, and one reply per accepted RCPT after the content.

HELO and EHLO are refused (RFC 2033 4.1). A recipient that is named twice is one recipient with two replies
(RFC 2033 4.2). Whatever refuses the content as a whole is said once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

from deliver.message import Mailbox
from deliver.smtp.action import ConsiderRecipient, EndContent
from deliver.smtp.offer import Offer
from deliver.smtp.reply import Reply
from deliver.smtp.request import Foreign, Request, Verb, parse_line
from deliver.smtp.server import Limits, ServerMachine

_NOT_HERE = Reply(500, ("5.5.1 This is LMTP: say LHLO",))


class LmtpMachine(ServerMachine):
    """One session with one client. EndContent is answered with `accept_each`, or with `refuse` for all."""

    protocol = "LMTP"

    def __init__(self, limits: Limits, hostname: str) -> None:
        super().__init__(limits, hostname, Offer(prdr=False, requiretls=False))
        self._named: list[Mailbox] = []  # one per accepted RCPT

    def accept(self, reply: Reply | None = None) -> None:
        """Answer any question but EndContent with yes."""
        question = self._question
        assert not isinstance(question, EndContent), "answered by accept_each"
        super().accept(reply)
        if isinstance(question, ConsiderRecipient):
            self._named.append(question.mailbox)

    def accept_each(self, reply_to: Callable[[Mailbox], Reply]) -> None:
        """Answer EndContent: the reply to each recipient, in the order of RCPT."""
        question, self._question = self._question, None
        assert isinstance(question, EndContent), "the content has not ended"
        self._idle_commands = 0
        named = self._named
        self._end_transaction()
        for mailbox in named:
            self._send(reply_to(mailbox))

    def _refuse_message(self, reply: Reply, *, count: bool) -> None:
        named = self._named
        self._end_transaction()
        for _ in named[1:]:
            self._send(reply)
        self._respond(reply, count=count)

    def _named_again(self, mailbox: Mailbox) -> None:
        self._named.append(mailbox)
        super()._named_again(mailbox)

    def _reset(self, verb: Verb) -> None:
        super()._reset(verb)
        self._named = []

    def _end_transaction(self) -> None:
        super()._end_transaction()
        self._named = []

    def _parse(self, line: bytes) -> Request | Foreign | Reply:
        word, space, argument = line.partition(b" ")
        verb = word.upper()
        if verb in (b"EHLO", b"HELO"):
            return _NOT_HERE
        if verb == b"LHLO":
            read = parse_line(b"EHLO" + space + argument)
            if isinstance(read, Reply):
                return Reply(read.code, tuple(text.replace("EHLO", "LHLO") for text in read.lines))
            return read
        return parse_line(line)
