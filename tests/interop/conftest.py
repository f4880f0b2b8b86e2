"""Real servers as fixtures: `exim`, `postfix`, `dovecot`, `nsd`, `unbound`, `postgres` and `mariadb` are factories.

Each takes the fields of its configuration (EximConfig and so on, in peers/) as keywords and returns a running server, which
is started at the first request and shared by all who ask for the same configuration. A test that wants a server to itself
asks for something of its own, such as a hostname; one that shares uses recipients of its own. All are stopped when the
session ends. When a test fails, the logs of the servers that it uses are in its report.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.internet import STS, LiveInternet, MailDomain, build
from tests.interop.peers import (
    dovecot as dovecot_server,
    exim as exim_server,
    mariadb as mariadb_server,
    nsd as nsd_server,
    postfix as postfix_server,
    postgres as postgres_server,
    unbound as unbound_server,
)
from tests.interop.peers.database import Database
from tests.interop.peers.dovecot import Dovecot, DovecotConfig
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.mariadb import MariadbConfig
from tests.interop.peers.nsd import Nsd, NsdConfig
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.peers.postgres import PostgresConfig
from tests.interop.peers.programs import Programs, locate
from tests.interop.peers.unbound import Unbound, UnboundConfig
from tests.interop.sending import Send, Sent, outrider


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory that unprivileged servers can reach; pytest's own is closed to them."""
    directory = Path(tempfile.mkdtemp(prefix="outrider-peers-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def programs(scratch: Path) -> Programs:
    """Where the real servers' programs are on this machine."""
    return locate(scratch)


@pytest.fixture(scope="session")
def exim(programs: Programs, scratch: Path) -> Iterator[Factory[EximConfig, Exim]]:
    """`exim(certificate=..., key=..., prdr=True, ...)`: a running Exim, see EximConfig."""
    with closing(Factory(programs, scratch, EximConfig, exim_server.start)) as factory:
        yield factory


@pytest.fixture(scope="session")
def postfix(programs: Programs, scratch: Path) -> Iterator[Factory[PostfixConfig, Postfix]]:
    """`postfix(certificate=..., key=..., ...)`: a running Postfix, see PostfixConfig."""
    with closing(Factory(programs, scratch, PostfixConfig, postfix_server.start)) as factory:
        yield factory


@pytest.fixture(scope="session")
def dovecot(programs: Programs, scratch: Path) -> Iterator[Factory[DovecotConfig, Dovecot]]:
    """`dovecot(entries=("name:{SCHEME}value", ...))`: a running authentication service, see DovecotConfig."""
    with closing(Factory(programs, scratch, DovecotConfig, dovecot_server.start)) as factory:
        yield factory


@pytest.fixture(scope="session")
def nsd(programs: Programs, scratch: Path) -> Iterator[Factory[NsdConfig, Nsd]]:
    """`nsd(zones=((name, text), ...))`: a running NSD, see NsdConfig."""
    with closing(Factory(programs, scratch, NsdConfig, nsd_server.start)) as factory:
        yield factory


@pytest.fixture(scope="session")
def unbound(programs: Programs, scratch: Path) -> Iterator[Factory[UnboundConfig, Unbound]]:
    """`unbound(stubs=((zone, address, port), ...), anchors=(...), ...)`: a running unbound, see UnboundConfig."""
    with closing(Factory(programs, scratch, UnboundConfig, unbound_server.start)) as factory:
        yield factory


@pytest.fixture(scope="session")
def postgres(programs: Programs, scratch: Path) -> Iterator[Factory[PostgresConfig, Database]]:
    """`postgres(name="...")`: a running PostgreSQL with an empty database, see PostgresConfig."""
    with closing(Factory(programs, scratch, PostgresConfig, postgres_server.start)) as factory:
        yield factory


@pytest.fixture(scope="session")
def mariadb(programs: Programs, scratch: Path) -> Iterator[Factory[MariadbConfig, Database]]:
    """`mariadb(name="...")`: a running MariaDB with an empty database, see MariadbConfig."""
    with closing(Factory(programs, scratch, MariadbConfig, mariadb_server.start)) as factory:
        yield factory


@pytest.fixture
def live() -> Iterator[LiveInternet]:
    """The miniature Internet, in a thread of its own."""
    with LiveInternet() as live:
        yield live


@pytest.fixture
def sts() -> Iterator[LiveInternet]:
    """The domains with MTA-STS policies, in a thread of its own; see tests.internet.stssites."""
    with LiveInternet(STS) as live:
        yield live


@pytest.fixture
def send(nsd: Factory[NsdConfig, Nsd], unbound: Factory[UnboundConfig, Unbound], tmp_path: Path) -> Send:
    """`send(domains, port, *recipients, options=())`: outrider, resolving these domains through NSD and unbound."""

    def sending(
        domains: Sequence[MailDomain], port: int, *recipients: str, options: Sequence[str] = ()
    ) -> Sent:
        internet = build(domains, name_server="127.0.0.1")
        zones = {name.to_text(): zone.text for name, zone in internet.zones.items()}
        authoritative = nsd(zones=tuple(zones.items()))
        resolver = unbound(
            stubs=tuple((name, authoritative.address, authoritative.port) for name in zones),
            anchors=tuple(line for line in internet.trust_anchor_text.splitlines() if " DS " in line),
        )
        anchors = tmp_path / "root.key"
        anchors.write_text(internet.trust_anchor_text)
        settings = (
            f"dns.trust_anchors={anchors}",
            f'dns.resolvers=["{resolver.address}:{resolver.port}"]',
            f"state_dir={tmp_path}/state",
            f"delivery.port={port}",
            "delivery.helo=relay.sender.test",
            *options,
        )
        return outrider([word for setting in settings for word in ("-o", setting)], recipients)

    return sending


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the servers' logs to the report of a failed test."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Factory):
                report.sections += [(f"log of {name}", log) for name, log in value.logs()]
    return report
