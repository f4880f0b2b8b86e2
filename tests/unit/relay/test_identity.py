"""Message ids: order, uniqueness, alphabet."""

from __future__ import annotations

import re
from itertools import count
from random import Random

from deliver.relay.identity import MessageIds


def test_ids_follow_time_and_never_repeat() -> None:
    times = [1000.0, 1000.001, 1000.001, 999.0, 1000.001, 2000.0]
    ids = MessageIds(iter(times).__next__, Random(1))
    made = [ids() for _ in times]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[0-9a-hjkmnp-tv-z]{18}", each) for each in made)


def test_the_time_comes_first() -> None:
    early, late = (
        MessageIds(lambda: 1_700_000_000.0, Random(1))(),
        MessageIds(lambda: 1_700_000_000.001, Random(2))(),
    )
    assert early < late
    assert early[:9] == late[:9]
    assert early[:10] != late[:10]


def test_a_restart_in_the_same_millisecond_gives_other_ids() -> None:
    assert MessageIds(lambda: 5.0, Random(1))() != MessageIds(lambda: 5.0, Random(2))()


def test_far_future_still_fits() -> None:
    assert MessageIds(lambda: 4e9, Random(1))() > MessageIds(lambda: 1.7e9, Random(1))()


def test_all_ids_of_a_run_have_bits_of_their_own() -> None:
    milliseconds = count(1_700_000_000_000)
    ids = MessageIds(lambda: next(milliseconds) / 1000, Random(1))
    assert len({ids()[-8:] for _ in range(500)}) == 500
