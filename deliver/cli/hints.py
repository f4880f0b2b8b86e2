"""`outrider hints`: what was learned about other servers. Reads only; no file is no error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deliver.cli import output
from deliver.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from hints.show import Row

KINDS = ("ehlo", "reachability", "level")


@click.group()
def hints() -> None:
    """See what was learned about other servers: advice that saves time, and may be deleted at any time."""


@hints.command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--host", metavar="HOST", help="Only rows about this host name or address.")
@click.option("--domain", metavar="DOMAIN", help="Only rows about this recipient domain (kind level).")
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
    """
    from hints.show import Filter, rows

    found = _read(app, lambda path, now: rows(path, Filter(kind, host, domain, expired), now))
    if found is None:
        return
    if as_json:
        output.json_lines(asdict(row) for row in found)
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
        output.json_lines(asdict(row) for row in found)
        return
    if not found:
        output.note(f"no hints about {key}")
    for number, row in enumerate(found):
        if number:
            click.echo()
        output.fields(_in_words(row, _now()))


def summary(row: Row, now: float) -> str:
    """One row in a few words."""
    values = row.values
    if not row.valid:
        return "makes no sense, ignored"
    if row.kind == "ehlo":
        keywords = [str(line).split(" ")[0] for line in values["keywords"]]
        return f"{values['greeted_as']}: {' '.join(keywords)}"
    if row.kind == "level":
        return str(values["level"])
    if values["failures"]:
        since = f", last reached {output.age(now - values['last_success'])}" if values["last_success"] else ""
        return f"{values['failures']} failures{since}: {values['last_error']}"
    return f"reached {output.age(now - (values['last_success'] or row.last_seen))}"


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
        elif name in ("last_failure", "last_success"):
            yield name.replace("_", " "), "never" if value is None else _when(value, now)
        else:
            yield name.replace("_", " "), value
    yield "learned by", f"{row.source}: {row.reason}"
    yield "first seen", _when(row.first_seen, now)
    yield "last seen", _when(row.last_seen, now)
    yield "expires" if not row.expired else "expired", _when(row.expires, now)
    yield "consulted", f"{row.use_count} times"


def _when(at: float, now: float) -> str:
    return f"{output.moment(at)} ({output.age(now - at)})"


def _read(app: Application, read: Any) -> tuple[Row, ...] | None:
    """None, and a word on stderr, when the settings keep no file."""
    from hints.show import Unreadable
    from hints.sql import file_of

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
        return tuple(read(path, _now()))
    except Unreadable as error:
        raise StorageError(
            "reading hints", str(error), "hints are advice: the file may be deleted"
        ) from error


def _now() -> float:
    return datetime.now(UTC).timestamp()
