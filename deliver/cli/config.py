"""`outrider config`: check the settings, show what is in effect."""

from __future__ import annotations

import click

from deliver.cli.frame import Application
from deliver.cli.output import json_document, note


@click.group()
def config() -> None:
    """Check and show the settings.

    \b
    Examples:
      outrider config check
      outrider --config new.toml config check
      outrider -o tls.level=dane-only config show
      outrider config show --json | jq .smtp.timeouts
    """


@config.command()
@click.pass_obj
def check(app: Application) -> None:
    """Read the settings; print OK, or every problem with its key, line and remedy (exit status 78).

    \b
    Examples:
      outrider config check
      outrider --config /etc/outrider/new.toml config check && systemctl restart outrider
    """
    configuration = app.configuration
    for warning in configuration.warnings:
        note(f"outrider: warning: {warning}")
    click.echo(f"OK: {configuration.file or 'no settings file, the defaults hold'}")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of TOML.")
@click.pass_obj
def show(app: Application, as_json: bool) -> None:
    """Print the effective settings, each with its origin: default, a line of the file, or an override.

    \b
    Examples:
      outrider config show
      outrider -o dns.timeout=5s config show --json
    """
    from deliver.configuration.show import as_data, as_toml

    if as_json:
        json_document(as_data(app.configuration.settings))
    else:
        click.echo(as_toml(app.configuration), nl=False)
