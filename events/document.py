"""Writes docs/events.md from the catalogue: `python -m events.document > docs/events.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from events.catalogue import EVENTS, FIELDS, EventType
from events.fields import IMPLIED, MAX_JSON, MAX_TEXT, Field

_HEAD = f"""\
# Events

<!-- Written by `python -m events.document`; do not edit. -->

An event is committed together with the fact that it reports, kept in an outbox, and told to every action
that wants it: at least once, in order per message, never in the way of mail. Names and meaning follow Exim's
`event_action`; what Exim does not have is marked *Outrider*.

## Actions

Without further settings every event goes into the table `event_log` of `events.database`. An action of your
own runs one SQL statement per event, in any database that SQLAlchemy can reach:

```toml
[[events.action]]
name = "delivlog"
events = ["msg:delivery", "msg:fail:*"]
database = "postgresql+psycopg://outrider@db.example.org/mail"
sql = "INSERT INTO delivlog (id, rcpt, ip) VALUES (:event_id, :local_part || '@' || :domain, :host_address)"
```

Parameters are the fields below, always bound, never put into the text; a field that the event does not have
is NULL. A pattern that matches nothing, or a parameter that none of the events carries, is an error when the
settings are read. Write `\\:` for a colon that begins no parameter, and `CAST(:host AS …)` for `:host::…`.

An event may arrive twice after a crash: `event_id` is the same then, so a unique column and
`ON CONFLICT DO NOTHING` make it once. While a database is down its events wait. An event that the database
refuses ten times is kept aside as dead, and the later events of its message go on.

Texts are cut at {MAX_TEXT} characters (JSON is left out beyond {MAX_JSON}) and hold no NUL. Most of them are
chosen by other people's servers.
"""  # noqa: S608 (an example for people)


def markdown() -> str:
    """The whole document."""
    parts = [_HEAD, "## Fields of every event\n", "\n".join(_fields(IMPLIED)), "\n## Events\n"]
    parts += ["\n".join(_overview()), ""]
    parts += ["\n".join(_details(kind)) for kind in EVENTS.values()]
    implied = {one.name for one in IMPLIED}
    rest = [one for one in FIELDS.values() if one.name not in implied]
    parts += ["## Fields\n", "\n".join(_fields(rest)), ""]
    return "\n".join(parts)


def _fields(fields: Sequence[Field]) -> Iterator[str]:
    yield "| field | type | meaning | |"
    yield "|---|---|---|---|"
    for one in fields:
        yield f"| `{one.name}` | {one.kind} | {one.meaning} | {'Exim' if one.exim else 'Outrider'} |"


def _overview() -> Iterator[str]:
    yield "| event | fires | |"
    yield "|---|---|---|"
    for kind in EVENTS.values():
        yield f"| `{kind.name}` | {kind.when} | {'Exim' if kind.exim else 'Outrider'} |"


def _details(kind: EventType) -> Iterator[str]:
    yield f"### {kind.name}\n"
    yield f"{kind.when}\n"
    yield f"`event_data`: {kind.data}.\n"
    if kind.veto:
        yield "Fires before the fact, so that an action may come to refuse it.\n"
    yield f"Fields: {', '.join(f'`{name}`' for name in kind.fields)}.\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
