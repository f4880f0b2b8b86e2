"""The middle of the SMTP server machine: STARTTLS (RFC 3207) and AUTH (RFC 4954).

Octets behind STARTTLS close the connection: they came in clear text, and nothing may tell them from what
comes inside TLS (RFC 3207 6, CVE-2021-38371).
"""

from __future__ import annotations

import base64

from deliver.smtp.action import AbandonExchange, AuthExchange, StartTls
from deliver.smtp.offer import Limits, Offer
from deliver.smtp.reply import Reply
from deliver.smtp.request import Request, decode_response, parse_auth
from deliver.smtp.serverline import MAX_COMMAND, LineMachine
from deliver.smtp.serverstates import State

MAX_RESPONSE = 12288 + 64  # octets of an AUTH line with CRLF (RFC 4954 4)


class SecuringMachine(LineMachine):
    """What of a session makes it confidential, and the client known."""

    def __init__(self, limits: Limits, hostname: str, offer: Offer) -> None:
        super().__init__(limits, hostname)
        self._offer = offer
        self._mechanism = ""
        self.helo = ""
        self.extended = False
        self.secured = False
        self.authenticated: str | None = None  # as whom the client has logged in

    def challenge(self, data: bytes) -> None:
        """Answer AuthExchange with another challenge."""
        question, self._question = self._question, None
        assert isinstance(question, AuthExchange), "there is no exchange"
        self.state = State.EXCHANGE
        self._say(b"334 " + base64.b64encode(data) + b"\r\n")

    def authenticate(self, identity: str) -> None:
        """Answer AuthExchange with yes: from now on the client is `identity`."""
        question, self._question = self._question, None
        assert isinstance(question, AuthExchange), "there is no exchange"
        self.state, self.authenticated = State.READY, identity
        self._send(Reply(235, ("2.7.0 Logged in",)))

    def tls_started(self, offer: Offer | None = None) -> None:
        """TLS is there: nothing that was said before counts any more (RFC 3207 4.2).

        The offer may be another. Also at once after the beginning, where TLS comes before the greeting.
        """
        assert not self._buffer, "octets from outside TLS"
        assert self.state in (State.HANDSHAKE, State.FRESH), "not now"
        self.secured, self.state = True, State.FRESH
        self.helo, self.extended, self.authenticated = "", False, None
        self._offer = offer or self._offer

    @property
    def _longest_line(self) -> int:
        return MAX_RESPONSE if self._offer.mechanisms else MAX_COMMAND

    def _on_starttls(self, request: Request) -> None:
        if self.secured:
            self._respond(Reply(503, ("5.5.1 TLS is there already",)), count=True)
        elif self._buffer:
            self.close(Reply(421, ("4.7.0 Octets behind STARTTLS",)), "octets behind STARTTLS, in clear text")
        elif not self._is_idle_too_long():
            self._actions.append(StartTls())

    def _on_auth(self, request: Request) -> None:
        if self.authenticated is not None:
            self._respond(Reply(503, ("5.5.1 You are logged in already",)), count=True)
            return
        if not self._offer.may_auth(secured=self.secured):
            self._respond(Reply(538, ("5.7.11 AUTH needs TLS here: send STARTTLS first",)), count=True)
            return
        read = parse_auth(request.argument)
        if isinstance(read, Reply):
            self._respond(read, count=True)
        elif read[0] not in self._offer.mechanisms:
            self._respond(Reply(504, ("5.5.4 This mechanism is not offered",)), count=True)
        elif not self._is_idle_too_long():
            self._mechanism, response = read
            self._actions.append(AuthExchange(self._mechanism, response, first=True))

    def _on_response(self, line: bytes, length: int) -> None:
        response = decode_response(line) if length <= MAX_RESPONSE else None
        if response is not None:
            self._actions.append(AuthExchange(self._mechanism, response, first=False))
            return
        self.state = State.READY
        self._actions.append(AbandonExchange())
        text = "5.7.0 AUTH was cancelled" if line == b"*" else "5.5.2 The response is not base64"
        self._respond(Reply(501, (text,)), count=True)
