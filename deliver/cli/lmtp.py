"""`outrider lmtp`: the LMTP listener alone, for an MTA that keeps the queue."""

from __future__ import annotations

import logging
from functools import partial

import click

from deliver.cli.frame import Application

EPILOG = """\b
Examples:
  outrider lmtp
  outrider -o lmtp.listen='["127.0.0.1:2424"]' -o state_dir=/var/lib/outrider lmtp

\b
In Postfix: default_transport = lmtp:inet:127.0.0.1:2424
SIGTERM and SIGINT stop it: no new mail, running deliveries finish within queue.shutdown_grace;
a second signal cuts that short. Whoever has no outcome then is answered 451. SIGHUP reads the settings
again; bad ones are refused and the old ones stay.
"""


@click.command("lmtp", epilog=EPILOG)
@click.pass_obj
def lmtp(application: Application) -> int:
    """Deliver for an MTA that keeps the queue: one answer per recipient, after the delivery."""
    from deliver.cli.relay import reread
    from deliver.report.log import configure
    from deliver.startup import start_lmtp

    settings = application.settings
    configure(settings.log.level, settings.log.format)
    for warning in application.configuration.warnings:
        logging.getLogger("outrider.service").warning("%s", warning)
    return start_lmtp(settings, application.digest, partial(reread, application))
