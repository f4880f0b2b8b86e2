"""The options of `outrider queue` that say which recipients are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deliver.errors import UsageError
from deliver.quantity import Duration, Size

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from deliver.queue.reading import Place
    from deliver.queue.selection import Selection

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--domain", metavar="NAME", help="Only to this domain; *.NAME for those below it."),
    click.option("--sender", metavar="ADDRESS", help="Only from this address or domain; <> for bounces."),
    click.option("--recipient", metavar="ADDRESS", help="Only this recipient."),
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice(["queued", "active", "held"]),
        help="Only those in this state; may be repeated. active: an attempt is under way.",
    ),
    click.option("--older-than", metavar="TIME", help="Only mail received longer ago than, say, 2h or 1d."),
    click.option("--newer-than", metavar="TIME", help="Only mail received less long ago."),
    click.option("--text", metavar="TEXT", help="Only where the last reason says this: host, error, code."),
    click.option("--larger-than", metavar="SIZE", help="Only larger messages, say 10MB."),
    click.option("--smaller-than", metavar="SIZE", help="Only smaller messages."),
)
NAMES = (
    *("domain", "sender", "recipient", "states", "older_than", "newer_than", "text", "larger_than"),
    "smaller_than",
)


def filters(command: Command) -> Command:
    """Add the options to a command; it gets them as keywords, for `selection_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def selection_of(options: dict[str, Any], ids: tuple[str, ...] = ()) -> Selection:
    """The options as a value. Raises UsageError."""
    from deliver.queue.selection import Selection, conditions, parse_states

    selection = Selection(
        ids=ids,
        domain=options["domain"],
        sender=options["sender"],
        recipient=options["recipient"],
        states=parse_states(options["states"]),
        older_than=duration_of("--older-than", options["older_than"]),
        newer_than=duration_of("--newer-than", options["newer_than"]),
        text=options["text"],
        larger_than=_size_of("--larger-than", options["larger_than"]),
        smaller_than=_size_of("--smaller-than", options["smaller_than"]),
    )
    conditions(selection, now=0.0)  # what a pattern cannot mean is said before anything is opened
    return selection


def duration_of(option: str, text: str | None) -> float | None:
    """Seconds. Raises UsageError."""
    try:
        return None if text is None else float(Duration.parse(text))
    except ValueError as error:
        raise UsageError(f"reading {option}", str(error), "write a time such as 90s, 2h or 1d") from None


def _size_of(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(Size.parse(text))
    except ValueError as error:
        raise UsageError(f"reading {option}", str(error), "write a size such as 100kB or 10MB") from None


def places_of(application: Application) -> tuple[Place, ...]:
    """Where the parts of the queue are. Raises ConfigurationError."""
    from deliver.queue.reading import shard_files

    settings = application.settings
    if settings.queue.url is None:
        return shard_files(settings.path(settings.queue.directory))
    from deliver.queueing import queue_url  # loads all that the relay does

    shared = queue_url(settings)
    assert shared is not None
    return (shared,)
