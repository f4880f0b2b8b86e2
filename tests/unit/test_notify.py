"""What systemd hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from deliver.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> socket.socket:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(5)
    return heard


def test_it_hears_each_state(systemd: socket.socket) -> None:
    with systemd:
        notifier = Notifier.of({"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "30000000"})
        assert notifier.period == 30.0
        notifier.ready("serving\nX=1")
        notifier.reloading()
        notifier.status("1 of 2 workers")
        notifier.alive()
        notifier.stopping()
        heard = [systemd.recv(4096).decode().split("\n") for _ in range(5)]
    assert heard[0] == ["READY=1", "STATUS=serving X=1"]
    assert heard[1][0] == "RELOADING=1"
    assert heard[1][1].startswith("MONOTONIC_USEC=")
    assert heard[2:4] == [["STATUS=1 of 2 workers"], ["WATCHDOG=1"]]
    assert heard[4][0] == "STOPPING=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "relative", "WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)},
    ],
)
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier.of(environment)
    assert notifier.period is None
    notifier.ready("serving")


def test_systemd_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone")).alive()


def test_an_abstract_address() -> None:
    name = f"outrider-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        heard.settimeout(5)
        Notifier(f"@{name}").alive()
        assert heard.recv(100) == b"WATCHDOG=1"
