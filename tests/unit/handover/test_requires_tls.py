"""REQUIRETLS from the command line to the envelope: handed over, delivered alone, and past a service that is older."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio

from deliver.direct import Direct
from deliver.handover import frames
from deliver.handover.server import HandoverListener
from deliver.message import MessageId
from deliver.net.clock import WallClock
from tests.unit.handover.test_server import Deliveries, desk

ROOT = Path(__file__).parents[3]
CALLS = [((), False), (("--require-tls",), True)]

# The whole command; what would be delivered by this process is said instead.
CALLER = """\
from deliver.cli import main
from deliver.direct import Direct
from deliver.outcome import Contact, Delivered
from deliver.report.trace import Trace
from deliver.smtp.reply import Reply

async def deliver(self, envelope, content, job, limit):
    text = await content.read(0, content.size)
    print("alone:", envelope.requires_tls, job is not None and job.digest.hex(), text)
    outcome = Delivered(Reply(250, ("2.0.0 Ok",)), Contact("mx.test", "192.0.2.1", 25))
    return tuple((recipient, outcome, Trace()) for recipient in envelope.recipients)

Direct.deliver = deliver
main()
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """A settings file whose resolver never answers."""
    (tmp_path / "state").mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 0))
        file = tmp_path / "outrider.toml"
        file.write_text(
            f'state_dir = "{tmp_path}/state"\n'
            f'[dns]\nresolvers = ["127.0.0.1:{resolver.getsockname()[1]}"]\n'
            '[delivery]\nhelo = "out.sender.test"\n'
        )
        yield file


@asynccontextmanager
async def service(config: Path) -> AsyncIterator[Deliveries]:
    """A service with this file, on its socket."""
    deliveries = Deliveries()
    listener = HandoverListener(
        desk(digest=frames.digest_of(await trio.Path(config).read_bytes())),
        cast(Direct, deliveries),
        WallClock(),
        lambda: MessageId("m1"),
    )
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    place = config.parent / "state" / "send.sock"
    await listening.bind(str(place))
    listening.listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve, [trio.SocketListener(listening)])
        yield deliveries
        listener.stop(5)
    await trio.Path(place).unlink()


def call(config: Path, *words: str) -> str:
    """`outrider send` as a process; what it printed."""
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            CALLER,
            "--config",
            str(config),
            "send",
            *words,
            "-f",
            "me@a.test",
            "b@b.test",
        ],
        input="Subject: x\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


async def called(config: Path, *words: str) -> str:
    return await trio.to_thread.run_sync(partial(call, config, *words))


@pytest.mark.parametrize(("words", "asked"), CALLS)
async def test_what_is_handed_over_keeps_it(config: Path, words: tuple[str, ...], asked: bool) -> None:
    async with service(config) as deliveries:
        said = await called(config, *words)
    assert "alone:" not in said
    ((envelope, content, _),) = deliveries.got
    assert (envelope.requires_tls, content) == (asked, b"Subject: x\r\n")


@pytest.mark.parametrize(("words", "asked"), CALLS)
def test_without_a_service_the_call_keeps_it(config: Path, words: tuple[str, ...], asked: bool) -> None:
    assert f"alone: {asked} False b'Subject: x\\r\\n'" in call(config, *words)


async def test_a_service_from_before_requiretls_takes_nothing_and_the_call_keeps_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "VERSION", "1")  # of the service, not of the calling process
    async with service(config) as deliveries:
        said = await called(config, "--require-tls")
    assert deliveries.got == []
    assert "alone: True False b'Subject: x\\r\\n'" in said


async def test_the_ledger_knows_a_job_by_the_same_name_either_way(config: Path) -> None:
    digests = set()
    for words, _ in CALLS:
        alone = call(config, "--queue-id", "4XyZ", *words)
        async with service(config) as deliveries:
            await called(config, "--queue-id", "4XyZ", *words)
        ((_, _, job),) = deliveries.got
        assert job is not None
        assert job.digest.hex() in alone
        digests.add(job.digest)
    assert len(digests) == 2
