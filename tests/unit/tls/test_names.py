"""Reference identifiers against the names in a certificate: RFC 9525 6, RFC 7672 3.2.2."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from hypothesis import given, settings, strategies as st

from deliver.tls import names
from deliver.tls.names import NameMatch, NameMismatch
from tests.unit.tls.certificates import House, Wish, issue


@pytest.mark.parametrize(
    ("presented", "reference"),
    [
        ("mx.example.org", "mx.example.org"),
        ("MX.Example.ORG", "mx.example.org"),
        ("mx.example.org", "MX.EXAMPLE.ORG"),
        ("mx.example.org", "mx.example.org."),
        ("xn--mller-kva.example.org", "xn--mller-kva.example.org"),
        ("_smtp.example.org", "_smtp.example.org"),
        ("*.example.org", "mx.example.org"),
        ("*.EXAMPLE.org", "mx.example.org"),
        ("*.example.org", "xn--mller-kva.example.org"),
        ("*.mx.example.org", "one.mx.example.org"),
    ],
)
def test_names_that_match(presented: str, reference: str) -> None:
    assert names.matches(presented, reference)


@pytest.mark.parametrize(
    ("presented", "reference"),
    [
        ("example.org", "mx.example.org"),
        ("mx.example.org", "example.org"),
        ("*.example.org", "example.org"),  # exactly one label, not none
        ("*.example.org", "a.b.example.org"),  # nor two
        ("*.example.org", "*.example.org"),  # a wildcard is no host name
        ("*.org", "example.org"),  # too wide
        ("*.", "org"),
        ("*", "example"),
        ("m*.example.org", "mx.example.org"),  # not the whole label
        ("*x.example.org", "mx.example.org"),
        ("xn--*.example.org", "xn--mller-kva.example.org"),
        ("mx.*.org", "mx.example.org"),  # not the left-most label
        ("*.*.org", "mx.example.org"),
        ("mx.example.org\0.evil.example", "mx.example.org"),
        ("mx.example.org\0", "mx.example.org"),
        ("mx.example.org\n", "mx.example.org"),
        ("mx..example.org", "mx.example.org"),
        ("mx..example.org", "mx..example.org"),
        (".example.org", "mx.example.org"),
        (".example.org", ".example.org"),
        ("mx.example.org.", "mx.example.org"),
        ("mx.exämple.org", "mx.exämple.org"),
        ("mx.example.org ", "mx.example.org"),
        ("\u212a.example.org", "k.example.org"),  # KELVIN SIGN lower-cases to k
        ("", ""),
        ("", "."),
        ("a" * 64 + ".example.org", "a" * 64 + ".example.org"),
        (".".join(["a" * 60] * 5), ".".join(["a" * 60] * 5)),
    ],
)
def test_names_that_do_not_match(presented: str, reference: str) -> None:
    assert not names.matches(presented, reference)


def test_the_first_reference_identifier_that_matches_is_reported(house: House) -> None:
    found = names.check(house.server.der, ("other.example", "mx.example.org"), common_name=False)
    assert found == NameMatch("mx.example.org", "mx.example.org")


def test_what_was_presented_is_reported(house: House) -> None:
    found = names.check(house.server.der, ("other.example",), common_name=False)
    assert found == NameMismatch(("mx.example.org",))


def test_common_name_counts_only_where_allowed() -> None:
    der = issue(Wish("mx.example.org")).der
    assert names.check(der, ("mx.example.org",), common_name=True) == NameMatch(
        "mx.example.org", "mx.example.org"
    )
    assert names.check(der, ("mx.example.org",), common_name=False) == NameMismatch(())


def test_common_name_never_counts_beside_a_dns_name() -> None:
    der = issue(Wish("mx.example.org", dns_names=("other.example",))).der
    assert names.check(der, ("mx.example.org",), common_name=True) == NameMismatch(("other.example",))


def test_other_alternative_names_are_no_dns_names() -> None:
    address = x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
    der = issue(Wish("mx.example.org", alternative_names=(address,))).der
    assert isinstance(names.check(der, ("x.2.0.192",), common_name=False), NameMismatch)
    assert isinstance(names.check(der, ("mx.example.org",), common_name=True), NameMatch)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_named_by_an_address_alone(address: str) -> None:
    def found(*entries: x509.GeneralName) -> NameMatch | NameMismatch:
        return names.check(issue(Wish("x", alternative_names=entries)).der, (address,), common_name=False)

    of = x509.IPAddress(ipaddress.ip_address(address))
    assert found(of) == NameMatch(address, address)
    assert found(x509.DNSName(address)) == NameMismatch((address,))
    assert isinstance(found(x509.DNSName("*.0.2.1")), NameMismatch)
    another = x509.IPAddress(ipaddress.ip_address("192.0.2.2"))
    assert found(another) == NameMismatch(("192.0.2.2",))


def test_an_unreadable_certificate_has_no_names() -> None:
    found = names.check(b"\x30\x00", ("mx.example.org",), common_name=True)
    assert isinstance(found, NameMismatch)
    assert "cannot be read" in found.why


def test_unreadable_alternative_names_never_fall_back_to_the_common_name() -> None:
    broken = issue(Wish("mx.example.org", dns_names=("abcdefgh.example",))).der
    damaged = broken.replace(b"abcdefgh.example", b"\xffbcdefgh.example")
    assert damaged != broken
    assert isinstance(names.check(damaged, ("mx.example.org",), common_name=True), NameMismatch)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="ab*.-\0\u212a", max_size=12), st.text(alphabet="ab.", max_size=12))
def test_a_match_is_equality_but_for_one_leading_wildcard(presented: str, reference: str) -> None:
    if names.matches(presented, reference):
        host = reference.removesuffix(".")
        assert presented == host or (
            presented[:2] == "*." and presented[2:] == host.split(".", 1)[1] and "." in presented[2:]
        )
