"""`outrider queue`: what waits and why, and what an administrator does about it.

Works on the database files of the shards, also while the relay runs; it notices within a second.
"""

from __future__ import annotations

import click

from deliver.cli.queue_change import bounce, hold, release, remove, retry
from deliver.cli.queue_export import export
from deliver.cli.queue_freeze import freeze, thaw
from deliver.cli.queue_list import list_, summary
from deliver.cli.queue_show import show

EPILOG = """\b
Examples:
  outrider queue list --domain example.org
  outrider queue show 1ABC2DEF
  outrider queue summary
  outrider queue retry --domain example.org
  outrider queue freeze domain example.org --reason "they asked us to wait" --until 12h
  outrider queue bounce --text "mailbox full" --older-than 1d --dry-run
"""


@click.group(epilog=EPILOG)
def queue() -> None:
    """See what waits in the queue and why; retry, hold, remove, bounce, freeze or export it."""


for _command in (list_, show, summary, retry, hold, release, remove, bounce, freeze, thaw, export):
    queue.add_command(_command)
