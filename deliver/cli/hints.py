"""`outrider hints`: what was learned about other servers: read, explain, forget. No file is no error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deliver.cli import output
from deliver.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from hints.show import Row

T = TypeVar("T")

_MOMENTS = ("last_failure", "last_success", "best_at", "last_worked", "last_failed", "saved_at", "fetched_at")
KINDS = ("ehlo", "reachability", "level", "feature", "session", "sts")
SHOWN_PATTERNS = 3  # of an MTA-STS policy, on one line


@click.group()
def hints() -> None:
    """See what was learned about other servers: advice that saves time, and MTA-STS policies."""


@hints.command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--host", metavar="HOST", help="Only rows about this host name or address.")
@click.option("--domain", metavar="DOMAIN", help="Only rows about this recipient domain (kinds level, sts).")
@click.option("--expired", is_flag=True, help="Only rows past their time, which are no longer believed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_hints(
    app: Application, kind: str | None, host: str | None, domain: str | None, expired: bool, as_json: bool
) -> None:
    """List what is remembered.

    \b
    KIND ehlo          what a server answered to EHLO
         reachability  whether an address could be reached
         level         the security that deliveries reached
         feature       which extensions worked there
         session       TLS sessions to resume, without their secrets
         sts           the MTA-STS policies that domains publish
    """
    from hints.show import MAX_ROWS, Filter, rows

    found = _read(app, lambda path, now: rows(path, Filter(kind, host, domain, expired), now))
    if found is None:
        return
    if as_json:
        output.json_lines(row.document() for row in found)
        return
    now = _now()
    output.table(
        ("kind", "key", "what", "last seen", "expires", "from"),
        [
            (
                *(row.kind, row.key, summary(row, now)),
                output.age(now - row.last_seen) if row.valid else None,
                output.age(now - row.expires) if row.valid else None,
                row.source,
            )
            for row in found
        ],
        empty="no hints of that kind" if kind or host or domain or expired else "no hints yet",
    )
    if any([row.kind for row in found].count(each) == MAX_ROWS for each in KINDS):
        output.note(f"no more than {MAX_ROWS} of each kind are listed; `outrider hints export` has all")


@hints.command("show")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def show_hint(app: Application, key: str, as_json: bool) -> None:
    """Show everything about KEY: a key as `hints list` prints it, or a host, an address or a domain."""
    from hints.show import about

    found = _read(app, lambda path, now: about(path, key, now))
    if found is None:
        return
    if as_json:
        output.json_lines(row.document() for row in found)
        return
    if not found:
        output.note(f"no hints about {key}")
    for number, row in enumerate(found):
        if number:
            click.echo()
        output.fields(_in_words(row, _now()))


@hints.command("explain")
@click.argument("name", metavar="HOST|DOMAIN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def explain_hints(app: Application, name: str, as_json: bool) -> None:
    """Say what the hints about a host, an address or a domain make the next delivery do."""
    from hints.advice import advice
    from hints.show import about

    now = _now()
    found = _read(app, lambda path, at: about(path, name, at))
    if found is None:
        return
    said = advice(found, now)
    if as_json:
        output.json_lines(asdict(one) for one in said)
        return
    if not said:
        output.note(f"no hints about {name}: the next delivery starts without any")
    for one in said:
        click.echo(output.printable(f"{one.about}: {one.text}"))


@hints.command("forget")
@click.argument("key", required=False)
@click.option("--host", metavar="HOST", help="All rows about this host name or address.")
@click.option("--domain", metavar="DOMAIN", help="All rows about this recipient domain (kinds level, sts).")
@click.option("--kind", type=click.Choice(KINDS), help="All rows of this kind.")
@click.option("--dry-run", is_flag=True, help="Only say what would be forgotten.")
@click.pass_obj
def forget_hints(
    app: Application, key: str | None, host: str | None, domain: str | None, kind: str | None, dry_run: bool
) -> None:
    """Forget the row of KEY (as `hints list` prints it), all about a name, or what the options say.

    Several options together narrow it down. Running processes may remember for half a minute more, MTA-STS
    policies until they are reloaded.
    """
    from hints.manage import forget, forget_rows
    from hints.show import Filter, about, rows

    wanted = Filter(kind, host, domain, expired=None)
    if (key is None) == (wanted == Filter(expired=None)):
        raise click.UsageError("give either KEY or some of --host, --domain, --kind")
    if key is not None:
        found = _read(app, lambda path, now: about(path, key, now))
        doomed = found or ()
        deleted = None if found is None or dry_run else _read(app, lambda path, _: forget_rows(path, doomed))
    else:
        found = _read(app, lambda path, now: rows(path, wanted, now)) if dry_run else ()
        deleted = None if dry_run else _read(app, lambda path, _: forget(path, wanted))
    if found is not None and dry_run:
        for row in found:
            click.echo(output.printable(f"would forget {row.kind} {row.key}"))
        output.note(f"{len(found)} hints would be forgotten")
    elif deleted is not None:
        _say_deleted("forgotten", deleted)


@hints.command("prune")
@click.pass_obj
def prune_hints(app: Application) -> None:
    """Delete the rows past their time. The relay does so every hour by itself; deliveries do not wait."""
    from hints.manage import prune

    deleted = _read(app, prune)
    if deleted is not None:
        _say_deleted("deleted", deleted)


@hints.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def check_hints(app: Application, as_json: bool) -> int:
    """Read the whole file: is it sound, of which version and size, are there rows that make no sense?

    Exit status: 0 sound   75 damaged (the next delivery sets it aside and starts anew)
    """
    from hints.manage import check

    found = _read(app, check)
    if found is None:
        output.note("no hints file: there is nothing to check")
        return 0
    if as_json:
        output.json_document(found)
    else:
        output.fields(
            (
                ("version", found.version),
                ("size", output.size(found.octets)),
                ("unused", output.size(found.free_octets)),
                ("rows", found.rows),
                ("senseless rows", found.invalid),
                *(("problem", text) for text in found.problems or ("none",)),
            )
        )
    return 75 if found.problems else 0


@hints.command("export")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.pass_obj
def export_hints(app: Application, kind: str | None) -> None:
    """Print every row, expired ones too, as one JSON object per line. Secrets are not in it."""
    from hints.show import Filter, each

    def export(path: Path, now: float) -> None:
        output.json_lines(row.document() for row in each(path, Filter(kind, expired=None), now))

    _read(app, export)


@hints.command("stats")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def hints_stats(app: Application, as_json: bool) -> None:
    """Count the rows of each kind, and how often they were consulted."""
    from hints.manage import count

    found = _read(app, count)
    if found is None:
        return
    if as_json:
        output.json_lines(asdict(one) for one in found)
        return
    now = _now()
    output.table(
        ("kind", "rows", "expired", "consulted", "oldest", "newest"),
        [
            (
                *(one.kind, one.rows, one.expired, one.use_count),
                *(None if at is None else output.age(now - at) for at in (one.oldest, one.newest)),
            )
            for one in found
        ],
        empty="no hints yet",
    )


def _say_deleted(word: str, deleted: Mapping[str, int]) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in deleted.items())
    output.note(f"{sum(deleted.values())} hints {word}" + (f": {kinds}" if kinds else ""))


def summary(row: Row, now: float) -> str:
    """One row in a few words."""
    values = row.values
    if not row.valid:
        return "makes no sense, ignored"
    if row.kind == "ehlo":
        keywords = [str(line).split(" ")[0] for line in values["keywords"]]
        return f"{values['greeted_as']}: {' '.join(keywords)}"
    if row.kind == "level":
        best = f", best {values['best']}" if values["best"] != values["level"] else ""
        return f"{values['level']}{best}"
    if row.kind == "feature":
        return f"worked {values['worked']} times, failed {values['failed']} times"
    if row.kind == "session":
        uses = "until it expires" if values["version"] == "TLSv1.2" else "once"
        return f"{values['version']}, may be resumed {uses}"
    if row.kind == "sts":
        return _policy(values, now)
    if values["failures"]:
        since = f", last reached {output.age(now - values['last_success'])}" if values["last_success"] else ""
        return f"{values['failures']} failures{since}: {values['last_error']}"
    return f"reached {output.age(now - (values['last_success'] or row.last_seen))}"


def _policy(values: Mapping[str, Any], now: float) -> str:
    patterns = values["patterns"]
    more = len(patterns) - SHOWN_PATTERNS
    names = [*patterns[:SHOWN_PATTERNS], *((f"and {more} more",) if more > 0 else ())]
    fetched = f"id {values['id']}, fetched {output.age(now - values['fetched_at'])}"
    return f"{values['mode']}: {' '.join(names) or 'no patterns'}, {fetched}"


def _in_words(row: Row, now: float) -> Iterable[tuple[str, object]]:
    yield "kind", row.kind
    yield "key", row.key
    if not row.valid:
        yield "note", "this row makes no sense; deliveries ignore it"
        return
    for name, value in row.values.items():
        if name == "keywords":
            for line in value:
                yield "keyword", line
        elif name == "patterns":
            for pattern in value:
                yield "mx", pattern
        elif name == "max_age":
            yield "max age", f"{value} seconds"
        elif name in _MOMENTS:
            yield name.replace("_", " "), "never" if value is None else _when(value, now)
        else:
            yield name.replace("_", " "), value
    if row.kind == "session":
        yield "secrets", "sealed, not shown"
    yield "learned by", f"{row.source}: {row.reason}"
    yield "first seen", _when(row.first_seen, now)
    yield "last seen", _when(row.last_seen, now)
    yield "expires" if not row.expired else "expired", _when(row.expires, now)
    yield "consulted", f"{row.use_count} times"


def _when(at: float, now: float) -> str:
    return f"{output.moment(at)} ({output.age(now - at)})"


def _read(app: Application, read: Callable[[Path, float], T]) -> T | None:
    """What `read` finds in the file now. None, and a word on stderr, when the settings keep no file."""
    from hints.location import file_of
    from hints.show import Unreadable

    url = app.settings.hints.url
    if url == "memory":
        output.note(
            "hints are kept in memory (hints.url): each process knows its own, there is nothing to read"
        )
        return None
    try:
        path: Path = file_of(app.settings.database_url(url))
    except ValueError as error:
        raise ConfigurationError("reading hints.url", str(error)) from error
    try:
        return read(path, _now())
    except Unreadable as error:
        raise StorageError(
            "reading hints",
            str(error),
            "the file may be deleted: MTA-STS policies are then unknown until they are fetched again",
        ) from error


def _now() -> float:
    return datetime.now(UTC).timestamp()
