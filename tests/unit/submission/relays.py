"""A relay in a thread that answers from a script and remembers what it was told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

EHLO = b"250-relay.test\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n"


class ScriptedRelay:
    """Serves one connection; `replies` by the first word of a command, "BANNER" and "DOT" besides."""

    def __init__(self, replies: Mapping[str, bytes] | None = None) -> None:
        self.replies = {"BANNER": b"220 hi\r\n", "EHLO": EHLO, "DATA": b"354 go\r\n", **(replies or {})}
        self.commands: list[str] = []
        self.content = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def place(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        self._listener.settimeout(10)
        connection, _ = self._listener.accept()
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as lines:
            if not self._answer(connection, "BANNER"):
                return
            for line in lines:
                self.commands.append(line.decode().rstrip("\r\n"))
                word = self.commands[-1].split(" ")[0].upper()
                if word == "QUIT" or not self._answer(connection, word):
                    return
                if word == "DATA" and self.replies["DATA"].startswith(b"3"):
                    for text in lines:
                        if text == b".\r\n":
                            break
                        self.content += text
                    if not self._answer(connection, "DOT"):
                        return

    def _answer(self, connection: socket.socket, word: str) -> bool:
        reply = self.replies.get(word, b"250 2.0.0 ok\r\n")
        connection.sendall(reply)
        return bool(reply)
