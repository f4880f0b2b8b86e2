"""Names for messages: in order of time, unique over restarts, safe in file names, URLs and logs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from deliver.message import MessageId

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i l o u; in order of ASCII, in one case only
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)  # of 10 bits each
_RANDOM_BITS = 40
_DRAWN = 64  # ids for which random bits are drawn at once: each draw is a call of the system
_THIRD = (1 << 30) - 1  # of 18 characters of 5 bits: 50 bits of milliseconds, 40 random bits


class MessageIds:
    """Makes ids: milliseconds since the epoch, then random bits; each is greater than the one before."""

    def __init__(self, now: Callable[[], float], rng: Random) -> None:
        """`now` gives seconds since the epoch; `rng` should be a SystemRandom outside tests."""
        self._now = now
        self._rng = rng
        self._last = 0
        self._random: list[int] = []

    def __call__(self) -> MessageId:
        """The next id, 18 characters; a clock that was set back does not disturb the order."""
        if not self._random:
            self._draw()
        value = (int(self._now() * 1000) << _RANDOM_BITS) | self._random.pop()
        self._last = value = value if value > self._last else self._last + 1
        thirds = value >> 60, value >> 30 & _THIRD, value & _THIRD  # numbers that Python is quick with
        return MessageId(
            "".join([_PAIRS[each >> 20] + _PAIRS[each >> 10 & 1023] + _PAIRS[each & 1023] for each in thirds])
        )

    def _draw(self) -> None:
        bits, mask = self._rng.getrandbits(_DRAWN * _RANDOM_BITS), (1 << _RANDOM_BITS) - 1
        self._random = [(bits >> (number * _RANDOM_BITS)) & mask for number in range(_DRAWN)]
