"""The policy host over real TLS: body and certificate by name, wrong ones on purpose, changes, counts, bounds."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio

from tests.internet.gate import Gate
from tests.internet.pki import Certificate, authority
from tests.internet.policyhost import REQUEST_OCTETS, TARGET, PolicyAnswer, PolicyHost

Result = TypeVar("Result")


@asynccontextmanager
async def running(**answers: PolicyAnswer) -> AsyncIterator[PolicyHost]:
    """The policy hosts `mta-sts.NAME.test`."""
    host = PolicyHost(authority(), {f"{name}.test": answer for name, answer in answers.items()})
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(host.serve, listeners)
        yield host
        nursery.cancel_scope.cancel()


async def talk(host: PolicyHost, server_name: str | None, use: Callable[[ssl.SSLSocket], Result]) -> Result:
    """Run `use` in a thread with a TLS connection that the tests' authority vouches for."""
    context = ssl.create_default_context(cadata=authority().root_pem.decode())
    context.check_hostname = server_name is not None

    def connected() -> Result:
        with socket.create_connection((host.address, host.port), timeout=10) as stream:
            with context.wrap_socket(stream, server_hostname=server_name) as secured:
                return use(secured)

    return await trio.to_thread.run_sync(connected)


async def said(
    host: PolicyHost, octets: bytes, server_name: str = "mta-sts.a.test"
) -> http.client.HTTPResponse:
    def ask(secured: ssl.SSLSocket) -> http.client.HTTPResponse:
        secured.sendall(octets)
        response = http.client.HTTPResponse(secured)
        response.begin()
        response.body = response.read()  # type: ignore[attr-defined]
        return response

    return await talk(host, server_name, ask)


async def get(host: PolicyHost, domain: str) -> tuple[int, bytes]:
    """Status and body of its policy."""
    request = f"GET {TARGET} HTTP/1.1\r\nHost: mta-sts.{domain}:{host.port}\r\n\r\n"
    response = await said(host, request.encode(), f"mta-sts.{domain}")
    return response.status, response.body  # type: ignore[attr-defined]


async def test_each_domain_has_its_own_body_and_certificate() -> None:
    async with running(a=PolicyAnswer(b"of a"), b=PolicyAnswer(b"of b")) as host:
        assert await get(host, "a.test") == (200, b"of a")
        assert await get(host, "b.test") == (200, b"of b")
        certificate = await talk(host, "mta-sts.b.test", lambda secured: secured.getpeercert())
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", "mta-sts.b.test"),)
    assert host.violations == []


async def test_status_media_type_and_further_headers_are_as_scripted() -> None:
    answer = PolicyAnswer(b"moved", 302, "text/html", headers=(("Location", "https://else.test/"),))
    async with running(a=answer) as host:
        request = f"GET {TARGET} HTTP/1.1\r\nHost: mta-sts.a.test\r\n\r\n"
        response = await said(host, request.encode())
    assert (response.status, response.getheader("Content-Type")) == (302, "text/html")
    assert response.getheader("Location") == "https://else.test/"
    assert [visit.status for visit in host.visits] == [302]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (PolicyAnswer(certificate=Certificate.WRONG_NAME), "Hostname mismatch"),
        (PolicyAnswer(names=("mta-sts.b.test",)), "Hostname mismatch"),
        (PolicyAnswer(certificate=Certificate.EXPIRED), "expired"),
        (PolicyAnswer(certificate=Certificate.SELF_SIGNED), "self-signed"),
    ],
)
async def test_a_wrong_certificate_is_noticed_and_no_request_is_counted(
    answer: PolicyAnswer, why: str
) -> None:
    async with running(a=answer) as host:
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            await get(host, "a.test")
        await host.wait_for(lambda host: all(visit.ended for visit in host.visits))
    [visit] = host.visits_of("a.test")
    assert visit.tls_error is not None
    assert "alert" in visit.tls_error
    assert host.requests("a.test") == 0


async def test_a_changed_policy_is_served_at_once_and_requests_are_counted_by_domain() -> None:
    async with running(a=PolicyAnswer(b"old", media_type="text/x"), b=PolicyAnswer()) as host:
        assert await get(host, "a.test") == (200, b"old")
        host.write("a.test", "new")
        assert await get(host, "a.test") == (200, b"new")
        assert host.answers["a.test"].media_type == "text/x"
        host.answer("a.test", PolicyAnswer(status=404))
        assert await get(host, "a.test") == (404, b"")
        host.answer("a.test", PolicyAnswer(certificate=Certificate.EXPIRED))
        with pytest.raises(ssl.SSLCertVerificationError):
            await get(host, "a.test")
    assert (host.requests("a.test"), host.requests("b.test"), host.requests("c.test")) == (3, 0, 0)
    with pytest.raises(KeyError):
        host.write("c.test", "x")


async def test_at_a_gate_the_answer_waits_with_the_request_on_record() -> None:
    gate = Gate()
    async with running(a=PolicyAnswer(b"late", gate=gate)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(get, host, "a.test")
        await host.wait_for(lambda host: host.requests("a.test") == 1)
        assert host.visits[0].status is None
        gate.open()
        await host.wait_for(lambda host: host.visits[0].ended)
    assert host.visits[0].status == 200


@pytest.mark.parametrize("server_name", ["mta-sts.c.test", "a.test", None])
async def test_a_name_without_a_policy_gets_no_certificate(server_name: str | None) -> None:
    async with running(a=PolicyAnswer()) as host:
        with pytest.raises(ssl.SSLError):
            await talk(host, server_name, lambda secured: None)
    assert host.violations == [f"policy host: the client asked for {server_name}, which has no policy"]


@pytest.mark.parametrize(
    ("octets", "wrong"),
    [
        (f"POST {TARGET} HTTP/1.1\r\nHost: mta-sts.a.test\r\n\r\n", "the method is POST"),
        ("GET / HTTP/1.1\r\nHost: mta-sts.a.test\r\n\r\n", "the target is /"),
        (f"GET {TARGET} HTTP/1.1\r\nHost: mta-sts.b.test\r\n\r\n", "the Host is mta-sts.b.test"),
        (f"GET {TARGET} HTTP/1.1\r\nHost: mta-sts.a.test:1\r\n\r\n", "the Host is mta-sts.a.test:1"),
        ("EHLO a.test\r\n\r\n", "this is no request"),
        ("GET /" + "x" * 2 * REQUEST_OCTETS, "this is no request"),
    ],
)
async def test_a_request_against_the_rules_is_refused_and_noted(octets: str, wrong: str) -> None:
    async with running(a=PolicyAnswer(b"policy"), b=PolicyAnswer()) as host:
        assert (await said(host, octets.encode())).status == 400
    assert host.violations == [f"policy host: mta-sts.a.test: {wrong}"]


async def test_a_client_that_says_nothing_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async with running(a=PolicyAnswer()) as host:
        stream = await trio.open_tcp_stream(host.address, host.port)
        assert await stream.receive_some() == b""
        await stream.aclose()
        await host.wait_for(lambda host: host.visits[0].ended)
    assert host.visits[0].request is None


async def test_a_client_that_goes_does_no_harm() -> None:
    async with running(a=PolicyAnswer(b"policy")) as host:
        await (await trio.open_tcp_stream(host.address, host.port)).aclose()
        await talk(host, "mta-sts.a.test", lambda secured: None)
        await host.wait_for(lambda host: len(host.visits) == 2 and all(v.ended for v in host.visits))
        assert await get(host, "a.test") == (200, b"policy")
    assert host.requests("a.test") == 1
    assert host.violations == []
