"""Whatever comes in the place of a handshake: a TlsError and nothing else, in bounded time, and no octet of it counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock, memory_stream_pair

from deliver.net.clock import WallClock
from deliver.relay.guard import Guard
from deliver.relay.security import Client
from deliver.settings import Relay, RelayCertificate, RelayTls, Settings
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine, TlsError
from tests.unit.tls.certificates import NOW, build_house
from tests.unit.tls.peers import MAY

HELLO = TlsEngine(context_for(MAY), "relay.test", request_staple=True)
HELLO.handshake()
FIRST = HELLO.outgoing()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    house = build_house()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        (path / "mail.pem").write_bytes(house.server.pem + house.intermediate.pem)
        (path / "mail.key").write_bytes(house.server.key_pem)
        (path / "ca.pem").write_bytes(house.root.pem)
        yield path


def shaken(directory: Path, pieces: list[bytes], *, ask: bool) -> BaseException | None:
    """What the handshake with somebody who says this, and then closes, comes to."""

    async def main() -> BaseException | None:
        mine = RelayCertificate(chain_file="mail.pem", key_file="mail.key")
        names = ("*.example.org",) if ask else ()
        tls = RelayTls(certificate=(mine,), client_ca="ca.pem" if ask else None, client_names=names)
        guard = Guard(Settings(state_dir=str(directory), relay=Relay(tls=tls)), WallClock(NOW), told)
        ours, theirs = memory_stream_pair()
        for piece in pieces:
            await ours.send_all(piece)
        await ours.send_eof()
        try:
            await guard.secure(theirs, Client("192.0.2.7"))
        except TlsError as error:
            return error
        return None

    async def told(_: object) -> None:
        """Nobody logs in here."""

    return trio.run(main, clock=MockClock(autojump_threshold=0))


@given(st.lists(st.binary(max_size=200), max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_anything(directory: Path, pieces: list[bytes], ask: bool) -> None:
    assert isinstance(shaken(directory, pieces, ask=ask), TlsError)


@given(
    st.lists(st.tuples(st.integers(0, len(FIRST) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(FIRST)),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_hello_that_was_changed_or_cut(
    directory: Path, changes: list[tuple[int, int]], cut: int, ask: bool
) -> None:
    hello = bytearray(FIRST)
    for place, value in changes:
        hello[place] = value
    pieces = [bytes(hello[:cut]), bytes(hello[cut:])]
    assert isinstance(shaken(directory, pieces, ask=ask), TlsError), "it closes before it has finished"
