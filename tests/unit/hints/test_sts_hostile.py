"""Rows of MTA-STS policies, whoever wrote them: a policy that makes sense, or none."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import example, given, strategies as st

from hints.check import MAX_POLICY_AGE, POLICY_MODES, accept, read_sts
from hints.prune import STS_AHEAD
from hints.reading import policy as read_policy
from hints.records import StsSeen
from hints.tables import Stamped, row_of, sts_policy
from tests.unit.hints.hintsfile import DOMAIN, WEEK, execute, seen, tell


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "a-b"),
        ("mode", "enforced"),
        ("patterns", "not json"),
        ("patterns", '{"a": 1}'),
        ("patterns", "[1]"),
        ("patterns", "[]"),
        ("patterns", "[" * 5000),
        ("patterns", '["*"]'),
        ("patterns", "[" + ",".join(['"a"'] * 101) + "]"),
        ("patterns", " " * 10**6),
        ("patterns", b"\xff"),
        ("max_age", -1),
        ("max_age", 2.5),
        ("max_age", 2**40),
        ("fetched_at", 0.0),
        ("fetched_at", -1.0),
        ("expires", 9e9),
        ("expires", "never"),
        ("first_seen", float("inf")),
        ("source", "s" * 33),
        ("use_count", -1),
    ],
)
async def test_rows_that_make_no_sense_are_not_believed_and_replaced(
    opened, path, clock, caplog, column, value
):
    hints = opened()
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    execute(path, f"UPDATE sts_policy SET {column} = ?", value)
    assert await hints.sts_policy(DOMAIN) is None
    assert hints.invalid == 1
    assert "make no sense" in caplog.text
    clock.now += 1
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)


@pytest.mark.parametrize("value", ["later", 9e99, float("inf"), b"\xff"])
async def test_a_moment_that_makes_no_sense_keeps_no_policy_out(opened, path, clock, value):
    hints = opened()
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    execute(path, "UPDATE sts_policy SET fetched_at = ?", value)
    assert await hints.sts_policy(DOMAIN) is None
    tell(hints, clock, seen(clock.now))
    await hints.flush()
    assert await hints.sts_policy(DOMAIN) == seen(clock.now)


NOW = 1_000_000.0
CELL = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.sampled_from(
        [DOMAIN, "enforce", "none", "a1", '["mx.example.org"]', '["*."]', "[]", NOW, NOW + WEEK, WEEK]
    ),
)
COLUMNS = tuple(sts_policy.c.keys())


@pytest.fixture(scope="module")
def table():
    """The table without its constraints: what a person with a database tool may have made of it."""
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute(f"CREATE TABLE sts_policy ({', '.join(COLUMNS)})")
        conn.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
        yield conn


GOOD = (DOMAIN, "a1", "enforce", '["mx.example.org"]', WEEK, NOW, "relay", "test", NOW, NOW, NOW + WEEK, 0)


@given(cells=st.tuples(*(st.one_of(st.just(good), CELL) for good in GOOD)))
@example(cells=GOOD)
def test_whatever_is_in_a_row_gives_a_policy_or_nothing(table, cells):
    table.execute("DELETE FROM sts_policy")
    table.execute(f"INSERT INTO sts_policy VALUES ({', '.join('?' * len(COLUMNS))})", cells)
    asked = []
    found = read_policy(table, DOMAIN, NOW, lambda valid: asked.append(valid) or valid)
    if found is None:
        assert cells != GOOD
        return
    assert accept(found) == found
    assert found.domain == DOMAIN
    assert found.mode in POLICY_MODES
    assert NOW < found.expires <= NOW + STS_AHEAD + MAX_POLICY_AGE
    assert all(asked)


NAMES = st.from_regex(r"(\*\.)?[A-Za-z0-9.*-]{1,8}")


@given(
    st.builds(
        StsSeen,
        domain=NAMES,
        id=st.text(max_size=4),
        mode=st.sampled_from([*POLICY_MODES, "x"]),
        patterns=st.lists(NAMES, max_size=4).map(tuple),
        max_age=st.integers(-1, MAX_POLICY_AGE + 1),
        fetched_at=st.floats(),
    )
)
@example(seen(NOW, domain="Example.ORG"))
def test_what_is_accepted_is_believed_when_it_is_read(policy):
    accepted = accept(policy)
    if accepted is not None:
        assert read_sts(row_of(Stamped(accepted, "relay", "test", NOW))) == accepted
