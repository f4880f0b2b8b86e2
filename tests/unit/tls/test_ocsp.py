"""What an OCSP response says, and when it is not believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509 import ocsp as made
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings, strategies as st

from deliver.tls import ocsp
from deliver.tls.ocsp import Issuer, Status, check
from tests.unit.tls.certificates import DAY, NOW, Wish, build_house, element, issue, rsa_key
from tests.unit.tls.responder import HOUR, Answer, delegate, refusal, respond

HOUSE = build_house()
LEAF, CA = HOUSE.server, HOUSE.intermediate
BY = Issuer.of(CA.der)
GOOD = Answer(LEAF)
RESPONDER = delegate(CA)
BY_NAME = made.OCSPResponderEncoding.NAME


def status(answer: Answer, now: float = NOW, skew: float = 300.0) -> Status:
    return check(respond(answer), LEAF.der, BY, now, skew).status


def fault(answer: Answer, now: float = NOW) -> str:
    found = check(respond(answer), LEAF.der, BY, now)
    assert found.status is Status.INVALID
    return found.why


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (made.OCSPCertStatus.GOOD, Status.GOOD),
        (made.OCSPCertStatus.REVOKED, Status.REVOKED),
        (made.OCSPCertStatus.UNKNOWN, Status.UNKNOWN),
    ],
)
def test_the_three_answers(theirs: made.OCSPCertStatus, ours: Status) -> None:
    assert status(replace(GOOD, status=theirs)) is ours
    assert status(replace(GOOD, status=theirs, signer=RESPONDER)) is ours


def test_a_revocation_says_when_and_why() -> None:
    found = check(respond(replace(GOOD, status=made.OCSPCertStatus.REVOKED)), LEAF.der, BY, NOW)
    assert found.why == "the certificate was revoked at 2027-01-15 06:00 UTC, reason keyCompromise"


def test_a_good_answer_says_how_long_it_holds() -> None:
    found = check(respond(GOOD), LEAF.der, BY, NOW)
    assert (found.this_update, found.until) == (NOW - HOUR, NOW + HOUR)


@pytest.mark.parametrize("staple", [None, b""])
def test_no_response(staple: bytes | None) -> None:
    assert check(staple, LEAF.der, BY, NOW).status is Status.NONE


def test_an_unknown_issuer_makes_it_unusable() -> None:
    assert check(respond(GOOD), LEAF.der, None, NOW).status is Status.INVALID


@pytest.mark.parametrize("encoding", list(made.OCSPResponderEncoding))
@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256(), hashes.SHA512()])
def test_ids_by_name_and_by_key_with_any_digest(
    encoding: made.OCSPResponderEncoding, digest: hashes.HashAlgorithm
) -> None:
    answer = replace(GOOD, named_by=encoding, id_digest=digest)
    assert status(answer) is Status.GOOD
    assert status(replace(answer, signer=RESPONDER)) is Status.GOOD


@pytest.mark.parametrize("key", [rsa_key(2048), ed25519.Ed25519PrivateKey.generate()])
def test_other_keys_sign_too(key: object) -> None:
    assert status(replace(GOOD, signer=delegate(CA, key=key))) is Status.GOOD


# --- the certificate's id


def test_another_serial_number() -> None:
    other = issue(Wish("other", dns_names=("mx.example.org",)), CA)
    assert fault(replace(GOOD, certificate=other)) == "it is about another certificate"


def test_another_issuer_with_the_same_name() -> None:
    twin = issue(Wish("Test Intermediate", authority=True), HOUSE.root)
    assert fault(replace(GOOD, issuer=twin, signer=CA)) == "it is about another certificate"


def test_the_same_key_under_another_name() -> None:
    assert fault(replace(GOOD, name_hash=bytes(20))) == "it is about another certificate"


# --- the signer


def test_a_stranger_signs() -> None:
    pretender = issue(Wish("Test Intermediate", authority=True, key=HOUSE.stranger.key))
    answer = replace(GOOD, signer=pretender, named_by=BY_NAME, send_certificate=False)
    assert fault(answer) == "its signature is not the issuer's"


def test_a_stranger_signs_and_sends_its_certificate() -> None:
    assert fault(replace(GOOD, signer=delegate(HOUSE.stranger))) == (
        "its signer was not issued by the issuer of the certificate"
    )


def test_a_delegate_of_somebody_with_the_name_of_the_issuer() -> None:
    pretender = issue(Wish("Test Intermediate", authority=True))
    assert "issued by the issuer" in fault(replace(GOOD, signer=delegate(pretender)))


def test_a_delegate_by_the_key_of_the_issuer_under_another_name() -> None:
    renamed = issue(Wish("Renamed", authority=True, key=CA.key), HOUSE.root)
    assert "issued by the issuer" in fault(replace(GOOD, signer=delegate(renamed)))


def test_a_delegate_whose_key_may_not_sign() -> None:
    assert status(replace(GOOD, signer=delegate(CA, usage="digital_signature"))) is Status.GOOD
    assert fault(replace(GOOD, signer=delegate(CA, usage="key_agreement"))) == (
        "its signer's key is not for signatures"
    )


def test_a_critical_extension_that_nobody_understands() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
    assert status(replace(GOOD, extension=(odd, False))) is Status.GOOD
    assert "critical extension 1.3.6.1.4.1.99999.1" in fault(replace(GOOD, extension=(odd, True)))


def test_the_root_does_not_speak_for_the_intermediate() -> None:
    assert "issued by the issuer" in fault(replace(GOOD, signer=HOUSE.root))
    assert "issued by the issuer" in fault(replace(GOOD, signer=delegate(HOUSE.root)))


@pytest.mark.parametrize("purpose", [None, ExtendedKeyUsageOID.SERVER_AUTH])
def test_a_delegate_without_the_purpose(purpose: object) -> None:
    assert fault(replace(GOOD, signer=delegate(CA, purpose=purpose))) == (
        "its signer's certificate is not for OCSP"
    )


def test_the_server_does_not_speak_for_itself() -> None:
    assert "not for OCSP" in fault(replace(GOOD, signer=LEAF))


@pytest.mark.parametrize("when", [{"not_after": NOW - 1}, {"not_before": NOW + 1}])
def test_a_delegate_out_of_its_time(when: dict[str, float]) -> None:
    assert fault(replace(GOOD, signer=delegate(CA, **when))) == "its signer's certificate is not valid now"


def test_a_delegate_whose_certificate_is_not_sent() -> None:
    assert "not the issuer's" in fault(replace(GOOD, signer=RESPONDER, send_certificate=False))


def test_a_delegate_that_the_id_does_not_name() -> None:
    renamed = issue(Wish("renamed", key=RESPONDER.key))
    answer = replace(GOOD, signer=RESPONDER, named=renamed, named_by=BY_NAME)
    assert fault(answer) == "its signature is not the issuer's"


def test_a_damaged_signature() -> None:
    der = bytearray(respond(GOOD))
    der[-1] ^= 1
    assert check(bytes(der), LEAF.der, BY, NOW).status is Status.INVALID


def test_a_damaged_answer() -> None:
    der = respond(replace(GOOD, status=made.OCSPCertStatus.UNKNOWN))
    turned = der.replace(bytes.fromhex("8200180f"), bytes.fromhex("8000180f"))  # unknown to good
    assert turned != der
    assert "signature" in check(turned, LEAF.der, BY, NOW).why


# --- time


@pytest.mark.parametrize(
    ("now", "skew", "ours"),
    [
        (NOW - HOUR, 0, Status.GOOD),
        (NOW - HOUR - 1, 0, Status.INVALID),
        (NOW - HOUR - 300, 300, Status.GOOD),
        (NOW - HOUR - 301, 300, Status.INVALID),
        (NOW + HOUR - 1, 0, Status.GOOD),
        (NOW + HOUR, 0, Status.INVALID),
        (NOW + HOUR + 299, 300, Status.GOOD),
        (NOW + HOUR + 300, 300, Status.INVALID),
    ],
)
def test_time(now: float, skew: float, ours: Status) -> None:
    assert status(GOOD, now, skew) is ours


def test_without_next_update_it_is_believed_for_a_day() -> None:
    endless = replace(GOOD, next_update=None, this_update=NOW)
    assert status(endless, NOW + DAY - 1, 0) is Status.GOOD
    assert status(endless, NOW + DAY, 0) is Status.INVALID


def test_what_is_wrong_with_the_time_is_said() -> None:
    assert fault(GOOD, NOW - DAY) == "it is not valid yet"
    assert fault(GOOD, NOW + DAY) == "it is out of date"


# --- what is not an answer


@pytest.mark.parametrize(
    "error", [each for each in made.OCSPResponseStatus if each is not made.OCSPResponseStatus.SUCCESSFUL]
)
def test_responder_errors(error: made.OCSPResponseStatus) -> None:
    found = check(refusal(error), LEAF.der, BY, NOW)
    assert found.status is Status.INVALID
    assert found.why.startswith("the responder answered with an error")


@pytest.mark.parametrize("octets", [b"\0", b"garbage", b"0\x03\n\x01\x00", b"\x30\x80" * 1000])
def test_garbage(octets: bytes) -> None:
    assert check(octets, LEAF.der, BY, NOW).status is Status.INVALID


def test_a_huge_response_is_not_even_read() -> None:
    assert check(element(4, bytes(1024 * 1024)), LEAF.der, BY, NOW).why == "it has 1048581 octets"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_damage_never_makes_a_revoked_certificate_good(
    changes: list[tuple[int, int]], delegated: bool
) -> None:
    der = bytearray(
        respond(replace(GOOD, status=made.OCSPCertStatus.REVOKED, signer=RESPONDER if delegated else None))
    )
    for place, octet in changes:
        der[place % len(der)] = octet
    assert check(bytes(der), LEAF.der, BY, NOW).status in (Status.INVALID, Status.REVOKED)


def test_the_issuer_is_found_by_name_and_signature() -> None:
    assert ocsp.issuer_among(LEAF.der, HOUSE.full_chain) == BY
    twin = issue(Wish("Test Intermediate", authority=True), HOUSE.root)
    assert ocsp.issuer_among(LEAF.der, (twin.der, b"garbage")) is None
    assert ocsp.issuer_among(b"garbage", HOUSE.chain) is None
    assert ocsp.issuer_among(HOUSE.root.der, (HOUSE.root.der,)) == Issuer.of(HOUSE.root.der)


def test_must_staple_is_read_from_the_certificate() -> None:
    assert ocsp.must_staple(issue(Wish(must_staple=True)).der)
    assert not ocsp.must_staple(LEAF.der)
    assert not ocsp.must_staple(b"garbage")
