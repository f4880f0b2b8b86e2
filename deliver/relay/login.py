"""Who checks a login: the ports, and the file of passwords behind them.

Judgement     what the guard (`deliver.relay.guard`) makes of it
------------  ---------------------------------------------------------------
Challenge     334
LoggedIn      235
Denied        535, after a delay; 421 when it was too often
Unavailable   454: nobody can tell now
Broken        501: the client does not keep to the mechanism
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from deliver.errors import ConfigurationError
from deliver.relay import passwords
from deliver.relay.passwords import Passwords
from deliver.relay.security import Challenge, Client, LoggedIn
from deliver.relay.watched import Watched
from deliver.smtp import saslserver
from deliver.smtp.sasl import SCRAM, SCRAM_PLUS

CHECKS = 2  # passwords looked at at a time: each takes a processor, and maybe much memory

log = logging.getLogger("outrider.relay")


@dataclass(frozen=True, slots=True)
class Denied:
    """The client has not shown that it is `username` ("" where that is not known)."""

    why: str
    username: str = ""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody can tell now."""

    why: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The client does not keep to the mechanism."""

    why: str


Judgement = Challenge | LoggedIn | Denied | Unavailable | Broken


class Attempt(Protocol):
    """One exchange under way. Never raises but for cancellation."""

    async def respond(self, response: bytes | None) -> Judgement:
        """The initial response (None: there was none), then the answers to the challenges."""
        ...

    def close(self) -> None:
        """It is over, however it ended."""
        ...


class LoginService(Protocol):
    """Checks logins."""

    async def run(self) -> None:
        """What goes on in the background as long as the service is used; returns where nothing does."""
        ...

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """What can be offered to this client, upper case."""
        ...

    def begin(self, mechanism: str, client: Client) -> Attempt:
        """A new exchange with one of these."""
        ...


class PasswordService:
    """Logins by the file of passwords, which is read again when it changes.

    While it cannot be read nobody logs in, and clients are told to come again.
    """

    def __init__(self, path: Path, wanted: tuple[str, ...]) -> None:
        """`wanted`: mechanisms, upper case, the best first. Raises ConfigurationError."""
        self._wanted = wanted
        self._file = Watched((path,), lambda: read(path))
        self._checking = trio.CapacityLimiter(CHECKS)

    async def run(self) -> None:
        """Nothing: the file is looked at when it is needed."""
        await trio.lowlevel.checkpoint()

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """SCRAM as far as the entries and the connection allow."""
        scram = self._file.last_good.scram
        bound = bool(client.secured and client.secured.bindings)
        possible = {SCRAM_PLUS: scram and bound, SCRAM: scram}
        return tuple(each for each in self._wanted if possible.get(each, True))

    def begin(self, mechanism: str, client: Client) -> Attempt:
        """A new exchange, by the file as it is now."""
        try:
            entries = self._file.current()
        except ConfigurationError as error:
            return _Hopeless(str(error))
        bindings = client.secured.bindings if client.secured else {}
        exchange: saslserver.Exchange
        if mechanism == "PLAIN":
            exchange = saslserver.PlainExchange()
        elif mechanism == "LOGIN":
            exchange = saslserver.LoginExchange()
        else:
            exchange = saslserver.ScramExchange(
                entries.keys_of,
                secrets.token_urlsafe(24),
                bindings,
                plus=mechanism == SCRAM_PLUS,
                offered_plus=SCRAM_PLUS in self.mechanisms(client),
            )
        return _PasswordAttempt(exchange, entries.check, self._checking)


def read(path: Path) -> Passwords:
    """The file of passwords. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            content = file.read(passwords.MAX_FILE + 1)
        if len(content) > passwords.MAX_FILE:
            raise ValueError(f"it is larger than {passwords.MAX_FILE} octets")
        text = content.decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, UnicodeDecodeError):
            why = "it is not a text file"
        raise ConfigurationError(
            f"reading the passwords of {path}", why, "correct relay.auth.password_file"
        ) from None
    return passwords.parse(text, str(path))


class _PasswordAttempt:
    def __init__(
        self,
        exchange: saslserver.Exchange,
        check: Callable[[str, str], bool],
        limiter: trio.CapacityLimiter,
    ) -> None:
        self._exchange = exchange
        self._check = check
        self._limiter = limiter

    async def respond(self, response: bytes | None) -> Judgement:
        await trio.lowlevel.checkpoint()
        match self._exchange.respond(response):
            case saslserver.Challenge(data=data):
                return Challenge(data)
            case saslserver.Accepted(username=username):
                return LoggedIn(username)
            case saslserver.Rejected(why=why, username=username):
                return Denied(why, username)
            case saslserver.Broken(why=why):
                return Broken(why)
            case saslserver.Check(username=username, password=password):
                fits = await trio.to_thread.run_sync(self._check, username, password, limiter=self._limiter)
                return LoggedIn(username) if fits else Denied("wrong user name or password", username)

    def close(self) -> None:
        """Nothing is held."""


class _Hopeless:
    """An exchange that cannot be begun."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def respond(self, response: bytes | None) -> Judgement:
        await trio.lowlevel.checkpoint()
        return Unavailable(self._why)

    def close(self) -> None:
        """Nothing is held."""
