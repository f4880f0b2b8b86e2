"""What validation costs: queries, sequential round trips and CPU for a domain's MX, address and TLSA records.

The delivery's own walks (`deliver.resolve.walk`) are driven through the answer cache and the validator, over
a recursor in this process that replays recorded octets, so that CPU is ours: building questions, parsing
answers, validating. Sockets are not in it. Round trips are counted on a simulated clock where every answer
takes a second.

    cold       nothing is known but the root's key
    neighbour  another domain of the same top-level domain was looked up before
    keys       the zones' keys are known, the answers are not
    warm       everything is in the cache

Exit code 1 when a target of `TARGETS` is missed (a busy machine can do that to CPU).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from random import Random

import dns.message
import dns.name
import dns.rdatatype
import trio
import trio.testing
from rich.console import Console
from rich.table import Table

from deliver.dnssec.anchors import TrustAnchors, parse
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.response import Response, read_response
from deliver.resolve.cache import CachingResolver
from deliver.resolve.exchange import Request
from deliver.resolve.mx import MxPlan
from deliver.resolve.resolver import Resolver, drive
from deliver.resolve.validating import ValidatingResolver
from deliver.resolve.walk import find_host, find_mx
from tests.internet.resolver import message
from tests.zoo.recursion import Recursion
from tests.zoo.tree import build

DOMAINS = {
    "alg13.test": "P-256, one host",
    "alg8.test": "RSA, one host",
    "alg15-nsec3.test": "Ed25519, NSEC3",
    "l4.l3.l2.test": "five levels",
    "hosted.test": "five hosts in another zone",
    "dark.test": "unsigned",
}
NEIGHBOUR = "alg14.test"
REPEATS = 15
WARM_REPEATS = 200
_WIDTH = 110  # characters of the table
ENTRIES, MAX_TTL = 20_000, 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """At most that much, for domains without CNAME; `domain` None: every domain."""

    state: str
    field: str
    at_most: float
    domain: str | None = None


TARGETS = (
    Target("cold", "round_trips", 4),
    Target("cold", "cpu_ms", 6, "alg13.test"),
    Target("warm", "cpu_ms", 0.2, "alg13.test"),
    Target("warm", "queries", 0),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One domain in one state. `cpu_ms` and `wall_ms` are medians, milliseconds for the whole set."""

    domain: str
    about: str
    state: str
    queries: int
    round_trips: int
    cpu_ms: float
    wall_ms: float
    missed: tuple[str, ...] = ()


class Replay:
    """A recursor that answers every question from octets, recorded when it is first asked."""

    def __init__(self, recursion: Recursion) -> None:
        self._recursion = recursion
        self._recorded: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], bytes] = {}
        self.delay = 0.0
        self.asked = 0

    async def ask(self, request: Request) -> tuple[Response, str]:
        """The response after `delay` seconds, and who gave it."""
        self.asked += 1
        await trio.sleep(self.delay)
        key = (request.name, request.rdtype)
        sent = request.wire(0)  # what asking costs
        if key not in self._recorded:
            response = message(dns.message.from_wire(sent), self._recursion.resolve(*key))
            self._recorded[key] = response.to_wire(max_size=65535)
        return read_response(self._recorded[key]), "replay"


@dataclass(slots=True)
class Bench:
    """One recursor and anchor for all measurements."""

    replay: Replay
    anchors: TrustAnchors
    now: int

    def fresh(self, keys: KeyCache | None = None) -> CachingResolver:
        """A resolver that knows nothing but `keys`."""
        validating = ValidatingResolver(
            self.replay,  # type: ignore[arg-type]
            self.anchors,
            now=lambda: self.now,
            keys=keys if keys is not None else KeyCache(),
        )
        return CachingResolver(validating, now=trio.current_time, entries=ENTRIES, max_ttl=MAX_TTL)

    async def prepared(self, state: str, domain: str) -> CachingResolver:
        """A resolver in that state before `domain` is looked up."""
        keys = KeyCache()
        resolver = self.fresh(keys)
        if state == "neighbour":
            await look_up(resolver, NEIGHBOUR)
        elif state != "cold":
            await look_up(resolver, domain)
        return self.fresh(keys) if state == "keys" else resolver

    def measure(self, domain: str, about: str, state: str) -> Row:
        """All figures of one row."""
        queries, round_trips = self.count(domain, state)
        times = trio.run(self._time, domain, state)
        cpu, wall = (statistics.median(values) * 1000 for values in zip(*times, strict=True))
        row = Row(domain, about, state, queries, round_trips, round(cpu, 3), round(wall, 3))
        return Row(**{**asdict(row), "missed": missed(row)})

    def count(self, domain: str, state: str) -> tuple[int, int]:
        """Queries and sequential round trips, the same in every run."""
        self.replay.delay = 1.0
        clock = trio.testing.MockClock(autojump_threshold=0)
        queries, elapsed = trio.run(self._count, domain, state, clock=clock)
        self.replay.delay = 0.0
        return queries, round(elapsed)

    async def _count(self, domain: str, state: str) -> tuple[int, float]:
        resolver = await self.prepared(state, domain)
        asked, begin = self.replay.asked, trio.current_time()
        await look_up(resolver, domain)
        return self.replay.asked - asked, trio.current_time() - begin

    async def _time(self, domain: str, state: str) -> list[tuple[float, float]]:
        if state == "warm":
            resolver = await self.prepared(state, domain)
            return [await _timed(look_up, resolver, domain) for _ in range(WARM_REPEATS)]
        return [await _timed(look_up, await self.prepared(state, domain), domain) for _ in range(REPEATS)]


async def _timed(
    work: Callable[[Resolver, str], Awaitable[None]], resolver: Resolver, domain: str
) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    await work(resolver, domain)
    return time.process_time() - cpu, time.perf_counter() - wall


async def look_up(resolver: Resolver, domain: str) -> None:
    """What a delivery asks: the MX set, then every host with its addresses and TLSA, side by side."""
    walked = await drive(find_mx(domain, Random(1)), resolver)
    plan = walked.plan
    assert isinstance(plan, MxPlan), plan

    async def host(name: str) -> None:
        await drive(
            find_host(name, port=25, families=("ipv4", "ipv6"), mx_secure=plan.secure, tlsa_unwanted=None),
            resolver,
        )

    async with trio.open_nursery() as nursery:
        for target in plan.targets:
            nursery.start_soon(host, target.host)


def missed(row: Row) -> tuple[str, ...]:
    """The targets that the row misses, in words."""
    return tuple(
        f"{target.field} {getattr(row, target.field):g} > {target.at_most:g}"
        for target in TARGETS
        if target.state == row.state
        and target.domain in (None, row.domain)
        and getattr(row, target.field) > target.at_most
    )


def over_the_zoo() -> Bench:
    """The bench on the zones of tests/zoo."""
    now = int(datetime.now(UTC).timestamp())
    zoo = build(now)
    return Bench(Replay(Recursion(zoo)), parse("\n".join(zoo.anchor_texts)), now)


def measure_all() -> tuple[Row, ...]:
    """Every domain in every state."""
    bench = over_the_zoo()
    return tuple(
        bench.measure(domain, about, state)
        for domain, about in DOMAINS.items()
        for state in ("cold", "neighbour", "keys", "warm")
    )


def main(arguments: Sequence[str] = ()) -> int:
    """Print a table, or JSON with `--json`."""
    rows = measure_all()
    if "--json" in arguments:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console(width=_WIDTH).print(_table(rows))
    return int(any(row.missed for row in rows))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="A domain's MX, addresses and TLSA, validated in process", title_justify="left")
    for column in ("domain", "", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("queries", "round trips", "CPU ms", "wall ms"):
        table.add_column(column, justify="right")
    table.add_column("missed")
    for row in rows:
        first = row.state == "cold"
        table.add_row(
            row.domain if first else "",
            row.about if first else "",
            row.state,
            str(row.queries),
            str(row.round_trips),
            f"{row.cpu_ms:.2f}",
            f"{row.wall_ms:.2f}",
            "; ".join(row.missed),
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
