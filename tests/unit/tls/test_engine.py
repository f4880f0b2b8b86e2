"""The sans-IO TLS machine against the standard library's, octet by octet and with hostile peers."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given, settings, strategies as st
from OpenSSL import SSL

from deliver.errors import PeerError
from deliver.tls.context import context_for
from deliver.tls.engine import MAX_HANDSHAKE, MAX_WRITE, PIECE, TlsEngine, TlsError
from tests.unit.tls.certificates import House, build_house
from tests.unit.tls.peers import MAY, NAME, StdlibServer, server_context, stdlib_server_context

HOUSE = build_house()
BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def client(name: str = NAME) -> TlsEngine:
    return TlsEngine(context_for(MAY), name)


def negotiate(engine: TlsEngine, server: StdlibServer) -> bytes:
    """Run until the client has finished; its last flight is returned, not delivered."""
    while not engine.handshake():
        engine.feed(server.take(engine.outgoing()))
    return engine.outgoing()


def established(house: House, version: ssl.TLSVersion) -> tuple[TlsEngine, StdlibServer]:
    engine, server = client(), StdlibServer(stdlib_server_context(house, version))
    if reply := server.take(negotiate(engine, server)):
        engine.feed(reply)
    assert server.completed
    return engine, server


@BOTH
def test_the_facts_of_a_handshake(house: House, version: ssl.TLSVersion) -> None:
    engine, server = established(house, version)
    facts = engine.facts()
    assert facts.version == {772: "TLSv1.3", 771: "TLSv1.2"}[version]
    assert facts.cipher == server.object.cipher()[0]
    assert facts.group
    assert facts.chain == house.chain
    assert facts.resumed is False
    assert server.seen_name == NAME


@pytest.mark.parametrize("name", ["", "192.0.2.1", "2001:db8::1"])
def test_no_name_no_server_name_indication(house: House, name: str) -> None:
    engine = client(name)
    server = StdlibServer(stdlib_server_context(house, ssl.TLSVersion.TLSv1_3))
    negotiate(engine, server)
    assert server.seen_name is None


def test_in_tls13_the_server_waits_for_a_finished_that_we_still_hold(house: House) -> None:
    engine = client()
    server = StdlibServer(stdlib_server_context(house, ssl.TLSVersion.TLSv1_3))
    last_flight = negotiate(engine, server)
    assert engine.finished
    assert engine.facts().chain == house.chain  # enough for a judgement
    assert engine.holds_last_flight
    assert last_flight
    assert not server.completed
    server.take(last_flight)
    assert server.completed


@BOTH
def test_data_and_close_notify_both_ways(house: House, version: ssl.TLSVersion) -> None:
    engine, server = established(house, version)
    assert engine.read() is None
    engine.write(b"EHLO client\r\n")
    engine.write(b"")
    server.take(engine.outgoing())
    assert server.read() == b"EHLO client\r\n"
    engine.feed(server.write(b"250 ok\r\n"))
    assert engine.read(3) == b"250"
    assert engine.read() == b" ok\r\n"
    engine.feed(server.close())
    assert engine.read() == b""
    engine.close()
    assert engine.outgoing()


@BOTH
def test_all_that_was_written_leaves_at_once_and_in_order(house: House, version: ssl.TLSVersion) -> None:
    engine, server = established(house, version)
    said = [b"MAIL\r\n", bytes(range(256)) * (MAX_WRITE // 256), b"x" * MAX_WRITE]
    for data in said:
        engine.write(data)
    server.take(engine.outgoing())
    assert engine.outgoing() == b""
    heard = b""
    while len(heard) < sum(map(len, said)):
        heard += server.read()
    assert heard == b"".join(said)


@BOTH
def test_an_end_without_close_notify_is_an_error(house: House, version: ssl.TLSVersion) -> None:
    engine, server = established(house, version)
    engine.feed(server.write(b"250 ok\r\n"))
    engine.feed(b"")
    assert engine.read() == b"250 ok\r\n"  # what came before the end still counts
    with pytest.raises(TlsError) as caught:
        engine.read()
    assert caught.value.truncated


def test_octet_by_octet(house: House) -> None:
    engine = client()
    server = StdlibServer(stdlib_server_context(house, ssl.TLSVersion.TLSv1_3))
    while not engine.handshake():
        for octet in server.take(engine.outgoing()):
            engine.feed(bytes([octet]))
            engine.handshake()
    server.take(engine.outgoing())
    assert server.completed


def test_a_peer_that_does_not_speak_tls() -> None:
    engine = client()
    assert not engine.handshake()
    engine.outgoing()
    engine.feed(b"454 TLS not available\r\n")
    with pytest.raises(TlsError) as caught:
        engine.handshake()
    assert isinstance(caught.value, PeerError)
    assert "did not answer in TLS" in caught.value.happened
    assert not caught.value.truncated


def test_a_peer_that_closes_during_the_handshake() -> None:
    engine = client()
    assert not engine.handshake()
    engine.feed(b"")
    with pytest.raises(TlsError) as caught:
        engine.handshake()
    assert caught.value.truncated
    assert "closed the connection" in caught.value.happened


def test_an_alert_is_named() -> None:
    engine = client()
    assert not engine.handshake()
    engine.feed(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal, handshake_failure
    with pytest.raises(TlsError, match="handshake failure"):
        engine.handshake()


def test_failure_leaves_an_alert_to_send_and_lasts(house: House) -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    engine = TlsEngine(context)
    server = StdlibServer(stdlib_server_context(house, ssl.TLSVersion.TLSv1_3))
    assert not engine.handshake()
    damaged = bytearray(server.take(engine.outgoing()))
    damaged[-1] ^= 1
    engine.feed(bytes(damaged))
    with pytest.raises(TlsError) as first:
        engine.handshake()
    assert engine.outgoing()  # the alert
    for again in (engine.handshake, engine.read, lambda: engine.write(b"x"), lambda: engine.feed(b"x")):
        with pytest.raises(TlsError) as later:
            again()
        assert later.value.happened == first.value.happened
    engine.close()
    assert engine.outgoing() == b""


def test_a_handshake_without_end_is_cut_off() -> None:
    engine = client()
    engine.handshake()
    for _ in range(MAX_HANDSHAKE // PIECE):
        engine.feed(b"\0" * PIECE)
    with pytest.raises(TlsError, match="handshake took more than"):
        engine.feed(b"\0")


def test_tls_1_1_is_not_spoken(house: House) -> None:
    context = server_context(house, max_version=SSL.TLS1_1_VERSION)
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    server = TlsEngine(context, server_side=True)
    engine = client()
    engine.handshake()
    server.feed(engine.outgoing())
    with pytest.raises(TlsError, match="unsupported protocol"):
        server.handshake()


def test_a_server_of_our_own_sends_its_last_flight_in_tls12_and_may_hold_it_in_tls13(house: House) -> None:
    for version, holds in ((SSL.TLS1_2_VERSION, False), (SSL.TLS1_3_VERSION, True)):
        engine = client()
        server = TlsEngine(server_context(house, max_version=version), server_side=True)
        done = False
        while not (done and server.finished):
            done = engine.handshake()
            if data := engine.outgoing():
                server.feed(data)
                if server.handshake():
                    break
            engine.feed(server.outgoing())
        assert server.holds_last_flight is holds


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(min_size=1, max_size=400))
def test_random_octets_raise_nothing_but_tls_errors(noise: bytes) -> None:
    engine = client()
    engine.handshake()
    engine.outgoing()
    engine.feed(noise)
    engine.feed(b"")
    with pytest.raises(TlsError):
        engine.handshake()


SERVER_CONTEXT = stdlib_server_context(HOUSE, ssl.TLSVersion.TLSv1_2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_server_flight_raises_nothing_but_tls_errors(changes: list[tuple[int, int]]) -> None:
    """TLS 1.2: the certificate travels in clear, so that damage reaches OpenSSL's parser."""
    engine, server = client(), StdlibServer(SERVER_CONTEXT)
    engine.handshake()
    flight = bytearray(server.take(engine.outgoing()))
    for place, change in changes:
        flight[place % len(flight)] ^= change
    engine.feed(bytes(flight))
    finished = False
    with contextlib.suppress(TlsError):
        finished = engine.handshake()
    assert not finished
