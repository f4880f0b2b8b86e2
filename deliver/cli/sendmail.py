"""`outrider sendmail`: the sendmail command line, for programs that call it.

`deliver.submission` does the work, in most cases before click is loaded (see `deliver.cli`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.settings import Settings
    from deliver.submission.client import Message
    from deliver.submission.local import Local

EPILOG = """\b
Examples:
  outrider sendmail -t -i < message.eml
  outrider sendmail -f app@example.org you@example.com < message.eml
  ln -s /usr/bin/outrider /usr/sbin/sendmail

\b
Options:
  -t             recipients from To, Cc and Bcc too; Bcc is removed
  -i, -oi        a line with a single dot is text, not the end
  -f, -r SENDER  envelope sender; '' is the null sender     -F NAME  full name for From
  -N WHEN        never, or success,failure,delay (RFC 3461) -R full|hdrs    -V ID
  -bs            SMTP on standard input     -bp  as `outrider queue list`     -bi  nothing
  Other options of sendmail are read and have no effect.

\b
Exit status:
  0  the relay has it   64 usage   65 unusable text   69 refused for good   75 try again   78 settings
"""


@click.command(
    "sendmail",
    epilog=EPILOG,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.help_option("--help")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[WORD]…")
@click.pass_context
def sendmail(ctx: click.Context, words: tuple[str, ...]) -> int:
    """Submit the message on standard input to the relay, as sendmail would.

    What its header lacks (Date, Message-ID, From) is added. The relay has the message on disk when this
    returns 0. If it does not run, root and its own user put the message into its queue; others get 75. With
    sendmail.via = "direct" the message is delivered by this process and nothing is queued. 75 means that the
    caller has to try again.
    """
    from deliver.submission.command import run
    from deliver.submission.options import BadOption, parse

    application = ctx.obj
    assert isinstance(application, Application)
    try:
        if parse(list(words)).mode == "queue":
            return _queue(ctx)
    except BadOption:
        pass  # `run` says it
    settings = application.settings
    status = run(
        list(words),
        known=_local(settings),
        direct=lambda message: _deliver(settings, message),
        settings=lambda: settings,
    )
    assert status is not None
    return status


def _queue(ctx: click.Context) -> int:
    from deliver.cli.queue import queue

    found = ctx.invoke(queue.commands["list"])
    return found if isinstance(found, int) else 0


def _local(settings: Settings) -> Local:
    from deliver.submission.local import from_mapping

    return from_mapping(
        {
            "sendmail": {
                "relay": settings.sendmail.relay,
                "domain": settings.sendmail.domain,
                "via": settings.sendmail.via,
                "detect_utf8": settings.sendmail.detect_utf8,
            },
            "relay": {"listen": list(settings.relay.listen), "hostname": settings.relay.hostname},
            "delivery": {"helo": settings.delivery.helo},
            "state_dir": settings.state_dir,
            "queue": {"directory": settings.queue.directory, "url": settings.queue.url},
        }
    )


def _deliver(settings: Settings, message: Message) -> int:
    from io import BytesIO

    from deliver.message import Mailbox
    from deliver.report.log import configure
    from deliver.report.result import exit_status, rendered
    from deliver.sending import deliver_now

    configure("warning", settings.log.format)
    sender = Mailbox.parse(message.sender, utf8=True) if message.sender else None
    boxes = tuple(dict.fromkeys(Mailbox.parse(one, utf8=True) for one in message.recipients))
    results = deliver_now(settings, sender, boxes, BytesIO(message.content), detect_utf8=message.utf8_header)
    status = exit_status(tuple(outcome for _, outcome, _ in results))
    if status:
        sys.stderr.write(rendered(results, as_json=False))
    return status
