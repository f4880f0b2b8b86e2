"""PostgreSQL with a database of its own in a temporary directory.

It does not sync unless asked to: what it has written outlives its process, though not the machine, and a test waits for no disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import sqlalchemy

from tests.interop.peers.address import own_address
from tests.interop.peers.database import NOBODY, Database
from tests.interop.peers.process import Process, ServerFailed, spawn
from tests.interop.peers.programs import Programs

READY = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """Another `name` is another server. `syncs` as in production, for measurements."""

    name: str = "postgres"
    port: int = 5432
    syncs: bool = False


def start(programs: Programs, directory: Path, config: PostgresConfig) -> Database:
    """Start a server in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("postgres")
    environment = programs.environment("postgres")
    os.chown(directory, 65534, 65534)
    data = directory / "data"
    _copy(_template(program.with_name("initdb"), environment, directory.parent), data)
    address = own_address(config.port)
    command: list[str | Path] = [
        *(*NOBODY, program, "-D", data, "-h", address, "-p", str(config.port), "-k", ""),
        *("-c", "shared_buffers=16MB", "-c", "max_connections=60"),
        *(() if config.syncs else ("-c", "fsync=off", "-c", "full_page_writes=off")),
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


def empty(url: sqlalchemy.URL | str) -> None:
    """Leave nothing in the database, whoever is still at work there. Raises psycopg.errors.LockNotAvailable."""
    target = sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(target, connect_timeout=10, options="-c lock_timeout=20s") as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        conn.execute("DROP SCHEMA public CASCADE")
        conn.execute("CREATE SCHEMA public")


def _template(initdb: Path, environment: Mapping[str, str], directory: Path) -> Path:
    """Files of a new server, made once in this directory. Raises ServerFailed."""
    place = directory / "postgres-template"
    if place.exists():
        return place
    draft = directory / "postgres-draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    os.chown(draft, 65534, 65534)
    words = ("-A", "trust", "-U", "outrider", "-E", "UTF8", "--no-sync")
    made = subprocess.run(
        [*NOBODY, initdb, "-D", draft, *words],
        env={**environment, "HOME": str(draft)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if made.returncode:
        raise ServerFailed(f"initdb: {made.stdout}{made.stderr}")
    return draft.rename(place)


def _copy(template: Path, data: Path) -> None:
    subprocess.run(["cp", "-a", template, data], check=True, timeout=60)


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
