"""The calling side of a hand-over. Runs before anything of weight is imported.

Of the standard library it takes only what is written in C or loaded anyway: with typing, re and socket a call
costs twice as much.

`hand_over` returns the exit status of the call, or None: then nothing was read from standard input, and the
caller delivers in its own process. That is so for any option that the service does not take, other settings,
another user, no service, or one that has no room.
"""

from __future__ import annotations

import os
import sys

from deliver.handover import frames
from deliver.handover.frames import ANSWER, CONTENT, END, GO, NO, OFFER, BadFrame, FrameReader, Offer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket  # noqa: N812  # loaded only when there is a call to hand over

CONFIG = "/etc/outrider/outrider.toml"
STATE_DIR = "/var/lib/outrider"
SOCKET = "send.sock"
CONNECTING = 5.0  # seconds
PATIENCE = 60.0  # seconds for a busy service to say GO: a start of our own would only make it busier
EX_TEMPFAIL = 75


class Call:
    """A command line that can be handed over."""

    __slots__ = ("as_json", "config", "queue_id", "recipients", "requires_tls", "sender")

    def __init__(self) -> None:
        self.config: str | None = None
        self.sender: str | None = None
        self.queue_id = ""
        self.as_json = False
        self.requires_tls = False
        self.recipients: list[str] = []


def parse(arguments: list[str]) -> Call | None:
    """Read a call; None for anything else than this:

    `[--config FILE] send [-f SENDER] [--queue-id ID] [--require-tls] [--json] [--] RCPT…`
    """
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
        elif word == "--require-tls":
            call.requires_tls = True
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
    import _socket as socket

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
    file = call.config or os.environ.get("OUTRIDER_CONFIG") or CONFIG
    content: bytes | None = None
    try:
        with open(file, "rb") as opened:
            content = opened.read()
    except FileNotFoundError:
        if file != CONFIG:
            raise
    path = place_in("" if content is None else content.decode())
    digest = frames.digest_of(content)
    user = "" if call.sender is not None else _user()
    offer = Offer(
        digest,
        user,
        call.sender,
        call.queue_id,
        call.as_json,
        tuple(call.recipients),
        requires_tls=call.requires_tls,
    )
    return offer.encode(), path


def place_in(text: str) -> str:
    """The socket that a settings file names. Raises ValueError, and BadFrame where there is to be none.

    A look at the lines is enough for files as people write them. A wrong answer costs time only: a service
    takes nothing from callers with another file than its own.
    """
    directory, name, wanted = _read_lines(text) or _read_all(text)
    if not wanted:
        raise BadFrame("switched off")
    return os.path.join(directory, name)


def _read_lines(text: str) -> tuple[str, str, bool] | None:
    """state_dir, send.socket and send.handover; None if a line that may matter is not plain."""
    found = {"state_dir": STATE_DIR, "[send]socket": SOCKET, "[send]handover": "true"}
    if "'''" in text or '"""' in text:
        return None
    section = ""
    for line in text.splitlines():
        word = line.strip()
        if word.startswith("["):
            section = word
            if section != "[send]" and "send" in section.partition("#")[0].replace("sendmail", ""):
                return None
            continue
        key, _, value = word.partition("=")
        if key.startswith("#"):
            continue
        name = section + key.strip()
        if name in found:
            plain = _plain(value.strip())
            if plain is None:
                return None
            found[name] = plain
        elif not section and ("send" in key.replace("sendmail", "") or "state_dir" in key):
            return None
    directory, socket, handover = found.values()
    return (directory, socket, handover == "true") if handover in ("true", "false") else None


def _plain(value: str) -> str | None:
    """A text in quotes without escapes, or a bare word; a comment may follow."""
    quote = value[:1]
    if quote in ("'", '"'):
        inner, end, rest = value[1:].partition(quote)
        rest = rest.strip()
        return inner if end and "\\" not in inner and (not rest or rest.startswith("#")) else None
    return value.partition("#")[0].strip()


def _read_all(text: str) -> tuple[str, str, bool]:
    import tomllib

    settings = tomllib.loads(text)
    section = settings.get("send")
    send = section if isinstance(section, dict) else {}
    directory, socket = settings.get("state_dir", STATE_DIR), send.get("socket", SOCKET)
    return str(directory), str(socket), send.get("handover") is not False


def _user() -> str:
    """As getpass.getuser."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if user := os.environ.get(name):
            return user
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _is_ours(connection: Socket) -> bool:
    """Whether the service runs as this user or as root: nobody else is given the message."""
    import _socket as socket

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
