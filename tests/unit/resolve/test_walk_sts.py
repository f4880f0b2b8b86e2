"""When a walk to a host asks for the record of MTA-STS (RFC 8461 2): where DANE does not decide."""

from __future__ import annotations

import pytest

from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Bogus,
    Found,
    NoData,
    Query,
    RecordType,
    TextRecord,
    TlsaRecord,
    Unreachable,
)
from deliver.resolve.mx import NoHost
from deliver.resolve.walk import find_host, with_sts_record

HOST = "mx.example"
ADDRESS, TLSA = Query(HOST, RecordType.A), Query(f"_25._tcp.{HOST}", RecordType.TLSA)
RECORD = Query("_mta-sts.example", RecordType.TXT)
FOUND = Found((AddressRecord("192.0.2.1"),), True, 60)
INSECURE = Found((AddressRecord("192.0.2.1"),), False, 60)
ANNOUNCED = Found((TextRecord(b"v=STSv1; id=1;"),), False, 60)
EE = Found((TlsaRecord(3, 1, 1, b"\x01" * 32),), True, 60)
UNUSABLE = Found((TlsaRecord(1, 1, 1, b"\x01" * 32),), True, 60)


def walked(
    answers: dict[Query, Answer], *, dane: bool = True, host: str = HOST, sts: bool = True
) -> tuple[Answer | None, list[tuple[Query, ...]], bool]:
    """The answer about the record, what was asked together, and whether there is a host."""
    walk = find_host(
        host,
        port=25,
        families=("ipv4",),
        mx_secure=True,
        tlsa_unwanted=None if dane else "level may",
    )
    whole = with_sts_record(walk, "example" if sts else None, at_once=not dane)
    asked: list[tuple[Query, ...]] = []
    try:
        queries = next(whole)
        while True:
            asked.append(queries)
            queries = whole.send(tuple(answers[query] for query in queries))
    except StopIteration as finished:
        (found, record) = finished.value
        return record, asked, not isinstance(found.plan, NoHost)


def test_the_record_rides_with_the_addresses_where_tlsa_is_not_asked() -> None:
    record, asked, usable = walked({ADDRESS: FOUND, RECORD: ANNOUNCED}, dane=False)
    assert asked == [(ADDRESS, RECORD)]
    assert record == ANNOUNCED
    assert usable


@pytest.mark.parametrize("tlsa", [NoData(True), NoData(False), UNUSABLE])
def test_the_record_is_asked_for_when_tlsa_does_not_decide(tlsa: Answer) -> None:
    record, asked, _ = walked({ADDRESS: FOUND, TLSA: tlsa, RECORD: ANNOUNCED})
    assert asked == [(ADDRESS,), (TLSA,), (RECORD,)]
    assert record == ANNOUNCED


def test_the_record_is_asked_for_when_the_addresses_are_insecure() -> None:
    record, asked, _ = walked({ADDRESS: INSECURE, RECORD: NoData(False)})
    assert asked == [(ADDRESS,), (RECORD,)]
    assert record == NoData(False)


@pytest.mark.parametrize("tlsa", [EE, Bogus("expired"), Unreachable("SERVFAIL")])
def test_no_record_is_asked_for_when_dane_decides_or_fails(tlsa: Answer) -> None:
    record, asked, _ = walked({ADDRESS: FOUND, TLSA: tlsa})
    assert asked == [(ADDRESS,), (TLSA,)]
    assert record is None


@pytest.mark.parametrize("address", [NoData(True), Unreachable("SERVFAIL")])
def test_no_record_is_asked_for_a_host_that_cannot_be_used(address: Answer) -> None:
    record, asked, usable = walked({ADDRESS: address})
    assert asked == [(ADDRESS,)]
    assert record is None
    assert not usable


def test_a_host_that_needs_no_lookup_has_its_record_asked_for() -> None:
    record, asked, _ = walked({RECORD: ANNOUNCED}, host="192.0.2.1", dane=False)
    assert asked == [(RECORD,)]
    assert record == ANNOUNCED


def test_without_policies_nothing_more_is_asked() -> None:
    record, asked, usable = walked({ADDRESS: FOUND}, dane=False, sts=False)
    assert (record, asked, usable) == (None, [(ADDRESS,)], True)
