"""Which of two levels of security is better: pure.

Both kinds of DANE are as good as each other, so a change from one to the other is no drop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RANK: Final[Mapping[str, int]] = {"none": 0, "encrypt": 1, "pkix": 2, "dane-ta": 3, "dane-ee": 3}


def dropped(best: str | None, level: str) -> bool:
    """Whether a delivery at `level` is worse than the best one before it. Unknown words are no drop."""
    return best is not None and best in RANK and level in RANK and RANK[level] < RANK[best]
