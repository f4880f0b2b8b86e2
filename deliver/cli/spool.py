"""`outrider spool`: messages that Exim's queuefile transport left in a directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.spooling import Summary

EX_DATAERR = 65
EX_TEMPFAIL = 75

EPILOG = """\b
Examples:
  outrider spool /var/spool/outrider-in
  outrider spool --watch /var/spool/outrider-in
  outrider spool --list /var/spool/outrider-in

\b
Exit status:
  0  everything was taken   75  something could not be taken yet
  65 something can never be a message: it is in DIR/set-aside, with the reason

\b
Run it as the user that Exim runs as. `outrider relay` does the same by itself for each of
spool.directories. See the how-to for Exim's configuration.
"""


@click.command("spool", epilog=EPILOG)
@click.option("--watch", is_flag=True, help="Go on until SIGTERM or SIGINT; look every spool.interval.")
@click.option("--list", "as_list", is_flag=True, help="Only say what is there and whether it is ready.")
@click.option("-v", "--verbose", is_flag=True, help="Write the log to standard error, also without --watch.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def spool(application: Application, watch: bool, as_list: bool, verbose: bool, directory: Path) -> int:
    """Take the messages in DIR (files -H and -D as Exim writes them) into the queue and deliver them.

    A running relay with the same configuration delivers what is put into its queue; without one this
    process delivers. Recipients that have to wait stay in the queue; the relay, or the next call, tries
    them again.
    """
    import trio

    from deliver.report.log import configure
    from deliver.spooling import check_directory, run_spool

    check_directory(directory)
    if as_list:
        return _list(directory)
    settings = application.settings
    configure(settings.log.level if watch or verbose else "warning", settings.log.format)
    for warning in application.configuration.warnings:
        logging.getLogger("outrider.service").warning("%s", warning)
    return _say(trio.run(lambda: run_spool(settings, directory, watch=watch)))


def _say(summary: Summary) -> int:
    where = " into the queue of the running relay" if summary.fed else ""
    click.echo(f"{summary.taken} taken{where}, {summary.aside} set aside, {len(summary.waiting)} not yet")
    for _, spool_id, why in summary.waiting:
        click.echo(f"{spool_id}: {why}" if spool_id else why)
    if summary.aside:
        return EX_DATAERR
    return EX_TEMPFAIL if summary.waiting else 0


def _list(directory: Path) -> int:
    from deliver.cli.output import table
    from deliver.spool.listing import listed

    rows = [(one.id, one.state, one.sender, ", ".join(one.recipients), one.note) for one in listed(directory)]
    table(("id", "state", "sender", "to", "note"), rows, empty="No message is there.")
    return 0
