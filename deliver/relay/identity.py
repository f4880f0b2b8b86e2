"""Names for messages: in order of time, unique over restarts, safe in file names, URLs and logs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from deliver.message import MessageId

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i l o u; in order of ASCII, in one case only
_RANDOM_BITS = 40
_LENGTH = 18  # characters of 5 bits: 50 bits of milliseconds, 40 random bits


class MessageIds:
    """Makes ids: milliseconds since the epoch, then random bits; each is greater than the one before."""

    def __init__(self, now: Callable[[], float], rng: Random) -> None:
        """`now` gives seconds since the epoch; `rng` should be a SystemRandom outside tests."""
        self._now = now
        self._rng = rng
        self._last = 0

    def __call__(self) -> MessageId:
        """The next id, 18 characters; a clock that was set back does not disturb the order."""
        value = (int(self._now() * 1000) << _RANDOM_BITS) | self._rng.getrandbits(_RANDOM_BITS)
        self._last = max(value, self._last + 1)
        return MessageId(_base32(self._last))


def _base32(value: int) -> str:
    return "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(_LENGTH)))
