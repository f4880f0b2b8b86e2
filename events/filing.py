"""Files events in the ready-made tables: `event_log` gets each, the others what they are about.

An event whose id is in `event_log` was filed before: it is skipped everywhere, which makes a repeated batch
harmless. Rows that many events add to (messages, attempts, certificates) are folded over the batch in memory,
then read, changed and written once each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, select, update

from events import log, tables
from events.bulk import AMONG, among, insert_rows, is_among, run, select_rows
from events.fields import Scalar
from events.outbox import Pending
from events.tables import MAX_KEY, MAX_NAME, MAX_WORD, Copy, cut

Row = dict[str, Any]

_RANK: Final = {"none": 0, "encrypt": 1, "verify": 2, "dane": 3}
_WANTED: Final = {
    "none": "none",
    "may": "encrypt",
    "try-verify": "encrypt",
    "encrypt": "encrypt",
    "verify": "verify",
}


_ATTEMPT = Copy(tables.attempts, "message_id", "host", "host_address", "phase", "blame", "enhanced_code")
_DELIVERY = Copy(
    tables.deliveries,
    *("message_id", "attempt", "sender_address", "local_part", "domain", "host", "host_address"),
    *("host_port", "tls_version", "tls_cipher", "smtp_code", "enhanced_code"),
)
_CONNECTION = Copy(
    tables.connections,
    *("seconds", "message_id", "domain", "host", "host_address", "host_port", "sending_ip_address"),
    *("tls_version", "tls_cipher", "tls_group"),
)
_TLS = Copy(tables.tls, "message_id", "domain", "host", "host_address")


def file(conn: Connection, batch: Sequence[Pending], *, again: bool = True) -> None:
    """File the events that are not there yet, in order. Creates nothing, commits nothing.

    Unless `again` they are taken to be new: an IntegrityError tells that they are not.
    """
    fresh = log.known_of(log.unknown(conn, batch) if again else batch)
    log.record(conn, fresh)
    inserts: dict[Table, list[Row]] = {}
    folded: dict[Table, dict[tuple[Any, ...], list[Row]]] = {}
    for one, known in fresh:
        for table, row in _rows(one, known):
            if table in _FOLDS:
                key = tuple([row[name] for name in _KEYS[table]])
                folded.setdefault(table, {}).setdefault(key, []).append(row)
            else:
                inserts.setdefault(table, []).append(row)
    for table, rows in inserts.items():
        insert_rows(conn, table, rows)
    for table, changes in folded.items():
        _fold(conn, table, changes)


def _rows(one: Pending, known: Mapping[str, Scalar]) -> list[tuple[Table, Row]]:
    name = one.event.name
    rows: list[tuple[Table, Row]] = []
    if name.startswith("msg:") and known.get("message_id"):
        rows.append((tables.messages, _message(name, one, known)))
        if name in _RESULTS or name == "msg:defer":
            rows.append((tables.attempts, _attempt(name, one, known)))
    if name in _RESULTS:
        rows.append((tables.deliveries, _delivery(name, one, known)))
    elif name == "tcp:close":
        rows.append((tables.connections, _connection(one, known)))
    elif name == "tls:cert" and known.get("host") and known.get("tls_out_peercert_sha256"):
        rows.append((tables.certificates, _certificate(one, known)))
    elif name.startswith(("tls:", "dane:", "sts:")) and name != "tls:cert":
        rows.append((tables.tls, _tls(name, one, known)))
    return rows


_RESULTS: Final = {"msg:delivery": "delivered", "msg:fail:delivery": "failed", "msg:fail:internal": "failed"}


def _message(name: str, one: Pending, known: Mapping[str, Scalar]) -> Row:
    at = one.event.at
    return {
        "message_id": cut(known.get("message_id"), MAX_KEY),
        "sender_address": known.get("sender_address"),
        "client_address": cut(known.get("sender_host_address"), MAX_WORD),
        "size": known.get("message_size"),
        "recipients": known.get("recipients_count") if name == "msg:accept" else None,
        "accepted_at": at if name == "msg:accept" else None,
        "completed_at": at if name == "msg:complete" else None,
        "last_at": at,
    }


def _attempt(name: str, one: Pending, known: Mapping[str, Scalar]) -> Row:
    deferred = name == "msg:defer"
    return _ATTEMPT.row(known) | {
        "attempt": known.get("attempt") or 0,
        "domain": cut(known.get("domain"), MAX_NAME) or "",
        "at": one.event.at,
        "delivered": int(name == "msg:delivery"),
        "failed": int(name.startswith("msg:fail:")),
        "deferred": int(deferred),
        "smtp_code": known.get("smtp_code"),
        "in_doubt": known.get("in_doubt"),
        "why": None if name == "msg:delivery" else known.get("event_data"),
    }


def _delivery(name: str, one: Pending, known: Mapping[str, Scalar]) -> Row:
    wanted, reached = _wanted(known), _reached(known)
    row = _DELIVERY.row(known)
    delivered = name == "msg:delivery"
    return row | {
        "id": one.id,
        "at": one.event.at,
        "result": _RESULTS[name],
        "wanted": wanted,
        "reached": reached if delivered else None,
        "below": int(_RANK[reached] < _RANK[wanted]) if delivered and wanted else None,
        "resumed": _resumed(known),
        "said": known.get("event_data"),
    }


def _connection(one: Pending, known: Mapping[str, Scalar]) -> Row:
    return _CONNECTION.row(known) | {
        "id": one.id,
        "at": one.event.at,
        "dnssec": cut(known.get("lookup_dnssec_authenticated"), MAX_WORD),
        "verified_by": cut(known.get("tls_verified_by"), MAX_WORD),
        "resumed": _resumed(known),
        "certificate": cut(known.get("tls_out_peercert_sha256"), MAX_WORD),
        "why": known.get("event_data"),
    }


def _resumed(known: Mapping[str, Scalar]) -> int | None:
    word = known.get("tls_resumption")
    return None if word is None else int(word == "resumed")


def _tls(name: str, one: Pending, known: Mapping[str, Scalar]) -> Row:
    return _TLS.row(known) | {
        "id": one.id,
        "at": one.event.at,
        "name": name,
        "wanted": _wanted(known),
        "reached": _reached(known) if name == "tls:level" else None,
        "ocsp": cut(known.get("tls_ocsp"), MAX_WORD),
        "said": known.get("event_data"),
    }


def _certificate(one: Pending, known: Mapping[str, Scalar]) -> Row:
    return {
        "host": cut(known.get("host"), MAX_NAME),
        "depth": known.get("tls_depth") or 0,
        "sha256": cut(known.get("tls_out_peercert_sha256"), MAX_WORD),
        "subject": known.get("tls_out_peerdn"),
        "issuer": known.get("tls_cert_issuer"),
        "expires_at": known.get("tls_cert_expires_at"),
        "first_at": one.event.at,
        "last_at": one.event.at,
        "times": 1,
    }


def _wanted(known: Mapping[str, Scalar]) -> str | None:
    level = known.get("tls_level")
    if not isinstance(level, str):
        return None
    return "dane" if level.startswith("dane") else _WANTED.get(level)


def _reached(known: Mapping[str, Scalar]) -> str:
    verified = str(known.get("tls_verified_by") or "")
    if verified.startswith("dane"):
        return "dane"
    if verified == "pkix":
        return "verify"
    return "encrypt" if known.get("tls_version") else "none"


def _fold(conn: Connection, table: Table, changes: Mapping[tuple[Any, ...], Sequence[Row]]) -> None:
    there = _there(conn, table, tuple(changes))
    new: list[Row] = []
    changed: list[Row] = []
    for key, rows in changes.items():
        row = there.get(key)
        rest = rows if row is not None else rows[1:]
        folded = dict(row if row is not None else rows[0])
        for change in rest:
            _FOLDS[table](folded, change)
        (changed if row is not None else new).append(folded)
    insert_rows(conn, table, new)
    keys = _KEYS[table]
    run(conn, _UPDATES[table], [row | {f"key_{name}": row[name] for name in keys} for row in changed])


def _there(conn: Connection, table: Table, keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], Row]:
    """The rows of these keys: found by the parts that tell most, then compared."""
    columns = _KEYS[table]
    wanted = set(keys)
    found: dict[tuple[Any, ...], Row] = {}
    names = table.columns.keys()
    for start in range(0, len(keys), AMONG):
        some = keys[start : start + AMONG]
        values: Row = {}
        for name in _TELLING[table]:
            values |= among(name, [key[columns.index(name)] for key in some])
        for each in select_rows(conn, _SELECTS[table], values):
            row = dict(zip(names, each, strict=True))
            key = tuple([row[name] for name in columns])
            if key in wanted:
                found[key] = row
    return found


# Parts of the key, all in its index; an attempt's message has few others, a certificate's digest none.
_TELLING: Final[Mapping[Table, tuple[str, ...]]] = {
    tables.messages: ("message_id",),
    tables.attempts: ("message_id",),
    tables.certificates: ("host", "sha256"),
}
_KEYS: Final = {table: tuple(table.primary_key.columns.keys()) for table in _TELLING}
_SELECTS: Final = {
    table: select(table).where(*(is_among(table.c[name]) for name in names))
    for table, names in _TELLING.items()
}
_UPDATES: Final = {
    table: update(table)
    .where(*(column == bindparam(f"key_{column.name}") for column in table.primary_key))
    .values({column.name: bindparam(column.name) for column in table.columns if not column.primary_key})
    for table in _TELLING
}


def _fold_message(row: Row, change: Row) -> None:
    for name, value in change.items():
        if value is not None and row.get(name) is None:
            row[name] = value
    row["last_at"] = max(row["last_at"], change["last_at"])


def _fold_attempt(row: Row, change: Row) -> None:
    for name in ("delivered", "failed"):
        row[name] += change[name]
    row["at"] = max(row["at"], change["at"])
    if change["deferred"] or not row["deferred"]:
        for name in ("host", "host_address", "phase", "blame", "enhanced_code", "smtp_code", "in_doubt"):
            row[name] = change[name]
        row["why"] = change["why"] or row["why"]
    row["deferred"] = max(row["deferred"], change["deferred"])


def _fold_certificate(row: Row, change: Row) -> None:
    row["first_at"] = min(row["first_at"], change["first_at"])
    row["last_at"] = max(row["last_at"], change["last_at"])
    row["times"] += change["times"]


_FOLDS: Final[Mapping[Table, Callable[[Row, Row], None]]] = {
    tables.messages: _fold_message,
    tables.attempts: _fold_attempt,
    tables.certificates: _fold_certificate,
}
