"""Listings: each order, the same pages from one shard or several, and no walk through a whole long queue."""

from __future__ import annotations

from contextlib import closing

import pytest

from deliver.queue import store
from deliver.queue.browse import SORTS, _listing, counts, named, waiting
from deliver.queue.content import InlineContent
from deliver.queue.hold import Key
from deliver.queue.reading import Connected, FileReader, looking
from deliver.queue.selection import Selection
from deliver.queue.summary import summary
from deliver.sqlrun import Database
from tests.unit.queue.values import CONTENT, NOW, Recorder, envelope


@pytest.fixture
def shard(tmp_path):
    """m0 is the oldest, m4 the smallest; m5 is complete, and older and larger than all of them."""
    from deliver.queue import schema

    database = Database(tmp_path / "shard-0.db")
    with closing(database), database._writer.connect() as conn:
        with conn.begin():
            schema.migrate(conn)
            for number in range(5):
                made = envelope(f"m{number}", f"r@d{number % 2}.test", at=NOW - 600 + number)
                store.accept(conn, made, InlineContent(CONTENT), (), NOW - 600 + number, Recorder())
                conn.execute(
                    schema.message.update()
                    .where(schema.message.c.id == f"m{number}")
                    .values(size=1000 - number)
                )
            store.accept(
                conn, envelope("m5", at=NOW - 900), InlineContent(CONTENT), (), NOW - 900, Recorder()
            )
            over = schema.recipient.update().where(schema.recipient.c.message_id == "m5")
            conn.execute(over.values(state="delivered", finished_at=NOW))
            done = schema.message.update().where(schema.message.c.id == "m5")
            conn.execute(done.values(completed_at=NOW, size=10**6))
        yield database, conn


@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ("age", ["m0", "m1", "m2"]),
        ("size", ["m0", "m1", "m2"]),
        ("next", ["m0", "m1", "m2"]),
        ("domain", ["m0", "m2", "m4"]),
    ],
)
def test_the_driver_and_sqlalchemy_read_the_same_pages(shard, tmp_path, sort, found):
    by_sqlalchemy = waiting(Connected(shard[1]), Selection(), now=NOW, limit=3, sort=sort)
    with looking(tmp_path / "shard-0.db") as reader:
        assert isinstance(reader, FileReader)
        assert waiting(reader, Selection(), now=NOW, limit=3, sort=sort) == by_sqlalchemy
    assert sorted(row.id for row in by_sqlalchemy) == found


@pytest.mark.parametrize("selection", [Selection(), Selection(larger_than=10), Selection(sender="<>")])
@pytest.mark.parametrize("sort", [sort for sort, by in SORTS.items() if by.of_message])
def test_the_first_page_by_age_or_size_walks_an_index(shard, tmp_path, sort, selection):
    with looking(tmp_path / "shard-0.db") as reader:
        sql, values = _listing(selection, NOW, sort, 3, reader.row_name)
        plan = "\n".join(row.detail for row in reader.rows(f"EXPLAIN QUERY PLAN {sql}", values))
    assert f"USING INDEX message_by_{sort}" in plan
    assert "TEMP B-TREE" not in plan


def test_one_domain_by_age_is_found_by_its_recipients(shard, tmp_path):
    with looking(tmp_path / "shard-0.db") as reader:
        sql, values = _listing(Selection(domain="d1.test"), NOW, "age", 3, reader.row_name)
        plan = "\n".join(row.detail for row in reader.rows(f"EXPLAIN QUERY PLAN {sql}", values))
        found = waiting(reader, Selection(domain="d1.test"), now=NOW, sort="age")
    assert "message_by" not in plan
    assert [row.id for row in found] == ["m1", "m3"]


def test_what_is_over_is_neither_listed_nor_counted(shard, tmp_path):
    with looking(tmp_path / "shard-0.db") as reader:
        assert counts(reader).messages == counts(reader).queued == 5
        assert {row.name: row.total for row in summary(reader, Selection(), "domain", NOW)} == {
            "d0.test": 3,
            "d1.test": 2,
        }
        assert [row["id"] for row in named(reader, [Key("m3", 0), Key("m1", 0), Key("m1", 7)])] == [
            "m1",
            "m3",
        ]


@pytest.mark.parametrize("special", ["%", "_", "/"])
def test_what_like_would_take_for_a_pattern_is_text(shard, tmp_path, special):
    with looking(tmp_path / "shard-0.db") as reader:
        assert waiting(reader, Selection(text=special), now=NOW) == ()
        shard[1].exec_driver_sql(
            "UPDATE recipient SET last_outcome = ? WHERE message_id = 'm2'", (f'{{"text": "a{special}b"}}',)
        )
        shard[1].commit()
    with looking(tmp_path / "shard-0.db") as reader:
        assert [row.id for row in waiting(reader, Selection(text=special), now=NOW)] == ["m2"]
