"""AUTH with one client of the relay: between the machine's questions and `Security`."""

from __future__ import annotations

from dataclasses import replace

from deliver.relay.security import Challenge, Client, Exchange, LoggedIn, LoginRefused, Security
from deliver.smtp.action import AuthExchange
from deliver.smtp.server import ServerMachine


class LoginExchange:
    """The exchange that is under way, if one is."""

    def __init__(self, security: Security, machine: ServerMachine) -> None:
        self._security = security
        self._machine = machine
        self._exchange: Exchange | None = None

    @property
    def under_way(self) -> bool:
        """Whether one has begun and not ended."""
        return self._exchange is not None

    async def answer(self, question: AuthExchange, client: Client) -> Client:
        """Answer the machine's question; returns the client as it is known then."""
        if question.first:
            self._exchange = self._security.begin(question.mechanism, client)
        assert self._exchange is not None, "no exchange has begun"
        answer = await self._exchange.respond(question.response)
        match answer:
            case Challenge(data=data):
                self._machine.challenge(data)
                return client
            case LoggedIn(identity=identity):
                self._machine.authenticate(identity)
                client = replace(client, authenticated=identity)
            case LoginRefused(reply=reply):
                self._machine.refuse(reply)
        self._exchange = None
        return client

    def give_up(self) -> None:
        """The client does not go on with it, or is gone."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
