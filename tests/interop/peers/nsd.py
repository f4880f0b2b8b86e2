"""NSD as the authoritative server of zones that a test wrote."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.peer import Peer
from tests.interop.peers.process import spawn
from tests.interop.peers.programs import Programs


@dataclass(frozen=True, slots=True)
class NsdConfig:
    """Zones to serve: pairs of zone name and zone file text (signed or not). The root is named `.`."""

    zones: tuple[tuple[str, str], ...]
    port: int = 5310
    address: str = ""  # "": one of its own


@dataclass(frozen=True, slots=True)
class Nsd(Peer[NsdConfig]):
    """A running NSD; it answers at `address`:`port` over UDP and TCP."""


def start(programs: Programs, directory: Path, config: NsdConfig) -> Nsd:
    """Start an NSD in the empty private `directory`. Raises PeerMissing or ServerFailed."""
    program = programs.path("nsd")
    environment = programs.environment("nsd")
    address = config.address or own_address(config.port)
    lines = [
        "server:",
        f"  ip-address: {address}@{config.port}",
        '  username: ""',
        f'  zonesdir: "{directory}"',
        f'  pidfile: "{directory}/nsd.pid"',
        f'  xfrdfile: "{directory}/xfrd.state"',
        f'  zonelistfile: "{directory}/zone.list"',
        f'  xfrdir: "{directory}"',
        "  server-count: 1",
        "  do-ip6: no",
        "  rrl-ratelimit: 0",
        *(['  database: ""'] if _has_database(program, environment) else []),
        "remote-control:",
        "  control-enable: no",
    ]
    for number, (name, text) in enumerate(config.zones):
        (directory / f"{number}.zone").write_text(text)
        lines += ["zone:", f'  name: "{name}"', f'  zonefile: "{number}.zone"']
    configuration = directory / "nsd.conf"
    configuration.write_text("\n".join(lines) + "\n")
    process = spawn(
        "nsd",
        [program, "-d", "-c", configuration],
        environment,
        address=address,
        port=config.port,
        directory=directory,
    )
    return Nsd(config, process)


def _has_database(program: Path, environment: dict[str, str]) -> bool:
    """Whether this NSD keeps zones in a database file unless told otherwise, as it did before 4.8."""
    shown = subprocess.run([program, "-v"], env=environment, capture_output=True, text=True, timeout=10)
    words = (shown.stdout + shown.stderr).split()
    version = next((word for word in words if word[:1].isdigit()), "4.8")
    return tuple(int(part) for part in version.split(".")[:2]) < (4, 8)
