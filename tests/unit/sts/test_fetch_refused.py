"""What a policy host answers that is no policy, and certificates that are not its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from deliver.sts.source import MAX_BODY
from tests.internet.pki import Authority, Certificate, Credentials, authority
from tests.unit.sts.policyhost import (
    CHUNKED,
    DOMAIN,
    HOST,
    POLICY,
    PolicyHost,
    Stream,
    chunks,
    head,
    policy_host,
    saying,
    saying_for_ever,
    saying_without_end,
    serving,
    whole,
)
from tests.unit.tls.certificates import DAY, Wish, issue

# --- what is refused in HTTP

REFUSED = {
    "301": (
        head("Location: /policy", status="301 Moved"),
        "{url} answered 301 instead of 200 (redirects are not followed, RFC 8461 3.3)",
    ),
    "404": (whole(status="404 Not Found"), "{url} answered 404 instead of 200"),
    "204": (head(status="204 No Content"), "{url} answered 204 instead of 200"),
    "203": (whole(status="203 Altered"), "{url} answered 203 instead of 200"),
    "html": (
        whole(media="text/html"),
        "{url} answered with text/html instead of text/plain (RFC 8461 3.3)",
    ),
    "plainer": (
        whole(media="text/plainer"),
        "{url} answered with text/plainer instead of text/plain (RFC 8461 3.3)",
    ),
    "two types": (
        head("Content-Type: text/html", "Content-Length: 0"),
        "{url} answered with text/plain, text/html instead of text/plain (RFC 8461 3.3)",
    ),
    "no type": (
        whole(media=""),
        "{url} answered with no media type instead of text/plain (RFC 8461 3.3)",
    ),
    "gzip": (
        head("Content-Encoding: gzip", "Content-Length: 0"),
        "{url} answered with the content coding gzip, which was not asked for",
    ),
    "cut by length": (
        head(f"Content-Length: {len(POLICY) + 1}") + POLICY,
        "{url} could not be read: the connection ended before the response was complete",
    ),
    "cut in chunks": (
        head(CHUNKED) + chunks(POLICY),
        "{url} could not be read: the connection ended before the response was complete",
    ),
    "cut in the head": (
        head()[:-2],
        "{url} could not be read: the connection ended before the response was complete",
    ),
    "nothing": (b"", "{url} could not be read: the connection ended before the response was complete"),
    "garbage": (
        b"220 mx.example.org ESMTP\r\n\r\n",
        "{url} did not answer in proper HTTP/1.1: illegal status line: "
        "bytearray(b'220 mx.example.org ESMTP')",
    ),
    "too long by length": (
        head(f"Content-Length: {MAX_BODY + 1}"),
        "{url} answered with more than the 65536 octets that a policy may have",
    ),
    "too long in chunks": (
        head(CHUNKED) + chunks(b"x" * MAX_BODY, b"x"),
        "{url} answered with more than the 65536 octets that a policy may have",
    ),
    "too long until the end": (
        head() + b"x" * (MAX_BODY + 1),
        "{url} answered with more than the 65536 octets that a policy may have",
    ),
    "transfer coding": (
        head("Transfer-Encoding: gzip, chunked"),
        "{url} did not answer in proper HTTP/1.1: Only Transfer-Encoding: chunked is supported",
    ),
    "another protocol": (
        head(status="101 Switching Protocols"),
        "{url} did not answer in proper HTTP/1.1: Received server _SWITCH_UPGRADE event without a "
        "pending proposal",
    ),
}


@pytest.mark.parametrize(("octets", "why"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_policy_is_refused_with_its_reason(octets: bytes, why: str) -> None:
    async with policy_host(saying(octets)) as host:
        assert await host.refused() == why.format(url=host.url)


ENDLESS = {
    "header": (b"HTTP/1.1 200 OK\r\n", b"X-Field: value\r\n" * 100, "Receive buffer too long"),
    "line": (b"HTTP/1.1 200 OK\r\nX-Field: ", b"x" * 1000, "Receive buffer too long"),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10, "more than 8 interim responses (1xx)"),
    "chunks": (head(CHUNKED), chunks(b"x" * 1000), "more than the 65536 octets that a policy may have"),
    "tiny chunks": (head(CHUNKED), chunks(b"x") * 100, "answered with more than 131072 octets"),
    "extension": (head(CHUNKED) + b"1;", b"x" * 1000, "Receive buffer too long"),
    "trailer": (head(CHUNKED) + b"0\r\n", b"X: y\r\n" * 100, "Receive buffer too long"),
    "text": (head(), b"x" * 1000, "more than the 65536 octets that a policy may have"),
}


@pytest.mark.parametrize(("beginning", "repeated", "why"), ENDLESS.values(), ids=ENDLESS)
async def test_endless_responses_end(beginning: bytes, repeated: bytes, why: str) -> None:
    async with policy_host(saying_for_ever(beginning, repeated)) as host:
        assert (await host.refused()).endswith(why)


async def test_a_text_that_ends_without_close_notify_may_have_been_cut() -> None:
    async with policy_host(saying_without_end(head() + POLICY)) as host:
        why = f"{host.url} could not be read: the connection ended without the end of TLS (close_notify)"
        assert await host.refused() == why


async def test_a_reset_is_a_failure_like_others() -> None:
    async def reset(stream: Stream) -> None:
        linger = b"\x01\0\0\0\0\0\0\0"
        stream.transport_stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
        stream.transport_stream.socket.close()

    async with policy_host(reset) as host:
        assert await host.refused() == f"{host.url} could not be read: Connection reset by peer"


# --- certificates


def by_common_name() -> tuple[Credentials, bytes]:
    """A certificate whose only name is its common name, and its root in PEM."""
    now = datetime.now(UTC).timestamp()
    dates = {"not_before": now - DAY, "not_after": now + DAY}
    root = issue(Wish("Root", authority=True, **dates))
    server = issue(Wish(HOST, **dates), root)
    return Credentials(server.key_pem, (server.der,)), root.pem


@pytest.mark.parametrize("name", [HOST, "*.example.org"])
async def test_certificates_for_the_host(name: str) -> None:
    async with policy_host(saying(whole()), authority().issue(name)) as host:
        assert await host.fetch() == POLICY


INVALID = {
    "wrong name": (
        lambda: authority().issue(HOST, kind=Certificate.WRONG_NAME),
        f"Hostname mismatch, certificate is not valid for '{HOST}'",
    ),
    "the domain's own": (
        lambda: authority().issue(DOMAIN),
        f"Hostname mismatch, certificate is not valid for '{HOST}'",
    ),
    "part of a label": (
        lambda: authority().issue("mta-*.example.org"),
        f"Hostname mismatch, certificate is not valid for '{HOST}'",
    ),
    "self-signed": (
        lambda: authority().issue(HOST, kind=Certificate.SELF_SIGNED),
        "self-signed certificate",
    ),
    "unknown issuer": (
        lambda: Authority("Stranger").issue(HOST),
        "unable to get local issuer certificate",
    ),
    "expired": (
        lambda: authority().issue(HOST, kind=Certificate.EXPIRED),
        "certificate has expired",
    ),
    "not yet valid": (
        lambda: authority().issue(HOST, kind=Certificate.NOT_YET_VALID),
        "certificate is not yet valid",
    ),
}


@pytest.mark.parametrize(("issued", "why"), INVALID.values(), ids=INVALID)
async def test_certificates_that_are_not_valid(issued: Callable[[], Credentials], why: str) -> None:
    async with policy_host(saying(whole()), issued()) as host:
        assert await host.refused() == f"the certificate of {HOST} is not valid: {why}"
        assert not host.requests  # it never learned what we wanted


async def test_a_common_name_is_no_name(tmp_path: Path) -> None:
    credentials, root = by_common_name()
    trusted = tmp_path / "other.pem"
    trusted.write_bytes(root)
    async with policy_host(saying(whole()), credentials) as host:
        why = await host.refused(trust_store=str(trusted))
    mismatch = f"Hostname mismatch, certificate is not valid for '{HOST}'"
    assert why == f"the certificate of {HOST} is not valid: {mismatch}"


async def test_the_trust_store_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    path.write_bytes(Authority("Stranger").root_pem)
    async with policy_host(saying(whole())) as host:
        assert "unable to get local issuer" in await host.refused(trust_store=str(path))
        path.write_bytes(authority().root_pem)
        assert await host.fetch(trust_store=str(path)) == POLICY


async def test_without_a_trust_store_nothing_is_fetched(tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    async with policy_host(saying(whole())) as host:
        why = await host.refused(trust_store=str(missing))
    assert why.startswith(f"the certificate of {HOST} cannot be verified: reading the trust store of ")
    assert "No such file" in why


async def test_tls_before_1_2_is_refused() -> None:
    context = authority().issue(HOST).server_context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with policy_host(saying(whole()), context=context) as host:
        assert (await host.refused()).startswith(f"negotiating TLS with {HOST} failed: ")
        assert not host.requests


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number"),
        (b"", "the connection ended without the end of TLS (close_notify)"),
    ],
    ids=["clear text", "nothing"],
)
async def test_no_tls_at_all(said: bytes, why: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(said)
        await stream.send_eof()

    async with serving(serve) as port:
        refused = await PolicyHost(port).refused()
    assert refused == f"negotiating TLS with {HOST} failed: {why}"
