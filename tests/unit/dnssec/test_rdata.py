"""DS, DNSKEY and NSEC records, and names, are read as dnspython reads them, or refused as it refuses them."""

from __future__ import annotations

import dns.dnssec
import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given, strategies as st

from deliver.dnssec.algorithm import digest_in
from deliver.dnssec.denial import link
from deliver.dnssec.names import known, named
from deliver.dnssec.signature import zone_key

LABEL = st.one_of(st.sampled_from([b"a", b"MX", b"_25", b"*", b"x-1"]), st.binary(min_size=1, max_size=63))
LABELS = st.lists(LABEL, max_size=14).map(lambda labels: (*labels, b""))
WINDOW = st.tuples(st.integers(0, 255), st.binary(max_size=34))


def theirs(rdtype: dns.rdatatype.RdataType, octets: bytes):
    try:
        return dns.rdata.from_wire(dns.rdataclass.IN, rdtype, octets, 0, len(octets))
    except (dns.exception.DNSException, ValueError):
        return None


@st.composite
def digests(draw):
    kind = draw(st.integers(0, 5))
    right = {1: 20, 2: 32, 3: 32, 4: 48}.get(kind, 7)
    size = draw(st.sampled_from([right, right - 1, right + 1, 0]))
    return (
        draw(st.binary(min_size=3, max_size=3))
        + bytes([kind])
        + draw(st.binary(min_size=size, max_size=size))
    )


@given(st.one_of(st.binary(max_size=60), digests()))
def test_ds(octets: bytes) -> None:
    known_one = theirs(dns.rdatatype.DS, octets)
    if known_one is None:
        with pytest.raises(ValueError):
            digest_in(octets)
    else:
        ours = digest_in(octets)
        assert ours == (known_one.key_tag, known_one.algorithm, known_one.digest_type, known_one.digest)


@given(
    st.one_of(st.binary(max_size=300), st.binary(min_size=4, max_size=60).map(lambda key: b"\1\1\3\1" + key))
)
def test_dnskey(octets: bytes) -> None:
    known_one = theirs(dns.rdatatype.DNSKEY, octets)
    if known_one is None:
        with pytest.raises(ValueError):
            zone_key(octets)
    elif len(octets) >= 7 or known_one.algorithm != 1:  # dnspython takes no tag from so little
        ours = zone_key(octets)
        assert (ours.tag, ours.algorithm) == (dns.dnssec.key_id(known_one), known_one.algorithm)


@given(LABELS, st.lists(WINDOW, max_size=4), st.booleans(), st.binary(max_size=3))
def test_nsec(
    labels: tuple[bytes, ...], windows: list[tuple[int, bytes]], ordered: bool, more: bytes
) -> None:
    if ordered:
        windows = sorted(dict(windows).items())
    octets = b"".join(bytes([len(label)]) + label for label in labels)
    octets += b"".join(bytes([window, len(bits)]) + bits for window, bits in windows) + more
    known_one = theirs(dns.rdatatype.NSEC, octets)
    if known_one is None:
        with pytest.raises((ValueError, dns.exception.DNSException)):
            link(dns.name.root, octets, dns.name.root)
        return
    ours = link(dns.name.root, octets, dns.name.root)
    if ours is None:
        assert known_one.next == dns.name.root or known_one.next <= dns.name.root
    else:
        assert (ours.next, ours.types.windows) == (known_one.next, known_one.windows)


@given(LABELS)
def test_names_are_written_as_dnspython_writes_them(labels: tuple[bytes, ...]) -> None:
    try:
        theirs = dns.name.Name(labels)
    except dns.exception.DNSException:
        with pytest.raises(dns.exception.DNSException):
            known(labels)
        return
    ours = known(labels)
    assert str(ours) == theirs.to_text()
    assert named(theirs.to_text()).labels == labels
    assert [above.labels for above in ours.above()] == [labels[place:] for place in range(1, len(labels))]


@given(st.text(st.sampled_from('aZ0-_.*\\"@é '), max_size=80))
def test_texts_are_read_as_dnspython_reads_them(text: str) -> None:
    try:
        labels = dns.name.from_text(f"{text}.").labels
    except dns.exception.DNSException:
        with pytest.raises(dns.exception.DNSException):
            named(f"{text}.")
        return
    assert named(f"{text}.").labels == labels
