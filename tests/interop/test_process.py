"""No server outlives the tests, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.peers.process import ServerFailed, spawn
from tests.interop.peers.programs import PeerMissing, Programs
from tests.interop.waiting import until

ROOT = Path(__file__).parents[2]
LIMIT = 10.0
STARTER = """
import sys, time
from pathlib import Path
from tests.interop.peers import {peer} as server
from tests.interop.peers.programs import Programs
running = server.start(Programs(Path(sys.argv[1])), Path(sys.argv[2]), server.{config}({fields}))
print(running.process.child.pid, flush=True)
time.sleep(60)
"""


def _alive_in(directory: Path) -> set[int]:
    """Processes that have `directory` in their command line or as a part of their working directory."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                command = (process / "cmdline").read_bytes()
                where = f"{os.readlink(process / 'cwd')}/"
            except OSError:
                continue
            if os.fsencode(directory) in command or where.startswith(f"{directory}/"):
                found.add(int(process.name))
    return found


@pytest.mark.peers
@pytest.mark.parametrize(
    ("peer", "config", "fields"),
    [
        ("exim", "EximConfig", ""),
        ("postfix", "PostfixConfig", ""),
        ("nsd", "NsdConfig", "zones=()"),
        ("unbound", "UnboundConfig", "stubs=()"),
    ],
)
def test_a_server_ends_when_the_tests_are_killed(
    programs: Programs, scratch: Path, peer: str, config: str, fields: str
) -> None:
    try:
        programs.path(peer)
    except PeerMissing as missing:
        pytest.skip(str(missing))
    directory = scratch / f"killed-{peer}"
    directory.mkdir()
    directory.chmod(0o755)
    source = STARTER.format(peer=peer, config=config, fields=fields)
    starter = subprocess.Popen(
        [sys.executable, "-c", source, programs.unpacked, directory], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert starter.stdout is not None
        assert int(starter.stdout.readline()) in _alive_in(directory)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.communicate()
    until(lambda: _alive_in(directory) == set(), lambda: _alive_in(directory), limit=LIMIT)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo out of luck; exit 3"]
    with pytest.raises(ServerFailed, match="ended with 3") as failure:
        spawn("luckless", command, {"PATH": os.defpath}, address="127.0.0.1", port=1, directory=tmp_path)
    assert "out of luck" in str(failure.value)


def test_a_missing_peer_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.interop.peers.programs.PROGRAMS", {"nobody": "usr/sbin/nobody"})
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(PeerMissing, match="make peers"):
        Programs(tmp_path).path("nobody")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PeerMissing, match="root"):
        Programs(tmp_path).path("nobody")
