"""Policies fetched from a real HTTPS server on a loopback address."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from deliver.net.dial import Connection
from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Bogus,
    Found,
    NxDomain,
    Query,
    RecordType,
    Unreachable,
)
from deliver.sts.fetch import MAX_ADDRESSES, HttpsSource
from deliver.sts.source import MAX_BODY, NotFetched
from tests.unit.sts.policyhost import (
    ADDRESS,
    BOTH,
    DEADLINE,
    DEAF,
    DOMAIN,
    GOOD,
    HOST,
    POLICY,
    FailingDialer,
    Names,
    NotingDialer,
    PolicyHost,
    Stream,
    at,
    head,
    policy_host,
    roots,
    saying,
    saying_without_end,
    serving,
    well_put,
    whole,
)

# --- what is fetched


async def test_the_policy_is_fetched_by_one_request_of_that_path() -> None:
    async with policy_host(saying(whole())) as host:
        assert await host.fetch() == POLICY
        (request,) = host.requests
        port = host.port
    line, *fields = request.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    assert line == "GET /.well-known/mta-sts.txt HTTP/1.1"
    assert {field.lower() for field in fields} == {
        f"host: {HOST}:{port}",
        "user-agent: outrider",
        "accept: text/plain",
        "accept-encoding: identity",
        "connection: close",
    }


@pytest.mark.parametrize("octets", GOOD.values(), ids=GOOD)
async def test_forms_in_which_a_policy_may_come(octets: bytes) -> None:
    async with policy_host(saying(octets)) as host:
        assert await host.fetch() == POLICY


@pytest.mark.parametrize("octets", [GOOD["chunked"], whole()], ids=["chunked", "length"])
async def test_a_complete_text_needs_no_end_of_the_connection(octets: bytes) -> None:
    async with policy_host(saying_without_end(octets)) as host:
        assert await host.fetch() == POLICY


@pytest.mark.parametrize("text", [b"", b"x" * MAX_BODY], ids=["empty", "longest"])
async def test_texts_of_every_allowed_length(text: bytes) -> None:
    async with policy_host(saying(whole(text))) as host:
        assert await host.fetch() == text


# --- addresses


async def test_the_next_address_is_tried() -> None:
    async with policy_host(saying(whole())) as host:
        assert await host.fetch(at(DEAF, ADDRESS)) == POLICY
        assert len(host.dialer.opened) == 1


class TwinDialer(NotingDialer):
    """Two connections come about in the same moment."""

    def __init__(self) -> None:
        super().__init__()
        self.both = trio.Event()

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        connection = await super().dial(address, port, source=source, timeout=timeout)
        if len(self.opened) == 2:
            self.both.set()
        with trio.CancelScope(shield=True):
            await self.both.wait()
        return connection


async def test_of_two_that_connect_at_once_one_is_asked_and_both_are_closed() -> None:
    async with policy_host(saying(whole())) as host:
        host.dialer = TwinDialer()
        assert await host.fetch(at(ADDRESS, ADDRESS)) == POLICY
        assert len(host.dialer.opened) == 2
        assert len(host.requests) == 1


class BrokenDialer:
    """What it connects is gone again, and nobody says why."""

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        near, far = trio.testing.memory_stream_pair()
        await far.aclose()
        return Connection(near, "127.0.0.1", 1)


async def test_a_connection_that_is_gone_at_once() -> None:
    source = HttpsSource(at(ADDRESS), BrokenDialer(), families=BOTH, trust_store=roots(), deadline=DEADLINE)
    with pytest.raises(NotFetched) as refused:
        await source.fetch(DOMAIN)
    assert well_put(refused.value) == f"negotiating TLS with {HOST} failed: the connection broke"


async def test_a_family_that_cannot_be_looked_up_is_done_without() -> None:
    names = at(ADDRESS)
    names.answers = {**names.answers, (HOST, RecordType.AAAA): Unreachable("timeout")}
    async with policy_host(saying(whole())) as host:
        assert await host.fetch(names) == POLICY


async def refused_by(
    names: Names, *, ignored: Sequence[str] = (), domain: str = DOMAIN
) -> tuple[str, list[str]]:
    """Why, and which addresses were tried."""
    dialer = FailingDialer()
    source = HttpsSource(names, dialer, families=BOTH, ignored=ignored, deadline=DEADLINE)
    with pytest.raises(NotFetched) as refused:
        await source.fetch(domain)
    return well_put(refused.value), dialer.asked


async def test_nobody_answers() -> None:
    why, asked = await refused_by(at("192.0.2.1", "192.0.2.2"))
    failures = "192.0.2.1: No route to host; 192.0.2.2: No route to host"
    assert why == f"connecting to {HOST} on port 443 failed: {failures}"
    assert asked == ["192.0.2.1", "192.0.2.2"]


async def test_some_addresses_are_tried_and_the_families_in_turn() -> None:
    six = tuple(AddressRecord(f"2001:db8::{number}") for number in range(1, 9))
    four = (AddressRecord("192.0.2.1"),)
    names = Names(
        {(HOST, RecordType.AAAA): Found(six, False, 300), (HOST, RecordType.A): Found(four, False, 300)}
    )
    _, asked = await refused_by(names)
    assert asked == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"]
    assert len(asked) == MAX_ADDRESSES


async def test_ignored_addresses_are_not_tried() -> None:
    _, asked = await refused_by(at("127.0.0.1", "192.0.2.1"), ignored=["127.0.0.0/8"])
    assert asked == ["192.0.2.1"]
    why, asked = await refused_by(at("127.0.0.1"), ignored=["127.0.0.0/8"])
    assert why == f"{HOST} has no address: 127.0.0.1 of {HOST} ignored (delivery.ignore_addresses)"
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (NxDomain(True), "has no address"),
        (Bogus("the signature has expired"), "the signature has expired"),
        (Unreachable("no answer within 5 s"), "no answer within 5 s"),
    ],
    ids=["absent", "bogus", "unreachable"],
)
async def test_a_host_that_is_not_found(answer: Answer, why: str) -> None:
    refused, asked = await refused_by(Names({(HOST, RecordType.A): answer}))
    if not isinstance(answer, NxDomain):
        why = f"cannot be used now: its addresses could not be looked up: {why}"
    assert refused == f"{HOST} {why}"
    assert asked == []


async def test_a_domain_whose_policy_host_cannot_have_a_name() -> None:
    domain = ".".join(["a" * 61] * 4)
    why, _ = await refused_by(at(ADDRESS), domain=domain)
    assert why == f"mta-sts.{domain} cannot exist: the name would be too long"


# --- time


async def test_a_silent_server_is_left_at_the_deadline(mock_clock: trio.testing.MockClock) -> None:
    async def say_nothing(stream: Stream) -> None:
        mock_clock.jump(DEADLINE + 1)
        await trio.sleep_forever()

    async with policy_host(say_nothing) as host:
        why = f"{host.url} was not fetched within 20 s: time ran out waiting for the response"
        assert await host.refused() == why


async def test_drops_do_not_put_the_deadline_off(mock_clock: trio.testing.MockClock) -> None:
    async def drip(stream: Stream) -> None:
        await stream.send_all(head("Content-Length: 1000"))
        while True:
            mock_clock.jump(DEADLINE / 10)
            await stream.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked()

    async with policy_host(drip) as host:
        assert (await host.refused()).endswith("time ran out waiting for the response")


async def test_a_silent_handshake(mock_clock: trio.testing.MockClock) -> None:
    async def say_nothing(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        mock_clock.jump(DEADLINE + 1)
        await trio.sleep_forever()

    async with serving(say_nothing) as port:
        assert (await PolicyHost(port).refused()).endswith("time ran out negotiating TLS")


async def test_a_silent_resolver(autojump_clock: trio.testing.MockClock) -> None:
    class Silent(Names):
        async def lookup(self, query: Query) -> Answer:
            await trio.sleep_forever()
            raise AssertionError

    why, _ = await refused_by(Silent({}))
    assert why.endswith("was not fetched within 20 s: time ran out looking its host up")
    assert trio.current_time() == pytest.approx(DEADLINE)


async def test_cancellation_passes_and_leaves_nothing_open() -> None:
    async def cancel(stream: Stream) -> None:
        scope.cancel()
        await trio.sleep_forever()

    async with policy_host(cancel) as host:
        with trio.CancelScope() as scope:
            await host.fetch()
        assert scope.cancelled_caught
        assert len(host.dialer.opened) == 1
        assert host.dialer.all_closed
