from __future__ import annotations

import errno
import resource
import socket

import pytest
import trio

from deliver.errors import Fault
from deliver.net.dial import ConnectFailed, TcpDialer


async def test_a_connection_knows_both_ends() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener:
        connection = await TcpDialer().dial("127.0.0.1", port, source="127.0.0.3", timeout=5)
        async with connection.stream, await listener.accept() as accepted:
            assert accepted.socket.getpeername() == (connection.local_address, connection.local_port)
            assert connection.local_address == "127.0.0.3"
            nodelay = connection.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # type: ignore[attr-defined]
            assert nodelay


async def test_a_refused_connection_has_its_errno() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed) as failed:
            await TcpDialer().dial("127.0.0.1", unused.getsockname()[1], source=None, timeout=5)
    assert failed.value.errno == errno.ECONNREFUSED
    assert failed.value.fault is Fault.REFUSED


async def test_a_process_without_free_descriptors_does_not_connect() -> None:
    """As any connection that fails: it is somebody else's turn, or mail waits."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(ConnectFailed) as failed:
            await TcpDialer().dial("127.0.0.1", 1, source=None, timeout=5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert failed.value.errno == errno.EMFILE


async def test_an_unusable_source_address() -> None:
    with pytest.raises(ConnectFailed) as failed:
        await TcpDialer().dial("127.0.0.1", 1, source="192.0.2.1", timeout=5)
    assert failed.value.errno == errno.EADDRNOTAVAIL
    assert failed.value.fault is None


async def test_silence_ends_at_the_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        opened = []

        async def fill() -> None:
            while True:  # until the backlog is full and the kernel drops the request
                opened.append(await TcpDialer().dial("127.0.0.1", port, source=None, timeout=0.2))

        with pytest.raises(ConnectFailed, match="no answer within") as failed:
            await fill()
        assert failed.value.errno is None
        assert failed.value.fault is Fault.TIMEOUT
        for connection in opened:
            await connection.stream.aclose()
