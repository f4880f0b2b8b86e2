"""The demonstration as a user runs it, and what it leaves behind: its report, SQL rows, octets at the servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 45  # seconds; it takes about four
ALICE, BOB, CAROL = "alice@dane-ee.test", "bob@dane-ta.test", "carol@dane-mismatch.test"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One run with --json and --keep."""

    status: int
    report: dict[str, Any]
    errors: str
    directory: Path

    def message(self, recipient: str) -> dict[str, Any]:
        messages: list[dict[str, Any]] = self.report["messages"]
        [found] = [one for one in messages if one["recipient"] == recipient]
        return found

    def received(self, server: str) -> list[dict[str, Any]]:
        return [one for one in self.report["received"] if one["server"] == server]

    def rows(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.directory / "state" / "events.db")) as database:
            return database.execute(query, parameters).fetchall()


def demonstrate(*arguments: str) -> tuple[int, str, str]:
    """Run it in a process group of its own, so that nothing of it outlives a failure."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.internet.demo", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        try:
            out, errors = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return child.returncode, out, errors


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    directory = tmp_path_factory.mktemp("demo") / "kept"
    status, out, errors = demonstrate("--json", "--keep", str(directory))
    assert out, errors
    return Demonstration(status, json.loads(out), errors, directory)


def test_it_succeeds_without_a_word_on_standard_error(demonstration: Demonstration) -> None:
    assert demonstration.report["problems"] == []
    assert demonstration.report["ok"] is True
    assert demonstration.status == 0
    assert demonstration.errors == ""  # neither progress nor warnings in a pipe


@pytest.mark.parametrize(("recipient", "verified_by"), [(ALICE, "dane-ee"), (BOB, "dane-ta")])
def test_two_messages_are_delivered_over_dane(
    demonstration: Demonstration, recipient: str, verified_by: str
) -> None:
    message = demonstration.message(recipient)
    assert (message["outcome"], message["verified_by"]) == ("delivered", verified_by)
    assert message["tls"]["version"] == "TLSv1.3"
    judged = [finding for finding in message["decisions"] if finding["stage"] == "tls"]
    assert [finding["verdict"] for finding in judged] == ["ok"]
    assert judged[0]["rfc"].startswith("RFC 7672 3.1")


def test_the_third_message_is_deferred_with_the_reason(demonstration: Demonstration) -> None:
    message = demonstration.message(CAROL)
    assert (message["outcome"], message["status"], message["tls"]) == ("deferred", "4.7.5", None)
    assert "TLSA" in message["why"]
    assert "mx.dane-mismatch.test" in message["why"]
    assert message["next_attempt_in"] > 30  # queue.retry begins with a minute
    refused = [finding for finding in message["decisions"] if finding["verdict"] == "refused"]
    assert [(finding["code"], finding["stage"]) for finding in refused] == [("tlsa-mismatch", "tls")]


def test_the_decisions_begin_with_the_route_and_name_their_rules(demonstration: Demonstration) -> None:
    for message in demonstration.report["messages"]:
        stages = list(dict.fromkeys(finding["stage"] for finding in message["decisions"]))
        assert stages[:3] == ["route", "dns", "policy"]
        for finding in message["decisions"]:
            assert finding["text"]
            if finding["stage"] in ("route", "dns", "policy", "tls"):
                assert re.match(r"RFC \d+ \d", finding["rfc"])


@pytest.mark.parametrize(("recipient", "verified_by"), [(ALICE, "dane-ee"), (BOB, "dane-ta")])
def test_sql_holds_each_delivery_and_what_authenticated_it(
    demonstration: Demonstration, recipient: str, verified_by: str
) -> None:
    identity = demonstration.message(recipient)["id"]
    delivered = demonstration.rows(
        "SELECT local_part || '@' || domain, host, tls_verified_by, tls_version, smtp_code"
        " FROM event_log WHERE message_id = ? AND name = 'msg:delivery'",
        identity,
    )
    host = f"mx.{recipient.partition('@')[2]}"
    assert delivered == [(recipient, host, verified_by, "TLSv1.3", 250)]
    names = [
        row[0]
        for row in demonstration.rows(
            "SELECT name FROM event_log WHERE message_id = ? ORDER BY seq", identity
        )
    ]
    assert names[0] == "msg:accept"
    assert [name for name in names if name != "tcp:close"][-1] == "msg:complete"  # the session may outlive it
    assert "msg:defer" not in names


def test_sql_holds_the_deferral_and_no_delivery(demonstration: Demonstration) -> None:
    identity = demonstration.message(CAROL)["id"]
    rows = demonstration.rows(
        "SELECT name, enhanced_code, event_data FROM event_log WHERE message_id = ? ORDER BY seq", identity
    )
    names = [name for name, _, _ in rows]
    assert names.count("msg:defer") == 1
    assert names.count("dane:fail") == 1
    assert not {"msg:delivery", "msg:complete", "tls:fallback"} & set(names)
    [(_, code, why)] = [row for row in rows if row[0] == "msg:defer"]
    assert code == "4.7.5"
    assert "TLSA" in why


def test_the_report_shows_the_rows_that_are_in_sql(demonstration: Demonstration) -> None:
    for message in demonstration.report["messages"]:
        rows = demonstration.rows("SELECT id FROM event_log WHERE message_id = ? ORDER BY seq", message["id"])
        assert rows
        assert [(event["id"],) for event in message["events"]] == rows


def test_the_sql_action_of_the_settings_wrote_one_row_per_message(demonstration: Demonstration) -> None:
    ledger = {row["domain"]: (row["event"], row["verified_by"]) for row in demonstration.report["ledger"]}
    assert len(demonstration.report["ledger"]) == 3
    assert ledger == {
        "dane-ee.test": ("msg:delivery", "dane-ee"),
        "dane-ta.test": ("msg:delivery", "dane-ta"),
        "dane-mismatch.test": ("msg:defer", None),
    }


@pytest.mark.parametrize("recipient", [ALICE, BOB])
def test_the_octets_at_the_server_are_those_handed_over(demonstration: Demonstration, recipient: str) -> None:
    [received] = demonstration.received(f"mx.{recipient.partition('@')[2]}")
    content = received["content"].encode("latin-1")
    assert received["recipients"] == [recipient]
    assert received["sender"] == "ada@app.example"
    assert content.startswith(b"Received: from app.example ")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)  # every line ends with CRLF
    body = b"Hello.\r\n.A line that begins with a dot,\r\n..one with two, and a dot alone:\r\n.\r\nBye.\r\n"
    assert content.endswith(b"\r\n\r\n" + body)
    submitted = demonstration.message(recipient)["submitted"].encode("latin-1")
    added = content.removesuffix(submitted)
    assert added != content
    assert re.fullmatch(rb"Received: [^\r\n]+\r\n(?:[ \t][^\r\n]+\r\n)*", added)  # one field, nothing else


def test_mail_was_spoken_of_inside_tls_only(demonstration: Demonstration) -> None:
    for connection in demonstration.report["connections"]:
        assert connection["clear"] == ["EHLO", "STARTTLS"]
    assert all(one["tls_version"] == "TLSv1.3" for one in demonstration.report["received"])


def test_the_server_that_does_not_match_learns_nothing(demonstration: Demonstration) -> None:
    assert demonstration.received("mx.dane-mismatch.test") == []
    connections = [
        one for one in demonstration.report["connections"] if one["server"] == "mx.dane-mismatch.test"
    ]
    assert connections  # it was asked
    for connection in connections:
        assert connection["inside_tls"] == []
        assert "MAIL" not in connection["clear"]


def test_the_hints_tell_which_level_each_server_reached(demonstration: Demonstration) -> None:
    levels = {
        hint["values"]["domain"]: hint["values"]["level"]
        for hint in demonstration.report["hints"]
        if hint["kind"] == "level"
    }
    assert levels == {"dane-ee.test": "dane-ee", "dane-ta.test": "dane-ta"}


def test_the_relay_has_ended_in_order(demonstration: Demonstration) -> None:
    lines = [json.loads(line) for line in (demonstration.directory / "relay.log").read_text().splitlines()]
    assert lines[-1]["message"] == "stopped"
    assert not [line for line in lines if line["level"] in ("warning", "error")]
    [place] = [line["on"] for line in lines if line["message"] == "listening"]
    address, _, port = place.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, int(port)), timeout=5).close()


def test_what_is_kept_can_be_looked_at_afterwards(demonstration: Demonstration) -> None:
    config = str(demonstration.directory / "outrider.toml")
    listed = subprocess.run(
        [sys.executable, "-m", "deliver", "--config", config, "queue", "list", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert listed.returncode == 0, listed.stderr
    [waiting] = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (waiting["recipient"], waiting["state"], waiting["attempts"]) == (CAROL, "queued", 1)


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    status, out, errors = demonstrate("--keep", str(tmp_path))
    assert status == 2
    assert out == ""
    assert "not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_people_get_headings_reasons_and_a_verdict() -> None:
    status, out, errors = demonstrate()
    assert status == 0, errors
    assert "\x1b" not in out  # no colours in a pipe
    assert max(len(line) for line in out.splitlines()) <= 118
    sections = re.split(r"^(?=\d  |What )", out, flags=re.MULTILINE)
    titles = [section.partition("\n")[0].rstrip("─ ") for section in sections[1:]]
    assert titles[:3] == [f"1  {ALICE}", f"2  {BOB}", f"3  {CAROL}"]
    assert "DELIVERED to mx.dane-ee.test" in sections[1]
    assert "DELIVERED to mx.dane-ta.test" in sections[2]
    assert re.search(r"DEFERRED 4\.7\.5 .*TLSA", sections[3])
    assert re.search(r"refused .*RFC 7672", sections[3])
    assert re.search(r"msg:defer .*4\.7\.5", sections[3])
    assert "received nothing" in out
    assert "Two messages were delivered over DANE" in out.splitlines()[-2]
