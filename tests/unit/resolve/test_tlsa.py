"""Which TLSA records SMTP may use: RFC 6698 2.1, RFC 7671 9, RFC 7672 3.1."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from deliver.resolve.answer import TlsaRecord
from deliver.resolve.tlsa import classify, owner_name, unusable_because

BASE = "mx.example.org"


def record(usage: int, selector: int, matching_type: int, length: int | None = None) -> TlsaRecord:
    if length is None:
        length = {1: 32, 2: 64}.get(matching_type, 100)
    return TlsaRecord(usage, selector, matching_type, bytes([usage]) * length)


def test_owner_name() -> None:
    assert owner_name(BASE, 25) == "_25._tcp.mx.example.org"
    assert owner_name(BASE, 2525) == "_2525._tcp.mx.example.org"


@pytest.mark.parametrize("usage", [2, 3])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching_type", [0, 1, 2])
def test_usable(usage: int, selector: int, matching_type: int) -> None:
    assert unusable_because(record(usage, selector, matching_type)) is None


@pytest.mark.parametrize(
    ("unusable", "word"),
    [
        (record(0, 0, 1), "RFC 7672 3.1.3"),
        (record(1, 1, 1), "RFC 7672 3.1.3"),
        (record(4, 1, 1), "usage 4"),
        (record(255, 1, 1), "usage 255"),
        (record(3, 2, 1), "selector 2"),
        (record(3, 255, 1), "selector 255"),
        (record(3, 1, 3), "matching type 3"),
        (record(3, 1, 255), "matching type 255"),
        (record(3, 1, 1, 0), "0 octets"),
        (record(3, 1, 1, 31), "31 octets"),
        (record(3, 1, 1, 64), "64 octets"),
        (record(2, 0, 2, 32), "32 octets"),
        (record(2, 0, 0, 0), "empty"),
        (record(2, 0, 0, 16385), "too long"),
    ],
)
def test_unusable(unusable: TlsaRecord, word: str) -> None:
    why = unusable_because(unusable)
    assert why is not None
    assert word in why
    found = classify(BASE, (unusable,))
    assert found.base_domain == BASE
    assert found.usable == ()
    assert found.unusable == ((unusable, why),)


def usable(*records: TlsaRecord) -> tuple[TlsaRecord, ...]:
    return classify(BASE, records).usable


def test_only_the_strongest_digest_of_a_usage_and_selector_is_kept() -> None:
    weak, strong = record(3, 1, 1), record(3, 1, 2)
    for records in ((weak, strong), (strong, weak)):
        found = classify(BASE, records)
        assert found.usable == (strong,)
        assert [left_out for left_out, _ in found.unusable] == [weak]
        assert "stronger digest" in found.unusable[0][1]


def test_digest_agility_is_per_usage_and_selector() -> None:
    records = (record(3, 1, 2), record(3, 0, 1), record(2, 1, 1), record(2, 0, 2))
    assert usable(*records) == records


def test_a_full_record_is_no_digest_and_always_stays() -> None:
    full, weak, strong = record(3, 1, 0), record(3, 1, 1), record(3, 1, 2)
    assert usable(full, weak, strong) == (full, strong)
    assert usable(full, weak) == (full, weak)
    assert usable(full) == (full,)


def test_a_malformed_stronger_digest_does_not_displace_a_sound_one() -> None:
    weak, malformed = record(3, 1, 1), record(3, 1, 2, 63)
    assert usable(weak, malformed) == (weak,)
    unknown = record(3, 1, 3, 64)
    assert usable(weak, unknown) == (weak,)
    not_for_smtp = record(1, 1, 2)
    assert usable(weak, not_for_smtp) == (weak,)


RECORDS = st.lists(
    st.builds(
        record,
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(0, 3),
        st.sampled_from([0, 31, 32, 64, 100]),
    ),
    max_size=8,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(RECORDS)
def test_every_record_is_sorted_once_and_soundness_never_comes_to_nothing(records: list[TlsaRecord]) -> None:
    found = classify(BASE, tuple(records))
    sorted_out = [*found.usable, *(left_out for left_out, _ in found.unusable)]
    assert sorted(map(str, sorted_out)) == sorted(map(str, records))
    assert bool(found.usable) is any(unusable_because(one) is None for one in records)
