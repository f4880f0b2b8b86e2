"""The miniature Internet, for whoever asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.internet import World, open_internet


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """All of `tests.internet.sites`, running for one test."""
    async with open_internet() as world:
        yield world
