"""The sendmail command: reads the command line and standard input, submits, and says how it went.

exit status   meaning
------------  ----------------------------------------------------------------
0             the relay has it, or its queue: all recipients, durably
64            the command line, or nobody to send to
65            the text cannot be sent
69            the relay refuses it for good: nothing was sent
75            the relay cannot be reached, or asks to come again: nothing was sent
78            the settings
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from deliver.submission import local
from deliver.submission.options import BadOption, Options, parse

if TYPE_CHECKING:
    from socket import socket as Socket  # noqa: N812  # loaded only for -bs

    from deliver.settings import Settings
    from deliver.submission.client import Message
    from deliver.submission.local import Local

EX_USAGE, EX_DATAERR, EX_TEMPFAIL, EX_CONFIG = 64, 65, 75, 78
MAX_TEXT = 256 * 1024 * 1024  # octets; the relay has a limit of its own

# Delivers a message in this process and returns the exit status.
Direct = Callable[["Message"], int]

_ADDRESS = re.compile(
    r"""(?:"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*" | [^\x00-\x20\x7f"<>()\[\]\\,;:@]+)
    @[^\x00-\x20\x7f"<>(),;@\\]+\Z""",
    re.VERBOSE,
)


def run(
    words: list[str],
    config: str | None = None,
    known: Local | None = None,
    direct: Direct | None = None,
    settings: Callable[[], Settings] | None = None,
) -> int | None:
    """Do what the words after the program's name ask for; the exit status.

    None: this takes the whole program, `outrider queue list` or a delivery without the relay, and nothing was
    read. `known`: the settings, if they were read already, or the whole of them by `settings`.
    """
    from deliver.submission.client import Refused

    try:
        options = parse(words)
        if options.mode == "aliases":
            return 0
        if options.mode == "queue":
            return None
        here = known or local.read(config)
        if options.mode == "smtp":
            return _speak_smtp(here)
        if here.direct and direct is None:
            return None
        return _send(options, here, direct, settings or partial(_settings, config))
    except BadOption as error:
        return _failed(str(error), EX_USAGE)
    except local.BadSettings as error:
        return _failed(str(error), EX_CONFIG)
    except Refused as error:
        return _failed(str(error), error.status)


def _send(options: Options, here: Local, direct: Direct | None, settings: Callable[[], Settings]) -> int:
    from deliver.smtp.utf8header import header_in_utf8
    from deliver.submission.client import Message, Unreachable, submit
    from deliver.submission.letter import BadMessage, Maker, compose

    user = _user()
    sender = user if options.sender is None else options.sender
    sender = _complete(sender, here.domain) if sender else ""
    if not options.recipients and not options.from_header:
        raise BadOption("nobody to send to: name recipients, or use -t")
    maker = Maker(
        sender or _complete("MAILER-DAEMON", here.domain),
        options.full_name or (_full_name() if options.sender is None else ""),
        _date(),
        f"<{os.urandom(12).hex()}.{os.getpid()}@{here.helo}>",
    )
    try:
        letter = compose(_text(ignore_dots=options.ignore_dots), maker, from_header=options.from_header)
    except BadMessage as error:
        return _failed(str(error), EX_DATAERR)
    everybody = dict.fromkeys((*options.recipients, *letter.recipients))
    recipients = tuple(dict.fromkeys(_complete(one, here.domain) for one in everybody))
    if not recipients:
        return _failed("nobody to send to: To, Cc and Bcc are empty", EX_USAGE)
    utf8 = here.detect_utf8 and header_in_utf8(letter.content)
    message = Message(sender, recipients, letter.content, options.notify, options.ret, options.envid, utf8)
    if direct is not None and here.direct:
        return direct(message)
    try:
        submit(here.relay, here.helo, message)
    except Unreachable as error:
        if not (here.queue and os.access(here.queue, os.R_OK | os.W_OK)):
            raise
        from deliver.submission.deposit import deposit

        name = deposit(settings, message)
        sys.stderr.write(f"sendmail: {error}; the message is in its queue as {name}\n")
    return 0


def _settings(config: str | None) -> Settings:
    """The whole of them. Raises OutriderError."""
    from pathlib import Path

    from deliver.configuration import load

    return load(Path(config) if config else None)


def _complete(address: str, domain: str) -> str:
    """With our domain if it has none. Raises BadOption."""
    address = address.removeprefix("<").removesuffix(">")
    whole = address if "@" in re.sub(r'"(?:[^"\\]|\\.)*"', "", address) else f"{address}@{domain}"
    if len(whole) > 1000 or _ADDRESS.match(whole) is None:
        raise BadOption(f"{address[:80]!r} is no address")
    return whole


def _text(*, ignore_dots: bool) -> bytes:
    from deliver.submission.letter import BadMessage, until_dot

    source = sys.stdin.buffer
    if ignore_dots:
        text = source.read(MAX_TEXT + 1)
    else:
        lines: list[bytes] = []
        size = 0
        while size <= MAX_TEXT and (line := source.readline(MAX_TEXT)):
            lines.append(line)
            size += len(line)
            if line in (b".\n", b".\r\n"):
                break
        text = b"".join(until_dot(lines))
    if len(text) > MAX_TEXT:
        raise BadMessage(f"the text has more than {MAX_TEXT} octets")
    return text


def _speak_smtp(here: Local) -> int:
    """The relay's SMTP on our standard input and output, until one of the sides has had enough."""
    from deliver.submission.client import Refused, connect

    try:
        connection = connect(here.relay)
    except Refused as error:
        _write(f"421 4.3.0 {error}\r\n".encode())
        return EX_TEMPFAIL
    import threading

    with connection:
        connection.settimeout(None)
        # a thread, since standard input may be a file, which cannot be waited for
        threading.Thread(target=_forward_input, args=(connection,), daemon=True).start()
        while data := connection.recv(65536):
            _write(data)
    return 0


def _forward_input(connection: Socket) -> None:
    import socket

    with contextlib.suppress(OSError):  # the relay has gone: the other direction says so
        while data := os.read(0, 65536):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid{os.getuid()}"


def _full_name() -> str:
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
    except KeyError:
        return ""
    return name if name.isprintable() else ""


def _date() -> str:
    """Now, as RFC 5322 3.3 wants it."""
    import time

    return time.strftime("%a, %d %b %Y %H:%M:%S %z")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _failed(why: str, status: int) -> int:
    sys.stderr.write(f"sendmail: {why}\n")
    return status
