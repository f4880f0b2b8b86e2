"""What workers say to each other: letters with accepted mail, and receipts. Sans I/O.

A frame is its length in four octets and one MessagePack array. The first one of a connection is the
receipt with number 0: somebody is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from deliver.errors import OutriderError
from deliver.message import Envelope
from deliver.relay.intake import Origin

MAX_CONTENT: Final = 128 * 1024  # octets; larger mail stays where it is
MAX_RECIPIENTS: Final = 100
MAX_FRAME: Final = 1024 * 1024  # octets
LENGTH: Final = 4

_ENCODER: Final = msgspec.msgpack.Encoder()


class BadFrame(Exception):
    """What came is no frame; the connection is of no more use."""


class Letter(Struct, frozen=True, array_like=True):
    """A message that is to become durable, if that begins `until` then; `company`: others arrive beside it.

    `until` in seconds of the system's monotonic clock, which all processes share.
    """

    number: int
    until: float
    envelope: Envelope
    origin: Origin
    content: bytes
    company: bool


class Fate(StrEnum):
    """What became of a letter, or becomes."""

    BEGUN = "begun"  # it will be, and so will all before it
    TAKEN = "taken"  # durable
    REFUSED = "refused"  # nothing was begun
    FAILED = "failed"  # perhaps it is durable


class Receipt(Struct, frozen=True, array_like=True):
    """The answer to the letter of that number."""

    number: int
    fate: Fate
    why: str = ""


Said = TypeVar("Said", Letter, Receipt)


class Frames(Generic[Said]):
    """Takes octets as they come, gives what they say."""

    def __init__(self, kind: type[Said]) -> None:
        self._decoder: msgspec.msgpack.Decoder[Said] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, octets: bytes) -> Iterator[Said]:
        """What is complete now. Raises BadFrame."""
        self._buffer += octets
        while len(self._buffer) >= LENGTH:
            length = int.from_bytes(self._buffer[:LENGTH], "big")
            if length > MAX_FRAME:
                raise BadFrame(f"a frame of {length} octets")
            end = LENGTH + length
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                frame = bytes(view[LENGTH:end])
            del self._buffer[:end]
            try:
                yield self._decoder.decode(frame)
            except (msgspec.MsgspecError, OutriderError, ValueError, RecursionError) as error:
                raise BadFrame(str(error)) from None


def encoded(said: Letter | Receipt) -> bytes:
    """A frame."""
    frame = _ENCODER.encode(said)
    return len(frame).to_bytes(LENGTH, "big") + frame
