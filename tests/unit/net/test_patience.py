"""A listener that lets other processes accept first."""

from __future__ import annotations

from functools import partial

import trio
import trio.testing

from deliver.net.patience import PatientListener


async def listening() -> trio.SocketListener:
    (made,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return made


async def connect(listener: trio.SocketListener) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])


async def accept_into(found: trio.MemorySendChannel[str], name: str, listener: PatientListener) -> None:
    while True:
        stream = await listener.accept()
        await stream.aclose()
        await found.send(name)


async def test_who_is_ahead_goes_behind(autojump_clock: trio.testing.MockClock) -> None:
    """Both wake for each client; the one with more leaves it to the other."""
    inner = await listening()
    ahead = {"one": True, "other": False}
    other = trio.SocketListener(inner.socket.dup())  # as in another process
    accepted, found = trio.open_memory_channel[str](0)

    async def who_accepts() -> str:
        async with await connect(inner):
            with trio.fail_after(5):
                return await found.receive()

    async with inner, other, trio.open_nursery() as nursery:
        for name, each in zip(ahead, (inner, other), strict=True):
            patient = PatientListener(each, partial(ahead.get, name, True))
            nursery.start_soon(accept_into, accepted, name, patient)
        for behind, before in (("other", "one"), ("one", "other")):
            ahead[behind], ahead[before] = False, True
            for _ in range(10):
                assert await who_accepts() == behind
                await trio.sleep(1)  # until nobody pauses any more
        nursery.cancel_scope.cancel()


async def test_nobody_is_left_waiting_by_one_that_is_ahead() -> None:
    inner = await listening()
    patient = PatientListener(inner, lambda: True)
    async with await connect(inner):
        with trio.fail_after(5):
            stream = await patient.accept()
        await stream.aclose()
    await patient.aclose()
    assert inner.socket.fileno() == -1
