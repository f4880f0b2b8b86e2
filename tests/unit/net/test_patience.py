"""A listener that lets other processes accept first."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from deliver.net import patience
from deliver.net.patience import PatientListener


async def listening() -> trio.SocketListener:
    (made,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return made


async def connect(listener: trio.SocketListener) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])


async def accept_into(found: list[str], name: str, listener: PatientListener) -> None:
    while True:
        stream = await listener.accept()
        found.append(name)
        await stream.aclose()


async def test_who_is_ahead_goes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wake for each client; the one with more leaves it to the other."""
    monkeypatch.setattr(patience, "PAUSE", 0.2)  # so that a busy machine gives the other its turn, too
    inner = await listening()
    found: list[str] = []
    ahead = {"one": True, "other": False}
    other = trio.SocketListener(inner.socket.dup())  # as in another process
    async with inner, other, trio.open_nursery() as nursery:
        for name, each in zip(ahead, (inner, other), strict=True):
            patient = PatientListener(each, partial(ahead.get, name, True))
            nursery.start_soon(accept_into, found, name, patient)
        for number in range(1, 11):
            async with await connect(inner):
                with trio.fail_after(5):
                    while len(found) < number:
                        await trio.lowlevel.checkpoint()
        assert found == ["other"] * 10
        ahead["one"], ahead["other"] = False, True
        for number in range(11, 21):
            async with await connect(inner):
                with trio.fail_after(5):
                    while len(found) < number:
                        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert found[10:] == ["one"] * 10


async def test_nobody_is_left_waiting_by_one_that_is_ahead() -> None:
    inner = await listening()
    patient = PatientListener(inner, lambda: True)
    async with await connect(inner):
        with trio.fail_after(5):
            stream = await patient.accept()
        await stream.aclose()
    await patient.aclose()
    assert inner.socket.fileno() == -1
