"""`outrider queue retry|hold|release|remove|bounce`: changes to what waits, beside the running relay.

exit status   meaning
------------  ----------------------------------------------------------------------------------
0             all that were meant were changed; or nothing matched a filter
64            nobody is named, an id is not waiting, or many are meant and nobody confirmed
75            some were left alone, because an attempt is under way or something holds them
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from deliver.cli.output import json_document, json_lines, note, table
from deliver.cli.queue_filters import duration_of, filters, places_of, selection_of
from deliver.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from deliver.cli.frame import Application
    from deliver.queue.changes import Changed
    from deliver.queue.layout import Key
    from deliver.queue.reading import Place
    from deliver.queue.selection import Selection

EX_TEMPFAIL = 75
CHUNK = 200  # recipients in one transaction: the relay waits for it
SHOW_PROGRESS = 1000  # recipients from which a progress bar is shown on a terminal
MAX_SHOWN = 1000  # recipients that --dry-run lists

Change = Callable[["Connection", "Sequence[Key]", float], "Changed"]


@dataclass(frozen=True, slots=True)
class Order:
    """What a verb was asked to do: `done` is its past participle, for the summary."""

    verb: str
    done: str
    selection: Selection
    change: Callable[[], Change]
    everything: bool
    dry_run: bool
    yes: bool
    as_json: bool


def _example(text: str) -> str:
    return f"\b\nExample:\n  outrider queue {text}"


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what all changing verbs have in common: ids, filters, --all, --dry-run, --yes, --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object that says what was done."),
        click.option("--yes", is_flag=True, help="Do not ask, however many are meant."),
        click.option("--dry-run", is_flag=True, help="Only say who is meant."),
        click.option("--all", "everything", is_flag=True, help="Mean everything that waits."),
    ):
        command = option(command)
    return click.argument("ids", metavar="[ID]...", nargs=-1)(filters(command))


@click.command("retry", epilog=_example("retry --domain example.org"))
@changing
@click.pass_obj
def retry(application: Application, /, ids: tuple[str, ...], **options: Any) -> int:
    """Try recipients again now. Those that are held stay held."""

    def change() -> Change:
        from deliver.queue import changes  # loads SQLAlchemy: not before something is to be changed

        return changes.retry

    return _obey(application, ids, options, "retry", "due now", change)


@click.command("hold", epilog=_example("hold 1ABC2DEF --reason 'asked the sender' --until 2d"))
@changing
@click.option("--reason", default="held by the administrator", show_default=True, help="Shown to who looks.")
@click.option(
    "--until", metavar="TIME", help="Release them after this time, say 2h or 1d; else by `release`."
)
@click.pass_obj
def hold(
    application: Application, /, ids: tuple[str, ...], reason: str, until: str | None, **options: Any
) -> int:
    """Hold recipients: they are neither tried nor given up until they are released."""
    seconds = duration_of("--until", until)
    end = None if seconds is None else _now() + seconds

    def change() -> Change:
        from deliver.cli.queue_shards import event_append
        from deliver.queue import changes

        append = event_append(application.settings)
        return partial(changes.hold_back, reason=reason, until=end, append=append)

    return _obey(application, ids, options, "hold", "held", change)


@click.command("release", epilog=_example("release --sender app@example.com --yes"))
@changing
@click.pass_obj
def release(application: Application, /, ids: tuple[str, ...], **options: Any) -> int:
    """Try held recipients again. Those that a freeze rule holds are released by `thaw`."""

    def change() -> Change:
        from deliver.cli.queue_shards import event_append
        from deliver.queue import changes

        return partial(changes.release, append=event_append(application.settings))

    return _obey(application, ids, options, "release", "released", change)


@click.command("remove", epilog=_example("remove --sender app@example.com --older-than 2d"))
@changing
@click.option(
    "--reason", default="removed by the administrator", show_default=True, help="Recorded with the event."
)
@click.pass_obj
def remove(application: Application, /, ids: tuple[str, ...], reason: str, **options: Any) -> int:
    """Remove recipients for good, without telling the sender."""

    def change() -> Change:
        from deliver.cli.queue_shards import event_append
        from deliver.queue import changes

        return partial(changes.remove, reason=reason, append=event_append(application.settings))

    return _obey(application, ids, options, "remove", "removed", change)


@click.command("bounce", epilog=_example("bounce --text 'mailbox full' --reason 'given up'"))
@changing
@click.option(
    "--reason",
    default="the administrator has given up the delivery",
    show_default=True,
    help="The sender reads this.",
)
@click.pass_obj
def bounce(application: Application, /, ids: tuple[str, ...], reason: str, **options: Any) -> int:
    """Give recipients up and tell the sender; the running relay sends the bounces."""

    def change() -> Change:
        from deliver.cli.queue_shards import event_append
        from deliver.queue import changes

        return partial(changes.bounce, reason=reason, append=event_append(application.settings))

    return _obey(application, ids, options, "bounce", "bounced", change)


def _obey(
    application: Application,
    ids: tuple[str, ...],
    options: dict[str, Any],
    verb: str,
    done: str,
    change: Callable[[], Change],
) -> int:
    order = Order(
        verb,
        done,
        selection_of(options, ids),
        change,
        everything=options["everything"],
        dry_run=options["dry_run"],
        yes=options["yes"],
        as_json=options["as_json"],
    )
    if order.selection.everything and not order.everything:
        raise UsageError(
            f"outrider queue {verb}", "nobody is named", "give ids, filters, or --all for everything"
        )
    now = _now()
    meant = _meant(places_of(application), order.selection, now)
    _check_ids(ids, meant)
    if order.dry_run:
        return _say_who(order, meant)
    total = sum(len(keys) for keys in meant.values())
    if total == 0:
        note("Nothing in the queue matches.")
        return 0
    _confirm(order, meant, total)
    return _say_what(order, _carry_out(order, meant, total, now))


def _meant(places: tuple[Place, ...], selection: Selection, now: float) -> dict[Place, list[Key]]:
    from deliver.queue import browse
    from deliver.queue.reading import looking

    found = {}
    for place in places:
        with looking(place) as reader:
            found[place] = browse.matching(reader, selection, now)
    return found


def _check_ids(ids: tuple[str, ...], meant: dict[Place, list[Key]]) -> None:
    """A mistyped id is an error before anything is changed."""
    known = {key.message_id for keys in meant.values() for key in keys}
    unknown = [each for each in ids if each not in known]
    if unknown:
        raise UsageError(
            f"looking for message {', '.join(unknown[:10])}",
            "nothing of it waits, or the filters leave it out",
            "see `outrider queue list`; nothing was changed",
        )


def _confirm(order: Order, meant: dict[Place, list[Key]], total: int) -> None:
    if order.yes or order.selection.ids or total == 1:
        return
    messages = len({key.message_id for keys in meant.values() for key in keys})
    asked = f"{order.verb} {total} recipients of {messages} messages"
    if not sys.stdin.isatty():
        raise UsageError(
            asked, "nobody can be asked whether that is meant", "add --yes, or see with --dry-run"
        )
    click.confirm(f"{asked[0].upper()}{asked[1:]}?", abort=True, err=True)


def _carry_out(order: Order, meant: dict[Place, list[Key]], total: int, now: float) -> Changed:
    from deliver.cli.queue_shards import spool_of, writing
    from deliver.queue.changes import Changed
    from deliver.queue.content import remove as remove_files

    done, change = Changed(), order.change()
    hidden = total < SHOW_PROGRESS or not sys.stderr.isatty()
    with click.progressbar(length=total, label=order.verb, file=sys.stderr, hidden=hidden) as bar:
        for place, keys in meant.items():
            if not keys:
                continue
            with writing(place) as shard:
                for start in range(0, len(keys), CHUNK):
                    part = keys[start : start + CHUNK]
                    one = shard.write(partial(_change, change, part, now))
                    if one.removable:
                        remove_files(spool_of(place), one.removable)
                    done += one
                    bar.update(len(part))
    return done


def _change(change: Change, keys: Sequence[Key], now: float, conn: Connection) -> Changed:
    return change(conn, keys, now)


def _say_who(order: Order, meant: dict[Place, list[Key]]) -> int:
    from deliver.queue import browse
    from deliver.queue.reading import looking

    rows = []
    for place, keys in meant.items():
        with looking(place) as reader:
            rows += browse.named(reader, keys[:MAX_SHOWN])
    total = sum(len(keys) for keys in meant.values())
    if order.as_json:
        json_lines({"would": order.verb, **row} for row in rows)
    else:
        table(
            ("id", "to", "state"),
            [(row["id"], row["recipient"], row["state"]) for row in rows],
            empty="Nothing in the queue matches.",
        )
    if total:
        note(f"dry run: {order.verb} would mean {total} recipients; nothing was changed")
    return 0


def _say_what(order: Order, done: Changed) -> int:
    left = done.busy + done.held + done.frozen
    if order.as_json:
        counted = {key: value for key, value in asdict(done).items() if key != "removable"}
        json_document({"verb": order.verb, **counted})
    else:
        click.echo(f"{_recipients(done.changed)} {order.done}")
        if done.busy:
            note(f"{_recipients(done.busy)} left alone: an attempt is under way; try again when it has ended")
        if done.held:
            note(f"{_recipients(done.held)} left alone: held; see `outrider queue release`")
        if done.frozen:
            note(
                f"{_recipients(done.frozen)} left alone: a freeze rule holds them; see `outrider queue thaw`"
            )
    return EX_TEMPFAIL if left else 0


def _recipients(count: int) -> str:
    return f"{count} recipient{'' if count == 1 else 's'}"


def _now() -> float:
    return datetime.now(UTC).timestamp()
