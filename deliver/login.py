"""The login of a session at a smarthost, after the last EHLO (RFC 4954).

    where                                   what happens
    --------------------------------------  -------------------------------------------------------------
    TLS does not prove who the server is    not at all, unless `auth_in_clear`: next host, else defer
    no mechanism in common, or none that    next host, else defer
      the server takes after all (500 to
      504, 534, 538; any 5yz to the first
      message of -PLUS: it cannot bind so)
    the server keeps no protocol, or 4yz    next host, else defer
    535 and any other 5yz                   defer, no other host: the same password would be refused again,
                                            and a mailbox may be locked by too many tries
    the server cannot prove that it knows   the connection ends without one more octet, no weaker
      the password, or that it ends our       mechanism is tried; next host, else defer
      TLS connection (SCRAM)

Mail never bounces because of a password. Neither the password nor what is made of it appears in the log, the
trace, an event or an outcome, not even where a server repeats it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import trio

from deliver.configuration.files import read_secret
from deliver.encounter import NO_SECURITY, Encounter, Unusable
from deliver.errors import Blame, ConfigurationError, PeerError
from deliver.net.tlsstream import TlsStream
from deliver.outcome import Phase
from deliver.relay.route import Login
from deliver.report.trace import MAX_TEXT, Verdict
from deliver.smtp.command import Auth, AuthResponse, CommandTooLong
from deliver.smtp.reply import EnhancedCode, Reply
from deliver.smtp.sasl import (
    Binding,
    Credentials,
    LoginBroken,
    LoginRejected,
    Mechanism,
    ServerForged,
    candidates,
    challenge_of,
)
from deliver.tls.certificate import end_point
from events.port import Refuse

CLOSING = 421  # RFC 5321 3.8
MAX_CHALLENGES = 4  # no mechanism of ours has more than two
NONCE_BITS = 192

# RFC 4954 6 and the IANA registry.
CREDENTIALS_REFUSED = EnhancedCode(4, 7, 8)
NO_MECHANISM = EnhancedCode(4, 7, 4)

# Another mechanism may do: unknown, too weak, or not without TLS (RFC 5321 4.2.2, RFC 4954 6).
_ANOTHER_MAY_DO = frozenset({500, 501, 502, 503, 504, 534, 538})
_NO_SUCH_BINDING = "unsupported-channel-binding-type"
_OTHER_BINDING = "channel-bindings-dont-match"


class LoggingIn(Encounter):
    """The step of the table above."""

    _secrets: tuple[str, ...] = ()

    async def _log_in(self) -> None:
        """As the target asks. Raises Unusable."""
        login = self._target.login
        if login is None or self._open_wire.machine.logged_in:
            return
        if not login.in_clear and not self._proven:
            why = f"TLS does not prove who {self._target.host} is, so it is not told the password"
            self._add("login-withheld", why, Verdict.REFUSED, "RFC 4954 4")
            raise self._unusable(why, Phase.AUTH, NO_SECURITY, blame=Blame.POLICY)
        for mechanism in self._mechanisms(login):
            if await self._try(mechanism):
                return
        offered = " ".join(self._open_wire.capabilities.auth) or "none"
        why = f"{self._target.host} has no mechanism to log in by (it offers {offered})"
        self._add("login-impossible", why[:MAX_TEXT], Verdict.REFUSED, "RFC 4954 4")
        raise self._unusable(why[:MAX_TEXT], Phase.AUTH, NO_MECHANISM, blame=Blame.POLICY)

    @property
    def _proven(self) -> bool:
        tls = self.contact.tls
        return tls is not None and tls.verified_by != "none"

    def _mechanisms(self, login: Login) -> Iterator[Mechanism]:
        """What to try, the password read. Raises Unusable."""
        try:
            password = read_secret(self._agent.settings, login.password_file)
            credentials = Credentials(login.username, password)
            self._secrets = _forms(credentials)
            offered = self._open_wire.capabilities.auth
            bindings = tuple(self._bindings())
            return iter(
                tuple(candidates(login.mechanisms, offered, credentials, bindings, _nonces(self._agent.rng)))
            )
        except ConfigurationError as error:
            raise self._unusable(str(error), Phase.AUTH, NO_SECURITY, blame=Blame.LOCAL) from error

    def _bindings(self) -> Iterator[Binding]:
        """What ties SCRAM to this TLS connection (RFC 9266, RFC 5929 4), the best first."""
        stream, tls = self._open_wire.stream, self.contact.tls
        if not isinstance(stream, TlsStream) or tls is None:
            return
        if tls.version == "TLSv1.3":  # not unique before it (RFC 9266 3)
            yield Binding("tls-exporter", stream.keying_material(b"EXPORTER-Channel-Binding", 32))
        leaf = stream.leaf()
        digest = None if leaf is None else end_point(leaf)
        if digest is not None:
            yield Binding("tls-server-end-point", digest)

    async def _try(self, mechanism: Mechanism) -> bool:
        """One exchange; False: another mechanism may do. Raises Unusable."""
        try:
            reply = await self._exchange(mechanism)
        except LoginRejected as rejected:
            await self._give_up(rejected)
            if rejected.word == _NO_SUCH_BINDING:
                return False
            if rejected.word == _OTHER_BINDING:
                raise await self._forged(f"{self._target} does not end our TLS connection") from rejected
            raise await self._refused(self._scrubbed(rejected.happened), None) from rejected
        except ServerForged as forged:
            raise await self._forged(f"{self._target}: {forged.happened}") from forged
        except LoginBroken as broken:
            await self._give_up(broken)
            why = f"{self._target}: {broken.happened}"
            await self._tell(why, None)
            self._add("login-broken", why, Verdict.REFUSED, "RFC 4954 4")
            raise self._unusable(why, Phase.AUTH) from broken
        except PeerError as error:
            why = self._scrubbed(f"{self._target}: {error.happened}")
            self._add("connection-lost", why, Verdict.REFUSED)
            raise self._unusable(why, Phase.AUTH, fault=error.fault) from error
        if reply.positive:
            rfc = "RFC 4954 4"
            text = f"{self._target.host} accepted the login by {mechanism.name}"
            self._add("login", text, Verdict.OK, rfc)
            return True
        said = f"{self._target.host} refuses the login by {mechanism.name}: {reply}"
        if reply.code in _ANOTHER_MAY_DO or (reply.permanent and mechanism.unanswered):
            self._add("login-mechanism-refused", said)
            return False
        if reply.permanent:
            raise await self._refused(said, reply)
        raise self._unusable(said, Phase.AUTH, CREDENTIALS_REFUSED, reply)

    async def _exchange(self, mechanism: Mechanism) -> Reply:
        """The conversation up to the reply that ends it, without our secrets in it. Raises PeerError."""
        wire = self._open_wire
        try:
            command = Auth(mechanism.name, mechanism.initial)
            mechanism.begun()
        except CommandTooLong:
            command = Auth(mechanism.name)
        reply = await wire.command(command)
        for _ in range(MAX_CHALLENGES):
            if not reply.intermediate:
                break
            answer = await _answer(mechanism, challenge_of(reply))
            try:
                response = AuthResponse(answer)
            except CommandTooLong as error:
                raise LoginBroken(error.happened) from None
            reply = await wire.command(response)
        if reply.intermediate:
            raise LoginBroken("more challenges than any mechanism has")
        if reply.positive and not mechanism.proven:
            raise ServerForged("the server accepts the login without having shown that it knows the password")
        return replace(reply, lines=tuple(map(self._scrubbed, reply.lines)))

    async def _give_up(self, why: LoginBroken) -> None:
        """Cancel the exchange, so that the session may say QUIT or try something else (RFC 4954 4)."""
        wire = self._open_wire
        cancel = AuthResponse(None)
        if not wire.machine.may_send(cancel):
            return
        try:
            reply = await wire.command(cancel)
        except PeerError:
            return
        if not reply.permanent and not reply.transient:
            wire.machine.break_off()

    async def _forged(self, why: str) -> Unusable:
        """Somebody is in between: no weaker mechanism, and not another octet."""
        self._open_wire.machine.break_off()
        await self._tell(why, None)
        self._add("login-forged", why, Verdict.REFUSED, "RFC 5802 5.1")
        return self._unusable(why, Phase.AUTH, NO_SECURITY, blame=Blame.POLICY)

    async def _refused(self, said: str, reply: Reply | None) -> Unusable:
        said = await self._tell(said, reply)
        self._add("login-refused", said, Verdict.REFUSED, "RFC 4954 6")
        why = f"{said} (correct the user name or the password of the route; mail waits)"
        outcome = self._unusable(why[:MAX_TEXT], Phase.AUTH, CREDENTIALS_REFUSED, blame=Blame.LOCAL)
        outcome.outcome = replace(outcome.outcome, reply=reply)
        return outcome

    async def _tell(self, said: str, reply: Reply | None) -> str:
        """auth:fail; as in Exim, what a veto action returns takes the place of the text."""
        event = self._events.login_failed(said if reply is None else str(reply), reply)
        answer = await self._agent.gate.consult(event)
        return answer.text if isinstance(answer, Refuse) else said

    def _scrubbed(self, text: str) -> str:
        """A server that got the password may repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "[…]")
        return text


async def _answer(mechanism: Mechanism, challenge: bytes) -> bytes:
    if mechanism.slow:
        return await trio.to_thread.run_sync(mechanism.answer, challenge)
    return mechanism.answer(challenge)


def _forms(credentials: Credentials) -> tuple[str, ...]:
    """The password as it goes over the wire, the longest form first."""
    name, password = credentials.username.encode(), credentials.password.encode()
    plain = b64encode(b"\0" + name + b"\0" + password).decode()
    return plain, b64encode(password).decode(), credentials.password


def _nonces(rng: Random) -> Iterator[str]:
    while True:
        yield f"{rng.getrandbits(NONCE_BITS):048x}"
