"""Which level is a drop."""

from __future__ import annotations

import pytest

from hints.check import LEVELS
from hints.levels import RANK, dropped


@pytest.mark.parametrize(
    ("best", "level", "expected"),
    [
        ("dane-ee", "dane-ta", False),
        ("dane-ta", "dane-ee", False),
        ("dane-ta", "pkix", True),
        ("pkix", "encrypt", True),
        ("encrypt", "none", True),
        ("none", "none", False),
        ("encrypt", "pkix", False),
        (None, "none", False),
        ("quantum", "none", False),
        ("pkix", "quantum", False),
    ],
)
def test_a_worse_level_is_a_drop(best, level, expected):
    assert dropped(best, level) is expected


def test_every_level_has_a_rank():
    assert set(RANK) == set(LEVELS)
