"""The resolver on the wire: AD, CD, DO, extended errors, truncation, TCP, and every kind of trouble."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
import trio

from tests.internet.resolver import Fault, Resolver
from tests.internet.zones import Internet, MailDomain, Security, build

INTERNET: Internet = build(
    [
        MailDomain(
            "good.test",
            mx=((10, "mx.good.test"),),
            hosts={"mx.good.test": ("127.0.0.9",)},
            records=tuple(f'big.good.test. TXT "{place} {"x" * 200}"' for place in range(20)),
        ),
        MailDomain("plain.test", mx=((10, "mx.good.test"),), security=Security.INSECURE),
        MailDomain("bogus.test", mx=((10, "mx.good.test"),), security=Security.BOGUS),
    ],
    name_server="127.0.0.1",
)


@asynccontextmanager
async def running() -> AsyncIterator[Resolver]:
    resolver = Resolver(INTERNET)
    async with trio.open_nursery() as nursery:
        await nursery.start(resolver.serve, "127.0.0.1")
        yield resolver
        nursery.cancel_scope.cancel()


def query(name: str, rdtype: str = "MX", *, flags: int = 0, do: bool = True) -> dns.message.Message:
    made = dns.message.make_query(name, rdtype, want_dnssec=do)
    made.flags |= flags
    return made


async def udp(resolver: Resolver, asked: dns.message.Message) -> dns.message.Message:
    return await dns.asyncquery.udp(asked, resolver.address, port=resolver.port, timeout=5)


def types(rrsets: list[dns.rrset.RRset]) -> set[str]:
    return {rrset.rdtype.name for rrset in rrsets}


def authentic(message: dns.message.Message) -> bool:
    return bool(message.flags & dns.flags.AD)


async def test_a_secure_answer_has_ad_and_signatures_where_do_was_set() -> None:
    async with running() as resolver:
        answer = await udp(resolver, query("good.test"))
    assert authentic(answer)
    assert types(answer.answer) == {"MX", "RRSIG"}
    assert answer.flags & dns.flags.RA


async def test_ad_in_the_question_asks_for_ad_without_signatures() -> None:
    async with running() as resolver:
        with_ad = await udp(resolver, query("good.test", flags=dns.flags.AD, do=False))
        without = await udp(resolver, query("good.test", do=False))
    assert authentic(with_ad)
    assert types(with_ad.answer) == {"MX"}
    assert not authentic(without)


async def test_an_insecure_answer_has_no_ad() -> None:
    async with running() as resolver:
        answer = await udp(resolver, query("plain.test", flags=dns.flags.AD))
    assert not authentic(answer)
    assert answer.rcode() == dns.rcode.NOERROR


async def test_a_secure_denial_has_ad_and_proofs() -> None:
    async with running() as resolver:
        answer = await udp(resolver, query("nowhere.good.test"))
        plain = await udp(resolver, query("nowhere.good.test", do=False))
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert authentic(answer)
    assert types(answer.authority) == {"SOA", "RRSIG", "NSEC"}
    assert types(plain.authority) == {"SOA"}


async def test_a_bogus_answer_is_servfail_with_the_reason() -> None:
    async with running() as resolver:
        answer = await udp(resolver, query("bogus.test"))
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert not answer.answer
    assert [error.code for error in answer.extended_errors()] == [dns.edns.EDECode.DNSSEC_BOGUS]


async def test_with_cd_a_bogus_answer_is_given_without_ad() -> None:
    async with running() as resolver:
        answer = await udp(resolver, query("bogus.test", flags=dns.flags.CD))
    assert answer.rcode() == dns.rcode.NOERROR
    assert types(answer.answer) == {"MX", "RRSIG"}
    assert not authentic(answer)
    assert answer.flags & dns.flags.CD


async def test_a_large_answer_is_truncated_over_udp_and_whole_over_tcp() -> None:
    async with running() as resolver:
        asked = query("big.good.test", "TXT")
        short = await udp(resolver, asked)
        full, tcp = await dns.asyncquery.udp_with_fallback(
            asked, resolver.address, port=resolver.port, timeout=5
        )
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert tcp
    assert len(full.answer[0]) == 20
    assert [question.transport for question in resolver.questions] == ["udp", "udp", "tcp"]


async def test_without_edns_the_limit_is_512_octets() -> None:
    async with running() as resolver:
        resolver.internet = build(
            [MailDomain("good.test", records=(f"good.test. TXT {' '.join(['x' * 200] * 3)}",))],
            name_server="127.0.0.1",
        )
        without = await udp(resolver, query("good.test", "TXT", do=False))
        edns = dns.message.make_query("good.test", "TXT", use_edns=0, payload=1232)
        with_edns = await udp(resolver, edns)
    assert without.flags & dns.flags.TC
    assert not with_edns.flags & dns.flags.TC


async def test_questions_are_recorded_as_they_came() -> None:
    async with running() as resolver:
        await udp(resolver, query("Good.TEST", flags=dns.flags.CD))
    [question] = resolver.asked("good.test", "MX")
    assert question.dnssec_ok
    assert question.checking_disabled
    assert not question.authentic_data
    assert question.recursion_desired
    assert resolver.asked("good.test", "A") == ()


@pytest.mark.parametrize(
    ("fault", "rcode"), [(Fault.SERVFAIL, dns.rcode.SERVFAIL), (Fault.REFUSED, dns.rcode.REFUSED)]
)
async def test_error_codes_on_demand(fault: Fault, rcode: dns.rcode.Rcode) -> None:
    async with running() as resolver:
        resolver.trouble("good.test", "MX", fault=fault, times=1)
        first = await udp(resolver, query("good.test"))
        second = await udp(resolver, query("good.test"))
    assert (first.rcode(), second.rcode()) == (rcode, dns.rcode.NOERROR)


async def raw(resolver: Resolver, asked: dns.message.Message) -> bytes:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as client:
        await client.sendto(asked.to_wire(), (resolver.address, resolver.port))
        octets, _ = await client.recvfrom(65535)
        return octets


async def test_silence_leaves_one_type_alone() -> None:
    async with running() as resolver:
        resolver.trouble("good.test", "MX", fault=Fault.SILENCE)
        with trio.move_on_after(0.2) as scope:
            await raw(resolver, query("good.test"))
        other = await udp(resolver, query("good.test", "SOA"))
    assert scope.cancelled_caught
    assert resolver.asked("good.test", "MX")
    assert other.answer


async def test_a_delay_holds_up_one_name_only() -> None:
    async with running() as resolver, trio.open_nursery() as nursery:
        resolver.trouble("good.test", delay=0.2)
        order = []

        async def ask(name: str) -> None:
            await udp(resolver, query(name))
            order.append(name)

        nursery.start_soon(ask, "good.test")
        while not resolver.asked("good.test"):
            await trio.lowlevel.checkpoint()
        await ask("plain.test")
        assert order == ["plain.test"]
    assert order == ["plain.test", "good.test"]


async def test_garbage_and_a_wrong_id() -> None:
    asked = query("good.test")
    async with running() as resolver:
        resolver.trouble("good.test", fault=Fault.GARBAGE, times=1)
        garbage = await raw(resolver, asked)
        resolver.trouble("good.test", fault=Fault.WRONG_ID, times=1)
        other = await raw(resolver, asked)
    with pytest.raises(dns.exception.DNSException):
        dns.message.from_wire(garbage)
    assert dns.message.from_wire(other).id != asked.id


async def test_stripped_signatures_and_a_false_ad() -> None:
    async with running() as resolver:
        resolver.trouble("good.test", fault=Fault.UNSIGNED)
        resolver.trouble("plain.test", fault=Fault.AUTHENTIC)
        stripped = await udp(resolver, query("good.test"))
        lying = await udp(resolver, query("plain.test"))
    assert types(stripped.answer) == {"MX"}
    assert not authentic(stripped)
    assert authentic(lying)


async def test_truncation_on_demand_and_its_end() -> None:
    async with running() as resolver:
        resolver.trouble("good.test", fault=Fault.TRUNCATED)
        short = await udp(resolver, query("good.test"))
        full = await dns.asyncquery.tcp(query("good.test"), resolver.address, port=resolver.port, timeout=5)
        resolver.untroubled()
        again = await udp(resolver, query("good.test"))
    assert short.flags & dns.flags.TC
    assert full.answer
    assert again.answer


async def test_octets_that_are_no_query_are_survived() -> None:
    async with running() as resolver:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as client:
            await client.sendto(b"\x00", (resolver.address, resolver.port))
        update = query("good.test")
        update.set_opcode(dns.opcode.STATUS)
        assert dns.message.from_wire(await raw(resolver, update)).rcode() == dns.rcode.NOTIMP
        assert (await udp(resolver, query("good.test"))).answer
