"""Waiting for what another process does and tells nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 30.0  # seconds
_PAUSE = 0.02

Found = TypeVar("Found")


def until(
    condition: Callable[[], Found], why: Callable[[], object] = lambda: "", *, limit: float = PATIENCE
) -> Found:
    """What the condition gives as soon as that is true. Raises AssertionError with `why` after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not happen within {limit:g} s: {why()}"
        time.sleep(_PAUSE)
    return found
