"""The calling side of a hand-over. Runs before anything of weight is imported; the standard library only.

`hand_over` returns the exit status of the call, or None: then nothing was read from standard input, and the
caller delivers in its own process. That is so for any option that the service does not take, other settings,
another user, no service, or one that has no room.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from deliver.handover import frames
from deliver.handover.frames import ANSWER, CONTENT, END, GO, NO, OFFER, BadFrame, FrameReader, Offer

if TYPE_CHECKING:
    from socket import socket as Socket  # noqa: N812  # loaded only when there is a call to hand over

CONFIG = "/etc/outrider/outrider.toml"
STATE_DIR = "/var/lib/outrider"
SOCKET = "send.sock"
CONNECTING = 5.0  # seconds
PATIENCE = 60.0  # seconds for a busy service to say GO: a start of our own would only make it busier
EX_TEMPFAIL = 75


class Call:
    """A command line that can be handed over."""

    __slots__ = ("as_json", "config", "queue_id", "recipients", "sender")

    def __init__(self) -> None:
        self.config: str | None = None
        self.sender: str | None = None
        self.queue_id = ""
        self.as_json = False
        self.recipients: list[str] = []


def parse(arguments: list[str]) -> Call | None:
    """Read `[--config FILE] send [-f SENDER] [--queue-id ID] [--json] [--] RCPT…`; None for anything else."""
    call = Call()
    rest = list(arguments)
    if rest and rest[0] == "--config" and len(rest) > 1:
        call.config = rest[1]
        del rest[:2]
    elif rest and rest[0].startswith("--config="):
        call.config = rest.pop(0).removeprefix("--config=")
    if not rest or rest.pop(0) != "send":
        return None
    options = True
    while rest:
        word = rest.pop(0)
        if not options or not word.startswith("-"):
            call.recipients.append(word)
        elif word == "--":
            options = False
        elif word == "--json":
            call.as_json = True
        elif word == "-f" and rest:
            call.sender = rest.pop(0)
        elif word.startswith("-f") and len(word) > 2:
            call.sender = word[2:]
        elif word == "--queue-id" and rest:
            call.queue_id = rest.pop(0)
        elif word.startswith("--queue-id="):
            call.queue_id = word.removeprefix("--queue-id=")
        else:
            return None
    return call if call.recipients else None


def hand_over(arguments: list[str]) -> int | None:
    """Try it; see the head of this file."""
    call = parse(arguments)
    if call is None:
        return None
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECTING)
        offer, path = _offer(call)
        connection.connect(path)
        if not _is_ours(connection):
            return None
        connection.settimeout(PATIENCE)
        connection.sendall(frames.encode(OFFER, offer))
        reader = FrameReader(GO, NO, ANSWER)
        if _next(connection, reader)[0] != GO:
            return None
    except (OSError, ValueError, BadFrame):
        connection.close()
        return None
    try:
        connection.settimeout(None)
        return _deliver(connection, reader)
    finally:
        connection.close()


def _offer(call: Call) -> tuple[bytes, str]:
    """The payload of the offer, and where the service listens. Raises OSError, ValueError or BadFrame."""
    import tomllib

    file = call.config or os.environ.get("OUTRIDER_CONFIG") or CONFIG
    settings: dict[str, object] = {}
    content: bytes | None = None
    try:
        with open(file, "rb") as opened:
            content = opened.read()
        settings = tomllib.loads(content.decode())
    except FileNotFoundError:
        if file != CONFIG:
            raise
    section = settings.get("send")
    send = section if isinstance(section, dict) else {}
    if send.get("handover") is False:
        raise BadFrame("switched off")
    directory = settings.get("state_dir", STATE_DIR)
    path = os.path.join(str(directory), str(send.get("socket", SOCKET)))
    digest = frames.digest_of(content)
    user = "" if call.sender is not None else _user()
    offer = Offer(digest, user, call.sender, call.queue_id, call.as_json, tuple(call.recipients))
    return offer.encode(), path


def _user() -> str:
    import getpass

    return getpass.getuser()


def _is_ours(connection: Socket) -> bool:
    """Whether the service runs as this user or as root: nobody else is given the message."""
    import socket

    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = int.from_bytes(credentials[4:8], sys.byteorder)
    return uid in (os.geteuid(), 0)


def _next(connection: Socket, reader: FrameReader) -> tuple[int, bytes]:
    """The next frame. Raises OSError, also at the end of the stream, and BadFrame."""
    while (frame := reader.next_frame()) is None:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the service ended")
        reader.feed(data)
    return frame


def _deliver(connection: Socket, reader: FrameReader) -> int:
    """Send the message and say what became of it. It is read now, so that nobody else can deliver it."""
    try:
        try:
            while piece := os.read(0, frames.MAX_PIECE):
                connection.sendall(frames.encode(CONTENT, piece))
            connection.sendall(frames.encode(END))
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused half-way: the answer says why
        kind, payload = _next(connection, reader)
        if kind != ANSWER:
            raise BadFrame("no answer")
        status, output, errors = frames.parse_answer(payload)
    except (OSError, BadFrame) as error:
        _write(
            2, f"outrider: the service took the message and gave no answer ({error}); try again\n".encode()
        )
        return EX_TEMPFAIL
    _write(2, errors)
    _write(1, output)
    return status


def _write(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return  # nobody listens; the status says what matters
