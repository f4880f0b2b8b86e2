"""How SQLite finds the pages of the line of due destinations."""

from __future__ import annotations

import pytest

from deliver.queue import due, schema
from deliver.sqlrun import Database
from tests.unit.queue.values import NOW


@pytest.mark.parametrize(
    ("query", "place"),
    [
        (due._BY_DUE, {"behind_0": 1.0, "behind_1": "d"}),
        (due._IN_TURN, {"behind_0": 1.0, "behind_1": 1.0, "behind_2": "d", "now": NOW}),
    ],
)
def test_no_page_is_sorted_and_none_is_found_by_counting(query, place):
    values = {**place, "page": 5}
    database = Database(None)
    database.run_write(schema.migrate)

    def plan(conn):
        query.all(conn, **values)
        made = query._made
        bound = made._arrange(values)
        driver = conn.connection.driver_connection
        return " ".join(row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {made._text}", bound))

    found = database.run_read(plan)
    database.close()
    assert found.startswith("SEARCH destination USING INDEX destination_")
    assert "TEMP B-TREE" not in found
