"""How many workers there are."""

from __future__ import annotations

import os

import pytest

from deliver.settings import Queue, Relay, Settings
from deliver.startup import worker_count


@pytest.mark.parametrize(
    ("cores", "settings", "expected"),
    [
        (1, Settings(), 1),
        (2, Settings(), 2),
        (64, Settings(), 5),  # queue.workers is 50
        (64, Settings(queue=Queue(workers=400)), 40),
        (4, Settings(queue=Queue(workers=5)), 1),
        (1, Settings(relay=Relay(workers=3)), 3),
        (64, Settings(relay=Relay(workers=1)), 1),
    ],
)
def test_one_for_each_core_that_has_enough_to_do(
    cores: int, settings: Settings, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert worker_count(settings) == expected
