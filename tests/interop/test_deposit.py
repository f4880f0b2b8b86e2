"""`outrider sendmail` while the relay is down: who may write to its queue loses nothing, others hear 75."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.service import PYTHON, ROOT, START, Service, environment, settings_for

NOBODY = 65534
TEXT = b"Subject: while it is down\nTo: <a@plain.test>\n\n.a dot\nlast\n"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a relay leaves behind."""
    directory = tmp_path_factory.mktemp("before")
    with LiveInternet() as live, Service("relay", write(live, directory), "listening") as relay:
        assert relay.terminate() == 0
    return directory / "state"


@pytest.fixture
def config(live: LiveInternet, state: Path, tmp_path: Path) -> Path:
    """Of a relay that has run, and runs no more."""
    config = write(live, tmp_path)
    shutil.copytree(state, tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    return config


def write(live: LiveInternet, directory: Path, more: str = "") -> Path:
    return settings_for(live.world, directory, f'[relay]\nlisten = ["127.0.0.1:0"]\n{more}')


def sendmail(config: Path, *words: str, text: bytes = TEXT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTHON, "--config", str(config), "sendmail", *words],
        input=text.decode("latin-1"), encoding="latin-1", capture_output=True, timeout=START, check=False, cwd=ROOT,
        env=environment(),
    )  # fmt: skip


def test_the_message_is_in_the_queue_and_goes_out_when_the_relay_runs(
    live: LiveInternet, config: Path
) -> None:
    ran = sendmail(config, "-i", "-f", "me@sender.test", "-N", "never", "a@plain.test", "b@plain.test")
    assert ran.returncode == 0, ran
    assert "cannot be reached" in ran.stderr
    assert "is in its queue as" in ran.stderr
    assert not live.world.messages
    with Service("relay", config, "listening") as relay:
        live.wait_until(lambda world: len(world.messages) == 1, START)
        assert relay.terminate() == 0
    (message,) = live.world.messages
    assert (message.sender, sorted(message.recipients)) == (
        "me@sender.test",
        ["a@plain.test", "b@plain.test"],
    )
    assert message.content.endswith(b"\r\n\r\n.a dot\r\nlast\r\n")
    assert message.content.startswith(b"Received: by out.sender.test (Outrider, from user 0) id ")
    for field in (b"\r\nDate: ", b"\r\nMessage-ID: <", b"\r\nFrom: me@sender.test\r\n"):
        assert message.content.count(field) == 1


def test_a_relay_that_runs_meanwhile_finds_it_too(live: LiveInternet, config: Path) -> None:
    """It listens somewhere else than the caller thinks."""
    moved = config.parent / "moved"
    moved.mkdir()
    other = moved / "outrider.toml"
    text = config.read_text()
    port = text.split('listen = ["127.0.0.1:')[1].split('"')[0]
    other.write_text(text.replace(f"127.0.0.1:{port}", "127.0.0.1:0"))
    with Service("relay", other, "listening"):
        assert sendmail(config, "a@plain.test").returncode == 0
        live.wait_until(lambda world: len(world.messages) == 1, START)


def test_what_root_queues_stays_the_relays(live: LiveInternet, config: Path) -> None:
    queue = config.parent / "state" / "queue"
    for path in (queue, *queue.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    assert sendmail(config, "a@plain.test").returncode == 0
    with closing(sqlite3.connect(f"file:{queue / 'shard-0.db'}?mode=ro", uri=True)) as rows:
        assert rows.execute("SELECT count(*) FROM message").fetchall() == [(1,)]
        assert {path.stat().st_uid for path in queue.iterdir()} == {NOBODY}


@pytest.mark.parametrize(
    ("more", "words", "status", "said"),
    [
        ('max_message_size = "1kB"', ("a@plain.test",), 69, "more than 1000 octets"),
        ("max_recipients = 1", ("a@plain.test", "b@plain.test"), 75, "more than 1 recipients"),
        ('[queue]\nmin_free_disk = "8000TiB"', ("a@plain.test",), 75, "the disk is nearly full"),
        ('[sendmail]\nrelay = "127.0.0.1:1"', ("a@plain.test",), 75, "cannot be reached"),
    ],
)
def test_what_the_relay_would_not_take_is_not_queued(
    live: LiveInternet, config: Path, more: str, words: tuple[str, ...], status: int, said: str
) -> None:
    listen = next(line for line in config.read_text().splitlines() if line.startswith("listen"))
    config.write_text(config.read_text().replace(listen, f"{listen}\n{more}"))
    ran = sendmail(config, *words, text=TEXT + 100 * b"twenty octets a line\n")
    assert (ran.returncode, said in ran.stderr) == (status, True), ran
    with closing(sqlite3.connect(config.parent / "state" / "queue" / "shard-0.db")) as rows:
        assert rows.execute("SELECT count(*) FROM message").fetchall() == [(0,)]


def test_a_queue_of_another_version_is_left_alone(config: Path) -> None:
    with closing(sqlite3.connect(config.parent / "state" / "queue" / "shard-0.db")) as rows:
        rows.execute("PRAGMA user_version = 999")
    ran = sendmail(config, "a@plain.test")
    assert ran.returncode == 75, ran
    assert "of another version" in ran.stderr


def test_who_has_no_queue_to_write_to_hears_75(live: LiveInternet, tmp_path: Path) -> None:
    config = write(live, tmp_path)
    config.write_text(config.read_text().replace("127.0.0.1:0", "127.0.0.1:1"))
    ran = sendmail(config, "-f", "me@sender.test", "a@plain.test")
    assert (ran.returncode, "cannot be reached" in ran.stderr) == (75, True), ran
    assert not (tmp_path / "state").exists(), "none is made"
