"""The journal survives a crash, damage and a full disk."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.queue import journal
from deliver.queue.journal import Journal, Proof, read
from deliver.smtp.reply import Reply


def proof(attempt_id: int = 1, text: str = "2.0.0 Ok") -> Proof:
    return Proof(
        attempt_id, MessageId(f"m{attempt_id}"), (0, 2), Reply(250, (text, "second")), "mx", "192.0.2.1"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue" / "shard-0.journal"


def test_what_was_noted_is_read_by_the_next_process_without_closing(path):
    noting = Journal(path)
    noting.note(proof(1))
    noting.note(proof(2))
    assert read(path) == (proof(1), proof(2))
    assert Journal(path).proofs() == (proof(1), proof(2))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("known", [True, False, None])
def test_whether_the_next_server_reports_is_kept(path, known):
    noted = replace(proof(), dsn_passed=known)
    Journal(path).note(noted)
    assert read(path) == (noted,)
    assert noted.outcome.dsn_passed is bool(known)


@pytest.mark.parametrize("text", ["2.0.0 für \u2028 Sie\n", "2.0.0 half a pair \udc80"])
def test_any_text_of_a_reply_is_kept(path, text):
    Journal(path).note(proof(1, text))
    assert read(path) == (proof(1, text),)


def test_a_record_of_an_earlier_version_is_read(path):
    body = b'{"attempt":7,"message":"m7","ordinals":[0],"code":250,"lines":["Ok"],"host":"","address":""}'
    path.parent.mkdir()
    path.write_bytes(b"\n%08x %s\n" % (zlib.crc32(body), body))
    (found,) = read(path)
    assert found == Proof(7, MessageId("m7"), (0,), Reply(250, ("Ok",)), dsn_passed=None)


def test_one_record_is_one_write(path, monkeypatch):
    noting, writes, write = Journal(path), [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (writes.append(data), write(fd, data))[1])
    noting.note(proof())
    assert len(writes) == 1
    assert writes[0].endswith(b"\n")


def test_settled_attempts_are_dropped(path):
    noting = Journal(path)
    noting.note(proof(1))
    noting.note(proof(2))
    noting.settled(1)
    assert noting.proofs() == (proof(2),)
    noting.settled(2)
    assert path.stat().st_size == 0
    noting.settled(3)


def test_appending_after_the_file_was_emptied(path):
    noting = Journal(path)
    noting.note(proof(1))
    noting.settled(1)
    noting.note(proof(2))
    assert read(path) == (proof(2),)


def test_a_busy_journal_is_compacted_and_keeps_what_is_open(path, monkeypatch):
    monkeypatch.setattr(journal, "COMPACT_AT", 1000)
    noting = Journal(path)
    noting.note(proof(1))
    for attempt_id in range(2, 50):
        noting.note(proof(attempt_id))
        noting.settled(attempt_id)
    assert path.stat().st_size < 2000
    assert read(path)[0] == proof(1)
    noting.note(proof(99))
    assert {each.attempt_id for each in read(path)} >= {1, 99}
    assert not path.with_suffix(".new").exists()


def test_clear_forgets_everything(path):
    noting = Journal(path)
    noting.note(proof(1))
    again = Journal(path)
    again.clear()
    assert again.proofs() == ()
    assert read(path) == ()


@given(cut=st.integers(0, 400))
def test_a_torn_tail_costs_its_own_record_only(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    noting = Journal(path)
    noting.note(proof(1))
    first = path.stat().st_size
    noting.note(proof(2))
    noting.close()
    data = path.read_bytes()[: first + cut]
    path.write_bytes(data)
    expected = (proof(1), proof(2)) if len(data) >= 2 * first - 1 else (proof(1),)
    assert read(path) == expected


@given(place=st.integers(0, 130), octet=st.integers(0, 255))
def test_a_damaged_octet_costs_at_most_its_own_record(tmp_path_factory, place, octet):
    path = tmp_path_factory.mktemp("journal") / "j"
    noting = Journal(path)
    noting.note(proof(1))
    noting.note(proof(2))
    noting.close()
    data = bytearray(path.read_bytes())
    data[place] = octet
    path.write_bytes(data)
    assert set(read(path)) <= {proof(1), proof(2)}
    assert proof(2) in read(path)


def test_damage_is_said(path, caplog):
    Journal(path).note(proof(1))
    with path.open("ab") as file:
        file.write(b"deadbeef {}\n\x00\xff garbage\n")
    with caplog.at_level(logging.WARNING):
        assert read(path) == (proof(1),)
    assert "skipped 2 damaged records" in caplog.text


def test_a_full_disk_is_logged_not_raised_and_leaves_no_half_record(path, monkeypatch, caplog):
    noting, write = Journal(path), os.write
    noting.note(proof(1))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
    noting.note(proof(2))
    monkeypatch.setattr(os, "write", write)
    noting.note(proof(3))
    assert "free disk space" in caplog.text
    assert read(path) == (proof(1), proof(3))
    assert proof(2) in noting.proofs()  # while the process lives, it knows


def test_long_replies_are_capped(path):
    noting = Journal(path)
    noting.note(Proof(1, MessageId("m"), (0,), Reply(250, ("x" * 100_000,) * 100)))
    assert path.stat().st_size < 10_000


def test_no_journal_is_an_empty_one(path):
    assert read(path) == ()


def test_an_unusable_path_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="creating"):
        Journal(tmp_path / "file" / "j")
