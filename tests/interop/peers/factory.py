"""Servers on request: one running server per configuration, started lazily, stopped together."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytest

from tests.interop.peers.process import Process
from tests.interop.peers.programs import PeerMissing, Programs


class Server(Protocol):
    """What every running peer has."""

    @property
    def process(self) -> Process:
        """Its process."""
        ...


Config = TypeVar("Config")
Running = TypeVar("Running", bound=Server)


class Factory(Generic[Config, Running]):
    """Starts servers of one kind and remembers them by their configuration."""

    def __init__(
        self,
        programs: Programs,
        scratch: Path,
        config: Callable[..., Config],
        start: Callable[[Programs, Path, Config], Running],
    ) -> None:
        self._programs, self._scratch, self._config, self._start = programs, scratch, config, start
        self._running: dict[Config, Running] = {}
        self._numbers = itertools.count(1)

    def __call__(self, **fields: Any) -> Running:
        """The running server whose configuration has these fields. Skips the test if there is no such server here."""
        config = self._config(**fields)
        if config not in self._running or self._running[config].process.child.poll() is not None:
            directory = (
                self._scratch
                / f"{self._config.__name__.removesuffix('Config').lower()}-{next(self._numbers)}"
            )
            directory.mkdir()
            directory.chmod(0o755)
            try:
                self._running[config] = self._start(self._programs, directory, config)
            except PeerMissing as missing:
                pytest.skip(str(missing))
        return self._running[config]

    def logs(self) -> tuple[tuple[str, str], ...]:
        """Name and log of every server that was started."""
        return tuple(
            (server.process.directory.name, server.process.log()) for server in self._running.values()
        )

    def close(self) -> None:
        """Stop every server; Postfix takes a second to end, so they end together."""
        for server in self._running.values():
            server.process.stop_soon()
        for server in self._running.values():
            server.process.stop()
