"""`outrider tlsa`: TLSA records for a certificate, or of a live host and whether they fit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.settings import Settings

EPILOG = """\b
Examples:
  outrider tlsa /etc/ssl/mail.pem
  outrider tlsa /etc/ssl/mail.pem --name mx.example.org
  outrider tlsa mx.example.org
  outrider tlsa mx.example.org:587 --json

\b
Exit status: 0 made, or the published records fit   69 they do not, or the host cannot be asked
"""
EX_UNAVAILABLE = 69
MAX_FILE = 1024 * 1024


@click.command("tlsa", epilog=EPILOG)
@click.option("--usage", type=click.IntRange(2, 3), help="3: this certificate (default); 2: an issuer.")
@click.option("--selector", type=click.IntRange(0, 1), default=1, show_default=True, help="1: key, 0: all.")
@click.option(
    "--matching",
    type=click.IntRange(0, 2),
    default=1,
    show_default=True,
    help="1: SHA-256, 2: SHA-512, 0: full.",
)
@click.option("--name", metavar="HOST[:PORT]", help="Print zone file lines for this server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("source", metavar="CERT|HOST[:PORT]")
@click.pass_obj
def tlsa(
    application: Application,
    usage: int | None,
    selector: int,
    matching: int,
    name: str | None,
    as_json: bool,
    source: str,
) -> int:
    """Make TLSA records from the file CERT (PEM or DER), or compare those of the server HOST.

    They are compared with what it presents after STARTTLS; no mail is sent. In a file with several
    certificates the first is the server's own.
    """
    if "/" in source or Path(source).is_file():
        return _from_file(Path(source), usage, selector, matching, name, as_json)
    return _from_host(application.settings, source, as_json)


def _from_file(
    path: Path, usage: int | None, selector: int, matching: int, name: str | None, as_json: bool
) -> int:
    from deliver.cli.output import json_document
    from deliver.errors import UsageError
    from deliver.tls.records import make

    remedy = "give a certificate in PEM or DER form"
    chain = certificates_of(path)
    try:
        records = [
            make(der, usage or (2 if place else 3), selector, matching)
            for place, der in enumerate(chain)
            if place == 0 or usage in (2, None)
        ]
    except ValueError as error:
        raise UsageError(f"making TLSA records for {path}", str(error), remedy) from None
    owner = f"{_owner(name)}. IN TLSA " if name else ""
    if as_json:
        json_document({"owner": _owner(name) if name else None, "records": [str(each) for each in records]})
        return 0
    for place, record in enumerate(records):
        if place == 1:
            click.echo("; or, if the server presents its issuers too (names and dates are then checked):")
        click.echo(f"{owner}{record}")
    return 0


def certificates_of(path: Path) -> tuple[bytes, ...]:
    """The certificates in a PEM file, or the one in a DER file. Raises UsageError."""
    from ssl import PEM_cert_to_DER_cert

    from deliver.errors import UsageError
    from deliver.tls.spki import cut

    attempted, remedy = f"reading {path}", "give a certificate in PEM or DER form"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE)
    except OSError as error:
        raise UsageError(attempted, error.strerror or str(error), remedy) from None
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    found = []
    try:
        for block in content.split(begin)[1:]:
            text = begin + block.partition(end)[0] + end
            found.append(PEM_cert_to_DER_cert(text.decode("ascii")))
        for der in found or [content]:
            cut(der)
    except ValueError as error:
        raise UsageError(attempted, f"it holds no certificate: {error}", remedy) from None
    return tuple(found or [content])


def _owner(name: str) -> str:
    from deliver import endpoint
    from deliver.errors import UsageError
    from deliver.message import domain_name
    from deliver.resolve.tlsa import owner_name

    try:
        host, port = endpoint.split(name)
    except ValueError as error:
        raise UsageError(f"reading {name}", str(error), "write HOST or HOST:PORT") from None
    return owner_name(domain_name(host), port or 25)


def _from_host(settings: Settings, source: str, as_json: bool) -> int:
    import trio

    from deliver.cli.output import json_document, printable
    from deliver.report.log import configure

    configure("warning", settings.log.format)
    _owner(source)
    found = trio.run(_ask, settings, source)
    if as_json:
        json_document(found)
    else:
        click.secho(f"{printable(found['owner'])}: {printable(found['published'])}", bold=True)
        for each in found["records"]:
            click.echo(f"  {printable(each['record'])}: {printable(each['meaning'])}")
        for server in found["servers"]:
            click.secho(f"  [{server['address']}]: {printable(server['result'])}", bold=True)
            for record in server["recommended"][:1]:
                click.echo(f"    its certificate would be: {record}")
    return 0 if found["ok"] else EX_UNAVAILABLE


async def _ask(settings: Settings, source: str) -> dict[str, Any]:
    from random import SystemRandom

    from deliver import endpoint
    from deliver.assembly import build_agent
    from deliver.errors import PeerError
    from deliver.message import domain_name
    from deliver.net.clock import WallClock
    from deliver.presented import presented_by
    from deliver.resolve.mx import NoHost
    from deliver.resolve.resolver import drive
    from deliver.resolve.tlsa import TlsaFailed, TlsaRecords, owner_name
    from deliver.resolve.walk import find_host
    from deliver.tls.records import compare, recommended
    from hints.memory import MemoryHints

    clock = WallClock()
    agent = build_agent(
        settings, hints=MemoryHints(clock=clock.now), clock=clock, rng=SystemRandom(), learner="tlsa"
    )
    name, given = endpoint.split(source)
    host = domain_name(name)
    destination = settings.towards(host, host)
    port = given or destination.delivery.port
    walk = find_host(
        host, port=port, families=destination.delivery.families, mx_secure=True, tlsa_unwanted=None
    )
    plan = (await drive(walk, agent.resolver)).plan
    if isinstance(plan, NoHost):
        return _nothing(owner_name(host, port), plan.why)
    status = plan.tlsa
    records = status.usable if isinstance(status, TlsaRecords) else ()
    base = status.base_domain if isinstance(status, TlsaRecords) else plan.expanded or host
    answer: dict[str, Any] = {"owner": owner_name(base, port), "records": [], "servers": [], "ok": True}
    answer["published"] = f"{len(records)} usable TLSA record{'' if len(records) == 1 else 's'}"
    if isinstance(status, TlsaFailed):
        answer |= {"ok": False, "published": f"the lookup failed: {status.why}"}
    answer["records"] += [{"record": str(each), "meaning": "usable"} for each in records]
    if isinstance(status, TlsaRecords):
        answer["records"] += [
            {"record": str(each), "meaning": f"unusable: {why}"} for each, why in status.unusable
        ]
    for address in plan.addresses:
        server: dict[str, Any] = {"address": address, "recommended": [], "matches": []}
        answer["servers"].append(server)
        try:
            shown = await presented_by(agent, destination, address, port, base)
        except PeerError as error:
            server["result"] = f"cannot be asked: {error.happened}"
            answer["ok"] = False
            continue
        compared = compare(records, shown.chain)
        fitting = [each for each in compared if each.matches is not None]
        server["recommended"] = [str(each) for each in recommended(shown.chain)]
        server["matches"] = [str(each.record) for each in fitting]
        server["result"] = f"{len(fitting)} of {len(records)} usable records fit what it presents"
        answer["ok"] = answer["ok"] and bool(fitting or not records)
    return answer


def _nothing(owner: str, why: str) -> dict[str, Any]:
    return {"owner": owner, "published": why, "records": [], "servers": [], "ok": False}
