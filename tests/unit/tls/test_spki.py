"""Cutting the key out of a certificate: octet for octet, or not at all."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given, settings, strategies as st

from deliver.tls import spki
from tests.unit.tls.certificates import House, Wish, build_house, element, issue, rsa_key

HOUSE = build_house()


def test_the_key_is_cut_as_the_certificate_encodes_it(house: House) -> None:
    for issued in (house.root, house.server, issue(Wish(key=rsa_key(2048)))):
        assert spki.cut(issued.der) == issued.spki


def test_a_key_that_a_library_would_encode_differently_is_cut_as_it_is() -> None:
    """An RSA key without the NULL parameters that RFC 3279 2.3.1 demands."""
    issued = issue(Wish(key=rsa_key(2048)))
    with_null = bytes.fromhex("300d06092a864886f70d0101010500")
    without = bytes.fromhex("300b06092a864886f70d010101")
    odd_key = element(0x30, issued.spki[4:].replace(with_null, without))
    before, after = issued.certificate.tbs_certificate_bytes.split(issued.spki)
    tbs = element(0x30, before[4:] + odd_key + after)
    certificate = element(0x30, tbs + b"\x30\x00\x03\x01\x00")
    assert spki.cut(certificate) == odd_key


def test_version_one_certificates_have_no_version_field(house: House) -> None:
    tbs = house.server.certificate.tbs_certificate_bytes
    body = tbs[3:] if tbs[1] == 0x81 else tbs[4:]
    assert body.startswith(bytes.fromhex("a003020102"))
    certificate = element(0x30, element(0x30, body[5:]))
    assert spki.cut(certificate) == house.server.spki


@pytest.mark.parametrize(
    "certificate",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        b"\x30\x80\x00\x00",  # indefinite length
        b"\x30\x81\x02\x30\x00",  # length not in its shortest form
        b"\x30\x85\x00\x00\x00\x00\x02\x30\x00",
        b"\x31\x02\x30\x00",
        b"\x30\x05\x30\x00",  # longer than the octets that are there
    ],
)
def test_other_octets_are_refused(certificate: bytes) -> None:
    with pytest.raises(ValueError, match="octet"):
        spki.cut(certificate)


def test_a_length_that_is_not_in_its_shortest_form_is_refused(house: House) -> None:
    """OpenSSL would read it; two readers must never see two different keys."""
    der = house.server.der
    assert der[1] == 0x82
    for longer in (b"\x30\x83\x00" + der[2:], b"\x30\x84\x00\x00" + der[2:]):
        with pytest.raises(ValueError, match="shortest form"):
            spki.cut(longer)


def test_octets_after_the_certificate_are_refused(house: House) -> None:
    with pytest.raises(ValueError, match="follow"):
        spki.cut(house.server.der + b"\0")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, len(HOUSE.server.der) - 1), st.integers(1, 255))
def test_a_damaged_certificate_gives_a_part_of_itself_or_nothing(place: int, change: int) -> None:
    damaged = bytearray(HOUSE.server.der)
    damaged[place] ^= change
    try:
        key = spki.cut(bytes(damaged))
    except ValueError:
        return
    assert key in bytes(damaged)
    assert key[0] == 0x30
    try:
        parsed = x509.load_der_x509_certificate(bytes(damaged)).public_key()
    except Exception:
        return
    assert parsed is not None
