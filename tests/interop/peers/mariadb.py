"""MariaDB with a database of its own in a temporary directory.

It runs without grant tables, so that no system tables have to be made first: everybody who reaches its loopback
address is root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy

from tests.interop.peers.address import own_address
from tests.interop.peers.database import NOBODY, Database
from tests.interop.peers.process import spawn
from tests.interop.peers.programs import Programs


@dataclass(frozen=True, slots=True)
class MariadbConfig:
    """Another `name` is another server."""

    name: str = "mariadb"
    port: int = 3306


def start(programs: Programs, directory: Path, config: MariadbConfig) -> Database:
    """Start a server in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("mariadb")
    environment = programs.environment("mariadb")
    os.chown(directory, 65534, 65534)
    data = directory / "data"
    (data / "mysql").mkdir(parents=True)
    for path in (data, data / "mysql"):
        os.chown(path, 65534, 65534)
    address = own_address(config.port)
    share = programs.root("mariadb") / "usr/share/mysql"
    command: list[str | Path] = [
        *(*NOBODY, program, "--no-defaults", "--skip-grant-tables", "--skip-name-resolve"),
        *(f"--datadir={data}", f"--lc-messages-dir={share}", f"--character-sets-dir={share}/charsets"),
        *(f"--bind-address={address}", f"--port={config.port}", f"--socket={directory}/mysql.sock"),
        *(f"--pid-file={directory}/mariadb.pid", f"--tmpdir={directory}", "--innodb-buffer-pool-size=16M"),
        *("--innodb-log-file-size=16M", "--character-set-server=latin1", "--sql-mode=STRICT_ALL_TABLES"),
    ]
    begin = partial(
        spawn, "mariadb", command, environment, address=address, port=config.port, directory=directory
    )
    process = begin()
    url = f"mysql+pymysql://root@{address}:{config.port}"
    engine = sqlalchemy.create_engine(f"{url}/")
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE DATABASE outrider")
    engine.dispose()
    return Database(f"{url}/outrider", process, begin)
