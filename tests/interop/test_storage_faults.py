"""The real relay on storage that really fails: nothing is lost, nothing is accepted meanwhile, and it is said."""

from __future__ import annotations

import contextlib
import resource
import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.relayprocess import CONTENT, Relay
from tests.interop.service import START

BALLAST = b"x" * 70 + b"\r\n"


def answers(relay: Relay, content: bytes = CONTENT, recipient: str = "a@dane-ee.test") -> int:
    """The code that ends the transaction."""
    with smtplib.SMTP("127.0.0.1", relay.port, "client.test", timeout=START) as client:
        try:
            client.sendmail("me@sender.test", [recipient], content)
        except smtplib.SMTPResponseException as refused:
            return refused.smtp_code
        except smtplib.SMTPRecipientsRefused as refused:
            return next(iter(refused.recipients.values()))[0]
    return 250


def wait_for_text(relay: Relay, text: str) -> None:
    """Until the log says so, unless it has."""
    seen = 0
    while not any(text in str(line["message"]) for line in relay.lines):
        relay.next_line()
        seen += 1
        assert seen < 10_000, "the log goes on without it"


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_a_full_disk_is_survived_and_left_behind(live: LiveInternet, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        relay = Relay(live, disk / "state")
        relay.options += [
            "queue.min_free_disk=0",
            "events.schema=none",
            "hints.url=memory",
            "queue.inline_limit=1MB",
        ]
        relay.start()
        try:
            taken = 0
            codes = set()
            for _ in range(60):
                codes.add(code := answers(relay, BALLAST * 3000, "late@bogus.test"))
                if code != 250:
                    break
                taken += 1
            assert codes - {250} <= {451, 452}, codes
            assert len(codes) == 2, "the disk did not fill up"
            assert taken >= 1
            wait_for_text(relay, "the queue stands still")
            assert answers(relay) in (451, 452)
            subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
            wait_for_text(relay, "the queue goes on")
            assert answers(relay) == 250
            live.wait_for_messages(1, START)
        finally:
            relay.kill()
        kept = {
            each["message_id"] if "message_id" in each else each["id"] for each in relay.ask("queue", "list")
        }
        assert len(kept) >= taken, "what was answered with 250 is there"


def test_an_io_error_stops_the_queue_until_a_restart_and_nothing_is_lost(
    live: LiveInternet, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: SQLite takes it for an I/O error."""
    relay = Relay(live, tmp_path / "state")
    relay.start()
    assert relay.process is not None
    try:
        assert answers(relay) == 250
        live.wait_for_messages(1, START)
        resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        assert answers(relay) == 451
        wait_for_text(relay, "the queue stands still")
        assert answers(relay) in (451, 452)
        resource.prlimit(
            relay.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        assert answers(relay) in (451, 452), "only a restart makes it believe its files again"
    finally:
        relay.kill()
    relay.start()
    try:
        assert answers(relay) == 250
        live.wait_for_messages(2, START)
    finally:
        relay.kill()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the error")
def test_an_fsync_that_fails_is_never_answered_with_250(live: LiveInternet, tmp_path: Path) -> None:
    relay = Relay(live, tmp_path / "state")
    relay.start()
    assert relay.process is not None
    inject = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        "inject=fsync,fdatasync:error=EIO",
    ]
    tracer = subprocess.Popen([*inject, "-p", str(relay.process.pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until_traced(relay.process.pid, tracer)
        assert answers(relay) == 451
        wait_for_text(relay, "the queue stands still")
        assert not live.world.messages
    finally:
        tracer.terminate()
        tracer.wait(START)
        relay.kill()
    relay.start()
    try:
        assert answers(relay) == 250
        live.wait_for_messages(1, START)
    finally:
        relay.kill()


def wait_until_traced(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    """Until every thread of the process is traced; skips where that is forbidden."""
    for _ in range(1000):
        if tracer.poll() is not None:
            pytest.skip("tracing is not allowed here")
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
        if all("TracerPid:\t0\n" not in state for state in states):
            return
        tracer.poll()
    pytest.skip("the relay could not be traced")
