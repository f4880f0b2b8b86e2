"""The verbs of `outrider queue` that change, count or export, beside an open shard."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deliver.cli import outrider
from deliver.cli.queue_freeze import end_of
from deliver.errors import UsageError
from deliver.queue import schema
from deliver.queue.content import SpoolContent
from deliver.sqlrun import Database
from tests.unit.cli.test_queue import accept
from tests.unit.queue.values import CONTENT, claim


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "outrider.toml").write_text(f'state_dir = "{tmp_path}"\n')
    return tmp_path


@pytest.fixture
def shard(state: Path) -> Iterator[Database]:
    """Three messages, one of them being tried; its owner keeps the shard open, as a running relay does."""
    now = time.time_ns() / 1e9  # the verbs look at the clock
    database = Database(state / "queue/shard-0.db")
    with database._writer.begin() as conn:
        schema.migrate(conn)
        accept(conn, "m1", "b@example.org", "c@example.net")
        accept(conn, "m2", "d@example.org", sender=None, at=now - 60)
        accept(conn, "m3", "e@busy.example", at=now - 60)
        assert len(claim(conn, now, domains=("busy.example",))) == 1
    yield database
    database.close()


def run(state: Path, *args: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(
        outrider, ["--config", str(state / "outrider.toml"), "queue", *args], input=answer
    )


def now_in(state: Path) -> dict[str, str]:
    """State by recipient."""
    result = run(state, "list", "--json")
    return {row["recipient"]: row["state"] for row in map(json.loads, result.stdout.splitlines())}


def test_everything_must_be_asked_for_by_name(state, shard):
    result = run(state, "remove", "--yes")
    assert result.exit_code == 64
    assert "--all" in result.stderr
    assert len(now_in(state)) == 4


def test_many_are_not_changed_without_a_yes(state, shard):
    result = run(state, "remove", "--domain", "example.org")
    assert result.exit_code == 64
    assert "add --yes" in result.stderr
    assert len(now_in(state)) == 4


def test_one_is_changed_without_asking(state, shard):
    result = run(state, "hold", "--recipient", "b@example.org", "--reason", "a look", "--until", "2h")
    assert (result.exit_code, result.stdout) == (0, "1 recipient held\n")
    shown = run(state, "list", "--state", "held").stdout
    assert "held: a look" in shown
    assert "held, ends in" in shown
    assert "held: a look" in run(state, "show", "m1").stdout
    assert run(state, "release", "m1").stdout == "1 recipient released\n"
    assert now_in(state)["b@example.org"] == "queued"


def test_a_dry_run_says_who_and_changes_nothing(state, shard):
    before = now_in(state)
    result = run(state, "remove", "--domain", "example.org", "--dry-run")
    assert result.exit_code == 0
    assert "b@example.org" in result.stdout
    assert "d@example.org" in result.stdout
    assert "c@example.net" not in result.stdout
    assert "nothing was changed" in result.stderr
    lines = run(state, "remove", "--domain", "example.org", "--dry-run", "--json").stdout.splitlines()
    assert [json.loads(line)["would"] for line in lines] == ["remove", "remove"]
    assert now_in(state) == before


def test_removing_ends_them_and_leaves_the_others(state, shard):
    result = run(state, "remove", "--domain", "example.org", "--yes", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"verb": "remove", "changed": 2, "busy": 0, "held": 0, "frozen": 0}
    assert now_in(state) == {"c@example.net": "queued", "e@busy.example": "leased"}


def test_an_attempt_under_way_is_said_and_is_a_temporary_failure(state, shard):
    result = run(state, "remove", "m3")
    assert result.exit_code == 75
    assert "an attempt is under way" in result.stderr
    assert now_in(state)["e@busy.example"] == "leased"


def test_an_unknown_id_changes_nothing(state, shard):
    result = run(state, "remove", "m1", "m7")
    assert result.exit_code == 64
    assert "m7" in result.stderr
    assert len(now_in(state)) == 4


def test_nothing_that_matches_is_no_failure(state, shard):
    result = run(state, "retry", "--domain", "none.example")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Nothing in the queue matches." in result.stderr


def test_bouncing_leaves_the_report_to_the_relay(state, shard):
    assert run(state, "bounce", "m1", "--reason", "enough").stdout == "2 recipients bounced\n"
    shown = run(state, "show", "m1").stdout
    assert "a report to a@sender.example is due" in shown
    assert "enough" in shown


def test_removing_takes_the_spool_file_along(state, shard):
    spool = state / "queue/spool-0"
    spool.mkdir()
    (spool / "m9.eml").write_bytes(CONTENT)
    with shard._writer.begin() as conn:
        accept(conn, "m9", "z@example.org", content=SpoolContent(spool, "m9.eml", len(CONTENT)))
    assert run(state, "remove", "m9").exit_code == 0
    assert not (spool / "m9.eml").exists()


def test_freezing_holds_lists_and_thaws(state, shard):
    result = run(state, "freeze", "domain", "example.org", "--reason", "they asked", "--until", "12h")
    assert result.exit_code == 0, result.output
    assert "2 recipients held" in result.stdout
    assert now_in(state)["b@example.org"] == "held"
    assert run(state, "release", "m1").exit_code == 75
    (rule,) = map(json.loads, run(state, "freeze", "list", "--json").stdout.splitlines())
    assert (rule["kind"], rule["pattern"], rule["reason"]) == ("domain", "example.org", "they asked")
    assert "they asked" in run(state, "freeze", "list").stdout
    assert f"(freeze rule {rule['id']})" in run(state, "show", "m1").stdout
    assert run(state, "thaw", str(rule["id"])).stdout == "2 recipients released\n"
    assert "Nothing is frozen." in run(state, "freeze", "list").stderr
    assert run(state, "thaw", "7").exit_code == 64


def test_a_rule_needs_a_reason_and_a_sound_pattern(state, shard):
    assert run(state, "freeze", "domain", "example.org").exit_code == 64
    assert run(state, "freeze", "domain", "a b", "--reason", "x").exit_code == 64


def test_ends_of_rules():
    assert end_of("12h", 100.0) == 100.0 + 12 * 3600
    assert end_of("forever", 100.0) is None
    assert end_of("2030-01-01", 100.0) == 1893456000.0
    for bad in ("yesterday", "1969-01-01"):
        with pytest.raises(UsageError):
            end_of(bad, 100.0)


def test_the_summary_counts_by_age_and_domain(state, shard):
    lines = run(state, "summary").stdout.splitlines()
    assert lines[0].split()[:3] == ["DOMAIN", "TOTAL", "5"]
    assert lines[1].split()[:2] == ["TOTAL", "4"]
    assert lines[2].split()[:3] == ["example.org", "2", "1"]
    rows = {row["name"]: row for row in map(json.loads, run(state, "summary", "--json").stdout.splitlines())}
    assert rows["example.org"]["ages"][0] == 1
    assert rows["example.org"]["ages"][5] == 1  # two hours: below 160 minutes
    by_sender = run(state, "summary", "--by", "sender", "--json").stdout.splitlines()
    assert {json.loads(line)["name"] for line in by_sender} == {"sender.example", "<>"}


def test_export_gives_back_the_message_and_its_envelope(state, shard):
    text = run(state, "export", "m1").stdout_bytes
    head, _, rest = text.partition(CONTENT)
    assert rest == b""
    assert b"X-Outrider-Sender: <a@sender.example>\r\n" in head
    assert b"X-Outrider-Recipient: <b@example.org>; queued\r\n" in head
    assert run(state, "export", "m1", "--bare").stdout_bytes == CONTENT
    document = json.loads(run(state, "export", "m1", "--json").stdout)
    assert base64.b64decode(document["content"]) == CONTENT
    assert [each["address"] for each in document["recipients"]] == ["b@example.org", "c@example.net"]


def test_several_messages_are_exported_to_a_directory(state, shard, tmp_path):
    assert run(state, "export", "--domain", "example.org").exit_code == 64
    target = tmp_path / "saved"
    assert run(state, "export", "--domain", "example.org", "--directory", str(target)).exit_code == 0
    assert sorted(path.name for path in target.iterdir()) == ["m1.eml", "m2.eml"]
    assert (target / "m1.eml").stat().st_mode & 0o777 == 0o600
    assert run(state, "export", "nothing").exit_code == 64


def test_spooled_content_is_exported_in_pieces(state, shard):
    spool = state / "queue/spool-0"
    spool.mkdir()
    large = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 20_000
    (spool / "m9.eml").write_bytes(large)
    with shard._writer.begin() as conn:
        accept(conn, "m9", "z@example.org", content=SpoolContent(spool, "m9.eml", len(large)))
    assert run(state, "export", "m9", "--bare").stdout_bytes == large
    document = json.loads(run(state, "export", "m9", "--json").stdout)
    assert base64.b64decode(document["content"]) == large
    (spool / "m9.eml").unlink()
    assert run(state, "export", "m9").exit_code == 75


@pytest.mark.parametrize(
    "options",
    [
        ["--older-than", "soon"],
        ["--larger-than", "big"],
        ["--domain", "a b"],
        ["--sender", "a b@c d"],
        ["--state", "delivered"],
    ],
)
def test_bad_filters_are_usage_errors(state, shard, options):
    assert run(state, "retry", "--yes", *options).exit_code == 64


def test_a_shard_of_another_version_is_not_touched(state, shard):
    with shard._writer.begin() as conn:
        conn.exec_driver_sql("PRAGMA user_version=2")
    result = run(state, "retry", "m2")
    assert (result.exit_code, "another version" in result.stderr) == (75, True)
