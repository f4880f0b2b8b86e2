"""Where a measurement happens: a network and mount namespace of its own, and the Internet that relays see.

Inside it loopback is empty, so that port 25 and port 53 are free, and /etc/resolv.conf can name our resolver
for programs that know no other way (Exim, Postfix). Making it takes root. Name servers: NSD with the zones
below, unbound in front of it. All exchangers are addresses of one sink, with one certificate.

    d000.dane … d199.dane    signed, one exchanger each, TLSA 3 1 1: DANE
    d000.open … d199.open    not signed, one exchanger each
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from bench.load.account import Account
from tests.internet.pki import Authority, Certificate
from tests.internet.zones import Internet, MailDomain, Security, build
from tests.interop.peers import nsd
from tests.interop.peers.nsd import NsdConfig
from tests.interop.peers.process import Process, spawn
from tests.interop.peers.programs import Programs

DOMAINS = 200
HOP = "127.9.0.1"  # the one next hop
NAME_SERVER = "127.9.0.53"
RESOLVER = "127.9.0.54"
RELAY = "127.0.0.1"
RELAY_PORT = 2525
SMTP = 25
RETRY = 10  # seconds until a relay tries again what it put off
_INSIDE = "OUTRIDER_BENCH_INSIDE"


def enter(arguments: Sequence[str], name: str = "relay") -> int | None:
    """Run this measurement again in a namespace of its own and return its exit code; None: we are inside."""
    if os.environ.get(_INSIDE) or os.geteuid() != 0:
        return None
    script = 'ip link set lo up && mount --make-rprivate / && exec "$@"'
    command = [
        "unshare",
        "--net",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-m",
        "bench",
        name,
    ]
    return subprocess.run([*command, *arguments], env=os.environ | {_INSIDE: "1"}).returncode


def inside() -> bool:
    """Whether this process has a network of its own."""
    return _INSIDE in os.environ


def exchanger(number: int) -> str:
    """The address of the exchanger of domain `number`."""
    return f"127.10.{number // 200}.{number % 200 + 1}"


def domains(top: str) -> tuple[str, ...]:
    """The mail domains under `dane` or `open`."""
    return tuple(f"d{number:03}.{top}" for number in range(DOMAINS))


@dataclass(frozen=True, slots=True)
class Place:
    """What all relays share: the sink's certificate, the zones, the trust anchor; files in `directory`."""

    directory: Path
    chain: Path
    key: Path
    anchor: Path
    internet: Internet

    @classmethod
    def make(cls, directory: Path) -> Place:
        """Issue, sign and write everything."""
        credentials = Authority().issue("mx.d000.dane", kind=Certificate.SELF_SIGNED)
        chain, key = credentials.write(directory)
        tlsa = credentials.tlsa(3, 1, 1)
        declared = [
            MailDomain(
                domain,
                mx=((10, f"mx.{domain}"),),
                hosts={f"mx.{domain}": (exchanger(number),)},
                tlsa=((f"_{SMTP}._tcp.mx.{domain}", tlsa),) if top == "dane" else (),
                security=Security.SECURE if top == "dane" else Security.INSECURE,
            )
            for top in ("dane", "open")
            for number, domain in enumerate(domains(top))
        ]
        internet = build(declared, name_server=NAME_SERVER)
        anchor = directory / "root.key"
        anchor.write_text(internet.trust_anchor_text)
        return cls(directory, chain, key, anchor, internet)

    @contextmanager
    def name_server(self, programs: Programs) -> Iterator[None]:
        """NSD with all zones. Raises PeerMissing or ServerFailed."""
        directory = self.directory / "nsd"
        directory.mkdir()
        zones = tuple((origin.to_text(), zone.text) for origin, zone in self.internet.zones.items())
        server = nsd.start(programs, directory, NsdConfig(zones, 53, NAME_SERVER))
        try:
            _await_answer(NAME_SERVER)
            yield
        finally:
            server.process.stop()


def _await_answer(address: str) -> None:
    """Until a name server answers about the root. Raises dns.exception.Timeout after 10 seconds."""
    question = dns.message.make_query(".", "SOA")
    for _ in range(19):
        with contextlib.suppress(dns.exception.Timeout, OSError):
            dns.query.udp(question, address, timeout=0.5)
            return
    dns.query.udp(question, address, timeout=0.5)


def resolver(
    programs: Programs, place: Place, directory: Path, account: Account, *, validate: bool
) -> Process:
    """An unbound of the relay's own, on its account; `validate` for relays that leave that to it."""
    lines = [
        "server:",
        f"  interface: {RESOLVER}@53",
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
        f'  module-config: "{"validator iterator" if validate else "iterator"}"',
        '  local-zone: "invalid." nodefault',  # else answered by unbound itself, without proof
        f'  trust-anchor-file: "{place.anchor}"' if validate else "",
        "remote-control:",
        "  control-enable: no",
        "stub-zone:",
        '  name: "."',
        f"  stub-addr: {NAME_SERVER}@53",
    ]
    configuration = directory / "unbound.conf"
    configuration.write_text("\n".join(lines) + "\n")
    process = spawn(
        "unbound",
        account.wrap([programs.path("unbound"), "-d", "-c", configuration]),
        programs.environment("unbound"),
        address=RESOLVER,
        port=53,
        directory=directory,
    )
    account.follow(process.child.pid)
    return process


def point_resolv_conf(directory: Path) -> None:
    """Let the C library of this namespace ask our resolver and believe its AD bit (resolv.conf(5))."""
    file = directory / "resolv.conf"
    file.write_text(f"nameserver {RESOLVER}\noptions edns0 trust-ad timeout:5\n")
    file.chmod(0o644)
    subprocess.run(["mount", "--bind", str(file), "/etc/resolv.conf"], check=True)
