"""The whole miniature Internet, running: zones, resolver, certification authority, SMTP servers, policy host.

    async with open_internet() as world:
        world.resolver.endpoint, world.port, world.server("mx.dane-ee.test").messages

Everything listens on loopback: addresses 127.x.y.z derived from the process id, one free port for all SMTP
servers, so that many processes can have their own; a process uses few ports by turns, whose zones are signed already. Nothing leaves the machine and no privilege is needed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from tests.internet.pki import Authority, authority
from tests.internet.policy import Policy, policy_host_of, record_owner_of
from tests.internet.policyhost import PolicyAnswer, PolicyHost
from tests.internet.received import ReceivedMessage
from tests.internet.resolver import Resolver
from tests.internet.sites import STANDARD, Exchanger, Site
from tests.internet.smtpd import SmtpServer
from tests.internet.zones import Internet, MailDomain, build

_BIND_ATTEMPTS = 20
_BACKLOG = 512
_MAX_ADDRESSES = 254
_PORTS = 4  # what is still on its way to a world that has ended does not meet the next one


class World:
    """What a test or demonstration works with.

    `port` is that of every SMTP server, `servers` and `addresses` go by host name, `domains` by domain name.
    `policy_host` listens, on a port of its own, where a site has a policy.
    """

    def __init__(
        self,
        sites: tuple[Site, ...],
        port: int,
        addresses: Mapping[str, tuple[str, ...]],
        resolver_address: str,
    ) -> None:
        self.authority: Authority = authority()
        self.port = port
        self.addresses = addresses
        self.servers = {host.name: self._server(host) for host in _exchangers(sites) if host.listening}
        self.domains = {site.domain: site.mail_domain(self.authority, port, addresses) for site in sites}
        self.policy_host = PolicyHost(self.authority)
        for site in sites:
            if site.policy is not None:
                self._write_policy(site.domain, site.policy, site.policy_answer)
        self._resolver_address = resolver_address
        self.resolver = Resolver(self._built())
        for site in sites:
            for name, rdtype, fault in site.troubles:
                self.resolver.trouble(name.replace("{port}", str(port)), rdtype, fault=fault)

    @property
    def internet(self) -> Internet:
        """The zones as they are now."""
        return self.resolver.internet

    def server(self, name: str) -> SmtpServer:
        """The server of that host; KeyError when it has none."""
        return self.servers[name]

    @property
    def messages(self) -> tuple[ReceivedMessage, ...]:
        """All messages that any server accepted, by server."""
        return tuple(message for server in self.servers.values() for message in server.messages)

    @property
    def violations(self) -> tuple[str, ...]:
        """All broken rules that any server noted."""
        over_smtp = (violation for server in self.servers.values() for violation in server.violations)
        return (*over_smtp, *self.policy_host.violations)

    def publish(self, domain: MailDomain) -> None:
        """Replace (or add) one domain and sign everything again."""
        self.domains[domain.name] = domain
        self.resolver.internet = self._built()

    def publish_policy(self, domain: str, policy: Policy, answer: PolicyAnswer | None = None) -> None:
        """Replace the MTA-STS policy of one domain, in DNS and at its policy host. KeyError when it has none.

        How it is answered stays, unless `answer` says otherwise; the body is the policy's in any case.
        """
        self._write_policy(domain, policy, answer or self.policy_host.answers[domain])
        zone = self.domains[domain]
        self.publish(replace(zone, texts={**zone.texts, record_owner_of(domain): policy.record}))

    def policy_settings(self, directory: Path) -> dict[str, str]:
        """Keys as `tls.mta_sts`, with their values in TOML, that make MTA-STS work here; writes the trust store there."""
        return {
            "tls.mta_sts": "true",
            "mta_sts.port": str(self.policy_host.port),
            "tls.trust_store": json.dumps(str(self.write_trust_store(directory))),
        }

    def write_trust_anchor(self, directory: Path) -> Path:
        """The root's key as `root.key` there, in zone file form."""
        path = directory / "root.key"
        path.write_text(self.internet.trust_anchor_text)
        return path

    def write_trust_store(self, directory: Path) -> Path:
        """The root certificate as `root.pem` there."""
        path = directory / "root.pem"
        path.write_bytes(self.authority.root_pem)
        return path

    def write_zones(self, directory: Path) -> dict[str, Path]:
        """Every zone as a file there, by origin (`.` for the root), for a real name server."""
        paths = {}
        for origin, zone in self.internet.zones.items():
            name = origin.to_text(omit_final_dot=True)
            paths[name] = directory / f"{'root' if name in ('', '.') else name}.zone"
            paths[name].write_text(zone.text)
        return paths

    def _built(self) -> Internet:
        return build(self.domains.values(), name_server=self._resolver_address)

    def _write_policy(self, domain: str, policy: Policy, answer: PolicyAnswer) -> None:
        hosts = [host for _, host in self.domains[domain].mx] or [domain]  # RFC 5321 5.1: the implicit MX
        document = policy.document(hosts)
        self.policy_host.answer(domain, replace(answer, body=document.encode()))

    def _server(self, host: Exchanger) -> SmtpServer:
        credentials = host.credentials(self.authority)
        context = None if credentials is None else credentials.server_context()
        return SmtpServer(host.name, context, host.behaviour)


_ports: list[int] = []  # of this process's worlds, that of the latest last


@asynccontextmanager
async def open_internet(
    sites: tuple[Site, ...] = STANDARD, *, resolver_port: int = 0
) -> AsyncIterator[World]:
    """Start everything, and stop it at the end of the block. Must be left in the task that entered it."""
    pool = _address_pool()
    resolver_address = next(pool)
    hosts = _exchangers(sites)
    addresses = {host.name: tuple(itertools.islice(pool, host.addresses)) for host in hosts}
    listening = [address for host in hosts if host.listening for address in addresses[host.name]]
    port, sockets = await _listen(listening)
    policies = {policy_host_of(site.domain) for site in sites if site.policy is not None}
    async with AsyncExitStack() as stack:
        for opened in sockets.values():
            stack.enter_context(opened)
        if policies:
            policy_socket = stack.enter_context(await _listening_socket(next(pool), 0))
            addresses |= dict.fromkeys(policies, (policy_socket.getsockname()[0],))
        world = World(sites, port, addresses, resolver_address)
        nursery = await stack.enter_async_context(trio.open_nursery())
        for name, server in world.servers.items():
            server.port = port
            listeners = [trio.SocketListener(sockets[address]) for address in addresses[name]]
            await nursery.start(server.serve, listeners)
        if policies:
            await nursery.start(world.policy_host.serve, [trio.SocketListener(policy_socket)])
        await nursery.start(world.resolver.serve, resolver_address, resolver_port)
        try:
            yield world
        finally:
            nursery.cancel_scope.cancel()


def _exchangers(sites: tuple[Site, ...]) -> tuple[Exchanger, ...]:
    return tuple(host for site in sites for host in site.exchangers)


def _address_pool() -> Iterator[str]:
    """Loopback addresses of this process's own, as far as process ids allow."""
    process = os.getpid()
    network = f"127.{1 + (process >> 8) % 254}.{process % 256}"
    for host in range(1, _MAX_ADDRESSES + 1):
        yield f"{network}.{host}"
    raise ValueError(f"more than {_MAX_ADDRESSES} addresses")


async def _listen(addresses: list[str]) -> tuple[int, dict[str, trio.socket.SocketType]]:
    """Listening sockets on all addresses with one port, and that port. OSError when no port is free on all."""
    for attempt in range(_BIND_ATTEMPTS):
        port = _ports.pop(0) if len(_ports) == _PORTS else 0
        sockets: dict[str, trio.socket.SocketType] = {}
        try:
            for address in addresses:
                sockets[address] = await _listening_socket(address, port)
                port = sockets[address].getsockname()[1]
        except OSError:
            for opened in sockets.values():
                opened.close()
            if attempt == _BIND_ATTEMPTS - 1:
                raise
        else:
            _ports.append(port)
            return port, sockets
    raise AssertionError("unreachable")


async def _listening_socket(address: str, port: int) -> trio.socket.SocketType:
    opened = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM)
    try:
        opened.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await opened.bind((address, port))
        opened.listen(_BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened
