"""One running server: spawned so that it dies with the tests, ready when it accepts, stopped by its number.

The kernel ends the server even if the test process is killed: it signals the server's minder (`setpriv --pdeathsig`), which
passes that on. The minder is a shell that does nothing else; a server itself would lose the arrangement when it changes its
user. Readiness is a TCP connection that succeeds; a server that ends before that raises ServerFailed with its log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_LIMIT = 15.0  # seconds until a server must accept connections
STOP_LIMIT = 5.0
_PAUSE = 0.02
_LOG_TAIL = 8000
_MINDER = """
trap 'over=1; [ -z "$child" ] || kill "$child"' TERM
child= over=
env -i "$@" &
child=$!
[ -z "$over" ] || kill "$child"
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || exit "$status"
done
"""


class ServerFailed(AssertionError):
    """A server did not start or did not do its part in time; the text ends with its log."""


@dataclass(frozen=True, slots=True)
class Process:
    """A server process that was started here.

    `child` is its minder, which ends with it; both are in a process group of their own. `directory` is its private directory and `logs` the files in it that tell its story.
    """

    name: str
    child: subprocess.Popen[bytes]
    address: str
    port: int
    directory: Path
    logs: tuple[Path, ...]

    def log(self) -> str:
        """What the server wrote so far: its output, then its log files."""
        parts = [
            f"--- {self.name} {path.name}\n{path.read_text(errors='replace')[-_LOG_TAIL:]}"
            for path in self.logs
            if path.exists()
        ]
        return "\n".join(parts)

    def stop_soon(self) -> None:
        """Ask the server to end, without waiting for it."""
        if self.child.poll() is None:
            self.child.terminate()

    def stop(self) -> None:
        """End the server: TERM, then KILL for whatever is still there after STOP_LIMIT seconds."""
        self.stop_soon()
        if self.child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_LIMIT)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait(STOP_LIMIT)


def spawn(
    name: str,
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    address: str,
    port: int,
    directory: Path,
    logs: Sequence[str] = (),
) -> Process:
    """Start `command` and wait until `address`:`port` accepts TCP connections. Raises ServerFailed.

    `logs` are names in `directory`, beside the server's own output, which is kept in `output.log`.
    """
    output = directory / "output.log"
    settings = [f"{key}={value}" for key, value in environment.items()]
    with output.open("wb") as sink:
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "sh", "-c", _MINDER, "minder", *settings, *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
        )
    process = Process(name, child, address, port, directory, (output, *(directory / log for log in logs)))
    try:
        _await_accepting(process)
    except BaseException:
        process.stop()
        raise
    return process


def _await_accepting(process: Process) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.child.poll() is not None:
            raise ServerFailed(f"{process.name} ended with {process.child.returncode}\n{process.log()}")
        try:
            socket.create_connection((process.address, process.port), timeout=1).close()
        except OSError:
            time.sleep(_PAUSE)
        else:
            return
    raise ServerFailed(f"{process.name} accepts no connections after {START_LIMIT:g} s\n{process.log()}")
