"""Asks the veto actions before a connection, a session or a certificate is accepted, as in Exim.

    the statement gives no row, or the first column of its first row is NULL, '', 0 or false    allowed
    any other value                                                          refused, the value is the reason
    no answer within the action's deadline, or an error                      as the action's `on_error` says

Of several statements and several actions the first one that refuses decides. This is the only SQL that a
delivery waits for, and the only one that may be abandoned: its own few threads and connections, so that a
database that hangs holds up nothing else. After a failure `on_error` holds for PAUSE seconds without asking,
so that a dead database costs a delivery its deadline once and not once per certificate.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import trio
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from events.actions import EventAction, applies, facts
from events.catalogue import Event
from events.fields import Scalar
from events.identity import event_id
from events.outbox import Pending
from events.port import Allow, Refuse
from events.sql import TIMED, reason

THREADS = 4  # questions to one action at a time
PAUSE = 5.0  # seconds
MAX_REASON = 200  # characters

_log = logging.getLogger("outrider.events")


class SqlGate:
    """The EventGate over SQL; `actions` are those with a veto."""

    def __init__(self, actions: Sequence[EventAction]) -> None:
        self._judges = tuple(_Judge(action) for action in actions)

    @property
    def open(self) -> bool:
        """See `EventGate.open`."""
        return not self._judges

    async def consult(self, event: Event) -> Allow | Refuse:
        """See `EventGate.consult`."""
        for judge in self._judges:
            if event.name in judge.action.events and applies(judge.action, event):
                said = await judge.ask(event)
                if isinstance(said, Refuse):
                    return said
        return Allow()

    def watches(self, name: str, fields: Mapping[str, Scalar]) -> bool:
        """See `EventGate.watches`. What `when` will say is not known yet."""
        actions = (judge.action for judge in self._judges)
        return any(name in action.events and action.towards.holds(fields) for action in actions)

    async def aclose(self) -> None:
        """Close the connections; one that hangs is left behind."""
        for judge in self._judges:
            with trio.move_on_after(1, shield=True):
                await trio.to_thread.run_sync(judge.close, abandon_on_cancel=True)


class _Judge:
    """Asks one action."""

    def __init__(self, action: EventAction) -> None:
        assert action.veto is not None, "only actions with a veto are asked"
        self.action = action
        self._veto = action.veto
        self._limiter = trio.CapacityLimiter(THREADS)
        self._engine: Engine | None = None
        self._lock = Lock()
        self._silent_until = -1.0
        self._troubled = False
        self._closed = False

    async def ask(self, event: Event) -> Allow | Refuse:
        if trio.current_time() < self._silent_until:
            return self._without_answer("its database is in trouble")
        trouble = f"no answer within {self._veto.deadline:g} s"
        with trio.move_on_after(self._veto.deadline):
            try:
                said = await trio.to_thread.run_sync(
                    self._ask_now, event, limiter=self._limiter, abandon_on_cancel=True
                )
                self._troubled = False
                return said
            except (SQLAlchemyError, OSError) as error:
                trouble = reason(error)
            except Exception as error:  # a driver's own mistake must not cost the delivery its outcome
                _log.exception("event action %s failed unexpectedly", self.action.name)
                trouble = type(error).__name__
        self._silent_until = trio.current_time() + PAUSE
        if not self._troubled:
            where = self.action.where
            _log.error("event action %s cannot be asked: %s (%s)", self.action.name, trouble, where)
        self._troubled = True
        return self._without_answer(trouble)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _without_answer(self, trouble: str) -> Allow | Refuse:
        if self._veto.on_error == "allow":
            return Allow()
        return Refuse(_printable(f"event action {self.action.name} cannot be asked: {trouble}"))

    def _ask_now(self, asked: Event) -> Allow | Refuse:
        message = asked.fields.get("message_id")
        known = facts(Pending(0, event_id(asked), str(message) if message is not None else None, asked))
        with self._open().connect() as conn:
            try:
                with conn.begin():
                    return self._answer(conn, known)
            finally:
                if self._closed:  # the answer comes too late, and the pool that would keep it is gone
                    conn.invalidate()

    def _answer(self, conn: Connection, known: Mapping[str, Scalar]) -> Allow | Refuse:
        for statement in self.action.statements:
            result = conn.execute(statement.text, statement.values(known))
            row = result.fetchone() if result.returns_rows else None
            result.close()
            if row is not None and len(row) and _objects(row[0]):
                return Refuse(_text(row[0]) or f"refused by event action {self.action.name}")
        return Allow()

    def _open(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = _engine(self.action, self._veto.deadline)
            return self._engine


def _objects(value: object) -> bool:
    return value is not None and value not in ("", b"", 0)


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value)[: 4 * MAX_REASON].decode("utf-8", "replace")
    return _printable(str(value)[: 4 * MAX_REASON])


def _printable(text: str) -> str:
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in line)[:MAX_REASON]


def _engine(action: EventAction, patience: float) -> Engine:
    url = action.database
    backend = url.get_backend_name()
    if backend == "sqlite":
        found = create_engine(url, hide_parameters=True, connect_args={"timeout": patience})
        event.listen(found, "connect", _manual)
        event.listen(found, "begin", _begin)
        return found
    timeout = {"connect_timeout": max(1, round(patience))} if backend in TIMED else {}
    return create_engine(
        url, pool_size=THREADS, max_overflow=0, pool_pre_ping=True, hide_parameters=True, connect_args=timeout
    )


def _manual(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # else the driver decides about BEGIN


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")  # not IMMEDIATE: most only read
