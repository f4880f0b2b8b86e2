"""Deliveries one after the other to the same server: what is resumed, what is refused, what is tried again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp as made
from OpenSSL import SSL

from deliver import securing
from deliver.errors import Blame
from deliver.level import Level
from deliver.net.tlsstream import TlsStream
from deliver.outcome import Deferred, Delivered, Resumption
from deliver.settings import Rule, Settings, Tls
from events.catalogue import Event
from events.port import Refuse
from hints.records import SessionKey, TlsSession, Word
from tests.unit.tls.certificates import Wish, issue
from tests.unit.tls.responder import Answer, respond, revocation_list
from tests.unit.tls.scene import (
    CA,
    NOW,
    SERVER,
    STRICT,
    VALID,
    Scene,
    Server,
    codes,
    context,
    event,
    names,
    scene,
)

VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("level", ["verify", "may", "try-verify"])
async def test_a_second_delivery_resumes_and_tells(tmp_path: Path, version: int, level: str) -> None:
    async with scene(tmp_path, Server(context(version=version)), level=Level(level)) as seen:
        first, second = await seen.deliver(), await seen.deliver()
        third = await seen.delivered()
    assert seen.server.resumed == [False, True, True]
    assert seen.server.messages == 3
    assert "tls:resumed" not in names(first)
    verified = "none" if level == "may" else "pkix"
    assert third.resumed
    assert third.verified_by == verified
    for result, word, known in ((first, "full", 1 | 2 | 8), (second, "resumed", 1 | 2 | 4 | 16)):
        told = event(result, "msg:delivery").fields
        assert told["tls_resumption"] == word
        # a TLS 1.2 server need not send another ticket
        assert int(str(told["tls_out_resumption"])) & ~Resumption.ISSUED == known & ~Resumption.ISSUED
        assert told["tls_verified_by"] == verified
    assert int(str(event(first, "msg:delivery").fields["tls_out_resumption"])) & Resumption.ISSUED
    certificates = [
        one.fields["tls_out_peercert_sha256"] for one in second.trace.events if one.name == "tls:cert"
    ]
    assert certificates == [
        one.fields["tls_out_peercert_sha256"] for one in first.trace.events if one.name == "tls:cert"
    ]
    resumed = event(second, "tls:resumed")
    assert resumed.fields["event_data"] == ("TLSv1.2" if version == SSL.TLS1_2_VERSION else "TLSv1.3")


async def test_a_ticket_of_tls_1_3_is_used_once(tmp_path: Path) -> None:
    async with scene(tmp_path, Server(context())) as seen:
        await seen.delivered()
        ((key, kept),) = seen.hints._sessions.items()
        assert key.level == "verify/pkix"
        (session,) = kept
        await seen.delivered()
        (after,) = seen.hints._sessions[key]
    assert after.session != session.session
    assert after.expires <= session.expires  # no chain of tickets outlives the proof


@pytest.mark.parametrize(
    "tls",
    [
        {"resumption": False},
        {"min_version": "1.3"},
        {"level": Level.MAY},
        {"groups": "X25519"},
        {"ciphers": "AES128"},
    ],
)
async def test_what_was_kept_under_another_policy_is_not_offered(tmp_path: Path, tls: dict[str, Any]) -> None:
    async with scene(tmp_path, Server(context())) as seen:
        await seen.delivered()
        seen.change(**{"level": Level.VERIFY, **tls})
        facts = await seen.delivered()
    assert seen.server.resumed == [False, False]
    assert not facts.resumed
    assert facts.resumption == (Resumption.OFF if tls == {"resumption": False} else Resumption(1 | 2 | 8))


async def test_an_opportunistic_session_never_serves_an_authenticated_level(tmp_path: Path) -> None:
    stranger = issue(Wish("stranger", dns_names=("mx.example.org",), **VALID))
    async with scene(tmp_path, Server(context(stranger)), level=Level.MAY) as seen:
        await seen.delivered()
        seen.change(level=Level.VERIFY)
        ((_, outcome),) = (await seen.deliver()).outcomes
    assert isinstance(outcome, Deferred)
    assert "not authenticated" in outcome.why
    assert seen.server.messages == 1


async def test_resumption_is_turned_off_for_a_destination_by_a_rule(tmp_path: Path) -> None:
    async with scene(tmp_path, Server(context())) as seen:
        settings = seen.agent.settings
        rule = Rule(domains=("example.org",), tls={"resumption": False})
        fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
        seen.agent = replace(seen.agent, settings=Settings(**{**fields, "rule": (rule,)}))
        await seen.delivered()
        await seen.delivered()
    assert seen.server.resumed == [False, False]


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_chain_is_judged_again_before_it_is_offered(tmp_path: Path, version: int) -> None:
    """The trust store changes: no session is offered, and the full handshake is refused."""
    other = issue(Wish("other CA", authority=True, **VALID))
    async with scene(tmp_path, Server(context(version=version))) as seen:
        await seen.delivered()
        (tmp_path / "ca2.pem").write_bytes(other.pem)
        tls = Tls(trust_store="ca2.pem", verify_names=("mx.example.org",), level=Level.VERIFY)
        fields = {name: getattr(seen.agent.settings, name) for name in seen.agent.settings.__struct_fields__}
        seen.agent = replace(seen.agent, settings=Settings(**{**fields, "tls": tls}))
        result = await seen.deliver()
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert seen.server.resumed in (
        [False, False],
        [False],
    )  # a TLS 1.3 server never completes the refused one
    assert "session-not-offered" in codes(result)
    assert "tls:resumed" not in names(result)
    assert seen.server.messages == 1


async def test_a_revocation_list_counts_for_a_kept_session(tmp_path: Path) -> None:
    lists = tmp_path / "lists.pem"
    stranger = issue(Wish("another", dns_names=("mx.example.org",), **VALID), CA)
    lists.write_bytes(revocation_list(CA, stranger, this_update=NOW - 60, next_update=NOW + 3600))
    async with scene(tmp_path, Server(context()), crl="lists.pem") as seen:
        await seen.delivered()
        lists.write_bytes(revocation_list(CA, SERVER, this_update=NOW - 60, next_update=NOW + 36000) + b"\n")
        result = await seen.deliver()
    assert isinstance(result.outcomes[0][1], Deferred)
    assert "session-not-offered" in codes(result)
    assert seen.server.messages == 1


async def test_a_required_staple_serves_a_resumed_session_until_it_ends(tmp_path: Path) -> None:
    """Unlike Exim: a resumed session needs no staple of its own, and does not outlive the kept one."""
    staple = respond(Answer(STRICT, made.OCSPCertStatus.GOOD, this_update=NOW - 60, next_update=NOW + 3600))
    server = Server(context(STRICT, staple=staple))
    async with scene(tmp_path, server, require_ocsp=True, ocsp_skew=0) as seen:
        await seen.delivered()
        result = await seen.deliver()
        assert isinstance(result.outcomes[0][1], Delivered)
        assert server.resumed == [False, True]
        told = event(result, "msg:delivery").fields
        assert (told["tls_out_ocsp"], told["tls_ocsp"]) == (4, "good")
        seen.clock.shift = 3700
        late = await seen.deliver()
    assert isinstance(late.outcomes[0][1], Deferred)
    assert "tls:resumed" not in names(late)
    assert server.messages == 2


async def test_an_action_may_refuse_the_certificate_of_a_resumed_session(tmp_path: Path) -> None:
    class Gate:
        refuses = False

        async def consult(self, event: Event) -> Refuse | None:
            return Refuse("no") if self.refuses and event.name == "tls:cert" else None

    gate = Gate()
    async with scene(tmp_path, Server(context())) as seen:
        seen.agent = replace(seen.agent, gate=gate)  # type: ignore[arg-type]
        await seen.delivered()
        gate.refuses = True
        result = await seen.deliver()
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.POLICY
    assert "event-veto" in codes(result)
    assert seen.server.messages == 1


@pytest.mark.parametrize("fault", ["reset", "alert", "silent", "accept-then-reset"])
async def test_a_failed_resumption_is_a_full_handshake(tmp_path: Path, fault: str) -> None:
    """Whatever a server does when a session is offered, the mail arrives in the same attempt."""
    server = Server(context(), fault=lambda hello, number: fault if number == 2 else "")
    async with scene(tmp_path, server, patience=2.0 if fault == "silent" else 30.0) as seen:
        await seen.delivered()
        result = await seen.deliver()
        ((_, outcome),) = result.outcomes
        assert isinstance(outcome, Delivered), outcome
        assert outcome.contact.tls is not None
        assert not outcome.contact.tls.resumed
        assert len(server.hellos) == 3
        if fault != "accept-then-reset":
            assert "tls-retry" in codes(result)
            assert "once more with" in str(event(result, "tls:fail:connect").fields["reason"])
            (view,) = await seen.hints.look("127.0.0.1", ("127.0.0.1",), _port(seen))
            assert view.works(Word.RESUMPTION) is False
            await seen.delivered()  # not offered again for a while
            assert not server.resumed[-1]
        assert names(result).count("tcp:connect") == names(result).count("tcp:close") == 2
    assert server.in_clear == 0


async def test_a_session_of_another_certificate_is_refused_and_done_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should OpenSSL resume with another certificate than the one judged: close, forget, full handshake."""
    async with scene(tmp_path, Server(context())) as seen:
        await seen.delivered()
        with monkeypatch.context() as patched:
            patched.setattr(TlsStream, "leaf", lambda self: CA.der)
            result = await seen.deliver()
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is not None
    assert not outcome.contact.tls.resumed
    assert {"resumption-refused", "session-not-offered"} <= set(codes(result))
    assert seen.server.messages == 2


async def test_a_refused_full_handshake_ends_what_was_kept(tmp_path: Path) -> None:
    """The server staples "revoked" by now: the kept session, whose staple still says good, is not used again."""
    good, revoked = (
        respond(Answer(STRICT, status, this_update=NOW - 60, next_update=NOW + 3600))
        for status in (made.OCSPCertStatus.GOOD, made.OCSPCertStatus.REVOKED)
    )
    server = Server(context(STRICT, version=SSL.TLS1_2_VERSION, staple=good))
    async with scene(tmp_path, server) as seen:
        await seen.delivered()
        server.context = context(STRICT, version=SSL.TLS1_2_VERSION, staple=revoked)
        result = await seen.deliver()
        assert isinstance(result.outcomes[0][1], Deferred)
        assert not seen.hints._sessions
    assert server.messages == 1


SOAK = os.environ.get("OUTRIDER_SOAK") == "1"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("octets", range(0, 1400, 7 if SOAK else 101))
async def test_wherever_a_resumed_connection_is_cut_mail_is_neither_lost_nor_in_clear(
    tmp_path: Path, version: int, octets: int
) -> None:
    server = Server(context(version=version), cut=octets)
    async with scene(tmp_path, server) as seen:
        await seen.delivered()
        result = await seen.deliver()
        ((_, outcome),) = result.outcomes
        answered_resumed = server.answered - (len(server.resumed) > 2)
        if answered_resumed < 2:  # cut before the EHLO inside TLS was answered: done in full at once
            assert isinstance(outcome, Delivered), outcome
            assert outcome.contact.tls is not None
            assert not outcome.contact.tls.resumed
        if isinstance(outcome, Delivered):
            assert server.messages == 2
        else:
            assert isinstance(outcome, Deferred)
        assert (await seen.delivered()).verified_by == "pkix"
    assert server.in_clear == 0


def _port(seen: Scene) -> int:
    (key,) = seen.hints._sessions
    return key.port


async def test_verification_that_is_only_tried_is_told(tmp_path: Path) -> None:
    stranger = issue(Wish("stranger", dns_names=("mx.example.org",), **VALID))
    async with scene(tmp_path, Server(context(stranger)), level=Level.TRY_VERIFY) as seen:
        first, second = await seen.deliver(), await seen.deliver()
    for result in (first, second):
        ((_, outcome),) = result.outcomes
        assert isinstance(outcome, Delivered)
        assert outcome.contact.tls is not None
        assert outcome.contact.tls.verified_by == "none"
        failed = event(result, "tls:fail:verify")
        assert failed.fields["reason"] == "not-required"
        assert "does not lead to a root" in str(failed.fields["event_data"])
        assert event(result, "tls:level").fields["event_data"] == "encrypt"
    assert seen.server.resumed == [False, True]  # and stays unverified when it is resumed


async def test_without_the_binding_every_handshake_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(securing, "_unavailable", lambda: "gone")
    async with scene(tmp_path, Server(context())) as seen:
        await seen.delivered()
        facts = await seen.delivered()
    assert seen.server.resumed == [False, False]
    assert facts.resumption is Resumption.OFF


@pytest.mark.parametrize("blob", [b"", b"\x30\x00", b"garbage" * 100, b"\x30\x82\xff\xff" + b"x" * 20000])
async def test_a_hostile_session_from_the_hints_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blob: bytes
) -> None:
    async with scene(tmp_path, Server(context())) as seen:
        await seen.delivered()
        ((key, (kept,)),) = seen.hints._sessions.items()

        async def hostile(asked: SessionKey) -> TlsSession:
            return replace(kept, key=asked, session=blob)

        monkeypatch.setattr(seen.hints, "claim_session", hostile)
        result = await seen.deliver()
    assert isinstance(result.outcomes[0][1], Delivered)
    assert "session-not-offered" in codes(result)
    assert seen.server.resumed == [False, False]
    assert key not in seen.hints._sessions or seen.hints._sessions[key] != (kept,)
