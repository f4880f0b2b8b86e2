"""`outrider events tail`, `list` and `check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deliver.cli import events as verb
from deliver.cli import outrider
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
    assert "(mine)" in result.stderr
    assert "did you mean 'host'" in result.stderr
