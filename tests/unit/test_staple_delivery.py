"""Deliveries to a server that staples: what the staple says decides, and is told."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp as made
from OpenSSL import SSL

from deliver.assembly import build_agent
from deliver.attempt import Attempt
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.net.tlsstream import TlsStream
from deliver.outcome import AttemptResult, Deferred, Delivered
from deliver.queue.content import InlineContent
from deliver.settings import Delivery, Dns, Route, Settings, Tls
from deliver.tls.engine import TlsEngine
from events.catalogue import vocabulary_problems
from hints.memory import MemoryHints
from tests.unit.tls.certificates import DAY, Issued, Wish, issue
from tests.unit.tls.responder import Answer, respond, revocation_list

NOW = datetime.now(UTC).timestamp()
VALID: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW + DAY}
CA = issue(Wish("CA", authority=True, **VALID))
SERVER = issue(Wish("server", dns_names=("mx.example.org",), **VALID), CA)
STRICT = issue(Wish("strict", dns_names=("mx.example.org",), must_staple=True, **VALID), CA)
BODY = b"Subject: hello\r\n\r\nhello\r\n"


def staple(status: made.OCSPCertStatus, server: Issued = SERVER) -> bytes:
    return respond(Answer(server, status, this_update=NOW - 60, next_update=NOW + 3600))


async def serve(stream: trio.SocketStream, server: Issued, stapled: bytes, seen: list[bytes]) -> None:
    """One SMTP connection; what is said inside TLS goes to `seen`."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(server.certificate)
    context.use_privatekey(load_pem_private_key(server.key_pem, None))  # type: ignore[arg-type]
    context.add_extra_chain_cert(x509.load_der_x509_certificate(CA.der))
    context.set_ocsp_server_callback(lambda connection, data: stapled)
    await stream.send_all(b"220 mx.example.org\r\n")
    await stream.receive_some()
    await stream.send_all(b"250-mx.example.org\r\n250 STARTTLS\r\n")
    await stream.receive_some()
    await stream.send_all(b"220 go\r\n")
    secure = TlsStream(stream, TlsEngine(context, server_side=True))
    try:
        while line := await secure.receive_some():
            seen.append(line)
            await secure.send_all(b"354 go\r\n" if line.upper().startswith(b"DATA") else b"250 ok\r\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def deliver(
    tmp_path: Path, server: Issued, stapled: bytes, *, level: str, **tls: Any
) -> tuple[AttemptResult, list[bytes]]:
    seen: list[bytes] = []
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    async with trio.open_nursery() as nursery:
        handler = partial(serve, server=server, stapled=stapled, seen=seen)
        (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        settings = Settings(
            state_dir=str(tmp_path),
            dns=Dns(resolvers=("127.0.0.1:1",)),
            delivery=Delivery(helo="relay.example.org"),
            tls=Tls(trust_store="ca.pem", verify_names=("MX.example.org.",), level=Level(level), **tls),
            route=(Route(domains=("*",), via="smarthost", hosts=(f"127.0.0.1:{port}",)),),
        )
        clock = WallClock()
        hints = MemoryHints(clock=clock.now)
        agent = build_agent(settings, hints=hints, clock=clock, rng=Random(1), learner="test")
        recipients = (Recipient(0, Mailbox.parse("a@example.org")),)
        envelope = Envelope(MessageId("m1"), None, recipients, len(BODY), False, clock.now())
        story = Attempt(agent, envelope, recipients, InlineContent(BODY))
        await story.run()
        nursery.cancel_scope.cancel()
    result = story.result()
    for event in result.trace.events:
        assert vocabulary_problems(event.name, event.fields) == ()
    return result, seen


def told(result: AttemptResult) -> list[object]:
    return [event.fields["event_data"] for event in result.trace.events if event.name == "ocsp:result"]


GOOD = staple(made.OCSPCertStatus.GOOD)
REVOKED = staple(made.OCSPCertStatus.REVOKED)


@pytest.mark.parametrize(
    ("stapled", "said", "tls"),
    [
        (GOOD, "good", {"level": "verify"}),
        (GOOD, "good", {"level": "may", "require_ocsp": True}),
        (b"", "none", {"level": "verify"}),
        (staple(made.OCSPCertStatus.UNKNOWN), "unknown", {"level": "verify"}),
        (REVOKED, "revoked", {"level": "encrypt"}),
        (REVOKED, None, {"level": "verify", "request_ocsp": False}),
    ],
)
async def test_accepted(tmp_path: Path, stapled: bytes, said: str | None, tls: dict[str, Any]) -> None:
    result, seen = await deliver(tmp_path, SERVER, stapled, **tls)
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered), outcome
    assert outcome.contact.tls is not None
    assert outcome.contact.tls.ocsp == (said or "none")
    assert told(result) == ([said] if said else [])
    (delivery,) = (event for event in result.trace.events if event.name == "msg:delivery")
    number = {None: 0, "none": 1, "good": 4}.get(said, 3)  # Exim's
    assert (delivery.fields["tls_out_ocsp"], delivery.fields["tls_ocsp"]) == (number, said or "none")
    assert any(line.startswith(b"MAIL") for line in seen)


@pytest.mark.parametrize(
    ("server", "stapled", "tls", "why"),
    [
        (SERVER, REVOKED, {"level": "verify"}, "revoked"),
        (SERVER, b"", {"level": "may", "require_ocsp": True}, "stapled no OCSP response"),
        (SERVER, REVOKED, {"level": "may", "require_ocsp": True}, "revoked"),
        (STRICT, b"", {"level": "verify"}, "demands an OCSP staple"),
        (SERVER, GOOD, {"level": "verify", "crl": "lists.pem"}, "revoked by a list"),
        (SERVER, GOOD, {"level": "verify", "crl": "missing.pem"}, "No such file"),
    ],
)
async def test_refused_before_one_more_octet(
    tmp_path: Path, server: Issued, stapled: bytes, tls: dict[str, Any], why: str
) -> None:
    (tmp_path / "lists.pem").write_bytes(_lists())
    result, seen = await deliver(tmp_path, server, stapled, **tls)
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert why in outcome.why
    assert seen == []


def _lists() -> bytes:
    return revocation_list(CA, SERVER, this_update=NOW - 60, next_update=NOW + 3600)
