"""A clock that stands still, and a hints file that many may open."""

from __future__ import annotations

import pytest

from hints.sql import SqlHints


class Clock:
    """Stands still until a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "hints.db"


@pytest.fixture
async def opened(path, clock):
    made: list[SqlHints] = []

    def open_hints(max_size: int = 2**22, patience: float = 10) -> SqlHints:
        made.append(SqlHints(f"sqlite:///{path}", clock=clock, max_size=max_size, patience=patience))
        return made[-1]

    yield open_hints
    for hints in made:
        await hints.aclose()
