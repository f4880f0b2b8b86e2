"""`outrider queue list` and `outrider queue show`, beside a running relay."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from deliver.cli import outrider
from deliver.message import MessageId
from deliver.queue import codec, schema, store
from deliver.queue.content import InlineContent, SpoolContent
from deliver.queue.schedule import Settlement
from deliver.report.trace import Finding, Stage, Trace
from deliver.sqlrun import Database
from tests.unit.queue.values import CONTENT, DEFERRED, DELIVERED, IN_DOUBT, Recorder, claim, envelope

NOW = time.time_ns() / 1e9


def accept(conn, name, *recipients, sender="a@sender.example", content=None, at=NOW - 7200):
    made = envelope(name, *recipients, sender=sender, at=at)
    store.accept(conn, made, content or InlineContent(CONTENT), (), at, Recorder())


def settle(conn, claimed, *outcomes, at=NOW - 7000):
    trace = Trace()
    trace.add(Finding(Stage.DNS, "mx", "one MX: mx.example.org\x1b[2J", rfc="RFC 5321 5.1"))
    settlements = tuple(
        Settlement(who, outcome, NOW + 3600 if outcome is not DELIVERED else None)
        for who, outcome in zip(claimed.recipients, outcomes, strict=True)
    )
    store.settle(
        conn, claimed, settlements, events=(), now=at, trace=codec.trace_json(trace), append=Recorder()
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "outrider.toml").write_text(f'state_dir = "{tmp_path}"\n')
    return tmp_path


@pytest.fixture
def shards(state: Path) -> Iterator[tuple[Database, Database]]:
    """Two shards that their owner keeps open, as a running relay does."""
    first, second = Database(state / "queue/shard-0.db"), Database(state / "queue/shard-1.db")
    with first._writer.begin() as conn:
        schema.migrate(conn)
        accept(conn, "m1", "b@example.org", "c@example.org")
        settle(conn, claim(conn, NOW - 7100)[0], DELIVERED, IN_DOUBT)
        accept(conn, "m2", "d@example.net", sender=None, at=NOW - 60)
        claim(conn, NOW, limit=1, lease=600)
        accept(conn, "m3", "e@example.com", content=SpoolContent(state, "m3.eml", 9), at=NOW - 60)
    with second._writer.begin() as conn:
        schema.migrate(conn)
        accept(conn, "m4", "f@example.org", sender="x@other.example", at=NOW - 90)
    yield first, second
    first.close()
    second.close()


def run(state: Path, *args: str) -> Result:
    return CliRunner().invoke(outrider, ["--config", str(state / "outrider.toml"), "queue", *args])


def ids(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def test_no_queue_is_an_empty_queue_and_none_is_created(state):
    result = run(state, "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "The queue is empty." in result.stderr
    assert not (state / "queue").exists()


def test_all_shards_are_listed_the_one_due_first_at_the_top(state, shards):
    assert ids(run(state, "list", "--json")) == ["m4", "m3", "m2", "m1"]


def test_the_table_says_when_and_why(state, shards):
    result = run(state, "list")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["ID", "AGE", "SIZE", "FROM", "TO", "TRIES", "NEXT", "WHY"]
    by_id = {line.split()[0]: line for line in lines}
    assert "due now" in by_id["m4"]
    assert "not tried yet" in by_id["m4"]
    assert "being tried" in by_id["m2"]
    assert "<>" in by_id["m2"]
    left = re.search(r" in (\d+)m ", by_id["m1"])
    assert left
    assert abs(NOW + 3600 - time.time_ns() / 1e9 - 60 * int(left[1])) < 120
    assert "the connection was lost" in by_id["m1"]
    assert "b@example.org" not in result.stdout  # delivered


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--domain", "example.org"], ["m4", "m1"]),
        (["--domain", "EXAMPLE.net."], ["m2"]),
        (["--sender", "<>"], ["m2"]),
        (["--sender", "x@other.example"], ["m4"]),
        (["--sender", "sender.example"], ["m3", "m1"]),
        (["--sender", "y@other.example"], []),
        (["--sender", "a@sender.example", "--domain", "example.com"], ["m3"]),
        (["--limit", "1"], ["m4"]),
    ],
)
def test_filters(state, shards, options, found):
    assert ids(run(state, "list", "--json", *options)) == found


def test_a_cut_list_says_so(state, shards):
    assert "only the first 2 are shown" in run(state, "list", "--limit", "2").stderr
    assert "there is more" not in run(state, "list", "--limit", "4").stderr


def test_nothing_that_matches_is_said(state, shards):
    assert "Nothing in the queue matches." in run(state, "list", "--domain", "none.example").stderr


def test_a_bad_domain_is_a_usage_error(state, shards):
    result = run(state, "list", "--domain", "a b")
    assert result.exit_code == 64


def test_show_tells_every_attempt_and_why_it_waits(state, shards):
    result = run(state, "show", "m1")
    assert result.exit_code == 0
    said = result.stdout
    assert "a@sender.example" in said
    assert "in doubt 1 times: copies are possible" in said
    assert "attempt 1 to example.org" in said
    assert "mixed after 1m40s" in said
    assert "one MX: mx.example.org\\x1b[2J [RFC 5321 5.1]" in said
    assert "\x1b" not in said


def test_show_tells_of_an_attempt_under_way_and_of_spooled_content(state, shards):
    assert "under way, leased for" in run(state, "show", "m2").stdout
    assert "spool file m3.eml" in run(state, "show", "m3").stdout


@pytest.mark.parametrize("asked", [True, False])
def test_show_tells_that_the_sender_asked_for_requiretls(state, shards, asked):
    with shards[0]._writer.begin() as conn:
        conn.execute(update(schema.message).values(requires_tls=asked))
    assert ("asked for: REQUIRETLS" in run(state, "show", "m1").stdout) is asked
    assert json.loads(run(state, "show", "m1", "--json").stdout)["requires_tls"] is asked


def test_show_json_has_everything(state, shards):
    document = json.loads(run(state, "show", "m1", "--json").stdout)
    assert document["id"] == "m1"
    assert [each["state"] for each in document["recipients"]] == ["delivered", "queued"]
    assert document["recipients"][0]["next_attempt"] is None
    (tried,) = document["attempts"]
    assert tried["findings"][0]["code"] == "mx"
    assert [outcome["kind"] for _, outcome in tried["outcomes"]] == ["delivered", "deferred"]
    assert "content" not in document


def test_a_completed_message_is_shown_without_content(state, shards):
    with shards[1]._writer.begin() as conn:
        settle(conn, claim(conn, NOW)[0], DELIVERED, at=NOW)
    said = run(state, "show", "m4").stdout
    assert "completed:" in said
    assert "removed" in said
    assert "m4" not in ids(run(state, "list", "--json"))


def test_an_unknown_message_is_a_usage_error_with_a_remedy(state, shards):
    result = run(state, "show", "nothing")
    assert result.exit_code == 64
    assert "no shard knows it" in result.stderr
    assert "queue list" in result.stderr


def test_reading_works_while_the_relay_writes_and_changes_nothing(state, shards):
    with shards[0]._writer.begin() as conn:
        accept(conn, "m9", "z@example.org")
        before = ids(run(state, "list", "--json"))
    assert "m9" not in before
    assert "m9" in ids(run(state, "list", "--json"))


def test_a_newer_or_damaged_shard_is_a_storage_error(state, shards):
    newer = sqlite3.connect(state / "queue/shard-1.db")
    newer.execute("PRAGMA user_version=99")
    newer.close()
    result = run(state, "list")
    assert (result.exit_code, "newer version" in result.stderr) == (75, True)
    (state / "queue/shard-2.db").write_bytes(b"no database" * 1000)
    newer = sqlite3.connect(state / "queue/shard-1.db")
    newer.execute("PRAGMA user_version=1")
    newer.close()
    result = run(state, "show", "nothing")
    assert (result.exit_code, "not a database" in result.stderr) == (75, True)


def test_broken_json_in_a_row_does_not_break_the_list(state, shards):
    with shards[0]._writer.begin() as conn:
        conn.execute(schema.recipient.update().values(last_outcome="{"))
        conn.execute(schema.attempt.update().values(trace="[1, 2", outcomes='["x"]'))
    assert run(state, "list").exit_code == 0
    assert run(state, "show", MessageId("m1")).exit_code == 0
    assert DEFERRED.why not in run(state, "list").stdout
