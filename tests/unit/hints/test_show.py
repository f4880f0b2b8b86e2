"""Reading a hints file for people."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from hints.file import HintsFile
from hints.prune import UNREACHED
from hints.records import EhloAnswer, EhloPhase, LevelSeen, Reachability, StsSeen
from hints.show import Filter, Unreadable, about, rows
from hints.tables import Stamped

NOW = 1_000_000.0


@pytest.fixture
def path(tmp_path):
    notes = (
        EhloAnswer("192.0.2.1", 25, EhloPhase.TLS, "mx", ("SIZE 10", "PIPELINING")),
        EhloAnswer("2001:db8::1", 25, EhloPhase.CLEAR, "mx", ("STARTTLS",)),
        Reachability("mx.example.org", "192.0.2.1", 25, "refused"),
        Reachability("mx.example.org", "2001:db8::1", 25, None),
        LevelSeen("example.org", "mx.example.org", "dane-ee"),
        StsSeen(
            "example.org", "20240101T000000", "enforce", ("mx.example.org", "*.example.net"), 604_800, NOW
        ),
    )
    file = HintsFile(tmp_path / "hints.db", max_size=2**20)
    file.write([Stamped(note, "relay", "test", NOW) for note in notes], {}, NOW, prune=False)
    file.close()
    return tmp_path / "hints.db"


def keys(found) -> list[str]:
    return [row.key for row in found]


def test_all_rows_by_kind_and_key(path):
    found = rows(path, Filter(), NOW)
    assert keys(found) == [
        "192.0.2.1:25/tls",
        "[2001:db8::1]:25/clear",
        "mx.example.org/192.0.2.1:25",
        "mx.example.org/[2001:db8::1]:25",
        "example.org/mx.example.org",
        "example.org/sts",
    ]
    assert found[5].values == {
        "domain": "example.org",
        "id": "20240101T000000",
        "mode": "enforce",
        "patterns": ["mx.example.org", "*.example.net"],
        "max_age": 604_800,
        "fetched_at": NOW,
    }
    assert found[5].expires == NOW + 604_800
    assert found[0].values["keywords"] == ["SIZE 10", "PIPELINING"]
    assert found[2].values["failures"] == 1
    assert (found[2].source, found[2].reason, found[2].first_seen) == ("relay", "test", NOW)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(kind="level"), ["example.org/mx.example.org"]),
        (Filter(host="192.0.2.1"), ["192.0.2.1:25/tls", "mx.example.org/192.0.2.1:25"]),
        (Filter(kind="level", host="MX.example.org"), ["example.org/mx.example.org"]),
        (Filter(domain="Example.org"), ["example.org/mx.example.org", "example.org/sts"]),
        (Filter(kind="sts"), ["example.org/sts"]),
        (Filter(kind="sts", host="mx.example.org"), []),
        (Filter(domain="mx.example.org"), []),
        (Filter(host="' OR 1=1 --"), []),
        (Filter(expired=True), []),
    ],
)
def test_filters(path, wanted, expected):
    assert keys(rows(path, wanted, NOW)) == expected


def test_expired_rows_are_listed_when_asked_for(path):
    later = NOW + UNREACHED
    assert keys(rows(path, Filter(expired=True), later)) == ["mx.example.org/192.0.2.1:25"]
    assert "mx.example.org/192.0.2.1:25" not in keys(rows(path, Filter(), later))
    assert len(rows(path, Filter(expired=None), later)) == 6


@pytest.mark.parametrize(
    "key",
    [
        "192.0.2.1:25/tls",
        "[2001:db8::1]:25/clear",
        "mx.example.org/192.0.2.1:25",
        "mx.example.org/[2001:db8::1]:25",
        "example.org/mx.example.org",
        "example.org/sts",
    ],
)
def test_a_key_means_one_row(path, key):
    assert keys(about(path, key, NOW)) == [key]
    assert keys(about(path, key.upper().replace("/TLS", "/tls").replace("/CLEAR", "/clear"), NOW)) == [key]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mx.example.org", 3),
        ("192.0.2.1", 2),
        ("192.0.2.1:25", 2),
        ("2001:db8::1", 2),
        ("example.org", 2),
        ("x", 0),
        ("x/y", 0),
        ("example.org/other", 0),
    ],
)
def test_a_name_or_address_means_every_row_about_it(path, name, count):
    assert len(about(path, name, NOW)) == count


def test_rows_that_make_no_sense_are_shown_as_such(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE reachability SET failures = 'many' WHERE address = '192.0.2.1'")
        connection.commit()
    (row,) = [row for row in rows(path, Filter(), NOW) if not row.valid]
    assert (row.key, row.values) == ("mx.example.org/192.0.2.1:25", {})


def test_no_file_is_an_empty_list_and_creates_none(tmp_path):
    path = tmp_path / "hints.db"
    assert rows(path, Filter(), NOW) == ()
    assert about(path, "x", NOW) == ()
    assert not path.exists()
    path.touch()
    assert rows(path, Filter(), NOW) == ()


def test_other_files_are_refused_with_a_reason(tmp_path, path):
    other = tmp_path / "other.db"
    other.write_bytes(b"no database at all" * 100)
    with pytest.raises(Unreadable, match="not a database"):
        rows(other, Filter(), NOW)
    other.unlink()
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE x (y)")
    with pytest.raises(Unreadable, match="not one of hints"):
        rows(other, Filter(), NOW)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(Unreadable, match="version 99"):
        about(path, "x", NOW)
