"""unbound as the validating resolver: trust anchors and name servers as a test gives them, nothing from the Internet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.peer import Peer
from tests.interop.peers.process import spawn
from tests.interop.peers.programs import Programs


@dataclass(frozen=True, slots=True)
class UnboundConfig:
    """Where zones are served and which keys are trusted.

    `stubs` are (zone, address, port) of authoritative servers; `anchors` are DS or DNSKEY records as text with their
    owner, such as `test. DS 1 13 2 ab…`; below `insecure` zones nothing is validated.
    """

    stubs: tuple[tuple[str, str, int], ...]
    anchors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    port: int = 5311
    server: str = ""


@dataclass(frozen=True, slots=True)
class Unbound(Peer[UnboundConfig]):
    """A running unbound; it answers at `address`:`port` over UDP and TCP."""


def start(programs: Programs, directory: Path, config: UnboundConfig) -> Unbound:
    """Start an unbound in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("unbound")
    address = own_address(config.port)
    lines = [
        "server:",
        f"  interface: {address}@{config.port}",
        f"  outgoing-interface: {address}",
        "  access-control: 127.0.0.0/8 allow",
        '  username: ""',
        '  chroot: ""',
        f'  directory: "{directory}"',
        f'  pidfile: "{directory}/unbound.pid"',
        "  use-syslog: no",
        '  logfile: ""',
        "  do-daemonize: no",
        "  do-ip6: no",
        "  num-threads: 1",
        "  do-not-query-localhost: no",
        '  module-config: "validator iterator"',
        "  ede: yes",
        "  val-log-level: 2",
        # The names that tests use are reserved (RFC 6761) and would be answered without asking anybody.
        *(f'  local-zone: "{zone}" nodefault' for zone in ("test.", "invalid.", "onion.", "localhost.")),
        *(f'  trust-anchor: "{anchor}"' for anchor in config.anchors),
        *(f'  domain-insecure: "{zone}"' for zone in config.insecure),
        *(f"  {line}" for line in config.server.splitlines()),
        "remote-control:",
        "  control-enable: no",
    ]
    for zone, server, port in config.stubs:
        lines += ["stub-zone:", f'  name: "{zone}"', f"  stub-addr: {server}@{port}"]
    configuration = directory / "unbound.conf"
    configuration.write_text("\n".join(lines) + "\n")
    process = spawn(
        "unbound",
        [program, "-d", "-c", configuration],
        programs.environment("unbound"),
        address=address,
        port=config.port,
        directory=directory,
    )
    return Unbound(config, process)
