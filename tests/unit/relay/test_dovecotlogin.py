"""Dovecot's socket with somebody else behind it: what a login comes to when Dovecot is slow, gone or strange."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from deliver.net.clock import WallClock
from deliver.relay.dovecotlogin import UNHEARD, DovecotService, Place
from deliver.relay.login import Denied, Judgement, Unavailable
from deliver.relay.security import Challenge, Client, LoggedIn
from tests.unit.relay.test_dovecot import GREETING

WANTED = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
CLIENT = Client("192.0.2.7", 40000, ("192.0.2.1", 587))

Script = Callable[[trio.SocketStream], Awaitable[None]]


async def serve(path: Path, script: Script, nursery: trio.Nursery) -> DovecotService:
    """The service, with the script behind its socket."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(str(path))
    listener.listen(5)

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await script(stream)

    nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(listener)])
    return DovecotService(Place(f"unix:{path}", 0.5), WANTED, WallClock())


def saying(*answers: bytes) -> Script:
    """Greets, then answers every line of the client but its greeting."""

    async def script(stream: trio.SocketStream) -> None:
        await stream.send_all(GREETING)
        left, buffer = list(answers), b""
        while data := bytes(await stream.receive_some()):
            buffer += data
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                if line.startswith((b"VERSION", b"CPID")):
                    continue
                if not left:
                    return
                await stream.send_all(left.pop(0))

    return script


async def asked(
    path: Path, script: Script, *responses: bytes | None, mechanism: str = "PLAIN"
) -> list[Judgement]:
    async with trio.open_nursery() as nursery:
        service = await serve(path, script, nursery)
        attempt = service.begin(mechanism, CLIENT)
        found = [await attempt.respond(each) for each in responses]
        attempt.close()
        attempt.close()
        nursery.cancel_scope.cancel()
    return found


async def test_a_login(tmp_path: Path) -> None:
    script = saying(b"CONT\t1\tVXNlcm5hbWU6\n", b"CONT\t1\t\n", b"OK\t1\tuser=alice\n")
    found = await asked(tmp_path / "s", script, None, b"alice", b"secret", mechanism="LOGIN")
    assert found == [Challenge(b"Username:"), Challenge(b""), LoggedIn("alice")]


async def test_a_login_that_is_denied_and_one_that_cannot_be_judged(tmp_path: Path) -> None:
    assert await asked(tmp_path / "a", saying(b"FAIL\t1\tuser=alice\n"), b"x") == [
        Denied("Dovecot says no", "alice")
    ]
    (found,) = await asked(tmp_path / "b", saying(b"FAIL\t1\tuser=alice\ttemp\n"), b"x")
    assert isinstance(found, Unavailable)


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def gone(stream: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


async def stranger(stream: trio.SocketStream) -> None:
    await stream.send_all(b"220 mx.example.org ESMTP\r\n" * 2000)


async def master(stream: trio.SocketStream) -> None:
    await stream.send_all(b"VERSION\t1\t0\nSPID\t77\n")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (silent, "does not answer in time"),
        (gone, "the connection"),
        (stranger, "no end"),
        (master, "auth-client"),
        (saying(), "closed the connection"),
        (saying(b"OK\t1\n"), "who has logged in"),
        (saying(b"OK\t7\tuser=alice\n"), "what was not asked"),
        (saying(GREETING), "does not answer in time"),
    ],
    ids=["silent", "gone", "stranger", "master", "gone-late", "nobody", "another", "greets-twice"],
)
async def test_whoever_does_not_answer_as_dovecot_logs_nobody_in(
    tmp_path: Path, script: Script, why: str
) -> None:
    (found,) = await asked(tmp_path / "s", script, b"x")
    assert isinstance(found, Unavailable)
    assert why in found.why


async def test_dovecot_is_not_there(tmp_path: Path) -> None:
    service = DovecotService(Place(f"unix:{tmp_path}/s", 1.0), WANTED, WallClock())
    found = await service.begin("PLAIN", CLIENT).respond(b"x")
    assert isinstance(found, Unavailable)
    assert "No such file" in found.why


async def test_what_is_offered_is_what_dovecot_has(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        service = await serve(tmp_path / "s", saying(), nursery)
        assert service.mechanisms(CLIENT) == UNHEARD
        await service.refresh()
        assert service.mechanisms(CLIENT) == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
        (tmp_path / "s").unlink()
        await service.refresh()
        assert service.mechanisms(CLIENT) == ("SCRAM-SHA-256", "PLAIN", "LOGIN"), "as it was heard last"
        nursery.cancel_scope.cancel()
