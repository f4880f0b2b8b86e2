"""A loopback address of its own for every server, so that test runs side by side never meet.

NSD and unbound cannot be told to take any free port, so it is the address that varies: 127.64.0.0/10, chosen from the
process number (which differs between xdist workers) and a counter, and skipped while somebody else uses the port there.
"""

from __future__ import annotations

import itertools
import os
import socket

_FIRST = 0x7F40_0000  # 127.64.0.0
_SIZE = 0x0040_0000
_PER_PROCESS = 256
_counter = itertools.count()


def own_address(port: int) -> str:
    """An IPv4 loopback address where `port` is free for TCP and UDP. Raises OSError if none is found."""
    for _ in range(_PER_PROCESS):
        number = _FIRST + (os.getpid() * _PER_PROCESS + next(_counter)) % _SIZE
        address = socket.inet_ntoa(number.to_bytes(4))
        if number & 0xFF not in (0, 0xFF) and _free(address, port):
            return address
    raise OSError(f"no loopback address with a free port {port}")


def _free(address: str, port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
