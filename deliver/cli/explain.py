"""`outrider explain`: why mail to a domain would go the way it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.explanation import Explanation
    from deliver.report.trace import Finding
    from deliver.settings import Settings

EPILOG = """\b
Examples:
  outrider explain example.org
  outrider explain someone@example.org --json
  outrider -o tls.level=dane-only explain example.org

\b
Exit status: 0 a host can be used   75 mail would wait   69 mail would bounce
"""


@click.command("explain", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("domain", metavar="DOMAIN")
@click.pass_obj
def explain(application: Application, as_json: bool, domain: str) -> int:
    """Look DOMAIN up as a delivery would and print every decision with its evidence; nothing is sent."""
    import trio

    from deliver.cli.output import json_document
    from deliver.explanation import EXIT_STATUS
    from deliver.message import domain_name
    from deliver.report.log import configure

    settings = application.settings
    configure("warning", settings.log.format)
    name = domain_name(domain.rpartition("@")[2])
    found = trio.run(_explain, settings, name)
    if as_json:
        json_document(found.as_dict())
    else:
        _show(found)
    return EXIT_STATUS[found.verdict]


async def _explain(settings: Settings, name: str) -> Explanation:
    from random import SystemRandom

    from deliver.explanation import explain as explain_domain
    from deliver.net.clock import WallClock
    from deliver.service import build_agent
    from hints.memory import MemoryHints

    clock = WallClock()
    hints = MemoryHints(clock=clock.now)
    agent = build_agent(settings, hints=hints, clock=clock, rng=SystemRandom(), learner="explain")
    return await explain_domain(agent, name)


def _show(found: Explanation) -> None:
    from deliver.cli.output import printable

    words = {"ready": "a host can be used", "deferred": "mail would wait", "failed": "mail would bounce"}
    click.secho(f"{printable(found.domain)}: {words[found.verdict]}", bold=True)
    _show_findings(found.findings, "  ")
    for host in found.hosts:
        click.echo()
        click.secho(f"  {printable(host.host)} port {host.port}: {host.policy}", bold=True)
        _show_findings(host.findings, "    ")
        if host.missing:
            click.echo(f"    missing for DANE: {printable(host.missing)}")


def _show_findings(findings: tuple[Finding, ...], indent: str) -> None:
    from deliver.cli.output import printable

    marks = {"ok": "+", "refused": "!"}
    for each in findings:
        rule = f"  [{each.rfc}]" if each.rfc else ""
        click.echo(f"{indent}{marks.get(each.verdict, ' ')} {printable(each.text)}{rule}")
