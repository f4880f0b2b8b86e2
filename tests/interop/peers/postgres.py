"""PostgreSQL with a database of its own in a temporary directory."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from tests.interop.peers.address import own_address
from tests.interop.peers.database import NOBODY, Database
from tests.interop.peers.process import Process, ServerFailed, spawn
from tests.interop.peers.programs import Programs

READY = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """Another `name` is another server."""

    name: str = "postgres"
    port: int = 5432


def start(programs: Programs, directory: Path, config: PostgresConfig) -> Database:
    """Start a server in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("postgres")
    environment = programs.environment("postgres")
    os.chown(directory, 65534, 65534)
    data = directory / "data"
    made = subprocess.run(
        [
            *NOBODY,
            program.with_name("initdb"),
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "outrider",
            "-E",
            "UTF8",
            "--no-sync",
        ],
        env={**environment, "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if made.returncode:
        raise ServerFailed(f"initdb: {made.stdout}{made.stderr}")
    address = own_address(config.port)
    command: list[str | Path] = [
        *(*NOBODY, program, "-D", data, "-h", address, "-p", str(config.port), "-k", ""),
        *("-c", "shared_buffers=16MB", "-c", "max_connections=60"),
    ]
    open_port = partial(
        spawn, "postgres", command, environment, address=address, port=config.port, directory=directory
    )

    def begin() -> Process:
        process = open_port()
        try:
            _await_ready(f"postgresql://outrider@{address}:{config.port}/postgres")
        except BaseException:
            process.stop()
            raise
        return process

    return Database(f"postgresql+psycopg://outrider@{address}:{config.port}/postgres", begin(), begin)


def _await_ready(url: str) -> None:
    """The port is open before the server takes questions."""
    deadline = time.monotonic() + READY
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise ServerFailed(f"postgres: {error}") from error
            time.sleep(0.05)
