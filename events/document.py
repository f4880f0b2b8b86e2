"""Writes docs/events.md from the catalogue: `python -m events.document > docs/events.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from events.catalogue import EVENTS, FIELDS, EventType
from events.fields import ALIASES, IMPLIED, MAX_JSON, MAX_TEXT, Field
from events.views import VIEWS

_HEAD = f"""\
# Events

<!-- Written by `python -m events.document`; do not edit. -->

An event is committed together with the fact that it reports, kept in an outbox, and told to every action
that wants it: at least once, in order per message, never in the way of mail. Names and meaning follow
Exim's `event_action`; what Exim does not have is marked *Outrider*.

## Actions

Without further settings every event goes into the ready-made tables of `events.database` (see below). An
action of your own runs SQL statements per event, in any database that SQLAlchemy can reach:

```toml
[[events.action]]
name = "delivlog"
events = ["msg:delivery", "msg:fail:*"]
database = "postgresql+psycopg://outrider@db.example.org/mail"
sql = "INSERT INTO delivlog (id, rcpt, ip) VALUES (:event_id, :local_part || '@' || :domain, :host_address)"
```

Parameters are the fields below, always bound, never put into the text; a field that the event does not have
is NULL. `sql` may be an array: its statements share one transaction. A pattern that matches nothing, or a
parameter that none of the events carries, is an error when the settings are read. Write `\\:` for a colon
that begins no parameter, and `CAST(:host AS …)` for `:host::…`.

An event may arrive twice after a crash: `event_id` is the same then, so a unique column and `ON CONFLICT DO
NOTHING` make it once. While a database is down its events wait. An event that the database refuses ten
times is kept aside as dead, and the later events of its message go on; `outrider events dead` lists them
with the database's complaint, `outrider events replay ACTION` tries them again. `outrider events test
ACTION` runs an action with sample data, shows its statements and what they did, and undoes it unless told
`--commit`.

At most `events.backlog` events wait. From four fifths of it on, events that only serve diagnosis (all but
`msg:*`) are dropped, counted and reported in the log; at the limit new mail is refused: with 452, and by
`outrider send` with exit status 75 before anything is sent. Mail that was accepted is delivered and told of
however full it is.

### Destinations

A `[[rule]]` of the settings may have actions of its own, with the same keys. They are told (or, with `veto`,
asked) only of events about the rule's `domains` and `hosts`; events that name no such destination, such as
`msg:complete`, are never theirs, and to list only such events is an error when the settings are read.

```toml
[[rule]]
domains = ["bank.example", "*.bank.example"]
[[rule.event_action]]
name = "bank"
events = ["msg:delivery", "tls:*"]
database = "sqlite:////var/lib/outrider/bank.db"
sql = "INSERT INTO proof (event, at, host, tls) VALUES (:event_name, :event_at, :host, :tls_version)"
```

### Conditions

`when = "domain like '*.example.org' and attempt > 1"` keeps an action to the events of which it is true:
`== != < > <= >=`, `in (…, …)` and `like` (`*` stands for any characters), joined by `and`, `or` and
parentheses. Texts stand in single quotes, numbers do not. A field that the event does not have equals
nothing: only `!=` is true of it.

### Vetoes

An action with `veto = true` is asked before the fact: before a connection is opened (`tcp:connect`), after
a server's greeting (`smtp:connect`), and for each certificate of its chain before the chain counts
(`tls:cert`).

```toml
[[events.action]]
name = "blocked"
events = ["tcp:connect"]
database = "sqlite:////etc/outrider/policy.db"
sql = "SELECT reason FROM blocked WHERE address = :host_address"
veto = true
deadline = "2s"
on_error = "defer"
```

No row, NULL, an empty text, 0 and false allow. Any other value in the first column of the first row
refuses: the connection is not opened, ends with QUIT, or is dropped in the handshake without another
command; the value is the reason in the log, in the trace (`event-veto`) and of the deferral. The next host
is tried. A refused certificate is refused under any TLS policy, and clear text is not tried instead.

A refused login (`auth:fail`) stays refused: what an action with `veto` returns takes the place of the
server's words in the log, in the trace and in the deferral.

A delivery waits for the answer, at most `deadline`. Without one `on_error` decides: `"defer"` (the default)
refuses, `"allow"` goes on; the next five seconds it decides without asking. These statements run on
connections of their own.

### Files

`[[events.file]]` with `name`, `events`, `path` and perhaps `when` appends one JSON object per line, from
the same outbox: `id`, `name`, `time`, `at` and `fields`.

Texts are cut at {MAX_TEXT} characters (JSON is left out beyond {MAX_JSON}) and hold no NUL. Most of them are
chosen by other people's servers.
"""  # noqa: S608 (an example for people)

_READY_MADE = """\
## Ready-made tables

`events.schema = "default"` fills these tables on SQLite, PostgreSQL and MariaDB, and makes and changes them
itself (`outrider_schema` holds the version). An event that arrives twice changes nothing.

| table | one row per |
|---|---|
| `event_log` | event, with all its fields as JSON in `fields` |
| `outrider_messages` | message: sender, size, when accepted, when complete |
| `outrider_deliveries` | recipient that was delivered or failed: host, TLS wanted and reached, reply |
| `outrider_attempts` | attempt at a domain: how many were delivered, failed, and why the others wait |
| `outrider_connections` | connection that was opened: address, TLS, seconds |
| `outrider_tls` | TLS fact: level reached, fallback to clear text, failures |
| `outrider_certificates` | host, depth and certificate: subject, issuer, expiry, first and last seen |

`wanted` and `reached` are `none`, `encrypt`, `verify` or `dane`; `below` is 1 where less was reached. Times
are seconds since the epoch. `outrider events query VIEW` answers from the views:

"""


_ALIASES = """\
## Other names of fields

Statements and conditions that were written for Exim may keep these names, those of its TPDA patches
(`tpda_delivery_action` is `msg:delivery`, `tpda_host_defer_action` is `msg:host:defer`) included.
"""


def markdown() -> str:
    """The whole document."""
    parts = [
        _HEAD,
        _READY_MADE + "\n".join(_views()),
        "\n## Fields of every event\n",
        "\n".join(_fields(IMPLIED)),
        "\n## Events\n",
    ]
    parts += ["\n".join(_overview()), ""]
    parts += ["\n".join(_details(kind)) for kind in EVENTS.values()]
    implied = {one.name for one in IMPLIED}
    rest = [one for one in FIELDS.values() if one.name not in implied]
    parts += ["## Fields\n", "\n".join(_fields(rest)), ""]
    parts += [_ALIASES, "\n".join(_aliases()), ""]
    return "\n".join(parts)


def _views() -> Iterator[str]:
    yield "| view | table | question |"
    yield "|---|---|---|"
    for view in VIEWS.values():
        yield f"| `{view.name}` | `{view.table}` | {view.question} |"


def _fields(fields: Sequence[Field]) -> Iterator[str]:
    yield "| field | type | meaning | |"
    yield "|---|---|---|---|"
    for one in fields:
        yield f"| `{one.name}` | {one.kind} | {one.meaning} | {'Exim' if one.exim else 'Outrider'} |"


def _aliases() -> Iterator[str]:
    yield "| name | field |"
    yield "|---|---|"
    for alias, name in ALIASES.items():
        yield f"| `{alias}` | `{name}` |"


def _overview() -> Iterator[str]:
    yield "| event | fires | |"
    yield "|---|---|---|"
    for kind in EVENTS.values():
        yield f"| `{kind.name}` | {kind.when} | {'Exim' if kind.exim else 'Outrider'} |"


def _details(kind: EventType) -> Iterator[str]:
    yield f"### {kind.name}\n"
    yield f"{kind.when}\n"
    yield f"`event_data`: {kind.data}.\n"
    if kind.late:
        yield "What an action with `veto` returns takes the place of the reason.\n"
    elif kind.veto:
        yield "An action with `veto` may refuse it.\n"
    yield f"Fields: {', '.join(f'`{name}`' for name in kind.fields)}.\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
