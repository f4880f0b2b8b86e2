"""`outrider send`: one message from standard input, delivered now, without a queue.

This is the delivery in the calling process; `deliver.handover` comes before it (see `deliver.cli`).
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application, discard_stdout

if TYPE_CHECKING:
    from deliver.message import Mailbox

EPILOG = """\b
Examples:
  outrider send -f me@example.org you@example.com < message.eml
  outrider send -f '' postmaster@example.com < bounce.eml
  outrider send --queue-id 4XyZ12 -f me@example.org you@example.com < message.eml
  outrider send --require-tls -f me@example.org you@example.com < message.eml
  outrider -o tls.level=dane-only send --json you@example.com < message.eml

\b
Exit status:
  0 all delivered   75 some deferred: try again   69 none deferred, some failed
  64 usage          65 unusable message           78 configuration
With --queue-id the caller is an MTA that would bounce on others: all but 0, 65 and 69 become 75.
"""


@click.command("send", epilog=EPILOG)
@click.option(
    "-f",
    "sender",
    metavar="SENDER",
    help="Envelope sender; '' is the null sender. Without it: the user at this machine's name.",
)
@click.option(
    "--queue-id",
    metavar="ID",
    default="",
    help="The caller's name for the message: recipients that were settled before are not delivered to again.",
)
@click.option(
    "--require-tls",
    "requires_tls",
    is_flag=True,
    help="Only over TLS, to servers that are sure to be the right ones and hand it on the same way "
    "(REQUIRETLS, RFC 8689); it fails with 5.7.30 where no server of a domain offers that.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per recipient.")
@click.option("-v", "--verbose", is_flag=True, help="Write the log to standard error.")
@click.argument("recipients", nargs=-1, required=True, metavar="RCPT…")
@click.pass_obj
def send(
    application: Application,
    sender: str | None,
    queue_id: str,
    requires_tls: bool,
    as_json: bool,
    verbose: bool,
    recipients: tuple[str, ...],
) -> int:
    """Deliver the message on standard input to each RCPT and say what became of it.

    Lines may end in LF or CRLF. Nothing is queued: on exit status 75 the caller keeps the message. A running
    service with the same configuration, started by the same user, takes the delivery over, unless -o or -v
    is given.
    """
    from deliver.errors import OutriderError, UsageError
    from deliver.handover.frames import MAX_QUEUE_ID
    from deliver.message import Mailbox
    from deliver.report.log import configure
    from deliver.report.result import EX_TEMPFAIL, EX_UNAVAILABLE, exit_status, rendered
    from deliver.sending import deliver_now  # loads what the first question needs

    if len(queue_id) > MAX_QUEUE_ID:
        raise UsageError(
            f"reading --queue-id {queue_id[:40]}…", f"it has more than {MAX_QUEUE_ID} characters"
        )
    settings = application.settings
    configure(settings.log.level if verbose else "warning", settings.log.format)
    try:
        boxes = tuple(dict.fromkeys(Mailbox.parse(recipient, utf8=True) for recipient in recipients))
        reverse_path = _reverse_path(sender, settings.delivery.helo)
    except UsageError as error:
        if not queue_id:
            raise
        # of this address nothing will ever come: the caller bounces
        _print(f"failed 5.1.3: {error}\n", queue_id)
        return EX_UNAVAILABLE
    try:
        detect = settings.send.detect_utf8 and not queue_id  # a calling MTA has its own mind about that
        results = deliver_now(
            settings,
            reverse_path,
            boxes,
            sys.stdin.buffer,
            queue_id,
            detect_utf8=detect,
            requires_tls=requires_tls,
        )
    except (OutriderError, BaseExceptionGroup):
        raise
    except Exception:  # a bug: the caller must keep the message, and 70 might make it bounce
        traceback.print_exc()
        return EX_TEMPFAIL
    _print(rendered(results, as_json=as_json), queue_id)
    return exit_status(tuple(outcome for _, outcome, _ in results))


def _print(text: str, queue_id: str) -> None:
    """Say it. A calling MTA that does not listen, or has no space for it, goes by the status."""
    try:
        click.echo(text, nl=False)
    except OSError:
        if not queue_id:
            raise
        discard_stdout()


def _reverse_path(sender: str | None, helo: str) -> Mailbox | None:
    import getpass

    from deliver.identity import host_name
    from deliver.message import Mailbox

    if sender == "":
        return None
    text = sender if sender is not None else f"{getpass.getuser()}@{host_name(helo)}"
    return Mailbox.parse(text, utf8=True)
