"""The relay of the measurement charges every round trip, the TCP handshake included."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio

from bench.roundtrips import WAYS, FarDialer, _far_away, _report

RTT = 0.02


async def greet(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"220 hello\r\n")
        while data := bytes(await stream.receive_some(1000)):
            await stream.send_all(data)


async def test_each_exchange_costs_a_round_trip() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, listeners)
        server = cast(Any, SimpleNamespace(address="127.0.0.1", port=port))
        async with _far_away(server, RTT) as near:
            began = trio.current_time()
            connection = await FarDialer(RTT).dial("127.0.0.1", near, source=None, timeout=5)
            times = [trio.current_time() - began]
            said = []
            for word in (b"", b"one\r\n", b"two\r\n"):
                if word:
                    await connection.stream.send_all(word)
                said.append(bytes(await connection.stream.receive_some(1000)))
                times.append(trio.current_time() - began)
            await connection.stream.aclose()
        nursery.cancel_scope.cancel()
    assert said == [b"220 hello\r\n", b"one\r\n", b"two\r\n"]
    for trips, spent in enumerate(times, 1):
        assert spent >= trips * RTT


async def test_what_leaves_early_saves_a_round_trip_and_no_more() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, listeners)
        server = cast(Any, SimpleNamespace(address="127.0.0.1", port=port))
        async with _far_away(server, RTT) as near:
            began = trio.current_time()
            connection = await FarDialer(RTT).dial("127.0.0.1", near, source=None, timeout=5)
            await connection.stream.send_all(b"early\r\n")
            got = b""
            while not got.endswith(b"early\r\n"):
                got += bytes(await connection.stream.receive_some(1000))
            spent = trio.current_time() - began
            await connection.stream.aclose()
        nursery.cancel_scope.cancel()
    assert spent >= 2 * RTT


def test_a_missed_target_is_an_error(capsys: Any) -> None:
    way = WAYS[0]
    assert _report([(way, [way.target * 0.05], 5, [0.004])]) == 0
    assert _report([(way, [(way.target + 0.2) * 0.05], 5, [0.004])]) == 1
    assert way.name in capsys.readouterr().err
