"""The doors without a queue behind several workers: any of them serves, and what one has settled all know."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.internet import Behaviour, Delay, LiveInternet
from tests.interop.service import START, Service, send, settings_for
from tests.interop.test_workers import children, standing_still
from tests.interop.waiting import until

MINE = b"Received: from x by mta.test with ESMTP id 4XyZ; today\r\nSubject: x\r\n\r\nhi\r\n"
LMTP = '[relay]\nlisten = ["127.0.0.1:0"]\nworkers = 2\n[lmtp]\nlisten = ["unix:door.sock"]\n'


@pytest.fixture
def config(live: LiveInternet, tmp_path: Path) -> Path:
    return settings_for(live.world, tmp_path, LMTP)


@pytest.fixture(params=["lmtp", "relay"])
def service(config: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    with Service(request.param, config, "listening for LMTP") as service:
        yield service


@contextmanager
def standing_aside(service: Service, pid: int) -> Iterator[None]:
    """The process does nothing meanwhile, and has no database locked."""
    held = True
    while held:
        with standing_still(pid):
            held = any(map(locked, (service.config.parent / "state").glob("*.db")))
            if not held:
                yield


def locked(file: Path) -> bool:
    """Whether somebody writes."""
    with closing(sqlite3.connect(file, timeout=0.0)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


def workers(service: Service) -> list[int]:
    assert service.process is not None
    return children(service.process.pid)


def client(service: Service) -> smtplib.LMTP:
    """One that has begun a message to nobody yet."""
    made = smtplib.LMTP(service.place.removeprefix("unix:"), local_hostname="mta.test", timeout=START)
    made.ehlo()
    assert made.mail("me@sender.test")[0] == 250
    return made


def finish(made: smtplib.LMTP, content: bytes, recipient: str) -> None:
    """Hand over a message; its reply is still to be read."""
    assert made.rcpt(recipient)[0] == 250
    assert made.docmd("DATA")[0] == 354
    made.send(content + b".\r\n")


def hand_over(service: Service, content: bytes, recipient: str) -> tuple[int, bytes]:
    with client(service) as made:
        finish(made, content, recipient)
        return made.getreply()


def under_way(config: Path) -> bool:
    """Whether a delivery is on record that has not ended."""
    with closing(sqlite3.connect(config.parent / "state" / "outbox.db")) as database:
        return bool(database.execute("SELECT 1 FROM settled WHERE state = 'under way'").fetchall())


def test_every_worker_takes_messages_and_knows_what_another_has_settled(
    live: LiveInternet, service: Service
) -> None:
    first, second = workers(service)
    for number, other in enumerate((first, second, first)):
        with standing_aside(service, other):
            assert hand_over(service, MINE, "a@plain.test")[0] == 250
            assert hand_over(service, MINE, f"b{number}@plain.test")[0] == 250
    assert live.copies() == {"a@plain.test": 1, "b0@plain.test": 1, "b1@plain.test": 1, "b2@plain.test": 1}
    place = Path(service.place.removeprefix("unix:"))
    assert service.terminate() == 0
    assert not place.exists()


def test_what_one_worker_delivers_another_does_not_begin(
    live: LiveInternet, config: Path, service: Service
) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Delay(3, "250 2.0.0 Finally")}))
    first, second = workers(service)
    with standing_aside(service, second):
        ones = client(service)
    with standing_aside(service, first):
        others = client(service)
    finish(ones, MINE, "a@plain.test")
    until(lambda: under_way(config))
    finish(others, MINE, "a@plain.test")
    code, text = others.getreply()
    assert code == 451
    assert b"still under way" in text
    assert ones.getreply() == (250, b"2.0.0 Finally")
    for made in (ones, others):
        made.mail("me@sender.test")
    for made in (ones, others, client(service)):
        finish(made, MINE, "a@plain.test")
        assert made.getreply() == (250, b"2.0.0 Finally")
        made.quit()
    assert live.copies() == {"a@plain.test": 1}


def test_a_worker_that_is_killed_takes_nobody_with_it(live: LiveInternet, service: Service) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Delay(60, "250 ok")}))
    first, second = workers(service)
    with standing_aside(service, second):
        lost = client(service)
        finish(lost, MINE, "a@plain.test")
        service.wait_for("message taken")
    with standing_aside(service, first):
        kept = client(service)
    os.kill(first, signal.SIGKILL)
    service.wait_for("worker ended, it is started again")
    with pytest.raises((OSError, smtplib.SMTPServerDisconnected)):
        lost.getreply()
    live.behave("mx.plain.test", Behaviour())
    with kept:
        assert kept.rcpt("b@plain.test")[0] == 250
    assert hand_over(service, MINE, "a@plain.test")[0] == 250, "its owner is gone"
    assert live.copies() == {"a@plain.test": 1}
    until(lambda: len(workers(service)) == 2)
    assert service.terminate() == 0


def test_a_new_service_has_the_door_at_once_when_the_supervisor_was_killed(
    live: LiveInternet, service: Service
) -> None:
    before = workers(service)
    service.kill()
    service.start()
    assert hand_over(service, MINE, "a@plain.test")[0] == 250
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    assert hand_over(service, MINE, "b@plain.test")[0] == 250
    assert service.terminate() == 0


def test_outrider_send_is_served_by_every_worker(live: LiveInternet, config: Path, service: Service) -> None:
    for other in workers(service):
        with standing_aside(service, other):
            assert send(config, "--queue-id", "Q1", "-f", "me@sender.test", "a@plain.test").returncode == 0
            assert send(config, "-f", "me@sender.test", f"b{other}@plain.test").returncode == 0
    delivered = [line for line in service.lines if line["message"] == "delivered"]
    assert len(delivered) == 3, "by the service, not by the caller"
    assert live.copies()["a@plain.test"] == 1
    assert service.terminate() == 0


def test_every_event_is_told_once(live: LiveInternet, tmp_path: Path) -> None:
    told = tmp_path / "told.db"
    with sqlite3.connect(told) as database:
        database.execute("CREATE TABLE proof (event TEXT, recipient TEXT)")
    action = (
        f'[[events.action]]\nname = "proof"\nevents = ["msg:delivery"]\ndatabase = "sqlite:///{told}"\n'
        'sql = "INSERT INTO proof VALUES (:event_name, :local_part)"\n'
    )
    config = settings_for(live.world, tmp_path, LMTP + action)
    names = [f"n{number}@plain.test" for number in range(20)]
    with Service("lmtp", config, "listening for LMTP") as service:
        for number, name in enumerate(names):
            with standing_aside(service, workers(service)[number % 2]):
                assert hand_over(service, MINE, name)[0] == 250
        assert service.terminate() == 0
    with sqlite3.connect(told) as database:
        rows = database.execute("SELECT recipient FROM proof").fetchall()
    assert sorted(f"{row[0]}@plain.test" for row in rows) == sorted(names)


def test_new_settings_reach_every_worker_or_none(live: LiveInternet, config: Path, service: Service) -> None:
    assert service.process is not None
    before = config.read_text()
    config.write_text(before.replace("[delivery]", "[delivery]\nmax_hosts = 1\nfoo = 1"))
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("new settings refused")
    config.write_text(before + '[[route]]\ndomains = ["plain.test"]\nvia = "reject"\n')
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("reloaded")
    for other in workers(service):
        with standing_aside(service, other):
            made = client(service)
        with made:
            code, text = made.rcpt("a@plain.test")
            if code == 250:  # else refused before the content
                made.docmd("DATA")
                made.send(MINE + b".\r\n")
                code, text = made.getreply()
        assert code == 550, text
    assert live.copies() == {}
    assert service.terminate() == 0


def test_a_port_that_is_taken_ends_the_start(live: LiveInternet, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        config = settings_for(live.world, tmp_path, LMTP.replace("unix:door.sock", place))
        service = Service("lmtp", config, "listening for LMTP")
        with pytest.raises(AssertionError, match="Address already in use"):
            service.start()
