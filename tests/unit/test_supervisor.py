"""What the supervisor does about workers that hang. The rest is in tests/interop/test_workers.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliver import channel
from deliver.neighbours.street import Street
from deliver.notify import Notifier
from deliver.settings import Queue, Settings
from deliver.supervisor import SILENT, Supervisor


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def supervisor(time: Time, tmp_path: Path, worker: subprocess.Popen[bytes]) -> Supervisor:
    """One that has this process as its only worker."""
    settings = Settings(state_dir=str(tmp_path))
    made = Supervisor(settings, 1, {}, {}, shards=(0,), notifier=Notifier(), now=time)
    (slot,) = made._slots
    slot.pid, slot.heard, slot.ready = worker.pid, time.now, True
    return made


def test_a_worker_without_progress_is_killed(
    supervisor: Supervisor, time: Time, worker: subprocess.Popen[bytes]
) -> None:
    time.now += SILENT - 1
    supervisor._tend()
    assert worker.poll() is None
    assert supervisor._next_deadline() == time.now + 1
    time.now += 2
    supervisor._tend()
    assert worker.wait(10) == -signal.SIGKILL


def test_so_is_one_that_does_not_read(supervisor: Supervisor, worker: subprocess.Popen[bytes]) -> None:
    (slot,) = supervisor._slots
    slot.line, theirs = channel.pair()
    with slot.line, theirs:
        while worker.poll() is None:
            slot.tell("metrics", {"x": "y" * 10_000})
    assert worker.wait(10) == -signal.SIGKILL


def test_one_that_does_not_end_is_killed(
    supervisor: Supervisor, time: Time, worker: subprocess.Popen[bytes]
) -> None:
    supervisor._stop()
    supervisor._tend()
    assert worker.poll() is None
    time.now += 1000
    supervisor._tend()
    assert worker.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("workers", "url", "together"), [(2, "", True), (1, "", False), (2, "postgresql://q", False)]
)
def test_workers_with_shards_of_their_own_know_of_each_other(
    tmp_path: Path, workers: int, url: str, together: bool
) -> None:
    settings = Settings(state_dir=str(tmp_path), queue=Queue(url=url))
    made = Supervisor(settings, workers, {}, {}, shards=range(workers), notifier=Notifier())
    assert (made._street is not None) is together
    if made._street:
        made._street.close()


def test_without_such_sockets_they_work_on_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(workers: int) -> Street:
        raise OSError("not here")

    monkeypatch.setattr("deliver.supervisor.Street", refused)
    made = Supervisor(Settings(state_dir=str(tmp_path)), 2, {}, {}, shards=(0, 1), notifier=Notifier())
    assert made._street is None
    assert "cannot hand mail to each other" in caplog.text
