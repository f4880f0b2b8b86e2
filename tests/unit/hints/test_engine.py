"""Connections to a hints file that another process is making."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from hints.engine import make_engine


def test_who_opens_the_file_beside_the_first_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "hints.db"
    first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")  # before the file is in WAL mode

    def end() -> None:
        first.execute("ROLLBACK")
        first.close()

    ending = threading.Timer(0.2, end)
    ending.start()
    engine = make_engine(path, "BEGIN", 5000, 1 << 20)
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
    ending.join()
    engine.dispose()


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "hints.db"
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    engine = make_engine(path, "BEGIN", 20, 1 << 20)
    with pytest.raises(OperationalError, match="locked"), engine.connect():
        pass
    first.close()
    engine.dispose()
