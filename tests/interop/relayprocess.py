"""`outrider relay` as a real process on the miniature Internet, told by options on its command line."""

from __future__ import annotations

import json
import select
import signal
import smtplib
import subprocess
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from deliver.cli import outrider
from tests.internet import LiveInternet
from tests.interop.service import PYTHON, ROOT, START, environment

CONTENT = b"Subject: keep me\r\n\r\n.a dot\r\nlast\r\n"


class Relay:
    """`outrider relay` on the miniature Internet, with a state directory of its own."""

    def __init__(self, live: LiveInternet, directory: Path) -> None:
        world = live.world
        self.port = 0
        self.directory = directory
        self.options = [
            f'dns.resolvers=["{world.resolver.endpoint}"]',
            f"dns.trust_anchors={world.write_trust_anchor(directory.parent)}",
            f"state_dir={directory}",
            f"delivery.port={world.port}",
            "delivery.helo=relay.sender.test",
            'relay.listen=["127.0.0.1:0"]',
            "relay.workers=1",
            'queue.retry=["1s"]',
            "queue.lease_margin=1s",
            "log.format=json",
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.lines: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            self.command("relay"), stderr=subprocess.PIPE, bufsize=0, cwd=ROOT, env=environment()
        )
        self.port = int(str(self.wait_for("listening")["on"]).rpartition(":")[2])

    def wait_for(self, message: str) -> dict[str, Any]:
        """The next log line with this message."""
        while (read := self.next_line(f"no {message!r} in the log"))["message"] != message:
            pass
        return read

    def next_line(self, otherwise: str = "the log is silent") -> dict[str, Any]:
        """The next line of the log."""
        assert self.process is not None
        assert self.process.stderr is not None
        if select.select([self.process.stderr], [], [], START)[0] and (
            line := self.process.stderr.readline()
        ):
            self.lines.append(json.loads(line))
            return dict(self.lines[-1])
        raise AssertionError(f"{otherwise}: {self.lines}")

    def kill(self) -> None:
        """kill -9, as the kernel would when memory runs out."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(START)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(START)
        assert self.process.stderr is not None
        self.lines += [json.loads(line) for line in self.process.stderr]
        self.process.stderr.close()
        return status

    def submit(self, *recipients: str) -> None:
        """Hand over a message; returns when it was answered with 250."""
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=START) as client:
            assert client.sendmail("me@sender.test", recipients, CONTENT) == {}

    def ask(self, *verb: str) -> Any:
        """What a verb prints with --json."""
        text = self.run(*verb, "--json").stdout
        return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]

    def run(self, *verb: str, status: int = 0) -> Result:
        """Run a verb with the same options, in this process: most of what a process of its own takes is its start."""
        ran = CliRunner().invoke(outrider, self.command(*verb)[len(PYTHON) :])
        assert ran.exit_code == status, ran.output
        return ran

    def command(self, *verb: str) -> list[str]:
        """The words that run `outrider VERB` with the same options."""
        words = [word for option in self.options for word in ("-o", option)]
        return [*PYTHON, *words, *verb]
