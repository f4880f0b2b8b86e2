"""`outrider send`: one message from standard input, delivered now, in this process, without a queue."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.message import Mailbox

EPILOG = """\b
Examples:
  outrider send -f me@example.org you@example.com < message.eml
  outrider send -f '' postmaster@example.com < bounce.eml
  outrider -o tls.level=dane-only send --json you@example.com < message.eml

\b
Exit status:
  0 all delivered   75 some deferred: try again   69 none deferred, some failed
  64 usage          65 unusable message           78 configuration
"""


@click.command("send", epilog=EPILOG)
@click.option(
    "-f",
    "sender",
    metavar="SENDER",
    help="Envelope sender; '' is the null sender. Without it: the user at this machine's name.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per recipient.")
@click.option("-v", "--verbose", is_flag=True, help="Write the log to standard error.")
@click.argument("recipients", nargs=-1, required=True, metavar="RCPT…")
@click.pass_obj
def send(
    application: Application,
    sender: str | None,
    as_json: bool,
    verbose: bool,
    recipients: tuple[str, ...],
) -> int:
    """Deliver the message on standard input to each RCPT and say what became of it.

    Lines may end in LF or CRLF. Nothing is queued: on exit status 75 the caller keeps the message.
    """
    from deliver.cli.output import json_lines
    from deliver.errors import OutriderError
    from deliver.message import Mailbox
    from deliver.report.log import configure
    from deliver.report.result import EX_TEMPFAIL, as_dict, as_line, exit_status
    from deliver.sending import deliver_now  # loads trio and the whole delivery

    settings = application.settings
    configure(settings.log.level if verbose else "warning", settings.log.format)
    boxes = tuple(Mailbox.parse(recipient) for recipient in dict.fromkeys(recipients))
    reverse_path = _reverse_path(sender, settings.delivery.helo)
    try:
        results = deliver_now(settings, reverse_path, boxes, sys.stdin.buffer)
    except (OutriderError, BaseExceptionGroup):
        raise
    except Exception:  # a bug: the caller must keep the message, and 70 might make it bounce
        traceback.print_exc()
        return EX_TEMPFAIL
    if as_json:
        json_lines(as_dict(*result) for result in results)
    else:
        for recipient, outcome, _ in results:
            click.echo(as_line(recipient, outcome))
    return exit_status(tuple(outcome for _, outcome, _ in results))


def _reverse_path(sender: str | None, helo: str) -> Mailbox | None:
    import getpass

    from deliver.identity import host_name
    from deliver.message import Mailbox

    if sender == "":
        return None
    return Mailbox.parse(sender if sender is not None else f"{getpass.getuser()}@{host_name(helo)}")
