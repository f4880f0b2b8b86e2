"""The steps of a session from STARTTLS to the verdict: required TLS comes about as judged, or not at all.

    ask        STARTTLS where the server offers it; else clear text where the policy allows it
    offer      a kept session, if what it rests on is judged well by today's policy
    shake      the handshake, its last flight held; `deliver.tls.hello` says what to try after a failure
    judge      against the policy, before one more SMTP octet leaves; resumed: the verdict of `offer` counts
    keep       the ticket that came with the answer to EHLO, with what it rests on

A failure that another opening may cure raises Unusable with `again`; nothing is tried twice in the same way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256

import trio
from OpenSSL import SSL

from deliver.agent import Agent
from deliver.demands import client_digest, context_of, lists_of
from deliver.encounter import NO_SECURITY, NOT_TRUSTED, Encounter, Target, Unusable
from deliver.errors import Blame, ConfigurationError
from deliver.net.tlsstream import TlsStream
from deliver.outcome import Phase, Resumption, TlsFacts
from deliver.report.log import say
from deliver.report.testimony import Testimony
from deliver.report.trace import Verdict
from deliver.settings import Destination, Tls
from deliver.tls import sessions
from deliver.tls.crl import RevocationLists
from deliver.tls.engine import TlsEngine, TlsError
from deliver.tls.hello import Hello, after
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy, clear_text_allowed
from deliver.tls.resumption import Offer, Rejected, judge_again, key_of, to_keep
from deliver.tls.verdict import Handshake, TlsVerdict
from hints.records import Feature, SessionKey, Word

_log = logging.getLogger("outrider.connection")

_NOBODY = TrustStore.empty()
CLOSING = 421  # RFC 5321 3.8: the server ends the session, whatever was asked


@dataclass(frozen=True, slots=True)
class _Material:
    """What the settings say in files. `key` is None where no session is kept."""

    context: SSL.Context
    trusted: TrustStore
    lists: RevocationLists
    key: SessionKey | None


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a judged connection rests on."""

    stream: TlsStream
    handshake: Handshake
    verdict: TlsVerdict
    key: SessionKey
    offer: Offer | None


def first_hello(tls: Tls, target: Target) -> Hello:
    """How to begin with a server, given what went wrong with it lately."""
    large = Word.LARGE_HELLO not in target.avoid or not _may_shrink(tls)
    return Hello(large, tls.resumption and Word.RESUMPTION not in target.avoid)


class Securing(Encounter):
    """The steps from STARTTLS to the verdict. `hello` says how the handshake begins."""

    def __init__(
        self,
        agent: Agent,
        destination: Destination,
        target: Target,
        policy: TlsPolicy,
        testimony: Testimony,
        hello: Hello | None = None,
    ) -> None:
        super().__init__(agent, destination, target, policy, testimony)
        self._testimony = testimony
        self._hello = hello or first_hello(destination.tls, target)
        self._proof: _Proof | None = None
        self._evidence: Handshake | None = None  # what the connection was judged by, for judging it again

    async def _ask_for_tls(self) -> bool:
        """Whether the server is ready for the handshake; False: go on in clear text, as the policy allows."""
        fallback = self._destination.tls.clear_text_fallback
        if not self._open_wire.capabilities.starttls:
            if clear_text_allowed(self._policy, tls_offered=False, fallback=fallback):
                self._add("starttls-missing", f"{self._target.host} does not offer STARTTLS: clear text")
                return False
            raise self._no_tls(f"{self._target.host} does not offer STARTTLS")
        reply = await self._answer(self._open_wire.starttls(), Phase.STARTTLS)
        if reply.positive:
            return True
        why = f"{self._target.host} refuses STARTTLS: {reply}"
        if reply.code == CLOSING:
            raise self._unusable(why, Phase.STARTTLS, reply=reply)
        if not clear_text_allowed(self._policy, tls_offered=True, fallback=fallback):
            raise self._no_tls(why)
        self._add("starttls-refused", f"{why}: clear text")
        return False

    async def _start_tls(self) -> None:
        wire = self._open_wire
        material = self._tls_material()
        offer = await self._find_session(material)
        engine = TlsEngine(
            material.context,
            self._policy.sni,
            request_staple=self._policy.request_ocsp,
            resume=offer.session.session if offer else None,
        )
        stream = TlsStream(wire.stream, engine)
        wire.stream = stream
        handshake = await self._handshake(stream)
        if handshake.resumed:
            handshake = await self._resumed(stream, handshake, offer)
        resumption = self._resumption(material, stream, handshake)
        for presented in self._events.shook_hands(handshake, resumption):
            await self._ask_gate(presented, Phase.TLS, stream)
        verdict = await self._judge(stream, handshake, material, offer)
        facts = TlsFacts(
            level=self._policy.level,
            version=handshake.version,
            cipher=handshake.cipher,
            group=handshake.group,
            resumed=handshake.resumed,
            verified_by=verdict.verified_by,
            ocsp=verdict.ocsp,
            ocsp_requested=self._policy.request_ocsp,
            resumption=resumption,
        )
        self._evidence = handshake
        self.contact = replace(self.contact, tls=facts)
        self._events.judged(facts)
        if handshake.resumed:
            self._events.resumed(facts)
            self._if_lost = replace(self._hello, resume=False)
        if material.key is not None:
            self._proof = _Proof(stream, handshake, verdict, material.key, offer)
        wire.starttls_done(stream)
        # RFC 8446 2, RFC 5246 7.3
        wire.ledger.flight(1 if handshake.version == "TLSv1.3" or handshake.resumed else 2)

    async def _judge(
        self, stream: TlsStream, handshake: Handshake, material: _Material, offer: Offer | None
    ) -> TlsVerdict:
        """The verdict, if it accepts. Raises Unusable."""
        if handshake.resumed and offer is not None:
            verdict = offer.verdict
        else:
            now = self._agent.clock.now()
            verdict = judge(self._policy, handshake, now, material.trusted, material.lists)
        self._trace.extend(verdict.findings)
        if self._policy.request_ocsp:
            self._events.staple(verdict.ocsp)
        if verdict.not_verified:
            self._events.not_verified(verdict.not_verified)
        if verdict.ok:
            return verdict
        await stream.discard()
        if material.key is not None:  # what was proved before does not hold any more
            self._agent.hints.forget_sessions(material.key, now=self._agent.clock.now())
        refusals = [found.text for found in verdict.findings if found.verdict is Verdict.REFUSED]
        why = f"{self._target.host} is not authenticated: {'; '.join(refusals)}"
        self._events.rejected(why)
        raise self._unusable(why, Phase.TLS, NOT_TRUSTED, blame=Blame.POLICY)

    async def _handshake(self, stream: TlsStream) -> Handshake:
        patience = self._destination.smtp.timeouts.tls
        why, lost = f"nothing for {patience:g} s", True
        try:
            with trio.move_on_after(patience):
                handshake = await stream.do_handshake()
                if self._hello.shrunk:
                    self._note(Feature(*self._target.place, Word.LARGE_HELLO, False), "a small one works")
                return handshake
        except TlsError as error:
            why, lost = error.happened, error.truncated
        why = f"the TLS handshake with {self._target.host} failed: {why}"
        offered = stream.offered
        if offered:
            self._note(Feature(*self._target.place, Word.RESUMPTION, False), "handshake failed")
        again = after(self._hello, offered=offered, lost=lost, may_shrink=_may_shrink(self._destination.tls))
        if again is None:
            self._events.handshake_failed(why)
            self._add("tls-failed", why, Verdict.REFUSED)
        else:
            what = _once_more(self._hello, again)
            self._events.handshake_failed(why, once_more=what)
            self._add("tls-retry", f"{why}; once more with {what}")
        raise self._unusable(why, Phase.TLS, NO_SECURITY, blame=Blame.POLICY, tls_failed=True, again=again)

    async def _find_session(self, material: _Material) -> Offer | None:
        """A session to offer, what it rests on judged well again; None: a full handshake."""
        if material.key is None or not self._hello.resume:
            return None
        session = await self._agent.hints.claim_session(material.key)
        if session is None:
            return None
        now = self._agent.clock.now()
        offer = judge_again(self._policy, material.key, session, now, material.trusted, material.lists)
        if isinstance(offer, Offer):
            return offer
        self._forget(material.key, offer)
        return None

    async def _resumed(self, stream: TlsStream, handshake: Handshake, offer: Offer | None) -> Handshake:
        """The handshake with what it rests on. Raises Unusable: not what was offered, to be done in full."""
        same = offer is not None and handshake.version == offer.session.version
        if offer is not None and same and stream.leaf() == offer.session.chain[0]:
            self._note(Feature(*self._target.place, Word.RESUMPTION, True), "resumed")
            return replace(handshake, chain=offer.rests_on.chain, staple=offer.rests_on.staple)
        await stream.discard()
        why = f"{self._target.host} resumed another session than the one that was offered"
        self._events.handshake_failed(why, once_more="a full handshake")
        self._add("resumption-refused", why)
        if offer is not None:
            self._forget(offer.session.key, Rejected("another one was resumed in its place"))
        again = replace(self._hello, resume=False) if self._hello.resume else None
        raise self._unusable(why, Phase.TLS, NOT_TRUSTED, blame=Blame.POLICY, again=again)

    def _forget(self, key: SessionKey, rejected: Rejected) -> None:
        text = f"A kept TLS session of {self._target.host} is not used: {rejected.why}"
        self._add("session-not-offered", text)
        self._agent.hints.forget_sessions(key, now=self._agent.clock.now())

    def _resumption(self, material: _Material, stream: TlsStream, handshake: Handshake) -> Resumption:
        if material.key is None:
            return Resumption.OFF
        known = Resumption.SUPPORTED | Resumption.REQUESTED
        if stream.offered:
            known |= Resumption.OFFERED
        return known | Resumption.USED if handshake.resumed else known

    def _keep_session(self) -> None:
        """After the answer to EHLO inside TLS, behind which the tickets of TLS 1.3 are."""
        self._if_lost = None
        proof, self._proof = self._proof, None
        tls = self.contact.tls
        session = None if proof is None else proof.stream.session()
        if proof is None or session is None or tls is None:
            return
        agent, now = self._agent, self._agent.clock.now()
        kept = to_keep(proof.key, session, proof.handshake, proof.verdict, now, proof.offer)
        if kept is None:
            return
        tls = replace(tls, resumption=tls.resumption | Resumption.ISSUED)
        self.contact = replace(self.contact, tls=tls)
        self._events.ticket(tls)
        agent.hints.keep_session(kept, source=agent.learner, reason=f"judged {tls.verified_by}", now=now)

    def _tls_material(self) -> _Material:
        """Raises Unusable: mail waits until the files can be read."""
        settings, tls = self._agent.settings, self._destination.tls
        trusted, lists = self._trusted_today()
        try:
            context = context_of(settings, tls, self._policy, large=self._hello.large)
            return _Material(context, trusted, lists, self._session_key())
        except ConfigurationError as error:
            raise self._unusable(str(error), Phase.TLS, NO_SECURITY, blame=Blame.LOCAL) from error

    def _trusted_today(self) -> tuple[TrustStore, RevocationLists]:
        """What a certificate is judged against. Raises Unusable as `_tls_material` does."""
        try:
            return self._trust_store(), lists_of(self._agent.settings, self._destination.tls)
        except ConfigurationError as error:
            raise self._unusable(str(error), Phase.TLS, NO_SECURITY, blame=Blame.LOCAL) from error

    def _session_key(self) -> SessionKey | None:
        tls, target = self._destination.tls, self._target
        if not tls.resumption or _unavailable():
            return None
        digest = client_digest(self._agent.settings, tls)
        greeted_as = self._open_wire.capabilities.greeted_as
        return key_of(self._policy, target.host, target.port, digest, _profile(tls), greeted_as)

    def _trust_store(self) -> TrustStore:
        if self._policy.authentication not in (Authentication.PKIX, Authentication.TRIED):
            return _NOBODY
        store = self._destination.tls.trust_store
        return self._agent.trust(None if store is None else str(self._agent.settings.path(store)))

    def _no_tls(self, why: str) -> Unusable:
        rfc = "RFC 7672 2.2" if self._policy.authentication is Authentication.DANE else None
        said = f"TLS is required, but {why}"
        self._events.starttls_refused(why)
        self._add("starttls-required", said, Verdict.REFUSED, rfc)
        return self._unusable(said, Phase.STARTTLS, NO_SECURITY, blame=Blame.POLICY)


def _profile(tls: Tls) -> str:
    """The minimum version, and what else of the settings a session must have been made under."""
    if not (tls.ciphers or tls.groups):
        return tls.min_version
    return f"{tls.min_version}/{sha256(f'{tls.ciphers} {tls.groups}'.encode()).hexdigest()[:32]}"


def _may_shrink(tls: Tls) -> bool:
    """Who chooses the groups means them."""
    return tls.retry_small_hello and not tls.groups


def _once_more(tried: Hello, again: Hello) -> str:
    what = "a small hello" if tried.large and not again.large else "a hello"
    return f"{what} that offers no session" if tried.resume and not again.shrunk else what


@cache
def _unavailable() -> str:
    """Why no session can be kept; said once."""
    why = sessions.unavailable()
    if why:
        say(_log, logging.WARNING, "TLS sessions are not resumed", why=why)
    return why
