"""Files events in the ready-made tables: `event_log` gets each, the others what they are about.

An event whose id is in `event_log` was filed before: it is skipped everywhere, which makes a repeated batch
harmless. Rows that many events add to (messages, attempts, certificates) are folded over the batch in memory,
then read, changed and written once each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, insert, or_, select, update

from events import log, tables
from events.actions import facts
from events.fields import Scalar
from events.outbox import Pending
from events.tables import cut

Row = dict[str, Any]

_KEYS_AT_A_TIME = 100  # of up to three columns: SQLite's old limit is 999 parameters
_RANK: Final = {"none": 0, "encrypt": 1, "verify": 2, "dane": 3}
_WANTED: Final = {"none": "none", "may": "encrypt", "encrypt": "encrypt", "verify": "verify"}


def file(conn: Connection, batch: Sequence[Pending]) -> None:
    """File the events that are not there yet, in order. Creates nothing, commits nothing."""
    fresh = log.record(conn, batch)
    inserts: dict[Table, list[Row]] = {}
    folded: dict[Table, dict[tuple[Any, ...], list[Row]]] = {}
    for one in fresh:
        known = facts(one)
        for table, row in _rows(one, known):
            if table in _FOLDS:
                key = tuple(row[column.name] for column in table.primary_key)
                folded.setdefault(table, {}).setdefault(key, []).append(row)
            else:
                inserts.setdefault(table, []).append(row)
    for table, rows in inserts.items():
        conn.execute(insert(table), rows)
    for table, changes in folded.items():
        _fold(conn, table, changes)


def _rows(one: Pending, known: Mapping[str, Scalar]) -> list[tuple[Table, Row]]:
    name = one.event.name
    rows: list[tuple[Table, Row]] = []
    if name.startswith("msg:") and known.get("message_id"):
        rows.append((tables.messages, _message(name, known)))
        if name in _RESULTS or name == "msg:defer":
            rows.append((tables.attempts, _attempt(name, known)))
    if name in _RESULTS:
        rows.append((tables.deliveries, _delivery(name, known)))
    elif name == "tcp:close":
        rows.append((tables.connections, _connection(known)))
    elif name == "tls:cert" and known.get("host") and known.get("tls_out_peercert_sha256"):
        rows.append((tables.certificates, _certificate(known)))
    elif name.startswith(("tls:", "dane:")) and name != "tls:cert":
        rows.append((tables.tls, _tls(name, known)))
    return rows


_RESULTS: Final = {"msg:delivery": "delivered", "msg:fail:delivery": "failed", "msg:fail:internal": "failed"}


def _message(name: str, known: Mapping[str, Scalar]) -> Row:
    at = known["event_at"]
    return {
        "message_id": cut(tables.messages.c.message_id, known.get("message_id")),
        "sender_address": known.get("sender_address"),
        "client_address": cut(tables.messages.c.client_address, known.get("sender_host_address")),
        "size": known.get("message_size"),
        "recipients": known.get("recipients_count") if name == "msg:accept" else None,
        "accepted_at": at if name == "msg:accept" else None,
        "completed_at": at if name == "msg:complete" else None,
        "last_at": at,
    }


def _attempt(name: str, known: Mapping[str, Scalar]) -> Row:
    table = tables.attempts
    deferred = name == "msg:defer"
    row = _copied(table, known, "message_id", "host", "host_address", "phase", "blame", "enhanced_code")
    return row | {
        "attempt": known.get("attempt") or 0,
        "domain": cut(table.c.domain, known.get("domain")) or "",
        "at": known["event_at"],
        "delivered": int(name == "msg:delivery"),
        "failed": int(name.startswith("msg:fail:")),
        "deferred": int(deferred),
        "smtp_code": known.get("smtp_code"),
        "in_doubt": known.get("in_doubt"),
        "why": None if name == "msg:delivery" else known.get("event_data"),
    }


def _delivery(name: str, known: Mapping[str, Scalar]) -> Row:
    table = tables.deliveries
    wanted, reached = _wanted(known), _reached(known)
    row = _copied(
        table,
        known,
        *("message_id", "attempt", "sender_address", "local_part", "domain", "host", "host_address"),
        *("host_port", "tls_version", "tls_cipher", "smtp_code", "enhanced_code"),
    )
    delivered = name == "msg:delivery"
    return row | {
        "id": known["event_id"],
        "at": known["event_at"],
        "result": _RESULTS[name],
        "wanted": wanted,
        "reached": reached if delivered else None,
        "below": int(_RANK[reached] < _RANK[wanted]) if delivered and wanted else None,
        "resumed": known.get("tls_out_resumption"),
        "said": known.get("event_data"),
    }


def _connection(known: Mapping[str, Scalar]) -> Row:
    table = tables.connections
    row = _copied(
        table,
        known,
        *("seconds", "message_id", "domain", "host", "host_address", "host_port", "sending_ip_address"),
        *("tls_version", "tls_cipher", "tls_group"),
    )
    return row | {
        "id": known["event_id"],
        "at": known["event_at"],
        "dnssec": cut(table.c.dnssec, known.get("lookup_dnssec_authenticated")),
        "verified_by": cut(table.c.verified_by, known.get("tls_verified_by")),
        "resumed": known.get("tls_out_resumption"),
        "certificate": cut(table.c.certificate, known.get("tls_out_peercert_sha256")),
        "why": known.get("event_data"),
    }


def _tls(name: str, known: Mapping[str, Scalar]) -> Row:
    table = tables.tls
    return _copied(table, known, "message_id", "domain", "host", "host_address") | {
        "id": known["event_id"],
        "at": known["event_at"],
        "name": name,
        "wanted": _wanted(known),
        "reached": _reached(known) if name == "tls:level" else None,
        "ocsp": cut(table.c.ocsp, known.get("tls_out_ocsp")),
        "said": known.get("event_data"),
    }


def _certificate(known: Mapping[str, Scalar]) -> Row:
    table = tables.certificates
    return {
        "host": cut(table.c.host, known.get("host")),
        "depth": known.get("tls_depth") or 0,
        "sha256": cut(table.c.sha256, known.get("tls_out_peercert_sha256")),
        "subject": known.get("tls_out_peerdn"),
        "issuer": known.get("tls_cert_issuer"),
        "expires_at": known.get("tls_cert_expires_at"),
        "first_at": known["event_at"],
        "last_at": known["event_at"],
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


def _copied(table: Table, known: Mapping[str, Scalar], *names: str) -> Row:
    return {name: cut(table.c[name], known.get(name)) for name in names}


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
    if new:
        conn.execute(insert(table), new)
    if changed:
        keys = [column.name for column in table.primary_key]
        statement = (
            update(table)
            .where(*(table.c[key] == bindparam(f"key_{key}") for key in keys))
            .values({name: bindparam(name) for name in table.c.keys() if name not in keys})  # noqa: SIM118
        )
        conn.execute(
            statement,
            [
                {(f"key_{name}" if name in keys else name): value for name, value in row.items()}
                for row in changed
            ],
        )


def _there(conn: Connection, table: Table, keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], Row]:
    columns = tuple(table.primary_key)
    found: dict[tuple[Any, ...], Row] = {}
    for start in range(0, len(keys), _KEYS_AT_A_TIME):
        some = keys[start : start + _KEYS_AT_A_TIME]
        condition: ColumnElement[bool] = columns[0].in_([key[0] for key in some])
        if len(columns) > 1:
            condition = or_(
                *(and_(*(column == part for column, part in zip(columns, key, strict=True))) for key in some)
            )
        for row in conn.execute(select(table).where(condition)).mappings():
            found[tuple(row[column.name] for column in columns)] = dict(row)
    return found


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
