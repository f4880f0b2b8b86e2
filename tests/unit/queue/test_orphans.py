"""Shards that nobody owns by number."""

from __future__ import annotations

from pathlib import Path

from deliver.queue import schema
from deliver.queue.orphans import orphaned_journals, orphans
from deliver.sqlrun import InlineRunner
from events.catalogue import Event
from events.outbox import Outbox


def shard(directory: Path, number: int, *, events: bool = False) -> None:
    runner = InlineRunner(directory / f"shard-{number}.db", schema.migrate)
    if events:
        outbox = Outbox(lambda event: ["a"])
        runner._write_now(lambda conn: outbox.append(conn, None, [Event("msg:complete", 0.0, {})]), True)
    runner._database.close()


def test_only_those_with_work_count(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10):
        shard(tmp_path, number, events=number in (0, 10))
    shard(tmp_path, 3)
    (tmp_path / "shard-3.journal").write_text("something")
    shard(tmp_path, 4)
    (tmp_path / "shard-4.journal").write_text("")
    (tmp_path / "shard-5.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "shard-x.db").touch()
    assert orphans(tmp_path, 1) == (3, 5, 10)
    assert orphans(tmp_path, 4) == (5, 10)


def test_a_queue_that_is_not_there(tmp_path: Path) -> None:
    assert orphans(tmp_path / "none", 1) == ()


def test_journals_of_a_node_that_had_more_processes(tmp_path: Path) -> None:
    for number, text in ((0, "proof"), (1, "proof"), (2, ""), (3, "proof")):
        (tmp_path / f"cluster-{number}.journal").write_text(text)
    (tmp_path / "cluster-x.journal").write_text("proof")
    assert orphaned_journals(tmp_path, 1) == (1, 3)
    assert orphaned_journals(tmp_path, 4) == ()
