"""Our own validation over the miniature Internet's resolver, which may do what it likes to the answers."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from deliver.dnssec.anchors import NegativeAnchor, parse, root_anchors
from deliver.dnssec.keys import KeyCache
from deliver.net.clock import WallClock
from deliver.resolve import validating
from deliver.resolve.answer import Bogus, Found, MxRecord, NoData, NxDomain, Query, RecordType, Unreachable
from deliver.resolve.transport import Recursor, ResolverAddress
from deliver.resolve.validating import ValidatingResolver
from deliver.settings import Dns, Duration
from tests.internet import Fault, World

MX, A, AAAA, TLSA, CNAME = (
    RecordType.MX,
    RecordType.A,
    RecordType.AAAA,
    RecordType.TLSA,
    RecordType.CNAME,
)


def resolver(world: World, *others: ResolverAddress, **changes: Any) -> ValidatingResolver:
    settings = Dns(timeout=Duration(0.3), attempts=1)
    own = ResolverAddress(world.resolver.address, world.resolver.port)
    recursor = Recursor(settings, (*others, own))
    anchors = changes.pop("anchors", parse(world.internet.trust_anchor_text))
    return ValidatingResolver(recursor, anchors, now=WallClock().now, **changes)


@pytest.mark.parametrize(
    ("name", "type", "kind", "secure"),
    [
        ("dane-ee.test", MX, Found, True),
        ("mx.dane-ee.test", A, Found, True),
        ("mx.dane-ee.test", AAAA, NoData, True),
        ("_25._tcp.absent.dane-ee.test", TLSA, NxDomain, True),
        ("mail.alias.test", CNAME, Found, True),
        ("absent.test", MX, NxDomain, True),
        ("insecure.test", MX, Found, False),
        ("mx.insecure.test", AAAA, NoData, False),
        ("absent.insecure.test", A, NxDomain, False),
        ("bogus.test", MX, Bogus, None),
        ("expired.test", MX, Bogus, None),
    ],
)
async def test_answers(
    world: World, name: str, type: RecordType, kind: type[object], secure: bool | None
) -> None:
    answer = await resolver(world, evidence=True).lookup(Query(name, type))
    assert isinstance(answer, kind)
    assert not (await resolver(world).lookup(Query(name, type))).evidence, "nobody asked for it"
    if secure is not None:
        assert not isinstance(answer, Bogus | Unreachable)
        assert answer.secure is secure
    assert answer.evidence


async def test_records_and_aliases(world: World) -> None:
    ours = resolver(world)
    assert (await ours.lookup(Query("dane-ee.test", MX))) == Found(
        (MxRecord(10, "mx.dane-ee.test"),), True, 300, ()
    )
    answer = await ours.lookup(Query("mail.alias.test", A))
    assert isinstance(answer, Found)
    assert (answer.secure, answer.aliases) == (True, ("mx.alias.test",))


@pytest.mark.parametrize("fault", [Fault.UNSIGNED, Fault.AUTHENTIC])
async def test_a_resolver_cannot_make_anything_secure_or_insecure(world: World, fault: Fault) -> None:
    for name in ("dane-ee.test", "bogus.test"):
        world.resolver.trouble(name, fault=fault)
        answer = await resolver(world).lookup(Query(name, MX))
        if fault is Fault.AUTHENTIC and name == "dane-ee.test":
            assert isinstance(answer, Found)
        else:
            assert isinstance(answer, Bogus | Unreachable)


@pytest.mark.parametrize(
    "fault", [Fault.SERVFAIL, Fault.REFUSED, Fault.SILENCE, Fault.GARBAGE, Fault.WRONG_ID]
)
@pytest.mark.parametrize("name", ["dane-ee.test", "test", "."])
async def test_trouble_anywhere_in_the_chain_is_never_an_absence(
    world: World, fault: Fault, name: str
) -> None:
    world.resolver.trouble(name, fault=fault)
    answer = await resolver(world).lookup(Query("dane-ee.test", MX))
    assert isinstance(answer, Unreachable)


async def test_another_resolver_is_asked_when_one_is_dead(world: World) -> None:
    dead = ResolverAddress("127.0.0.1", 9)
    answer = await resolver(world, dead).lookup(Query("dane-ee.test", MX))
    assert isinstance(answer, Found)
    assert answer.secure


async def test_another_root_is_no_root_for_us(world: World) -> None:
    answer = await resolver(world, anchors=root_anchors()).lookup(Query("dane-ee.test", MX))
    assert isinstance(answer, Bogus)


async def test_a_negative_anchor_suspends_validation_until_its_end(world: World) -> None:
    import dns.name

    name = dns.name.from_text("bogus.test.")
    anchors = parse(world.internet.trust_anchor_text)
    now = WallClock().now()
    suspended = anchors.but_not([NegativeAnchor(name, "ticket 1", now + 60)])
    answer = await resolver(world, anchors=suspended).lookup(Query("bogus.test", MX))
    assert isinstance(answer, Found)
    assert not answer.secure
    over = anchors.but_not([NegativeAnchor(name, "ticket 1", now - 60)])
    assert isinstance(await resolver(world, anchors=over).lookup(Query("bogus.test", MX)), Bogus)


async def test_a_warm_lookup_asks_one_question(world: World) -> None:
    ours = resolver(world)
    await ours.lookup(Query("dane-ee.test", MX))
    before = len(world.resolver.questions)
    await ours.lookup(Query("mx.dane-ee.test", A))
    assert len(world.resolver.questions) == before + 1


async def test_a_cold_lookup_takes_few_round_trips(world: World) -> None:
    ours = resolver(world)
    for name in (".", "test", "dane-ee.test", "mx.dane-ee.test"):
        world.resolver.trouble(name, delay=0.1)
    start = trio.current_time()
    await ours.lookup(Query("dane-ee.test", MX))
    await ours.lookup(Query("mx.dane-ee.test", A))
    assert trio.current_time() - start < 0.35  # two for the chain and the MX, one for the address


async def test_identical_questions_in_flight_are_asked_once(world: World) -> None:
    ours = resolver(world)
    world.resolver.trouble("dane-ee.test", delay=0.1)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ours.lookup, Query("dane-ee.test", MX))
    assert len(world.resolver.asked("dane-ee.test", "MX")) == 1
    assert len(world.resolver.asked("dane-ee.test", "DNSKEY")) == 1


async def test_a_cancelled_leader_leaves_the_question_to_the_next(world: World) -> None:
    ours = resolver(world)
    world.resolver.trouble("dane-ee.test", delay=0.2)
    answers: list[object] = []

    async def follow() -> None:
        answers.append(await ours.lookup(Query("dane-ee.test", MX)))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.1):
            nursery.start_soon(follow)
            await ours.lookup(Query("dane-ee.test", MX))
    assert isinstance(answers[0], Found)


async def test_heavy_judgements_leave_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    where: list[bool] = []
    advance = validating._advance

    def watched(*arguments: Any) -> Any:
        where.append(threading.current_thread() is threading.main_thread())
        return advance(*arguments)

    monkeypatch.setattr(validating, "_advance", watched)
    monkeypatch.setattr(validating, "OFF_LOOP", 0.0)
    answer = await resolver(world, keys=KeyCache()).lookup(Query("dane-ee.test", MX))
    assert isinstance(answer, Found)
    assert where[0]  # nothing to judge yet
    assert not any(where[1:])
