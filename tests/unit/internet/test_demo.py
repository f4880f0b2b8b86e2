"""How the demonstration ends when something is not as it had to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.internet import demo
from tests.internet.relay import RelayFailed
from tests.internet.report import Case, Report, Story
from tests.internet.scenario import Progress

CASE = Case("b@bad.test", "is not sound", "deferred")
STORY = Story(
    case=CASE,
    id="m1",
    submitted="Subject: hi\r\n\r\n",
    outcome="delivered",
    why="250 \x1b[31mOK",
    status=None,
    server="mx.bad.test [127.0.0.1]",
    tls=None,
    next_attempt_in=None,
    decisions=(),
    events=(),
)
LEAKED = Report(messages=(STORY,), hints=(), received=(), connections=(), ledger=())


def leaking(_directory: Path, _progress: Progress) -> Report:
    return LEAKED


def failing(_directory: Path, _progress: Progress) -> Report:
    raise RelayFailed("the relay does not listen")


def test_a_wrong_outcome_is_status_1_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", leaking)
    result = CliRunner().invoke(demo.main, [])
    assert result.exit_code == 1
    assert "DELIVERED to mx.bad.test [127.0.0.1] in clear text" in result.stdout
    assert "b@bad.test: the message is delivered, must be deferred" in result.stdout
    assert "Two messages were delivered" not in result.stdout
    assert "\x1b" not in result.stdout  # what a peer says cannot steer a terminal


def test_a_wrong_outcome_is_in_the_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", leaking)
    result = CliRunner().invoke(demo.main, ["--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["ok"] is False
    assert any("must be deferred" in problem for problem in document["problems"])
    assert document["messages"][0]["outcome"] == "delivered"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_relay_that_fails_is_status_1_and_said(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(demo, "run", failing)
    result = CliRunner().invoke(demo.main, arguments)
    assert result.exit_code == 1
    assert result.stderr == "demo: the relay does not listen\n"
    assert result.stdout == ""


def test_the_directory_is_removed_unless_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Path] = []

    def noting(directory: Path, _progress: Progress) -> Report:
        used.append(directory)
        assert directory.is_dir()
        return LEAKED

    monkeypatch.setattr(demo, "run", noting)
    CliRunner().invoke(demo.main, [])
    kept = CliRunner().invoke(demo.main, ["--keep", str(tmp_path / "new")])
    assert not used[0].exists()
    assert used[1] == tmp_path / "new"
    assert used[1].stat().st_mode & 0o777 == 0o700
    said = "".join(kept.stdout.split())  # long lines are broken, long words too
    assert f"keptin{tmp_path / 'new'}" in said
    assert f"--config {tmp_path / 'new' / 'outrider.toml'} queue show m1" in kept.stdout
