"""When a relay that ends by itself may end: what it still owes to senders is mail too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deliver.net.clock import WallClock
from deliver.service import Relay
from deliver.settings import Settings

NOW = 1_700_000_000.0
SOON, LATE = NOW + 1, NOW + 7 * 86_400


class Database:
    """Says when the next report is due; `written` is called when it was asked, as if the report was written then."""

    def __init__(self, due, written=lambda: None):
        self._due, self._written = due, written

    async def read(self, _fn):
        self._written()
        return self._due


class Queue:
    """Mail that waits, or does not."""

    def __init__(self, *, waits=False):
        self.waits = waits

    async def idle(self):
        return not self.waits


def relay(queue, database):
    made = Relay.__new__(Relay)
    made._work = SimpleNamespace(runner=queue)
    made._shard = SimpleNamespace(sql=database)
    made._clock, made._settings = WallClock(NOW), Settings()
    return made


@pytest.mark.parametrize(
    ("waits", "report", "idle"),
    [
        (False, None, True),
        (False, LATE, True),
        (False, SOON, False),
        (True, None, False),
        (True, LATE, False),
    ],
)
async def test_mail_and_reports_are_waited_for(waits, report, idle):
    assert await relay(Queue(waits=waits), Database(report)).idle() is idle


async def test_a_report_that_is_written_while_it_is_asked_for_is_mail():
    queue = Queue()
    assert not await relay(queue, Database(None, lambda: setattr(queue, "waits", True))).idle()


async def test_what_was_settled_before_the_reports_are_asked_for_is_known_to_be_owed():
    """Asked the other way round nothing would be owed yet, and nothing wait any more."""
    database = Database(None)

    class Settling(Queue):
        async def idle(self):
            database._due = SOON
            return True

    assert not await relay(Settling(), database).idle()
