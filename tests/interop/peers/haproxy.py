"""HAProxy in front of a server: TCP, with a PROXY header for it."""

from __future__ import annotations

from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.process import Process, spawn
from tests.interop.peers.programs import Programs

_CONFIGURATION = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout check 5s
frontend mail
    bind {address}:2525
    default_backend relay
backend relay
    {checks}
    server relay {to} {options}
"""


def start(programs: Programs, directory: Path, to: str, options: str, checks: str = "") -> Process:
    """Listen, and pass connections on to the `host:port`; `options` are those of its server line.

    Raises PeerMissing or ServerFailed.
    """
    program = programs.path("haproxy")
    address = own_address(2525)
    file = directory / "haproxy.cfg"
    file.write_text(_CONFIGURATION.format(address=address, to=to, options=options, checks=checks))
    return spawn(
        "haproxy",
        [program, "-db", "-f", file],
        programs.environment("haproxy"),
        address=address,
        port=2525,
        directory=directory,
    )
