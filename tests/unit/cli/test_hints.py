"""`outrider hints list` and `outrider hints show`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deliver.cli import outrider
from hints.check import accept
from hints.file import HintsFile
from hints.records import EhloAnswer, EhloPhase, LevelSeen, Reachability, StsSeen
from hints.tables import Stamped


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "outrider.toml").write_text(f'state_dir = "{tmp_path}"\n')
    return tmp_path


@pytest.fixture
def filled(state: Path) -> Path:
    now = time.time_ns() / 1e9 - 120
    notes = (
        EhloAnswer("192.0.2.1", 25, EhloPhase.CLEAR, "mx", ("SIZE 10", "EVIL \u202etext\x1b[2J")),
        Reachability("mx.example.org", "192.0.2.1", 25, "connection refused"),
        LevelSeen("example.org", "mx.example.org", "dane-ee"),
        StsSeen("example.net", "1a", "enforce", tuple(f"mx{n}.example.net" for n in range(5)), 86_400, now),
    )
    file = HintsFile(state / "hints.db", max_size=2**20)
    kept = [note for one in notes if (note := accept(one)) is not None]
    file.write([Stamped(note, "relay", "test", now) for note in kept], {}, now, prune=False)
    file.close()
    return state


def run(state: Path, *args: str) -> Result:
    return CliRunner().invoke(outrider, ["--config", str(state / "outrider.toml"), "hints", *args])


@pytest.mark.parametrize(("args", "said"), [(["list"], "no hints yet"), (["show", "x"], "no hints about x")])
def test_no_file_is_no_error(state, args, said):
    result = run(state, *args)
    assert (result.exit_code, result.stdout) == (0, "")
    assert said in result.stderr
    assert run(state, *args, "--json").stdout == ""
    assert not (state / "hints.db").exists()


def test_list_is_a_table(filled):
    result = run(filled, "list")
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split()[:3] == ["KIND", "KEY", "WHAT"]
    assert len(lines) == 4
    assert "mx.example.org/192.0.2.1:25" in lines[1]
    assert "1 failures: connection refused" in lines[1]
    assert "2m ago" in lines[1]
    policy = "enforce: mx0.example.net mx1.example.net mx2.example.net and 2 more, id 1a, fetched 2m ago"
    assert "example.net/sts" in lines[3]
    assert policy in " ".join(lines[3].split())
    assert "in 23h" in lines[3]


def test_list_filters(filled):
    assert len(run(filled, "list", "level").stdout.splitlines()) == 2
    assert len(run(filled, "list", "--host", "192.0.2.1").stdout.splitlines()) == 3
    assert len(run(filled, "list", "--domain", "example.org").stdout.splitlines()) == 2
    assert run(filled, "list", "--expired").stdout == ""
    assert run(filled, "list", "nosuchkind").exit_code == 64


def test_list_json(filled):
    rows = [json.loads(line) for line in run(filled, "list", "--json").stdout.splitlines()]
    assert [row["kind"] for row in rows] == ["ehlo", "reachability", "level", "sts"]
    assert rows[1]["values"]["last_error"] == "connection refused"
    assert rows[3]["values"]["patterns"][0] == "mx0.example.net"
    assert rows[0]["values"]["keywords"][0] == "SIZE 10"


def test_show_tells_everything_in_words(filled):
    said = run(filled, "show", "mx.example.org/192.0.2.1:25").stdout
    assert "last error:   connection refused" in said
    assert "last success: never" in said
    assert "learned by:   relay: test" in said
    assert "(2m ago)" in said
    assert "(in 5h)" in said


def test_show_a_policy(filled):
    said = run(filled, "show", "example.net/sts").stdout
    assert said.count("mx:") == 5
    assert "id:         1a" in said
    assert "max age:    86400 seconds" in said
    assert "(in 23h)" in said
    assert "only hosts of these names" in run(filled, "explain", "example.net").stdout
    assert "1 hints forgotten: 1 sts" in run(filled, "forget", "example.net/sts").stderr
    assert "no hints about" in run(filled, "show", "example.net").stderr


def test_show_by_name_and_without_control_characters(filled):
    assert run(filled, "show", "mx.example.org").stdout.count("key:") == 2
    said = run(filled, "show", "192.0.2.1:25/clear").stdout
    assert "SIZE 10" in said
    assert "EVIL" in said
    assert "\u202e" not in said
    assert "\x1b" not in said


def test_a_file_of_something_else_is_an_error(state):
    (state / "hints.db").write_bytes(b"no database at all" * 100)
    result = run(state, "list")
    assert result.exit_code == 75
    assert "not a database" in result.stderr


def test_hints_in_memory_cannot_be_read(state):
    result = CliRunner().invoke(
        outrider, ["--config", str(state / "outrider.toml"), "-o", "hints.url=memory", "hints", "list"]
    )
    assert result.exit_code == 0
    assert "memory" in result.stderr


def test_explain_says_what_a_delivery_does(filled):
    said = run(filled, "explain", "mx.example.org").stdout
    assert "mx.example.org/192.0.2.1:25: failed within the last 5 minutes" in said
    assert "nothing is refused" in said
    rows = run(filled, "explain", "mx.example.org", "--json").stdout.splitlines()
    assert [json.loads(row)["kind"] for row in rows] == ["reachability", "level"]
    assert "starts without any" in run(filled, "explain", "unknown.example").stderr


def test_forget_by_key_by_option_and_as_a_trial(filled):
    said = run(filled, "forget", "--host", "mx.example.org", "--dry-run")
    assert said.stdout.splitlines()[0] == "would forget reachability mx.example.org/192.0.2.1:25"
    assert "2 hints would be forgotten" in said.stderr
    assert "1 hints forgotten: 1 level" in run(filled, "forget", "example.org/mx.example.org").stderr
    assert "1 hints forgotten: 1 ehlo" in run(filled, "forget", "--kind", "ehlo").stderr
    assert len(run(filled, "export").stdout.splitlines()) == 2


@pytest.mark.parametrize("args", [[], ["x", "--kind", "ehlo"]])
def test_forget_wants_a_key_or_options(filled, args):
    assert run(filled, "forget", *args).exit_code == 64
    assert len(run(filled, "export").stdout.splitlines()) == 4


def test_prune_stats_check_and_export(filled):
    assert "0 hints deleted" in run(filled, "prune").stderr
    assert run(filled, "stats").stdout.splitlines()[1].split()[:3] == ["ehlo", "1", "0"]
    assert json.loads(run(filled, "stats", "--json").stdout.splitlines()[0])["rows"] == 1
    checked = run(filled, "check")
    assert checked.exit_code == 0
    assert "none" in checked.stdout
    exported = [json.loads(line) for line in run(filled, "export", "level").stdout.splitlines()]
    assert [row["values"]["best"] for row in exported] == ["dane-ee"]


def test_check_of_a_damaged_file_exits_with_75(filled):
    with (filled / "hints.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 8192)
    assert run(filled, "check").exit_code == 75
