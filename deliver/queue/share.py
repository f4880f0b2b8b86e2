"""How several shards keep one limit together: each has its part, and the parts add up to the limit. Pure.

    limit >= shards    every shard has its part for good; the first ones have one more if it does not divide
    limit < shards     there is a place for some only, and they take turns: `turn` says whose it is

A turn changes in two steps, so that the sum is kept at every moment: all give up what is too small to divide
(`turn` None) and tell what they still use beyond their next part; then the next turn begins, and what
somebody still uses is for nobody until the turn after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final


@dataclass(frozen=True, slots=True)
class Share:
    """One shard's part: number `part` of `parts`. `without`: marks (see `mark`) of what is still in use."""

    part: int = 0
    parts: int = 1
    turn: int | None = 0
    without: frozenset[str] = frozenset()

    def places(self, limit: int, key: str) -> int:
        """How many of the limit's places this shard has for what `key` names."""
        if limit >= self.parts:
            return limit // self.parts + (self.part < limit % self.parts)
        if self.turn is None or (self.without and mark(key) in self.without):
            return 0
        return int((self.part - self.turn) % self.parts < limit)

    def portion(self, amount: int) -> int:
        """An even part of something that is no promise to others, one at least."""
        return max(1, amount // self.parts)

    def between(self) -> Share:
        """While the turn changes."""
        return replace(self, turn=None, without=frozenset())

    def at(self, turn: int, without: frozenset[str] = frozenset()) -> Share:
        """In that turn."""
        return replace(self, turn=turn, without=without)


WHOLE: Final = Share()


def mark(key: str) -> str:
    """A short name for a key, the same in every process."""
    return blake2b(key.encode("utf-8", "replace"), digest_size=8).hexdigest()
