"""The listening sockets of the relay: bound by us, or by systemd before us (sd_listen_fds(3)).

They are made before the event loop runs and before privileges are given up, and worker processes share them:
a connection that waits to be accepted goes to whichever worker is free, and survives the end of any.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence

from deliver.endpoint import split
from deliver.errors import ConfigurationError

DEFAULT_PORT = 25
BACKLOG = 4096  # connections that wait to be accepted; the kernel has a limit of its own
FIRST_PASSED = 3  # number of the first descriptor that systemd passes

_REMEDIES = {
    errno.EADDRINUSE: "stop the other server there, or change {key}",
    errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE, or choose another in {key}",
    errno.EADDRNOTAVAIL: "{key} must name an address of this machine",
}

Bound = dict[str, socket.socket]  # by place, as the settings spell it


def bind(places: Sequence[str], passed: Sequence[socket.socket] = (), *, key: str = "relay.listen") -> Bound:
    """A socket that listens at each `address:port`, or at none: ConfigurationError names what failed.

    Those that systemd has passed are taken where they fit; one that fits nowhere is an error.
    """
    left = {name_of(each): each for each in passed}
    opened: Bound = {}
    try:
        for place in places:
            opened[place] = _bound(place, left, key)
        if left:
            names = ", ".join(left)
            remedy = f"name it in {key}, or remove it from the socket unit"
            raise ConfigurationError(f"taking over {names} from systemd", f"{key} does not name it", remedy)
    except BaseException:
        for each in (*opened.values(), *left.values()):
            each.close()
        raise
    return opened


def bind_all(place: str, *, key: str) -> list[socket.socket]:
    """A socket at each address that the place names, or none. Raises ConfigurationError."""
    opened: list[socket.socket] = []
    attempted = f"listening on {place}"
    try:
        for family, address in dict.fromkeys(_resolved(place, attempted, key)):
            opened.append(_listening(family, address))
    except BaseException as error:
        for each in opened:
            each.close()
        if isinstance(error, OSError):
            raise _refused(attempted, error, key) from error
        raise
    return opened


def passed_by_systemd(environment: Mapping[str, str], pid: int | None = None) -> list[socket.socket]:
    """The sockets of the socket unit, if there is one and it is meant for this process."""
    try:
        meant, count = int(environment["LISTEN_PID"]), int(environment["LISTEN_FDS"])
    except (KeyError, ValueError):
        return []
    if meant != (os.getpid() if pid is None else pid):
        return []
    found = []
    for descriptor in range(FIRST_PASSED, FIRST_PASSED + count):
        os.set_inheritable(descriptor, False)
        found.append(socket.socket(fileno=descriptor))
    return found


def _bound(place: str, left: dict[str, socket.socket], key: str) -> socket.socket:
    attempted = f"listening on {place}"
    family, address = _resolved(place, attempted, key)[0]
    found = left.pop(_text(*address), None)
    if found is not None:
        found.setblocking(False)
        return found
    try:
        return _listening(family, address)
    except OSError as error:
        raise _refused(attempted, error, key) from error


def _resolved(place: str, attempted: str, key: str) -> list[tuple[int, tuple[str | int, int]]]:
    """Families and addresses, one at least."""
    try:
        host, port = split(place)
    except ValueError as error:
        raise ConfigurationError(attempted, str(error), f"correct {key}") from None
    wanted = DEFAULT_PORT if port is None else port
    try:
        found = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _refused(attempted, error, key) from error
    return [(family, (address[0], wanted)) for family, _, _, _, address in found]


def _refused(attempted: str, error: OSError, key: str) -> ConfigurationError:
    happened = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    remedy = _REMEDIES.get(error.errno or 0, "correct {key}").format(key=key)
    return ConfigurationError(attempted, happened, remedy)


def _listening(family: int, address: tuple[str | int, int]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def name_of(listening: socket.socket) -> str:
    """Where it listens."""
    name = listening.getsockname()
    return name if isinstance(name, str) else _text(name[0], name[1])


def _text(address: str | int, port: int) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
