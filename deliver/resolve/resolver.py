"""The port through which names are looked up, and the driver that feeds walks from it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, TypeVar

import trio

from deliver.resolve.answer import Answer, Query

T = TypeVar("T")


class Resolver(Protocol):
    """One lookup. Never raises for what the network or a server did: that is an Answer."""

    async def lookup(self, query: Query) -> Answer:
        """Look `query` up, CNAMEs followed."""
        ...


async def drive(walk: Generator[tuple[Query, ...], tuple[Answer, ...], T], resolver: Resolver) -> T:
    """Run a walk (`deliver.resolve.walk`) to its result; queries yielded together are asked together."""
    try:
        queries = next(walk)
        while True:
            queries = walk.send(await _ask_together(queries, resolver))
    except StopIteration as finished:
        result: T = finished.value
        return result


async def _ask_together(queries: tuple[Query, ...], resolver: Resolver) -> tuple[Answer, ...]:
    if len(queries) == 1:
        return (await resolver.lookup(queries[0]),)
    answers: dict[int, Answer] = {}

    async def ask(place: int, query: Query) -> None:
        answers[place] = await resolver.lookup(query)

    async with trio.open_nursery() as nursery:
        for place, query in enumerate(queries[1:], 1):
            nursery.start_soon(ask, place, query)
        await ask(0, queries[0])
    return tuple(answers[place] for place in range(len(queries)))
