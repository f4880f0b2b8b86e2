"""The listening sockets of the doors without a queue: LMTP, and the hand-over from `outrider send`.

They are opened before there are worker processes, which inherit them: a free one takes the next client.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import trio

from deliver.errors import ConfigurationError
from deliver.net.local import LocalSocket, place_of
from deliver.relay.binding import bind_all
from deliver.report.log import say
from deliver.settings import Settings

UNIX = "unix:"

_log = logging.getLogger("outrider.service")


class Doorway:
    """What listens, until `close`."""

    def __init__(
        self, lmtp: Sequence[socket.socket | LocalSocket] = (), handover: Sequence[LocalSocket] = ()
    ) -> None:
        """From `open`."""
        self._lmtp = tuple(lmtp)
        self._handover = tuple(handover)

    @classmethod
    def open(cls, settings: Settings, *, handover: bool = True) -> Doorway:
        """Those of the settings; the hand-over only where no other service has it.

        Raises ConfigurationError.
        """
        lmtp: list[socket.socket | LocalSocket] = []
        try:
            for text in settings.lmtp.listen:
                lmtp += _lmtp(settings, text)
            return cls(lmtp, _handover(settings) if handover else ())
        except BaseException:
            for each in lmtp:
                each.close()
            raise

    def lmtp(self) -> list[trio.SocketListener]:
        """As trio has them. What is bound stays bound when they are closed by one of several processes."""
        return [_listener(each) for each in self._lmtp]

    def handover(self) -> list[trio.SocketListener]:
        """The same."""
        return [_listener(each) for each in self._handover]

    def announce(self, **about: object) -> None:
        """Say where clients may come."""
        for each in self._lmtp:
            say(_log, logging.INFO, "listening for LMTP", on=place_of(_plain(each)), **about)
        for one in self._handover:
            say(_log, logging.INFO, "taking over from outrider send", on=place_of(one.socket), **about)

    def share(self) -> None:
        """In a process that was forked: paths are the other one's."""
        for each in (*self._lmtp, *self._handover):
            if isinstance(each, LocalSocket):
                each.share()

    def close(self) -> None:
        """Listen no more."""
        for each in (*self._lmtp, *self._handover):
            each.close()


def _listener(opened: socket.socket | LocalSocket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(_plain(opened)))


def _plain(opened: socket.socket | LocalSocket) -> socket.socket:
    return opened.socket if isinstance(opened, LocalSocket) else opened


def _lmtp(settings: Settings, text: str) -> Sequence[socket.socket | LocalSocket]:
    if not text.startswith(UNIX):
        return bind_all(text, key="lmtp.listen")
    path = settings.path(text.removeprefix(UNIX))
    mode, group = int(settings.lmtp.socket_mode, 8), settings.lmtp.socket_group
    return [LocalSocket.bind(path, mode=mode, group=group, key="lmtp.listen")]


def _handover(settings: Settings) -> Sequence[LocalSocket]:
    if not settings.send.handover:
        return ()
    try:
        path = settings.path(settings.send.socket)
        return (LocalSocket.bind(path, mode=0o600, group="", key="send.socket"),)
    except ConfigurationError as error:
        _log.warning("outrider send delivers in its own process: %s", error)
        return ()
