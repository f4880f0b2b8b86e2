"""`outrider events` and its verbs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine

from deliver.cli import events as verb, outrider
from events import outbox
from events.actions import ready_made
from events.catalogue import EVENTS, Event
from events.outbox import Pending
from events.sql import Databases


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "outrider.toml").write_text(f'state_dir = "{tmp_path}"\n')
    return tmp_path


def record(state: Path, *numbers: int) -> None:
    fields = {
        "local_part": "u",
        "domain": "example.org",
        "host": "mx.example.org",
        "tls_version": "TLSv1.3",
        "in_doubt": 0,
        "event_data": "250 \x1b[2Jok",
    }
    names = {1: "tcp:connect", 2: "msg:delivery"}
    batch = [
        Pending(
            n, f"i{n}", f"m{n}", Event(names.get(n, "msg:complete"), 1000.0 + n, fields if n == 2 else {})
        )
        for n in numbers
    ]
    databases = Databases()
    databases.ship(ready_made(f"sqlite:///{state}/events.db"), batch)
    databases.close()


def run(state: Path, *args: str, settings: str = "") -> Result:
    if settings:
        (state / "outrider.toml").write_text(f'state_dir = "{state}"\n{settings}')
    return CliRunner().invoke(outrider, ["--config", str(state / "outrider.toml"), "events", *args])


def test_no_database_is_no_error(state):
    result = run(state, "tail")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no event was recorded yet" in result.stderr
    assert not (state / "events.db").exists()


def test_tail_tells_the_last_events(state):
    record(state, 1, 2, 3)
    lines = run(state, "tail", "-n", "2").stdout.splitlines()
    assert lines == [
        "1970-01-01 00:16:42Z msg:delivery message=m2 to=u@example.org host=mx.example.org tls=TLSv1.3"
        ": 250 \\x1b[2Jok",
        "1970-01-01 00:16:43Z msg:complete message=m3",
    ]


def test_tail_filters(state):
    record(state, 1, 2, 3)
    assert len(run(state, "tail", "--name", "msg:*").stdout.splitlines()) == 2
    assert len(run(state, "tail", "--message", "m1").stdout.splitlines()) == 1
    assert "no such event" in run(state, "tail", "--message", "other").stderr
    result = run(state, "tail", "--name", "msg:delivry")
    assert result.exit_code == 64
    assert "did you mean 'msg:delivery'" in result.stderr


def test_tail_json(state):
    record(state, 2)
    (line,) = run(state, "tail", "--json").stdout.splitlines()
    read = json.loads(line)
    assert (read["id"], read["name"], read["at"]) == ("i2", "msg:delivery", 1002.0)
    assert read["fields"]["event_data"] == "250 \x1b[2Jok"


def test_follow_goes_on_with_what_arrives(state, monkeypatch):
    record(state, 1)
    rounds = iter([lambda: record(state, 2), lambda: record(state, 3)])

    def pause(seconds: float) -> None:
        happens = next(rounds, None)
        if happens is None:
            raise KeyboardInterrupt
        happens()

    monkeypatch.setattr(verb.time, "sleep", pause)
    result = run(state, "tail", "--follow", "-n", "1", "--json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["i1", "i2", "i3"]
    assert result.exit_code == 130


def test_a_file_that_is_no_database_is_an_error(state):
    (state / "events.db").write_bytes(b"no database at all" * 100)
    result = run(state, "tail")
    assert result.exit_code == 75
    assert "not a database" in result.stderr


def test_list_tells_the_vocabulary(state):
    assert len(run(state, "list", "--json").stdout.splitlines()) == len(EVENTS)
    said = run(state, "list", "tcp:connect").stdout
    assert ":host_address" in said
    assert run(state, "list", "nothing").exit_code == 64


ACTION = """
[[events.action]]
name = "mine"
events = ["msg:*"]
database = "sqlite:///mine.db"
sql = "INSERT INTO t VALUES ({})"
"""


def test_check_tells_the_actions(state):
    result = run(state, "check", "--json", settings=ACTION.format(":host, :event_id"))
    assert result.exit_code == 0, result.stderr
    one, two = (json.loads(line) for line in result.stdout.splitlines())
    assert one["name"] == "event_log"
    assert (two["name"], sorted(two["parameters"])) == ("mine", ["event_id", "host"])
    assert two["database"] == f"sqlite:///{state}/mine.db"
    assert not (state / "mine.db").exists()


def test_check_names_the_mistake(state):
    result = run(state, "check", settings=ACTION.format(":hosd"))
    assert result.exit_code == 78
    assert "outrider.toml:7: events.action[0].sql: :hosd is not a field" in result.stderr
    assert "did you mean 'host'" in result.stderr


def give_up(state: Path, *numbers: int, action: str = "mine") -> None:
    """Put dead events into the outbox of the doors without a queue."""
    with closing(create_engine(f"sqlite:///{state}/outbox.db").connect()) as conn, conn.begin():
        outbox.metadata.create_all(conn)
        for number in numbers:
            outbox.append(
                conn, f"m{number}", [Event("msg:complete", 1000.0 + number)], wanted=lambda event: (action,)
            )
            (one,) = outbox.pending(conn, action, 1, now=0)
            outbox.refuse(conn, action, one.seq, outbox.MAX_TRIES, "no such\x1b column", now=0)


def test_dead_tells_what_was_given_up_and_replay_tries_again(state):
    assert "no event was given up" in run(state, "dead").stderr
    give_up(state, 1, 2)
    lines = run(state, "dead", "--json").stdout.splitlines()
    assert [json.loads(line)["message_id"] for line in lines] == ["m1", "m2"]
    shown = run(state, "dead", "mine").stdout
    assert "no such\\x1b column" in shown
    assert run(state, "dead", "other", "--json").stdout == ""
    settings = ACTION.format(":host")
    wrong = run(state, "replay", "mime", settings=settings)
    assert wrong.exit_code == 64
    assert "did you mean 'mine'" in wrong.stderr
    assert "2 events will be tried again" in run(state, "replay", "mine").stderr
    assert run(state, "dead", "--json").stdout == ""
    with closing(sqlite3.connect(state / "outbox.db")) as connection:
        assert connection.execute("SELECT dead, tries FROM event_pending").fetchall() == [(0, 0), (0, 0)]


def test_the_test_of_an_action_is_rolled_back_unless_it_is_to_be_kept(state):
    with closing(sqlite3.connect(state / "mine.db")) as connection:
        connection.execute("CREATE TABLE t (host TEXT)")
    settings = ACTION.format(":host").replace('sql = "', 'sql = ["SELECT 7, :event_name", "')
    settings = settings.rstrip() + "]\n"
    result = run(state, "test", "mine", settings=settings)
    assert result.exit_code == 0, result.stderr
    assert ":host = 'mx.example.org'" in result.stdout
    assert "→ (7, 'msg:delivery')" in result.stdout
    assert "1 rows changed" in result.stdout
    assert "rolled back" in result.stderr

    def kept() -> int:
        with closing(sqlite3.connect(state / "mine.db")) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM t").fetchone()[0])

    assert kept() == 0
    assert run(state, "test", "mine", "--commit", "--event", "msg:complete", "--json").exit_code == 0
    assert kept() == 1
    wrong = run(state, "test", "mine", "--event", "tcp:close")
    assert (wrong.exit_code, "does not take" in wrong.stderr) == (64, True)


def test_the_test_names_what_the_database_says(state):
    result = run(state, "test", "mine", settings=ACTION.format(":host"))
    assert result.exit_code == 75
    assert "no such table: t" in result.stderr


def test_the_ready_made_action_and_a_file_can_be_tested(state):
    file = f'[[events.file]]\nname = "json"\nevents = ["tcp:*"]\npath = "{state}/e.jsonl"\nwhen = "domain == \'x\'"\n'
    result = run(state, "test", "json", settings=file)
    assert '"name":"tcp:connect"' in result.stdout
    assert "it would not run" in result.stderr
    assert not (state / "e.jsonl").exists()
    assert "ready-made tables" in run(state, "test", "event_log").stdout


def test_query_answers_the_documented_questions(state):
    listed = run(state, "query")
    assert "below_level" in listed.stdout
    assert "Why does mail wait" in listed.stdout
    assert "no event was recorded yet" in run(state, "query", "slowest").stderr
    record(state, 2)
    assert "nothing to report" in run(state, "query", "slowest").stderr
    databases = Databases()
    closing_event = Event("tcp:close", 5.0, {"domain": "d\x1b", "host": "h", "seconds": 2.5})
    databases.ship(ready_made(f"sqlite:///{state}/events.db"), [Pending(9, "i9", "m9", closing_event)])
    databases.close()
    assert json.loads(run(state, "query", "slowest", "--json").stdout)["mean_seconds"] == 2.5
    shown = run(state, "query", "slowest").stdout
    assert "2.500" in shown
    assert "\x1b" not in shown
    wrong = run(state, "query", "slowst")
    assert (wrong.exit_code, "did you mean 'slowest'" in wrong.stderr) == (64, True)


def test_catalogue_lists_every_event(state):
    shown = run(state, "catalogue").stdout
    assert all(name in shown for name in EVENTS)


RULE = """
[[rule]]
domains = ["Bank.example", "*.bank.example"]
[[rule.event_action]]
name = "bank"
events = ["{}"]
database = "sqlite:////tmp/never-opened.db"
sql = "INSERT INTO t VALUES (:{})"
"""


def test_check_shows_the_actions_of_rules(state):
    result = run(state, "check", "--json", settings=RULE.format("msg:*", "host"))
    assert result.exit_code == 0, result.stderr
    (action,) = [one for one in map(json.loads, result.stdout.splitlines()) if one["name"] == "bank"]
    assert "msg:delivery" in action["events"]
    assert "msg:complete" not in action["events"], "it names no domain"


@pytest.mark.parametrize(
    ("event", "field", "said"),
    [
        ("msg:delivery", "hosd", "outrider.toml:9: rule[0].event_action[0].sql: :hosd is not a field"),
        (
            "msg:complete",
            "event_id",
            "outrider.toml:7: rule[0].event_action[0].events: 'msg:complete' carries",
        ),
        (
            "msg:delivry",
            "event_id",
            "outrider.toml:7: rule[0].event_action[0].events: 'msg:delivry' matches no",
        ),
    ],
)
def test_mistakes_in_actions_of_rules_are_named_with_their_line(state, event, field, said):
    result = run(state, "check", settings=RULE.format(event, field))
    assert result.exit_code == 78
    assert said in result.stderr


def test_a_name_is_used_once_by_global_actions_and_rules(state):
    twice = RULE.format("msg:*", "host") + ACTION.format(":host").replace("mine", "bank")
    result = run(state, "check", settings=twice)
    assert result.exit_code == 78
    assert "'bank' is the name of 2 actions" in result.stderr


def test_an_action_of_a_rule_gets_the_events_of_its_destinations(state):
    from deliver.configuration import load
    from deliver.outbox import event_actions
    from events.actions import matcher

    (state / "outrider.toml").write_text(f'state_dir = "{state}"\n' + RULE.format("msg:*", "host"))
    wanted = matcher(event_actions(load(state / "outrider.toml")))
    for domain, told in (("bank.example", True), ("a.bank.example", True), ("bank.example.org", False)):
        assert ("bank" in wanted(Event("msg:delivery", 1.0, {"domain": domain}))) is told, domain
    assert "bank" not in wanted(Event("msg:delivery", 1.0))
