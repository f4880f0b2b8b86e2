"""`outrider queue freeze` and `outrider queue thaw`: rules that hold mail, each with a reason and an end."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from deliver.cli.output import age, json_lines, moment, note, table
from deliver.cli.queue_filters import places_of
from deliver.errors import StorageError, UsageError
from deliver.quantity import Duration

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from deliver.queue.rule import Rule

FOREVER = "forever"

EPILOG = """\b
Examples:
  outrider queue freeze domain example.org --reason "they asked us to wait" --until 12h
  outrider queue freeze sender app@example.com --reason "runaway job 4711"
  outrider queue freeze host mx1.example.net --reason "maintenance" --until 2026-12-31
  outrider queue freeze list
  outrider queue thaw 3
"""


@click.group(epilog=EPILOG)
def freeze() -> None:
    """Hold mail by recipient domain or sender, or keep away from a host, until a date."""


def _of_kind(kind: str, about: str) -> None:
    @freeze.command(kind, help=about, epilog="END is a time from now such as 12h, a date, or `forever`.")
    @click.argument("pattern")
    @click.option("--reason", required=True, help="Why; whoever looks at the queue reads it.")
    @click.option(
        "--until", "end", default="1d", show_default=True, metavar="END", help="When the rule ends."
    )
    @click.pass_obj
    def command(application: Application, pattern: str, reason: str, end: str) -> None:
        _add(application, kind, pattern, reason, end)


_of_kind("domain", "Hold mail to a recipient domain, or to *.domain.")
_of_kind("sender", "Hold mail from a sender's address or domain, or from <>.")
_of_kind("host", "Do not contact a host: a name, *.name, an address or a network.")


@freeze.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per rule.")
@click.pass_obj
def list_(application: Application, as_json: bool) -> None:
    """List the rules with their reasons and ends."""
    from deliver.queue.reading import looking
    from deliver.queue.rule import listed

    now = datetime.now(UTC).timestamp()
    found: dict[int, Rule] = {}
    for place in places_of(application):
        with looking(place) as reader:
            found |= {rule.id: rule for rule in listed(reader)}
    if as_json:
        json_lines(asdict(rule) for rule in found.values())
        return
    table(
        ("rule", "kind", "pattern", "made", "ends", "reason"),
        [
            (
                rule.id,
                rule.kind.value,
                rule.pattern,
                age(now - rule.created_at),
                "never" if rule.until is None else age(now - rule.until),
                rule.reason,
            )
            for rule in found.values()
        ],
        empty="Nothing is frozen.",
    )


@click.command(epilog="\b\nExample:\n  outrider queue thaw 3")
@click.argument("rules", metavar="RULE...", nargs=-1, required=True, type=int)
@click.pass_obj
def thaw(application: Application, rules: tuple[int, ...]) -> None:
    """Take freeze rules back and release what they hold."""
    from deliver.cli.queue_shards import event_append, writing
    from deliver.queue import changes, freeze as freezing

    now = datetime.now(UTC).timestamp()
    append = event_append(application.settings)
    known: set[int] = set()
    released = 0
    for place in places_of(application):
        with writing(place) as shard:
            ours = [rule.id for rule in shard.read(freezing.rules) if rule.id in rules]
            known |= set(ours)
            thaw_some = partial(changes.thaw, rule_ids=ours, now=now, append=append)
            while ours and (part := shard.write(thaw_some)):
                released += part
    unknown = [str(rule) for rule in rules if rule not in known]
    if unknown:
        raise UsageError(
            f"thawing rule {', '.join(unknown)}", "there is none", "see `outrider queue freeze list`"
        )
    click.echo(f"{released} recipients released")


def _add(application: Application, kind: str, pattern: str, reason: str, end: str) -> None:
    from deliver.cli.queue_shards import event_append, writing
    from deliver.queue import changes, freeze as freezing

    now = datetime.now(UTC).timestamp()
    until = end_of(end, now)
    wanted = freezing.Kind(kind)
    freezing.checked_pattern(wanted, pattern)
    append = event_append(application.settings)
    places = places_of(application)
    if not places:
        raise StorageError("freezing", "there is no queue yet", "start outrider relay once")
    held = 0
    number = None
    if len(places) > 1:  # shards: the rule has one number in all of them
        for place in places:
            with writing(place) as shard:
                number = max(number or 0, shard.read(freezing.next_number))
    for place in places:
        with writing(place) as shard:
            make = partial(
                freezing.add,
                kind=wanted,
                pattern=pattern,
                reason=reason,
                until=until,
                now=now,
                number=number,
            )
            rule = shard.write(make)
            hold_some = partial(changes.freeze_now, rule=rule, now=now, append=append)
            while part := shard.write(hold_some):
                held += part
    until_text = "until it is thawed" if until is None else f"until {moment(until)}"
    click.echo(f"rule {rule.id}: {kind} {rule.pattern} is frozen {until_text}; {held} recipients held")
    if wanted is freezing.Kind.HOST:
        note("mail that could go there waits by the retry rules, or goes to other hosts")


def end_of(text: str, now: float) -> float | None:
    """`12h`, `2026-12-31` (its beginning, UTC), an ISO time, or `forever`. Raises UsageError."""
    if text == FOREVER:
        return None
    try:
        return now + float(Duration.parse(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"reading --until {text}", "it is neither a time nor a date", "write 12h, 2026-12-31 or forever"
        ) from None
    end = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if end <= now:
        raise UsageError(f"reading --until {text}", "it is over", "give a later one")
    return end
