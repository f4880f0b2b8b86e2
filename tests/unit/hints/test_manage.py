"""Forgetting, pruning, checking, counting and advising, on a file with two rows of a kind."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from deliver import addresses
from hints import advice as hints_advice
from hints.advice import advice
from hints.file import HintsFile
from hints.kinds import VERSION
from hints.manage import check, count, forget, forget_rows, prune
from hints.prune import UNREACHED
from hints.records import EhloAnswer, EhloPhase, Feature, LevelSeen, Reachability, StsSeen, Word
from hints.show import Filter, Row, about, each, rows
from hints.tables import Stamped

NOW = 1_000_000.0


@pytest.fixture
def path(tmp_path):
    notes = (
        EhloAnswer("192.0.2.1", 25, EhloPhase.TLS, "mx", ("SIZE 10", "PIPELINING")),
        Reachability("mx.example.org", "192.0.2.1", 25, "refused"),
        Reachability("mx.example.org", "2001:db8::1", 25, None),
        LevelSeen("example.org", "mx.example.org", "dane-ee"),
        LevelSeen("example.org", "mx.example.org", "encrypt"),
        Feature("mx.example.org", "192.0.2.1", 25, Word.CHUNKING, False),
        StsSeen("example.org", "1", "enforce", ("mx.example.org", "*.example.net"), 604_800, NOW),
    )
    file = HintsFile(tmp_path / "hints.db", max_size=2**20)
    file.write([Stamped(note, "relay", "test", NOW) for note in notes], {}, NOW, prune=False)
    file.close()
    return tmp_path / "hints.db"


def left(path) -> list[str]:
    return [row.kind for row in each(path, Filter(expired=None), NOW)]


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [
        (Filter("reachability", expired=None), {"reachability": 2}),
        (Filter(host="2001:db8::1", expired=None), {"reachability": 1}),
        (Filter("level", domain="example.org", expired=None), {"level": 1}),
        (Filter(host="mx.example.org", expired=None), {"reachability": 2, "level": 1, "feature": 1}),
        (Filter(domain="example.org", expired=None), {"level": 1, "sts": 1}),
        (Filter("sts", host="mx.example.org", expired=None), {}),
        (Filter(host="' OR 1=1 --", expired=None), {}),
    ],
)
def test_forget_deletes_what_the_filter_says(path, wanted, gone):
    before = len(left(path))
    assert forget(path, wanted) == gone
    assert len(left(path)) == before - sum(gone.values())


def test_a_row_is_forgotten_by_its_key_also_when_it_makes_no_sense(path):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE reachability SET failures = 'many', port = 'x' WHERE address = '192.0.2.1'")
        conn.commit()
    (bad,) = [row for row in rows(path, Filter(), NOW) if not row.valid]
    assert forget_rows(path, [bad]) == {"reachability": 1}
    assert left(path) == ["ehlo", "reachability", "level", "feature", "sts"]


def test_prune_deletes_what_is_past_its_time_only(path):
    assert prune(path, NOW + UNREACHED) == {"reachability": 1}
    assert prune(path, NOW + UNREACHED) == {}


def test_check_tells_version_rows_and_problems(path):
    found = check(path, NOW)
    assert found is not None
    assert (found.version, found.rows, found.invalid, found.problems) == (VERSION, 6, 0, ())
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE level_seen SET best = 'quantum'")
        conn.commit()
    found = check(path, NOW)
    assert found is not None
    assert found.invalid == 1
    assert "mode 644" in found.problems[0]


def test_count_by_kind(path):
    found = {one.kind: (one.rows, one.expired, one.oldest) for one in count(path, NOW + UNREACHED)}
    assert found["reachability"] == (2, 1, NOW)
    assert found["session"] == (0, 0, None)
    assert found["sts"] == (1, 0, NOW)


def test_no_file_is_nothing(tmp_path):
    path = tmp_path / "hints.db"
    assert (check(path, NOW), count(path, NOW), prune(path, NOW), forget(path, Filter())) == (
        None,
        (),
        {},
        {},
    )
    assert not path.exists()


def test_advice_says_what_a_delivery_does(path):
    said = {one.about: one.text for one in advice(about(path, "mx.example.org", NOW), NOW)}
    assert "tried after the others" in said["mx.example.org/192.0.2.1:25"]
    assert "in its turn" in said["mx.example.org/[2001:db8::1]:25"]
    assert said["example.org/mx.example.org"].endswith("a drop")
    assert "better not used" in said["mx.example.org/192.0.2.1:25/chunking"]
    later = NOW + hints_advice.RECENT
    assert "not lately" in advice(about(path, "mx.example.org/192.0.2.1:25", later), later)[0].text


@pytest.mark.parametrize(
    ("mode", "patterns", "said"),
    [
        ("enforce", ["mx.example.org"], "only hosts of these names"),
        ("testing", ["mx.example.org"], "nothing is refused for that"),
        ("none", [], "no MTA-STS policy"),
        ("enforce", [f"mx{number}.example.org" for number in range(9)], "mx4.example.org, …"),
    ],
)
def test_advice_says_what_a_policy_asks(mode, patterns, said):
    row = Row(
        "sts",
        "example.org/sts",
        {"mode": mode, "patterns": patterns},
        "relay",
        "test",
        NOW,
        NOW,
        NOW,
        0,
        False,
    )
    (one,) = advice([row], NOW)
    assert said in one.text


def test_advice_speaks_of_the_time_that_deliveries_use():
    assert hints_advice.RECENT == addresses.RECENT
