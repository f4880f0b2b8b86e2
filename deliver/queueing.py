"""Which queue the settings mean: SQLite in `queue.directory`, or PostgreSQL shared by several nodes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import URL

from deliver.configuration import read_secret
from deliver.errors import ConfigurationError
from deliver.queue.cluster import Membership, open_cluster
from deliver.queue.shard import Shard, open_shard
from deliver.queue.store import Append
from deliver.settings import Settings
from events import outbox
from events.actions import database_url

SHARD = 0  # one worker process owns one shard


@asynccontextmanager
async def open_queue(
    settings: Settings, now: Callable[[], float], *, append: Append = outbox.append, number: int = SHARD
) -> AsyncIterator[Shard]:
    """The queue for the duration of the block. Raises StorageError, ConfigurationError.

    `number`: of the shard; where the queue is shared, of this process among the node's.
    """
    url = queue_url(settings)
    directory = settings.path(settings.queue.directory)
    if url is None:
        async with open_shard(directory, number, now(), append=append) as shard:
            yield shard
        return
    membership = Membership(
        url,
        node_name(settings, number),
        directory,
        now,
        number=number,
        connections=settings.queue.connections,
        max_skew=settings.queue.lease_margin / 2,
    )
    async with open_cluster(membership, append=append) as shard:
        yield shard


def queue_url(settings: Settings) -> URL | None:
    """The database that nodes share, with its password; None for SQLite. Raises ConfigurationError."""
    queue = settings.queue
    if queue.url is None:
        return None
    password = read_secret(settings, queue.password_file) if queue.password_file else None
    try:
        return database_url(queue.url, password)
    except ValueError as error:
        remedy = 'write "postgresql+psycopg://user@host/database", and install outrider[postgres]'
        raise ConfigurationError("reading queue.url", str(error), remedy) from error


def node_name(settings: Settings, number: int = SHARD) -> str:
    """Our name among the nodes; each process of a node but the first has its number behind it."""
    name = settings.queue.node or os.uname().nodename
    return f"{name}/{number}" if number else name
