"""A server that swallows mail as fast as it can: `python -m bench._sink CHAIN KEY` prints its port.

SMTP with STARTTLS, PIPELINING and CHUNKING on blocking sockets, and COPY SIZE: so many octets as they are.
"""

from __future__ import annotations

import socket
import ssl
import sys

PIECE = 256 * 1024
END = b"\r\n.\r\n"


class Sink:
    """One connection."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connection
        self._context = context
        self._unread = b""

    def serve(self) -> None:
        """Until QUIT or the end."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._say("220 sink")
        while (line := self._line()) and line != b"QUIT":
            word, _, rest = line.partition(b" ")
            if word == b"EHLO":
                self._say("250-sink\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 CHUNKING")
            elif word == b"STARTTLS":
                self._say("220 go")
                self._socket = self._context.wrap_socket(self._socket, server_side=True)
            elif word == b"DATA":
                self._say("354 go")
                self._skip_mail_data()
                self._say("250 swallowed")
            elif word in (b"BDAT", b"COPY"):
                self._skip(int(rest.split()[0]))
                self._say("250 swallowed")
            else:
                self._say("250 fine")

    def _say(self, text: str) -> None:
        self._socket.sendall(text.encode() + b"\r\n")

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            data = self._socket.recv(PIECE)
            if not data:
                return b""
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    def _skip(self, size: int) -> None:
        taken = min(size, len(self._unread))
        self._unread = self._unread[taken:]
        while taken < size:
            taken += len(self._socket.recv(min(PIECE, size - taken)))

    def _skip_mail_data(self) -> None:
        tail = self._unread
        while not tail.endswith(END):
            tail = (tail + self._socket.recv(PIECE))[-len(END) :]
        self._unread = b""


def main(chain: str, key: str) -> None:
    """Serve one connection after the other, for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            try:
                Sink(connection, context).serve()
            except OSError as error:
                print(error, file=sys.stderr)
            finally:
                connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
