"""The line between the supervisor and one worker: JSON objects, and sockets or files that go with them.

A pair of UNIX sockets of type SOCK_SEQPACKET: a frame is one packet, arrives whole or not at all, and the end
of either process is noticed by the other. Both ends are ours; what does not parse is an error of the program
and ends the line. What is large goes as a file in memory.
"""

from __future__ import annotations

import array
import json
import os
import socket
from dataclasses import dataclass
from typing import Any, Final

MAX_FRAME: Final = 128 * 1024  # octets
MAX_FILES: Final = 200  # descriptors in one frame
PIECE: Final = 1024 * 1024  # octets of a file that are read at a time


class Closed(Exception):
    """The other process has ended, or does not read."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What came: `word` says what it is about, `files` are descriptors that belong to the receiver."""

    word: str
    about: dict[str, Any]
    files: tuple[int, ...] = ()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends; neither blocks, and no program that is executed inherits them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_FRAME)
    return ours, theirs


def send(end: socket.socket, word: str, about: dict[str, Any], files: tuple[int, ...] = ()) -> None:
    """Send at once. Raises Closed, and BlockingIOError when the other side is behind with reading."""
    packet = json.dumps([word, about], separators=(",", ":")).encode()
    if len(packet) > MAX_FRAME:
        raise ValueError(f"the frame {word} has {len(packet)} octets")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    try:
        end.sendmsg([packet], rights)
    except BlockingIOError:
        raise
    except OSError as error:
        raise Closed(str(error)) from error


def receive(end: socket.socket) -> Frame:
    """What has come. Raises Closed at the end, and BlockingIOError when there is nothing."""
    room = socket.CMSG_SPACE(MAX_FILES * array.array("i").itemsize)
    try:
        packet, rights, flags, _ = end.recvmsg(MAX_FRAME, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError as error:
        raise Closed(str(error)) from error
    files = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    try:
        if not packet or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Closed("the other process has ended")
        word, about = json.loads(packet)
        if not isinstance(word, str) or not isinstance(about, dict):
            raise Closed("a frame is malformed")
    except (Closed, ValueError, TypeError) as error:
        for descriptor in files:
            os.close(descriptor)
        raise error if isinstance(error, Closed) else Closed("a frame is malformed") from error
    return Frame(word, about, tuple(files))


def in_memory(content: bytes) -> int:
    """A file in memory with this content, as a descriptor."""
    descriptor = os.memfd_create("outrider", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor


def content_of(descriptor: int) -> bytes:
    """Everything in such a file; it is closed. Others may read it meanwhile: they share our place in it."""
    pieces, read = [], 0
    try:
        while piece := os.pread(descriptor, PIECE, read):
            pieces.append(piece)
            read += len(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)
