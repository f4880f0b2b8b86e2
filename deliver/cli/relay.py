"""`outrider relay`: the smarthost daemon."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.reload import Reading

EPILOG = """\b
Examples:
  outrider relay
  outrider -o relay.listen='["127.0.0.1:2525"]' -o state_dir=/var/lib/outrider relay

\b
SIGTERM and SIGINT stop it: no new mail, running deliveries finish within queue.shutdown_grace;
a second signal cuts that short. Nothing that was accepted is lost either way.

\b
SIGHUP reads the settings again. Bad ones are refused and the old ones stay; running deliveries
finish with the old ones; listeners that did not change stay open.
"""


@click.command("relay", epilog=EPILOG)
@click.pass_obj
def relay(application: Application) -> int:
    """Accept mail over SMTP, keep it in the queue and deliver it. Runs in the foreground."""
    from deliver.report.log import configure
    from deliver.startup import start

    settings = application.settings
    configure(settings.log.level, settings.log.format)
    for warning in application.configuration.warnings:
        logging.getLogger("outrider.service").warning("%s", warning)
    return start(settings, application.digest, partial(reread, application))


def reread(application: Application) -> Reading:
    """The settings as they are now, with the log set up by them. Raises ConfigurationError."""
    from deliver.reload import Reading
    from deliver.report.log import configure

    before = application.digest
    configuration = application.read()
    configure(configuration.settings.log.level, configuration.settings.log.format)
    digest = application.digest
    return Reading(configuration.settings, digest if digest == before else None)
