"""`outrider relay`: the smarthost daemon."""

from __future__ import annotations

import logging

import click

from deliver.cli.frame import Application

EPILOG = """\b
Examples:
  outrider relay
  outrider -o relay.listen='["127.0.0.1:2525"]' -o state_dir=/var/lib/outrider relay

\b
SIGTERM and SIGINT stop it: no new mail, running deliveries finish within queue.shutdown_grace;
a second signal cuts that short. Nothing that was accepted is lost either way.
"""


@click.command("relay", epilog=EPILOG)
@click.pass_obj
def relay(application: Application) -> None:
    """Accept mail over SMTP, keep it in the queue and deliver it. Runs in the foreground."""
    import trio

    from deliver.report.log import configure
    from deliver.service import run_relay

    settings = application.settings
    configure(settings.log.level, settings.log.format)
    for warning in application.configuration.warnings:
        logging.getLogger("outrider.service").warning("%s", warning)
    trio.run(run_relay, settings, application.digest)
