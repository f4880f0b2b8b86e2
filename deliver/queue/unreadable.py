"""Rows that cannot be read: nobody else's mail is to wait for their message.

Synchronous, within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from deliver.errors import UsageError
from deliver.queue.layout import Key

T = TypeVar("T")

UNREADABLE: Final = (ValueError, TypeError, AttributeError, KeyError, RecursionError, UsageError)


def is_unreadable(error: Exception) -> bool:
    """Whether it is about what stands in a row: its values, or text that SQLite cannot decode."""
    if isinstance(error, UNREADABLE):
        return True
    origin = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(origin, sqlite3.OperationalError) and str(origin).startswith("Could not decode")


def why_unreadable(error: Exception) -> str:
    """The reason with which the message is held."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return f"its record in the queue cannot be read: {str(origin) or type(origin).__name__}"


def where_readable(
    conn: Connection,
    keys: Sequence[Key],
    work: Callable[[Sequence[Key]], T],
    instead: Callable[[Sequence[Key], str], T],
) -> list[T]:
    """`work` on all of them; where rows cannot be read on each message alone, and `instead` on those which.

    `instead` gets the recipients of one message, and why. What `work` had changed until then is undone.
    """
    try:
        with conn.begin_nested():
            return [work(keys)]
    except (*UNREADABLE, DBAPIError, sqlite3.Error) as error:
        if not is_unreadable(error):
            raise
    by_message: dict[str, list[Key]] = {}
    for key in keys:
        by_message.setdefault(key.message_id, []).append(key)
    return [_of_one(conn, each, work, instead) for each in by_message.values()]


def _of_one(
    conn: Connection,
    keys: Sequence[Key],
    work: Callable[[Sequence[Key]], T],
    instead: Callable[[Sequence[Key], str], T],
) -> T:
    try:
        with conn.begin_nested():
            return work(keys)
    except (*UNREADABLE, DBAPIError, sqlite3.Error) as error:
        if not is_unreadable(error):
            raise
        return instead(keys, why_unreadable(error))
