"""TLS and AUTH for the clients of the relay: what stands behind the ports of `deliver.relay.security`.

AUTH is offered inside TLS only. Who fails waits for `failure_delay`, then hears 535; the `max_failures`-th
time in a connection, or after `client_failures` of one client, it hears 421 instead. A client with too many
failures is not asked for its password any more, so that it learns nothing from what it tries. Neither
passwords nor responses are in any text.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

import trio

from deliver.configuration.files import secret_path
from deliver.net.clock import Clock
from deliver.net.tlsstream import TlsStream
from deliver.relay.certificates import Certificates
from deliver.relay.dovecotlogin import DovecotService, Place
from deliver.relay.failures import Failures
from deliver.relay.login import Attempt, Broken, Denied, LoginService, PasswordService, Unavailable
from deliver.relay.security import Challenge, Client, Exchange, LoggedIn, LoginRefused, Secured
from deliver.report.log import say
from deliver.settings import RelayAuth, Settings
from deliver.smtp.reply import Reply
from deliver.tls.certificate import end_point
from deliver.tls.engine import TlsEngine, TlsError
from deliver.tls.pkix import TrustStore
from deliver.tls.serving import client_names
from deliver.tls.verdict import Handshake
from events.catalogue import Event

WRONG = Reply(535, ("5.7.8 Authentication credentials invalid",))
TOO_OFTEN = Reply(421, ("4.7.0 Too many failed logins, closing connection",))
UNAVAILABLE = Reply(454, ("4.7.0 Temporary authentication failure",))
NOT_UNDERSTOOD = Reply(501, ("5.5.2 The response does not fit the mechanism",))

log = logging.getLogger("outrider.relay")

Tell = Callable[[Event], Awaitable[None]]


class Guard:
    """TLS and AUTH by the settings. `run` keeps what they need up to date."""

    def __init__(
        self, settings: Settings, clock: Clock, tell: Tell, failures: Failures | None = None
    ) -> None:
        """`tell` gets auth:fail events; the `failures` of an earlier guard still count.

        Raises ConfigurationError. Inside a trio run.
        """
        self._tls = settings.relay.tls
        self.auth = settings.relay.auth
        self._clock = clock
        self._tell = tell
        self._certificates = Certificates(settings, clock) if self._tls.certificate else None
        self._login = login_service(settings, clock)
        if failures is None:
            failures = Failures(self.auth.client_failures, float(self.auth.client_memory))
        self.failures = failures
        self._in_connection: WeakKeyDictionary[trio.abc.Stream, int] = WeakKeyDictionary()

    async def run(self) -> None:
        """Fetch staples, ask Dovecot; until cancelled, or at once if there is nothing to do."""
        async with trio.open_nursery() as nursery:
            if self._certificates is not None:
                nursery.start_soon(self._certificates.run)
            if self._login is not None:
                nursery.start_soon(self._login.run)

    @property
    def tls(self) -> bool:
        """Whether there is a certificate."""
        return self._certificates is not None

    async def secure(self, stream: trio.abc.Stream, client: Client) -> Secured:
        """The handshake as a server, within `handshake` seconds. Raises TlsError."""
        assert self._certificates is not None, "there is no certificate"
        loaded = self._certificates.loaded()
        tls = TlsStream(stream, TlsEngine(loaded.context, server_side=True))
        try:
            with trio.fail_after(float(self._tls.handshake)):
                handshake = await tls.do_handshake()
                await tls.flush()  # an answer to Finished at once: Nagle holds back the EHLO of many clients
        except trio.TooSlowError:
            raise TlsError("negotiating TLS", "the client took too long") from None
        except trio.BrokenResourceError:
            raise TlsError("negotiating TLS", "the connection was lost") from None
        names: tuple[str, ...] = ()
        if loaded.authorities is not None:
            names = self._names(tls, handshake, loaded.authorities, client)
        return Secured(
            tls,
            handshake.version,
            handshake.cipher,
            tls.asked_name(),
            handshake.resumed,
            names,
            _bindings(tls, handshake),
        )

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        """Upper case, the best first; none outside TLS."""
        if self._login is None or client.secured is None:
            return ()
        return self._login.mechanisms(client)

    def begin(self, mechanism: str, client: Client) -> Exchange:
        """An exchange with one of these."""
        assert self._login is not None, "AUTH was not offered"
        if self.failures.too_many(client.address, trio.current_time()):
            return _TurnedAway(client)
        return _Guarded(self, self._login.begin(mechanism, client), mechanism, client)

    async def failed(self, client: Client, mechanism: str, denied: Denied) -> LoginRefused:
        """A client has failed: it waits, the failure is on record, and maybe it was the last one."""
        say(
            log, logging.WARNING, "login failed",
            client=client.address, user=denied.username[:80], mechanism=mechanism, why=denied.why,
        )  # fmt: skip
        self.failures.add(client.address, trio.current_time())
        await self._tell(self._event(client, mechanism, denied))
        await trio.sleep(float(self.auth.failure_delay))
        so_far = 1
        if client.secured is not None:
            so_far += self._in_connection.get(client.secured.stream, 0)
            self._in_connection[client.secured.stream] = so_far
        if so_far >= self.auth.max_failures or self.failures.too_many(client.address, trio.current_time()):
            return LoginRefused(TOO_OFTEN)
        return LoginRefused(WRONG)

    async def too_late(self) -> LoginRefused:
        """Tries that ran side by side with too many failures tell nothing, not even by the time they take."""
        await trio.sleep(float(self.auth.failure_delay))
        return LoginRefused(TOO_OFTEN)

    def _event(self, client: Client, mechanism: str, denied: Denied) -> Event:
        said = f"{mechanism}: {denied.why}" + (f" ({denied.username})" if denied.username else "")
        return Event(
            "auth:fail",
            self._clock.now(),
            {
                "event_data": said,
                "sender_host_address": client.address,
                "tls_version": client.secured.version if client.secured else None,
                "tls_cipher": client.secured.cipher if client.secured else None,
                "smtp_code": WRONG.code,
                "enhanced_code": "5.7.8",
            },
        )

    def _names(
        self, tls: TlsStream, handshake: Handshake, authorities: TrustStore, client: Client
    ) -> tuple[str, ...]:
        leaf = tls.leaf()
        if leaf is None:
            return ()
        chain = (leaf, *(each for each in handshake.chain if each != leaf))
        names, why = client_names(chain, authorities, self._clock.now())
        if why:
            say(log, logging.INFO, "client certificate without effect", client=client.address, why=why)
        return names


class Post:
    """Where one guard after the other stands: the settings may change."""

    def __init__(
        self, settings: Settings, clock: Clock, tell: Tell, failures: Failures | None = None
    ) -> None:
        """As a guard."""
        self._clock = clock
        self._tell = tell
        self._changed = trio.Event()
        self.guard = Guard(settings, clock, tell, failures)
        self.relieve(self.guard)

    def relief(self, settings: Settings) -> Guard:
        """A guard for other settings, to take its place by `relieve`. Raises ConfigurationError."""
        return Guard(settings, self._clock, self._tell, self.guard.failures)

    def relieve(self, guard: Guard) -> None:
        """From now on this one; connections that are open keep theirs."""
        self.guard = guard
        guard.failures.limit = guard.auth.client_failures
        guard.failures.memory = float(guard.auth.client_memory)
        self._changed.set()

    async def run(self) -> None:
        """What the guard of the moment needs, until cancelled."""
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.guard.run)
                await self._changed.wait()
                nursery.cancel_scope.cancel()


class _Guarded:
    """An exchange whose failures cost."""

    def __init__(self, guard: Guard, attempt: Attempt, mechanism: str, client: Client) -> None:
        self._guard = guard
        self._attempt = attempt
        self._mechanism = mechanism
        self._client = client

    async def respond(self, response: bytes | None) -> Challenge | LoggedIn | LoginRefused:
        judgement = await self._attempt.respond(response)
        too_many = self._guard.failures.too_many(self._client.address, trio.current_time())
        if too_many and not isinstance(judgement, Denied):
            self._attempt.close()
            return await self._guard.too_late()
        if isinstance(judgement, Challenge):
            return judgement
        self._attempt.close()
        match judgement:
            case LoggedIn(identity=identity):
                say(
                    log, logging.INFO, "logged in",
                    client=self._client.address, user=identity, mechanism=self._mechanism,
                )  # fmt: skip
                return judgement
            case Denied():
                return await self._guard.failed(self._client, self._mechanism, judgement)
            case Unavailable(why=why):
                say(log, logging.ERROR, "login impossible now", client=self._client.address, why=why)
                return LoginRefused(UNAVAILABLE)
            case Broken(why=why):
                say(log, logging.INFO, "login not understood", client=self._client.address, why=why)
                return LoginRefused(NOT_UNDERSTOOD)

    def abandon(self) -> None:
        self._attempt.close()


class _TurnedAway:
    """The exchange of a client that has failed too often."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def respond(self, response: bytes | None) -> Challenge | LoggedIn | LoginRefused:
        await trio.lowlevel.checkpoint()
        say(log, logging.WARNING, "login not tried: too many failures", client=self._client.address)
        return LoginRefused(TOO_OFTEN)

    def abandon(self) -> None:
        """Nothing is held."""


def login_service(settings: Settings, clock: Clock) -> LoginService | None:
    """Who checks logins by the settings; None: nobody can log in. Raises ConfigurationError."""
    auth = settings.relay.auth
    wanted = tuple(word.upper() for word in auth.mechanisms)
    if auth.dovecot:
        trust = None
        if auth.dovecot_tls:
            store = auth.dovecot_ca
            trust = TrustStore.load(None if store is None else str(settings.path(store)))
        place = Place(_place(settings, auth), float(auth.dovecot_timeout), trust)
        return DovecotService(place, wanted, clock)
    if auth.password_file is not None:
        return PasswordService(secret_path(settings, auth.password_file), wanted)
    return None


def _place(settings: Settings, auth: RelayAuth) -> str:
    """Paths are relative to state_dir, as everywhere."""
    if not auth.dovecot.startswith("unix:"):
        return auth.dovecot
    return f"unix:{settings.path(auth.dovecot.removeprefix('unix:'))}"


def _bindings(tls: TlsStream, handshake: Handshake) -> dict[str, bytes]:
    """What ties a login to this connection, by type (RFC 9266, RFC 5929 4)."""
    found: dict[str, bytes] = {}
    if handshake.version == "TLSv1.3":  # not unique before it (RFC 9266 3)
        found["tls-exporter"] = tls.keying_material(b"EXPORTER-Channel-Binding", 32)
    leaf = tls.own_leaf()
    bound = None if leaf is None else end_point(leaf)
    if bound is not None:
        found["tls-server-end-point"] = bound
    return found
