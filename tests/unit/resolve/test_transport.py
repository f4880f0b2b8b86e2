from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import pytest

from deliver.dnssec.response import of_message
from deliver.errors import ConfigurationError
from deliver.resolve.answer import (
    AddressRecord,
    AliasRecord,
    Answer,
    Bogus,
    Found,
    MxRecord,
    NoData,
    NxDomain,
    Query,
    RecordType,
    TextRecord,
    TlsaRecord,
    Unreachable,
)
from deliver.resolve.transport import MAX_RECORDS, ResolverAddress, read_response, resolver_addresses
from deliver.settings import Dns


def respond(query: Query, sections: str, *, flags: str = "QR RD RA AD", rcode: str = "NOERROR") -> Answer:
    text = f"id 1\nopcode QUERY\nrcode {rcode}\nflags {flags}\n;QUESTION\n{query.name}. IN {query.type}\n{sections}"
    return read_response(query, of_message(dns.message.from_text(text)), trust_ad=True, said="resolver")


MX = Query("example", RecordType.MX)
SOA = ";AUTHORITY\nexample. 300 IN SOA ns. h. 1 2 3 4 60\n"


def test_records_of_every_type_are_read() -> None:
    found = respond(MX, ";ANSWER\nexample. 300 IN MX 10 MX.Example.\nexample. 300 IN MX 0 .\n")
    assert isinstance(found, Found)
    assert set(found.records) == {MxRecord(10, "mx.example"), MxRecord(0, "")}
    assert (found.secure, found.ttl) == (True, 300)
    for kind, rdata, record in (
        (RecordType.A, "192.0.2.1", AddressRecord("192.0.2.1")),
        (RecordType.AAAA, "2001:DB8:0::1", AddressRecord("2001:db8::1")),
        (RecordType.CNAME, "Other.example.", AliasRecord("other.example")),
        (RecordType.TLSA, "3 1 1 " + "ab" * 32, TlsaRecord(3, 1, 1, b"\xab" * 32)),
        (RecordType.TXT, '"v=" "x"', TextRecord(b"v=x")),
    ):
        answer = respond(Query("example", kind), f";ANSWER\nexample. 300 IN {kind} {rdata}\n")
        assert isinstance(answer, Found)
        assert answer.records == (record,)


def test_without_the_ad_bit_nothing_is_secure() -> None:
    answer = respond(MX, ";ANSWER\nexample. 300 IN MX 10 mx.example.\n", flags="QR RD RA")
    assert isinstance(answer, Found)
    assert not answer.secure


def test_aliases_are_named_in_order() -> None:
    chain = "a.example. 300 IN CNAME b.example.\nb.example. 30 IN CNAME c.example.\n"
    answer = respond(Query("a.example", RecordType.A), f";ANSWER\n{chain}c.example. 60 IN A 192.0.2.1\n")
    assert answer == Found((AddressRecord("192.0.2.1"),), True, 30, ("b.example", "c.example"))
    answer = respond(Query("a.example", RecordType.A), f";ANSWER\n{chain}{SOA}")
    assert answer == NoData(True, 30, ("b.example", "c.example"))


def test_absences_carry_their_negative_ttl() -> None:
    assert respond(MX, SOA) == NoData(True, 60)
    assert respond(MX, SOA, rcode="NXDOMAIN", flags="QR RD RA") == NxDomain(False, 60)


@pytest.mark.parametrize("sections", ["", SOA, ";ANSWER\nexample. 300 IN MX 10 mx.example.\n"])
def test_a_response_that_was_cut_says_nothing_of_what_is_absent(sections: str) -> None:
    assert isinstance(respond(MX, sections, flags="QR TC RD RA AD"), Unreachable)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
def test_any_other_rcode_is_no_answer(rcode: str) -> None:
    assert isinstance(respond(MX, "", rcode=rcode), Unreachable)


@pytest.mark.parametrize(
    ("code", "kind"), [(6, Bogus), (7, Bogus), (12, Bogus), (5, Unreachable), (22, Unreachable)]
)
def test_a_dnssec_extended_error_tells_bogus_from_unreachable(code: int, kind: type[Answer]) -> None:
    response = dns.message.make_response(dns.message.make_query("example.", "MX", want_dnssec=True))
    response.set_rcode(dns.rcode.SERVFAIL)
    option = dns.edns.EDEOption(dns.edns.EDECode(code), "signature expired")
    response.use_edns(0, options=[option])
    answer = read_response(MX, of_message(response), trust_ad=True, said="resolver")
    assert type(answer) is kind
    assert "signature expired" in answer.why


def test_a_flood_of_records_is_no_answer() -> None:
    lines = "".join(f"example. 300 IN MX {number} mx.example.\n" for number in range(MAX_RECORDS + 1))
    assert isinstance(respond(MX, f";ANSWER\n{lines}"), Unreachable)


def test_resolver_addresses_are_read() -> None:
    settings = Dns(resolvers=("127.0.0.53:5353", "[::1]:54", "127.0.0.1", "::1"))
    assert resolver_addresses(settings) == (
        ResolverAddress("127.0.0.53", 5353),
        ResolverAddress("::1", 54),
        ResolverAddress("127.0.0.1", 53),
        ResolverAddress("::1", 53),
    )


def test_an_ad_bit_from_afar_is_not_trusted_unasked() -> None:
    afar = ("192.0.2.53",)
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.53"):
        resolver_addresses(Dns(dnssec="trust-ad", resolvers=afar))
    for settings in (
        Dns(dnssec="trust-ad", resolvers=afar, trust_remote_ad=True),
        Dns(dnssec="off", resolvers=afar),
        Dns(dnssec="validate", resolvers=afar),
    ):
        assert resolver_addresses(settings) == (ResolverAddress("192.0.2.53", 53),)
