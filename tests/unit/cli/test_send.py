"""`outrider send` in its own process-like runner: exit statuses, JSON, and what is no message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, select

from deliver.cli import outrider
from events import outbox
from events.catalogue import Event
from tests.internet import LiveInternet
from tests.internet.behaviour import KEYWORDS, Behaviour

TEXT = b"Subject: hi\n\nhello\n"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveInternet]:
    with LiveInternet() as live:
        yield live


def send(
    live: LiveInternet, tmp_path: Path, *words: str, text: bytes = TEXT, options: Sequence[str] = ()
) -> Result:
    own = [
        f'dns.resolvers=["{live.world.resolver.endpoint}"]',
        f"dns.trust_anchors={live.world.write_trust_anchor(tmp_path)}",
        f"state_dir={tmp_path}/state",
        f"delivery.port={live.world.port}",
        "delivery.helo=relay.example.org",
    ]
    flags = [word for option in own for word in ("-o", option)]
    return CliRunner().invoke(outrider, [*flags, *options, "send", *words], input=text)


@pytest.mark.parametrize(
    ("recipients", "status"),
    [
        (["a@dane-ee.test"], 0),
        (["a@dane-ee.test", "b@dane-ta.test", "c@plain.test"], 0),
        (["a@dane-mismatch.test"], 75),
        (["a@null.test"], 69),
        (["a@null.test", "b@dane-ee.test"], 69),
        (["a@null.test", "b@dane-mismatch.test", "c@dane-ee.test"], 75),
        (["not an address"], 64),
        (["a@"], 64),
    ],
)
def test_exit_status(live: LiveInternet, tmp_path: Path, recipients: list[str], status: int) -> None:
    assert send(live, tmp_path, "-f", "me@example.org", *recipients).exit_code == status


def test_addresses_outside_ascii_reach_a_server_that_takes_them(live: LiveInternet, tmp_path: Path) -> None:
    assert send(live, tmp_path, "-f", "grüße@example.org", "jürg@plain.test").exit_code == 69  # 5.6.7
    server = live.world.server("mx.plain.test")
    server.behaviour = Behaviour(keywords=(*KEYWORDS, "SMTPUTF8"))
    try:
        assert send(live, tmp_path, "-f", "grüße@example.org", "jürg@plain.test").exit_code == 0
    finally:
        server.behaviour = Behaviour()
    assert server.messages[-1].sender == "grüße@example.org"
    assert server.messages[-1].recipients == ("jürg@plain.test",)
    assert send(live, tmp_path, "-f", "me@example.org", "a\u202eb@plain.test").exit_code == 64


def test_no_recipient_is_a_usage_error(live: LiveInternet, tmp_path: Path) -> None:
    assert send(live, tmp_path, "-f", "me@example.org").exit_code == 64


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"Subject: x\n\na\0b\n", "NUL"),
        (b"Subject: x\n\na\rb\n", "CR without LF"),
        (b"Subject: x\n\n" + b"y" * 100_000 + b"\n", "more than 998 octets"),
        (b"Received: by x\n" * 101 + b"\nhello\n", "mail is looping"),
    ],
)
def test_a_message_that_nobody_could_send(live: LiveInternet, tmp_path: Path, text: bytes, why: str) -> None:
    before = len(live.world.messages)
    ran = send(live, tmp_path, "-f", "me@example.org", "a@dane-ee.test", text=text)
    assert ran.exit_code == 65
    assert why in ran.stderr
    assert len(live.world.messages) == before


def test_one_object_per_recipient_in_their_order(live: LiveInternet, tmp_path: Path) -> None:
    ran = send(live, tmp_path, "--json", "-f", "", "a@null.test", "b@dane-ee.test", "c@dane-mismatch.test")
    failed, delivered, deferred = (json.loads(line) for line in ran.stdout.splitlines())
    assert [one["outcome"] for one in (failed, delivered, deferred)] == ["failed", "delivered", "deferred"]
    assert set(delivered) == {
        *("recipient", "outcome", "host", "address", "reply", "enhanced_code", "tls", "in_doubt"),
        *("round_trips", "reasons"),
    }
    assert delivered["tls"] == {
        "level": "dane",
        "version": "TLSv1.3",
        "cipher": delivered["tls"]["cipher"],
        "group": delivered["tls"]["group"],
        "resumed": False,
        "verified_by": "dane-ee",
        "ocsp": "none",
        "ocsp_requested": False,
        "resumption": 1 | 2 | 8,
    }
    assert failed["enhanced_code"] == "5.1.10"
    assert deferred["reasons"][-1]["code"] == "tlsa-mismatch"
    assert deferred["tls"] is None
    last = [message for message in live.world.messages if message.recipients == ("b@dane-ee.test",)][-1]
    assert last.sender == ""
    assert last.content == TEXT.replace(b"\n", b"\r\n")


def test_one_line_per_recipient(live: LiveInternet, tmp_path: Path) -> None:
    ran = send(live, tmp_path, "-f", "me@example.org", "b@dane-ee.test", "c@dane-mismatch.test")
    first, second = ran.stdout.splitlines()
    assert first.startswith("b@dane-ee.test: delivered to mx.dane-ee.test [127.")
    assert second.startswith("c@dane-mismatch.test: deferred 4.7.5: ")


def test_without_a_state_directory_mail_still_goes(live: LiveInternet, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    ran = send(live, tmp_path, "-f", "me@example.org", "b@dane-ee.test")
    assert ran.exit_code == 0
    assert "nothing is remembered beyond this run" in ran.stderr


def test_events_and_hints_are_kept_for_later(live: LiveInternet, tmp_path: Path) -> None:
    send(live, tmp_path, "-f", "me@example.org", "b@dane-ee.test")
    runner = CliRunner()
    state = ["-o", f"state_dir={tmp_path}/state"]
    tail = runner.invoke(outrider, [*state, "events", "tail", "--json"]).stdout
    assert "msg:delivery" in tail
    hints = runner.invoke(outrider, [*state, "hints", "list", "--json"]).stdout
    assert "mx.dane-ee.test" in hints


def waiting(tmp_path: Path, *names: str) -> None:
    """Events in the outbox of the doors without a queue."""
    with closing(create_engine(f"sqlite:///{tmp_path}/state/outbox.db").connect()) as conn, conn.begin():
        outbox.metadata.create_all(conn)
        outbox.append(conn, "m", [Event(name, datetime.now(UTC).timestamp()) for name in names])


def kept(tmp_path: Path) -> list[str]:
    with closing(create_engine(f"sqlite:///{tmp_path}/state/outbox.db").connect()) as conn:
        return list(conn.execute(select(outbox.event_outbox.c.name)).scalars())


DEAD = ("-o", "events.database=postgresql+psycopg://nobody@127.0.0.1:1/none", "-o", "events.backlog=10")


def test_events_for_diagnosis_give_way_when_many_wait(live: LiveInternet, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    waiting(tmp_path, *["tcp:close"] * 8)
    ran = send(live, tmp_path, "-f", "me@example.org", "b@dane-ee.test", options=DEAD)
    assert ran.exit_code == 0, ran.stderr
    assert [name for name in kept(tmp_path) if name.startswith("msg:")] == ["msg:delivery"]
    assert len(kept(tmp_path)) == 9
    assert "that only serve diagnosis were dropped" in ran.stderr


def test_mail_is_refused_unsent_when_too_many_events_wait(live: LiveInternet, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    waiting(tmp_path, *["msg:delivery"] * 10)
    before = len(live.world.messages)
    ran = send(live, tmp_path, "-f", "me@example.org", "b@dane-ee.test", options=DEAD)
    assert ran.exit_code == 75
    assert "10 events wait for the databases" in ran.stderr
    assert len(live.world.messages) == before
    assert len(kept(tmp_path)) == 10


def test_a_database_that_is_back_makes_room_for_mail(live: LiveInternet, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    waiting(tmp_path, *["msg:delivery"] * 10)
    ran = send(live, tmp_path, "-f", "me@example.org", "b@dane-ee.test", options=("-o", "events.backlog=10"))
    assert ran.exit_code == 0, ran.stderr
    assert kept(tmp_path) == []
