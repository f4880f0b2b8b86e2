"""Looking without leaving a trace: policies of the file count, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.net.clock import WallClock
from hints.onlooker import Onlooker
from hints.records import StsSeen
from hints.sql import SqlHints

NOW = 1_800_000_000.0
KEPT = StsSeen("example.org", "1", "enforce", ("mx.example.org", "*.example.net"), 604800, NOW - 60)


async def keep(path: Path, *policies: StsSeen) -> None:
    hints = SqlHints(f"sqlite:///{path}", clock=lambda: NOW, max_size=1 << 24)
    for policy in policies:
        hints.note(policy, source="test", reason="fetched", now=NOW)
    await hints.aclose()


async def test_the_policy_of_the_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "hints.db"
    await keep(path, KEPT)
    looking = Onlooker(path, clock=lambda: NOW)
    assert await looking.sts_policy("example.org") == KEPT
    assert await looking.sts_policy("mx.example.org") is None
    assert await Onlooker(path, clock=lambda: NOW + 604800).sts_policy("example.org") is None


async def test_what_is_noted_comes_first_and_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "hints.db"
    await keep(path, KEPT)
    looking = Onlooker(path, clock=lambda: NOW)
    newer = StsSeen("example.org", "2", "none", (), 604800, NOW)
    looking.note(newer, source="test", reason="fetched", now=NOW)
    await looking.aclose()
    assert await looking.sts_policy("example.org") == newer
    assert await Onlooker(path, clock=lambda: NOW).sts_policy("example.org") == KEPT


async def test_a_policy_dated_ahead_is_not_believed_as_in_a_delivery(tmp_path: Path) -> None:
    path = tmp_path / "hints.db"
    await keep(path, KEPT)
    assert await Onlooker(path, clock=lambda: NOW - 3 * 86400).sts_policy("example.org") is None


async def test_a_directory_that_is_not_ours_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    assert await Onlooker(tmp_path / "hints.db", clock=lambda: NOW).sts_policy("example.org") is None


async def test_the_clock_is_asked_where_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "hints.db"
    await keep(path, KEPT)
    clock = WallClock(NOW)  # which nobody has asked before
    assert await Onlooker(path, clock=clock.now).sts_policy("example.org") == KEPT


async def test_a_file_that_is_not_there_or_no_hints_holds_nothing(tmp_path: Path) -> None:
    assert await Onlooker(tmp_path / "none.db", clock=lambda: NOW).sts_policy("example.org") is None
    assert not (tmp_path / "none.db").exists()
    path = tmp_path / "broken.db"
    path.write_bytes(b"no database" * 100)
    assert await Onlooker(path, clock=lambda: NOW).sts_policy("example.org") is None
