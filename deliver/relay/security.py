"""The ports behind which TLS and AUTH of the relay stand: the connection asks, others answer.

    STARTTLS, or TLS before the greeting    `Security.secure`, once per connection
    AUTH                                    `Security.mechanisms` at EHLO; `begin`, then `Exchange.respond`
                                            with what the client said until the answer is no Challenge

Nothing of what a client said before `secure` returned counts afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import trio

from deliver.smtp.reply import Reply


@dataclass(frozen=True, slots=True)
class Secured:
    """TLS with a client: what to talk over from now on, and what is known of the client by it.

    `version` such as "TLSv1.3", `cipher` as OpenSSL calls it. `names`: those in the client's certificate, in
    lower-case A-labels, only if its chain was verified. `bindings`: channel bindings by type.
    """

    stream: trio.abc.Stream
    version: str
    cipher: str
    sni: str = ""
    resumed: bool = False
    names: tuple[str, ...] = ()
    bindings: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Client:
    """Who talks to us, as far as it is known. `address` is an IP address, or "local"; `port` 0 if unknown.

    `local` is our own address and port, of which the load balancer's `proxy` (address, or "") knew.
    """

    address: str
    port: int = 0
    local: tuple[str, int] = ("", 0)
    proxy: str = ""
    secured: Secured | None = None
    authenticated: str | None = None


@dataclass(frozen=True, slots=True)
class Challenge:
    """Say this to the client and come back with its response."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The client is `identity`."""

    identity: str


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """It is not, or nobody can tell now: `reply` is 535, 454, 501 …; a 421 also closes the connection."""

    reply: Reply


class Exchange(Protocol):
    """One AUTH under way. Never raises but for cancellation; waits here where a failure is to cost time."""

    async def respond(self, response: bytes | None) -> Challenge | LoggedIn | LoginRefused:
        """`response`: the initial one (None: there was none), then the answer to each challenge."""
        ...

    def abandon(self) -> None:
        """The client gave up, or is gone; not called after LoggedIn or LoginRefused."""
        ...


class Security(Protocol):
    """TLS and AUTH for the clients of one listener."""

    @property
    def tls(self) -> bool:
        """Whether there is a certificate, so that STARTTLS can be offered."""
        ...

    async def secure(self, stream: trio.abc.Stream, client: Client) -> Secured:
        """The handshake as a server, within its time. Raises PeerError; the stream is then to be closed."""
        ...

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """What AUTH offers this client on its connection as it is, upper case, the best first."""
        ...

    def begin(self, mechanism: str, client: Client) -> Exchange:
        """An exchange with one of these mechanisms."""
        ...


class NoSecurity:
    """Neither TLS nor AUTH."""

    @property
    def tls(self) -> bool:
        """No."""
        return False

    async def secure(self, stream: trio.abc.Stream, client: Client) -> Secured:
        """Never called: TLS is not offered."""
        raise AssertionError("there is no TLS")

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """None."""
        return ()

    def begin(self, mechanism: str, client: Client) -> Exchange:
        """Never called: AUTH is not offered."""
        raise AssertionError("there is no AUTH")
