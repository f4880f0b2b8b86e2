"""Deliveries one after the other to the same server: what is resumed, what is refused, what is tried again."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp as made
from OpenSSL import SSL

from deliver import securing
from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.errors import Blame
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.tlsstream import TlsStream
from deliver.outcome import AttemptResult, Deferred, Delivered, Resumption, TlsFacts
from deliver.queue.content import InlineContent
from deliver.service import build_agent
from deliver.settings import Delivery, Dns, Route, Rule, Settings, Smtp, Timeouts, Tls
from deliver.tls.engine import TlsEngine, TlsError
from events.catalogue import Event, vocabulary_problems
from events.port import Refuse
from hints.memory import MemoryHints
from hints.records import SessionKey, TlsSession, Word
from tests.unit.tls.certificates import DAY, Issued, Wish, issue
from tests.unit.tls.responder import Answer, respond, revocation_list

NOW = datetime.now(UTC).timestamp()
VALID: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW + 10 * DAY}
CA = issue(Wish("CA", authority=True, **VALID))
SERVER = issue(Wish("server", dns_names=("mx.example.org",), **VALID), CA)
STRICT = issue(Wish("strict", dns_names=("mx.example.org",), must_staple=True, **VALID), CA)
BODY = b"Subject: hello\r\n\r\nhello\r\n"
LARGE = 1000  # octets of a ClientHello, a post-quantum key share alone has 1184


class Clock:
    """Real time, and a shift that tests choose."""

    def __init__(self) -> None:
        self.shift = 0.0

    def now(self) -> float:
        return datetime.now(UTC).timestamp() + self.shift


class Replayed(trio.abc.Stream):
    """A stream whose first octets were read already."""

    def __init__(self, stream: trio.SocketStream, first: bytes) -> None:
        self._stream, self._first = stream, first
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        first, self._first = self._first, b""
        return first or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Cut(trio.abc.Stream):
    """Sends only so many octets, and then resets the connection."""

    def __init__(self, stream: trio.SocketStream, octets: int) -> None:
        self._stream, self.left = stream, octets

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        part, self.left = bytes(data)[: self.left], self.left - len(data)
        await self._stream.send_all(part)
        if self.left < 0:
            self._stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.socket.close()
            raise trio.BrokenResourceError("cut")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class Server:
    """One SMTP server; `fault(hello, number)` says what it does to the handshake: "", reset, silent or alert."""

    context: SSL.Context
    name: str = "mx.example.org"
    fault: Callable[[bytes, int], str] = lambda hello, number: ""
    hellos: list[bytes] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    in_clear: int = 0
    messages: int = 0
    cut: int | None = None  # octets that it sends inside the second TLS connection
    answered: int = 0  # EHLO inside TLS, whole

    async def serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, TlsError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        await stream.send_all(f"220 {self.name}\r\n".encode())
        await stream.receive_some()
        await stream.send_all(f"250-{self.name}\r\n250 STARTTLS\r\n".encode())
        if not (await stream.receive_some()).upper().startswith(b"STARTTLS"):
            self.in_clear += 1
            await self._talk(stream, b"250 ok\r\n")
            return
        await stream.send_all(b"220 go\r\n")
        hello = bytes(await stream.receive_some(65536))
        self.hellos.append(hello)
        match self.fault(hello, len(self.hellos)):
            case "reset":
                stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
            case "silent":
                await stream.receive_some()
            case "alert":
                await stream.send_all(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal, handshake_failure
            case "accept-then-reset":
                await self._shake(stream, hello)
                stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
            case _:
                await self._talk(await self._shake(stream, hello))

    async def _shake(self, stream: trio.SocketStream, hello: bytes) -> TlsStream:
        way: trio.abc.Stream = Replayed(stream, hello)
        if self.cut is not None and len(self.hellos) == 2:
            way = Cut(way, self.cut)  # type: ignore[arg-type]
        secure = TlsStream(way, TlsEngine(self.context, server_side=True))
        self.resumed.append((await secure.do_handshake()).resumed)
        return secure

    async def _talk(self, stream: trio.abc.Stream, first: bytes = b"") -> None:
        if first:
            await stream.send_all(first)
        while line := await stream.receive_some():
            data = line.upper().startswith(b"DATA")
            self.messages += line.endswith(b"\r\n.\r\n")
            await stream.send_all(b"354 go\r\n" if data else b"250 ok\r\n")
            self.answered += line.upper().startswith(b"EHLO")


def context(
    server: Issued = SERVER, *, version: int = SSL.TLS1_3_VERSION, staple: bytes = b""
) -> SSL.Context:
    made_context = SSL.Context(SSL.TLS_SERVER_METHOD)
    made_context.set_max_proto_version(version)
    made_context.set_session_id(b"test")
    made_context.use_certificate(server.certificate)
    made_context.use_privatekey(load_pem_private_key(server.key_pem, None))  # type: ignore[arg-type]
    made_context.add_extra_chain_cert(x509.load_der_x509_certificate(CA.der))
    if staple:
        made_context.set_ocsp_server_callback(lambda connection, data: staple)
    return made_context


@dataclass
class Scene:
    agent: Agent
    clock: Clock
    hints: MemoryHints
    server: Server

    def change(self, **tls: Any) -> None:
        settings = self.agent.settings
        changed = Settings(
            **{
                **{name: getattr(settings, name) for name in settings.__struct_fields__},
                "tls": Tls(trust_store="ca.pem", verify_names=("mx.example.org",), **tls),
            }
        )
        self.agent = replace(self.agent, settings=changed)

    async def deliver(self) -> AttemptResult:
        recipients = (Recipient(0, Mailbox.parse("a@example.org")),)
        envelope = Envelope(MessageId("m1"), None, recipients, len(BODY), False, self.clock.now())
        story = Attempt(self.agent, envelope, recipients, InlineContent(BODY))
        await story.run()
        result = story.result()
        for event in result.trace.events:
            assert vocabulary_problems(event.name, event.fields) == ()
        return result

    async def delivered(self) -> TlsFacts:
        ((_, outcome),) = (await self.deliver()).outcomes
        assert isinstance(outcome, Delivered), outcome
        assert outcome.contact.tls is not None
        return outcome.contact.tls


@asynccontextmanager
async def scene(tmp_path: Path, server: Server, **tls: Any) -> AsyncIterator[Scene]:
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    clock = Clock()
    hints = MemoryHints(clock=clock.now)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        settings = Settings(
            state_dir=str(tmp_path),
            dns=Dns(resolvers=("127.0.0.1:1",)),
            delivery=Delivery(helo="relay.example.org"),
            smtp=Smtp(chunking=False, pipelining=False, timeouts=Timeouts(tls=0.5)),
            route=(
                Route(
                    domains=("*",),
                    via="smarthost",
                    hosts=(f"127.0.0.1:{listener.socket.getsockname()[1]}",),
                ),
            ),
        )
        agent = build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="test")
        ready = Scene(agent, clock, hints, server)
        ready.change(**{"level": Level.VERIFY, **tls})
        yield ready
        nursery.cancel_scope.cancel()


def names(result: AttemptResult) -> list[str]:
    return [event.name for event in result.trace.events]


def event(result: AttemptResult, name: str) -> Event:
    return next(event for event in result.trace.events if event.name == name)


def codes(result: AttemptResult) -> list[str]:
    return [finding.code for finding in result.trace.findings]


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
    async with scene(tmp_path, server) as seen:
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


def _shrinks(hello: bytes, number: int) -> str:
    return "reset" if len(hello) > LARGE else ""


@pytest.mark.parametrize("how", ["reset", "silent"])
async def test_a_large_hello_that_is_lost_is_tried_small_and_remembered(tmp_path: Path, how: str) -> None:
    server = Server(context(), fault=lambda hello, number: how if len(hello) > LARGE else "")
    async with scene(tmp_path, server, resumption=False) as seen:
        result = await seen.deliver()
        assert isinstance(result.outcomes[0][1], Delivered)
        assert [len(hello) > LARGE for hello in server.hellos] == [True, False]
        assert "tls-retry" in codes(result)
        assert event(result, "tls:fail:connect").fields["reason"] == "once more with a small hello"
        facts = await seen.delivered()
        assert [len(hello) > LARGE for hello in server.hellos] == [True, False, False]
        assert facts.group is not None
        assert "MLKEM" not in facts.group
        seen.clock.shift = 8 * DAY  # the memory decays
        await seen.delivered()
    assert [len(hello) > LARGE for hello in server.hellos] == [True, False, False, True, False]
    assert server.in_clear == 0


@pytest.mark.parametrize(("level", "in_clear"), [("may", True), ("encrypt", False), ("verify", False)])
async def test_after_the_small_hello_clear_text_only_where_the_level_allows_it(
    tmp_path: Path, level: str, in_clear: bool
) -> None:
    server = Server(context(), fault=lambda hello, number: "reset")
    async with scene(tmp_path, server, level=Level(level)) as seen:
        result = await seen.deliver()
    assert len(server.hellos) == 2
    assert isinstance(result.outcomes[0][1], Delivered if in_clear else Deferred)
    assert server.in_clear == int(in_clear)
    assert names(result).count("tls:fail:connect") == 2
    assert [one.fields["reason"] for one in result.trace.events if one.name == "tls:fail:connect"] == [
        "once more with a small hello",
        None,
    ]


@pytest.mark.parametrize("tls", [{"retry_small_hello": False}, {"groups": "X25519MLKEM768:X25519"}])
async def test_no_small_hello_against_the_settings(tmp_path: Path, tls: dict[str, Any]) -> None:
    server = Server(context(), fault=_shrinks)
    async with scene(tmp_path, server, **tls) as seen:
        result = await seen.deliver()
    assert isinstance(result.outcomes[0][1], Deferred)
    assert len(server.hellos) == 1


async def test_an_alert_is_no_reason_for_a_small_hello(tmp_path: Path) -> None:
    server = Server(context(), fault=lambda hello, number: "alert")
    async with scene(tmp_path, server) as seen:
        result = await seen.deliver()
    assert isinstance(result.outcomes[0][1], Deferred)
    assert len(server.hellos) == 1


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
