"""What became of each message of a run: times and counts in a file that injector, sink and judge share.

Message `n` of a run is the one to a recipient whose local part is `m<n>`. Times are seconds of the monotonic
clock, which all processes of a machine share; 0 means not yet.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_TIME = struct.Struct("d")
_FIELDS = ("offered", "accepted", "delivered")  # final dot sent; 250 read; 250 sent by the sink
_NEVER = bytes(8)
_RECORD = len(_FIELDS) * _TIME.size + 8  # and the number of copies that the sink took


class Ledger:
    """`count` records in `path`, which is made when it does not exist."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, max(1, count) * _RECORD)
            self._map = mmap.mmap(descriptor, max(1, count) * _RECORD)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def note(self, field: str, number: int, moment: float) -> None:
        """Put a time down."""
        _TIME.pack_into(self._map, number * _RECORD + _FIELDS.index(field) * _TIME.size, moment)

    def note_copy(self, number: int, moment: float) -> None:
        """The sink has taken the message once more; the first time counts."""
        place = number * _RECORD
        copies = _RECORD - 8
        taken = int.from_bytes(self._map[place + copies : place + _RECORD], "little")
        if not taken:
            self.note("delivered", number, moment)
        self._map[place + copies : place + _RECORD] = (taken + 1).to_bytes(8, "little")

    def times(self, field: str) -> list[float]:
        """All times of a field."""
        place = _FIELDS.index(field) * _TIME.size
        return [_TIME.unpack_from(self._map, number * _RECORD + place)[0] for number in range(self.count)]

    def copies(self) -> list[int]:
        """How often the sink took each message."""
        ends = (number * _RECORD + _RECORD for number in range(self.count))
        return [int.from_bytes(self._map[end - 8 : end], "little") for end in ends]

    def missing(self, expected: Sequence[int]) -> list[int]:
        """Those of these messages that the sink has not taken."""
        end = _RECORD - 8
        return [n for n in expected if self._map[n * _RECORD + end : (n + 1) * _RECORD] == _NEVER]
