"""The real relay as a process, configured for the miniature Internet, and the verbs that look at its state.

    with RelayProcess(directory, world) as relay:
        relay.address, relay.documents("queue", "list")

Its settings (`outrider.toml`), its log (`relay.log`) and its state directory (`state`) are in `directory` and
remain there. Ready means that it has said on which port it listens; stopped means SIGTERM and its graceful end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.internet.world import World

ROOT = Path(__file__).resolve().parents[2]
START = 30.0  # seconds until it must listen
STOP = 30.0  # seconds for its graceful end, more than queue.shutdown_grace
VERB = 30.0  # seconds for one verb
LOG_TAIL = 20  # lines in an error

_SETTINGS = """\
# Everything that is not here has its default: see `outrider config show`.
state_dir = {state}

[dns]
resolvers = [{resolver}]  # the miniature Internet's own
trust_anchors = {anchors}  # and its root's key

[delivery]
helo = "relay.demo.test"
port = {port}  # of every mail server there
families = ["ipv4"]

[relay]
listen = ["127.0.0.1:0"]
workers = 1

[log]
format = "json"
"""


class RelayFailed(Exception):
    """The relay, or a verb, did not do its part; the text says which and ends with what it said."""


class RelayProcess:
    """One `outrider relay`. `settings` is TOML that is appended to its configuration file.

    With `policies` it heeds the MTA-STS policies of the world; its table `[tls]` stands last before `settings`.
    `address` and `port` are where it takes mail. Raises RelayFailed when it does not start or end.
    """

    def __init__(self, directory: Path, world: World, settings: str = "", *, policies: bool = False) -> None:
        self.config = directory / "outrider.toml"
        self.state = directory / "state"
        self.log = directory / "relay.log"
        self.address = ""
        self.port = 0
        self._listening = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read_log, name="relay-log", daemon=True)
        text = _SETTINGS.format(
            state=json.dumps(str(self.state)),
            resolver=json.dumps(world.resolver.endpoint),
            anchors=json.dumps(str(world.write_trust_anchor(directory))),
            port=world.port,
        )
        tables = tables_of(world.policy_settings(directory)) if policies else ""
        self.config.write_text(text + tables + settings)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command("relay"), cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            self._reader.start()
            if not self._listening.wait(START) or not self.port:
                raise RelayFailed(f"the relay does not listen\n{self._said()}")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
        finally:
            self._kill()

    def stop(self) -> None:
        """End it gracefully: what is under way is finished and on record afterwards. May be repeated."""
        assert self._process is not None
        self._process.terminate()
        try:
            status = self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            raise RelayFailed(f"the relay did not end within {STOP:g} s\n{self._said()}") from None
        self._reader.join(STOP)
        if status != 0:
            raise RelayFailed(f"the relay ended with status {status}\n{self._said()}")

    def documents(self, *verb: str) -> tuple[Any, ...]:
        """What `outrider VERB… --json` prints, one value per document. Raises RelayFailed."""
        command = self._command(*verb, "--json")
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=VERB)
        except subprocess.TimeoutExpired:
            raise RelayFailed(f"outrider {' '.join(verb)} took more than {VERB:g} s") from None
        if done.returncode != 0:
            status = f"ended with status {done.returncode}"
            raise RelayFailed(f"outrider {' '.join(verb)} {status}\n{done.stderr.strip()}")
        return _documents(done.stdout)

    def _command(self, *verb: str) -> list[str]:
        return [sys.executable, "-m", "deliver", "--config", str(self.config), *verb]

    def _read_log(self) -> None:
        """Keep every line, and learn from one of them where the relay listens."""
        assert self._process is not None
        assert self._process.stderr is not None
        with self.log.open("w", encoding="utf-8") as log:
            for line in self._process.stderr:
                log.write(line)
                log.flush()
                if not self.port and (place := _listening_on(line)):
                    self.address, _, port = place.rpartition(":")
                    self.port = int(port)
                    self._listening.set()
        self._listening.set()  # it has ended: nobody need wait any longer

    def _said(self) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:])

    def _kill(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._reader.is_alive():
            self._reader.join(STOP)
        if self._process.stderr is not None:
            self._process.stderr.close()


def tables_of(keys: Mapping[str, str]) -> str:
    """The tables of a configuration file from keys as `tls.level` and their values in TOML, `[tls]` last."""
    tables: dict[str, str] = {}
    for key, value in keys.items():
        table, _, name = key.partition(".")
        tables[table] = tables.get(table, f"\n[{table}]\n") + f"{name} = {value}\n"
    return "".join(tables[table] for table in sorted(tables))


def outrider_command(config: Path) -> str:
    """How a person calls `outrider` with this configuration, from where they are."""
    script = Path(sys.executable).with_name("outrider")
    program = (
        _shortest(script) if os.access(script, os.X_OK) else f"{_shortest(Path(sys.executable))} -m deliver"
    )
    return f"{program} --config {_shortest(config)}"


def _shortest(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _listening_on(line: str) -> str | None:
    try:
        said = json.loads(line)
    except ValueError:  # a traceback, a warning of Python
        return None
    return str(said["on"]) if isinstance(said, dict) and said.get("message") == "listening" else None


def _documents(text: str) -> tuple[Any, ...]:
    decoder = json.JSONDecoder()
    found: list[Any] = []
    place, text = 0, text.strip()
    while place < len(text):
        document, end = decoder.raw_decode(text, place)
        found.append(document)
        place = end + len(text[end:]) - len(text[end:].lstrip())
    return tuple(found)
