"""`outrider explain`: why mail to a domain would go the way it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.explanation import Explanation
    from deliver.net.clock import Clock
    from deliver.report.trace import Finding
    from deliver.resolve.doctor import Examination
    from deliver.settings import Settings
    from hints.port import Hints

EPILOG = """\b
Examples:
  outrider explain example.org
  outrider explain someone@example.org --json
  outrider explain example.org --sender news@shop.example.com
  outrider explain example.org --sender ''
  outrider -o tls.level=dane-only explain example.org
  outrider explain example.org --connect
  outrider explain example.org --require-tls
  outrider explain --resolver

\b
Exit status: 0 a host can be used   75 mail would wait   69 mail would bounce
"""


@click.command("explain", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--resolver", is_flag=True, help="Examine the resolvers of the settings instead of a domain.")
@click.option(
    "--connect", is_flag=True, help="Contact the hosts too: EHLO, STARTTLS, judge, QUIT; no mail is sent."
)
@click.option("--sender", metavar="ADDRESS", help="Whose mail, for routes by sender; '' or '<>': bounces.")
@click.option("--require-tls", "requires_tls", is_flag=True, help="For a message with REQUIRETLS (RFC 8689).")
@click.argument("domain", metavar="DOMAIN", required=False)
@click.pass_obj
def explain(
    application: Application,
    as_json: bool,
    resolver: bool,
    connect: bool,
    sender: str | None,
    requires_tls: bool,
    domain: str | None,
) -> int:
    """Look DOMAIN up as a delivery would and print every decision with its evidence; no mail is sent."""
    import trio

    if resolver == (domain is not None):
        raise click.UsageError("give either DOMAIN or --resolver")
    if resolver and sender is not None:
        raise click.UsageError("--sender is about a DOMAIN")
    if domain is None:
        return _examine(application.settings, as_json)

    from deliver.cli.output import json_document
    from deliver.explanation import EXIT_STATUS
    from deliver.message import domain_name
    from deliver.report.log import configure

    settings = application.settings
    configure("warning", settings.log.format)
    name = domain_name(domain.rpartition("@")[2])
    found = trio.run(_explain, settings, name, _reverse_path(sender), connect, requires_tls)
    if as_json:
        json_document(found.as_dict())
    else:
        _show(found)
    return EXIT_STATUS[found.verdict]


def _reverse_path(text: str | None) -> str | None:
    """As an envelope has it; "" is the null reverse path. Raises UsageError."""
    from deliver.message import Mailbox

    if text is None:
        return None
    if text in ("", "<>"):
        return ""
    return str(Mailbox.parse(text, utf8=True))


def _examine(settings: Settings, as_json: bool) -> int:
    import trio

    from deliver.cli.output import json_document, printable
    from deliver.explanation import EX_TEMPFAIL

    found = trio.run(_examinations, settings)
    mode = settings.dns.dnssec
    fit = any(each.fit_for(mode) for each in found)
    if as_json:
        resolvers = [
            {
                "resolver": each.resolver,
                "state": each.state,
                "fit": each.fit_for(mode),
                "notes": list(each.notes),
            }
            for each in found
        ]
        json_document({"dnssec": mode, "fit": fit, "resolvers": resolvers})
        return 0 if fit else EX_TEMPFAIL
    for each in found:
        verdict = "fit" if each.fit_for(mode) else "NOT FIT"
        click.secho(f"{each.resolver}: {each.state}, {verdict} for dns.dnssec = {mode}", bold=True)
        for note in each.notes:
            click.echo(f"  {printable(note)}")
    return 0 if fit else EX_TEMPFAIL


async def _examinations(settings: Settings) -> tuple[Examination, ...]:
    from deliver.lookup import examine_resolvers
    from deliver.net.clock import WallClock

    return await examine_resolvers(settings, WallClock())


async def _explain(
    settings: Settings, name: str, sender: str | None, connect: bool, requires_tls: bool
) -> Explanation:
    from random import SystemRandom

    from deliver.assembly import build_agent
    from deliver.explanation import explain as explain_domain
    from deliver.lookup import caching_resolver
    from deliver.net.clock import WallClock

    clock = WallClock()
    hints = _kept_policies(settings, clock)
    resolver = caching_resolver(settings, clock, evidence=True)
    agent = build_agent(
        settings, hints=hints, clock=clock, rng=SystemRandom(), learner="explain", resolver=resolver
    )
    return await explain_domain(agent, name, sender=sender, connect=connect, requires_tls=requires_tls)


def _kept_policies(settings: Settings, clock: Clock) -> Hints:
    """Hints that are not written: what is learned by looking is nobody's advice."""
    from hints.location import file_of
    from hints.memory import MemoryHints
    from hints.onlooker import Onlooker

    if settings.hints.url == "memory":
        return MemoryHints(clock=clock.now)
    return Onlooker(file_of(settings.database_url(settings.hints.url)), clock=clock.now)


def _show(found: Explanation) -> None:
    from deliver.cli.output import printable

    words = {"ready": "a host can be used", "deferred": "mail would wait", "failed": "mail would bounce"}
    of = "" if found.sender is None else f" from <{printable(found.sender)}>"
    click.secho(f"{printable(found.domain)}{of}: {words[found.verdict]}", bold=True)
    _show_findings(found.findings, "  ")
    for host in found.hosts:
        click.echo()
        click.secho(f"  {printable(host.host)} port {host.port}: {host.policy}", bold=True)
        _show_findings(host.findings, "    ")
        if host.missing:
            click.echo(f"    missing for DANE: {printable(host.missing)}")
        for each in host.contacts:
            answer = "accepted" if each.accepted else printable(each.why)
            click.secho(f"    {printable(each.host)} [{each.address}]:{each.port}: {answer}", bold=True)
            if each.tls is not None:
                facts = (each.tls.version, each.tls.cipher, each.tls.group or "", each.tls.verified_by)
                click.echo(f"      {' '.join(facts)} ocsp={each.tls.ocsp}")
            _show_findings(each.findings, "      ")
    click.echo()
    click.secho("  Lookups", bold=True)
    for lookup in found.lookups:
        click.echo(f"    {printable(lookup.name)} {lookup.type}: {printable(lookup.result)}")
        for depth, step in enumerate(lookup.evidence):  # from the trust anchor down to the answer
            click.echo(f"      {'  ' * depth}{'└ ' if depth else ''}{printable(step.text)}")


def _show_findings(findings: tuple[Finding, ...], indent: str) -> None:
    from deliver.cli.output import printable

    marks = {"ok": "+", "refused": "!"}
    for each in findings:
        rule = f"  [{each.rfc}]" if each.rfc else ""
        click.echo(f"{indent}{marks.get(each.verdict, ' ')} {printable(each.text)}{rule}")
