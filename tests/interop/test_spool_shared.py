"""`outrider spool` with a queue on PostgreSQL: by itself as a node, or into the queue of nodes that live."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import func, select

from deliver.queue import schema
from tests.internet import Behaviour, LiveInternet, World
from tests.interop.peers.database import Database
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig, empty
from tests.interop.service import PYTHON, ROOT, START, Service, environment, settings_for
from tests.interop.test_spool import names, spool
from tests.interop.waiting import until
from tests.unit.spool.pairs import NEW_ID, body_file, header_file, put

pytestmark = pytest.mark.peers


@pytest.fixture
def database(postgres: Factory[PostgresConfig, Database]) -> Iterator[sqlalchemy.Engine]:
    """An empty one."""
    url = postgres(name="spool").url
    empty(url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def config(live: LiveInternet, tmp_path: Path, database: sqlalchemy.Engine) -> Path:
    url = database.url.render_as_string(hide_password=False)
    more = f'[relay]\nlisten = ["127.0.0.1:0"]\n[queue]\nurl = "{url}"\nnode = "here"\n'
    return settings_for(live.world, tmp_path, more)


def refuse_for_now(live: LiveInternet, host: str, behaviour: Behaviour) -> None:
    def change(world: World) -> None:
        world.server(host).behaviour = behaviour

    live.call(change)


def retry(config: Path) -> None:
    command = [*PYTHON, "--config", str(config), "queue", "retry", "--all"]
    assert subprocess.run(command, timeout=START, check=False, cwd=ROOT, env=environment()).returncode == 0


def test_by_itself_it_delivers_and_who_has_to_wait_is_in_the_shared_queue(
    live: LiveInternet, config: Path, directory: Path, database: sqlalchemy.Engine
) -> None:
    refuse_for_now(live, "mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    put(directory, header=header_file(recipients=("a@plain.test", "b@signed.test")))
    ran = spool(config, str(directory))
    assert (ran.returncode, ran.stdout) == (0, "1 taken, 0 set aside, 0 not yet\n"), ran
    assert names(directory) == []
    assert live.copies() == {"a@plain.test": 1}
    with database.connect() as conn:
        waiting = conn.execute(select(func.count()).select_from(schema.message)).scalar_one()
    assert waiting == 1
    refuse_for_now(live, "mx.signed.test", Behaviour())
    retry(config)
    assert spool(config, str(directory)).returncode == 0, "as a node again: the name was given back"
    assert live.copies() == {"a@plain.test": 1, "b@signed.test": 1}


def test_beside_a_node_the_messages_go_into_its_queue(
    live: LiveInternet, config: Path, directory: Path
) -> None:
    large = b"a line of the body\n" * 20_000
    with Service("relay", config, "listening") as relay:
        put(directory)
        put(directory, NEW_ID, body=body_file(NEW_ID, large))
        ran = spool(config, str(directory))
        assert ran.stdout == "2 taken into the queue of the running relay, 0 set aside, 0 not yet\n", ran
        assert names(directory) == []
        until(lambda: live.copies() == Counter({"a@plain.test": 2}))
        assert relay.terminate() == 0
    assert any(message.content.endswith(large.replace(b"\n", b"\r\n")) for message in live.world.messages)
