"""Looking ahead: the attempt's questions are asked before it asks them, and nothing else comes of it."""

from __future__ import annotations

from random import Random

import trio

from deliver.candidates import Candidate, find_candidates
from deliver.lookahead import Ahead, look_ahead
from deliver.relay.route import ViaMx
from deliver.resolve.answer import AddressRecord, Answer, Found, MxRecord, NoData, Query, RecordType
from deliver.resolve.cache import CachingResolver
from deliver.resolve.mx import MxPlan
from deliver.settings import Route, Settings

EXCHANGERS = {"a.test": ("mx1.a.test", "mx2.a.test"), "b.test": ("mx.b.test",)}


class Zone:
    """Answers securely, and counts the questions."""

    def __init__(self) -> None:
        self.asked: list[Query] = []

    async def lookup(self, query: Query) -> Answer:
        self.asked.append(query)
        await trio.lowlevel.checkpoint()
        if query.type is RecordType.MX:
            return Found(tuple(MxRecord(10, name) for name in EXCHANGERS[query.name]), secure=True, ttl=60)
        if query.type is RecordType.A:
            return Found((AddressRecord("192.0.2.1"),), secure=True, ttl=60)
        return NoData(secure=True, ttl=60)


def ahead(zone: Zone, *routes: Route) -> Ahead:
    caching = CachingResolver(zone, now=trio.current_time, entries=100, max_ttl=60)
    return Ahead(Settings(route=routes), caching, Random(1))


async def test_the_attempt_finds_everything_in_the_cache() -> None:
    zone = Zone()
    seeker = ahead(zone)
    await look_ahead(seeker, "me@sender.test", ["a.test", "b.test", "a.test"])
    before = list(zone.asked)
    assert {(query.name, query.type) for query in before} >= {
        ("a.test", RecordType.MX), ("b.test", RecordType.MX), ("mx1.a.test", RecordType.A),
        ("mx2.a.test", RecordType.A), ("_25._tcp.mx.b.test", RecordType.TLSA),
    }  # fmt: skip
    for domain in EXCHANGERS:
        plan = (await find_candidates(seeker, domain, ViaMx(domain))).plan
        assert isinstance(plan, MxPlan)
        for target in plan.targets:
            await Candidate(target, seeker, domain, plan).look_up(trio.CapacityLimiter(1))
    assert zone.asked == before


async def test_a_fault_is_the_attempts_to_meet() -> None:
    zone = Zone()
    await look_ahead(ahead(zone), "me@sender.test", ["unknown.test", "b.test"])  # the zone raises KeyError
    assert Query("mx.b.test", RecordType.A) in zone.asked


async def test_nothing_is_asked_for_mail_that_goes_nowhere_by_name() -> None:
    zone = Zone()
    nowhere = Route(domains=("a.test",), via="reject", senders=("me@sender.test",))
    literal = Route(domains=("b.test",), via="smarthost", hosts=("[192.0.2.7]:25",))
    await look_ahead(ahead(zone, nowhere, literal), "me@sender.test", ["a.test", "b.test"])
    assert zone.asked == []
