"""TCP connections to numeric addresses; names are resolved before, by our own resolver only."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Protocol

import trio

from deliver.errors import PeerError


class ConnectFailed(PeerError):
    """No connection to this address; `errno` is None for a timeout."""

    def __init__(self, target: str, happened: str, errno: int | None = None) -> None:
        super().__init__(f"connecting to {target}", happened, "the next address is tried, or a later attempt")
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Connection:
    """An open stream and our own end of it."""

    stream: trio.abc.Stream
    local_address: str
    local_port: int


class Dialer(Protocol):
    """Opens connections."""

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        """Connect within `timeout` seconds, from `source` if given. Raises ConnectFailed."""
        ...


class TcpDialer:
    """The `Dialer` port over real sockets."""

    async def dial(self, address: str, port: int, *, source: str | None, timeout: float) -> Connection:
        """Connect; TCP_NODELAY is set, since the wire writes whole flights."""
        target = f"[{address}]:{port}"
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            with trio.move_on_after(timeout) as scope:
                if source is not None:
                    await sock.bind((source, 0))
                await sock.connect((address, port))
            if scope.cancelled_caught:
                raise ConnectFailed(target, f"no answer within {timeout:g} s")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            local_address, local_port = sock.getsockname()[:2]
            return Connection(trio.SocketStream(sock), local_address, local_port)
        except OSError as error:
            sock.close()
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectFailed(target, why, error.errno) from error
        except BaseException:
            sock.close()
            raise
