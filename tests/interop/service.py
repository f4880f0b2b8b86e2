"""A service of ours as a real process with a settings file, and calls of `outrider send` with the same file."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.internet import World

ROOT = Path(__file__).parents[2]
START = 30.0  # seconds
PYTHON = (sys.executable, "-m", "deliver")

_SETTINGS = """\
state_dir = {state}

[dns]
resolvers = [{resolver}]
trust_anchors = {anchors}

[delivery]
helo = "out.sender.test"
port = {port}
families = ["ipv4"]

[pool]
max_messages = 1  # a server that changes its mind says so at once

[log]
format = "json"
"""


def settings_for(world: World, directory: Path, more: str = "") -> Path:
    """A settings file in `directory` for the miniature Internet; its state directory is beside it."""
    file = directory / "outrider.toml"
    text = _SETTINGS.format(
        state=json.dumps(str(directory / "state")),
        resolver=json.dumps(world.resolver.endpoint),
        anchors=json.dumps(str(world.write_trust_anchor(directory))),
        port=world.port,
    )
    file.write_text(f"{text}\n{_one_process(more)}")
    return file


def _one_process(more: str) -> str:
    """The same, whatever machine this is, unless it says how many."""
    if "workers" in tomllib.loads(more).get("relay", {}):
        return more
    if "[relay]\n" not in more:
        return f"{more}\n[relay]\nworkers = 1\n"
    return more.replace("[relay]\n", "[relay]\nworkers = 1\n", 1)


def environment() -> dict[str, str]:
    """That of every process of ours."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


class Service:
    """`outrider VERB` with a settings file; `lines` is its log so far."""

    def __init__(
        self, verb: str, config: Path, ready: str, command: tuple[str, ...] = PYTHON, user: int | None = None
    ) -> None:
        """`ready` is the message in the log that says that it serves; `command` runs `outrider`, as `user`."""
        self.verb = verb
        self.config = config
        self.ready = ready
        self.command = command
        self.user = user
        self.place = ""
        self.lines: list[dict[str, Any]] = []
        self.process: subprocess.Popen[str] | None = None
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.kill()

    @property
    def port(self) -> int:
        """Where it listens, if that is TCP."""
        return int(self.place.rpartition(":")[2])

    def start(self) -> None:
        """Start, and wait until it serves. May be repeated after its end."""
        self._news = queue.Queue()
        self.process = subprocess.Popen(
            [*self.command, "--config", str(self.config), self.verb],
            user=self.user,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read, args=(self.process, self._news), daemon=True)
        self._reader.start()
        try:
            self.place = str(self.wait_for(self.ready)["on"])
        except BaseException:
            self.kill()
            raise

    def wait_for(self, message: str) -> dict[str, Any]:
        """The next line of the log with this message."""
        while (line := self._news.get(timeout=START)) is not None:
            if line["message"] == message:
                return line
        raise AssertionError(f"no {message!r} in the log: {self.lines}")

    def terminate(self) -> int:
        """SIGTERM; the exit status. Its log is complete then."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(START)
        self._reader.join(START)
        return status

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(START)

    def _read(self, process: subprocess.Popen[str], news: queue.Queue[dict[str, Any] | None]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for text in process.stderr:
                try:
                    line = json.loads(text)
                except ValueError:
                    line = {"message": text}
                self.lines.append(line)
                news.put(line)
        news.put(None)


def send(
    config: Path, *words: str, text: bytes = b"Subject: hi\n\nhello\n"
) -> subprocess.CompletedProcess[bytes]:
    """One call of `outrider send`."""
    return subprocess.run(
        [*PYTHON, "--config", str(config), "send", *words],
        input=text,
        capture_output=True,
        timeout=START,
        check=False,
        cwd=ROOT,
        env=environment(),
    )
