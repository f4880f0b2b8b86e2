"""What every running server has, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.interop.peers.process import Process

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Peer(Generic[Config]):
    """A running server: how it was configured, where it listens, what it logged."""

    config: Config
    process: Process

    @property
    def address(self) -> str:
        """The IPv4 address that it listens on."""
        return self.process.address

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.process.port

    def log(self) -> str:
        """Its output and log files so far."""
        return self.process.log()
