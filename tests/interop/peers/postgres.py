"""PostgreSQL with a database of its own in a temporary directory."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.database import NOBODY, Database
from tests.interop.peers.process import ServerFailed, spawn
from tests.interop.peers.programs import Programs


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
    command = [
        *(*NOBODY, program, "-D", data, "-h", address, "-p", str(config.port), "-k", ""),
        *("-c", "shared_buffers=16MB", "-c", "max_connections=60"),
    ]
    begin = partial(
        spawn, "postgres", command, environment, address=address, port=config.port, directory=directory
    )
    return Database(f"postgresql+psycopg://outrider@{address}:{config.port}/postgres", begin(), begin)
