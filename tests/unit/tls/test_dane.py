"""DANE judged over chains and records: RFC 6698, 7671 5, 7672 3."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from deliver.report.trace import Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.tls import chain, dane
from deliver.tls.certificate import MAX_CERTIFICATE
from deliver.tls.verdict import TlsVerdict, VerifiedBy
from tests.unit.tls.certificates import (
    CLIENT_ONLY,
    DAY,
    NOW,
    SERVER,
    House,
    Issued,
    Wish,
    issue,
    rsa_key,
    with_sha1_signature,
)

NAMES = ("mx.example.org",)
ALL_MATCHES = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


def codes(verdict: TlsVerdict) -> tuple[str, ...]:
    return tuple(finding.code for finding in verdict.findings)


def assert_refused(verdict: TlsVerdict, code: str) -> None:
    assert not verdict.ok
    assert verdict.verified_by is VerifiedBy.NONE
    assert codes(verdict) == (code,)
    assert verdict.findings[0].verdict is Verdict.REFUSED
    assert verdict.findings[0].rfc is not None


def assert_by(verdict: TlsVerdict, verified_by: VerifiedBy) -> None:
    assert verdict.ok, verdict
    assert verdict.verified_by is verified_by
    assert codes(verdict) == (f"{verified_by.value}-match",)


# --- DANE-EE(3)


@pytest.mark.parametrize(("selector", "matching"), ALL_MATCHES)
def test_dane_ee_accepts_the_servers_certificate_or_key(house: House, selector: int, matching: int) -> None:
    verdict = dane.verify(house.chain, (house.server.tlsa(3, selector, matching),), (), NOW)
    assert_by(verdict, VerifiedBy.DANE_EE)
    assert dict(verdict.findings[0].evidence)["record"].startswith(f"3 {selector} {matching} ")


@pytest.mark.parametrize(("selector", "matching"), ALL_MATCHES)
def test_dane_ee_refuses_another_certificate(house: House, selector: int, matching: int) -> None:
    record = house.stranger.tlsa(3, selector, matching)
    assert_refused(dane.verify(house.chain, (record,), NAMES, NOW), "tlsa-mismatch")


def test_dane_ee_ignores_dates_names_and_chain(house: House) -> None:
    expired = issue(Wish("other", not_after=NOW - DAY), house.stranger)
    assert_by(dane.verify((expired.der,), (expired.tlsa(3, 1, 1),), NAMES, NOW), VerifiedBy.DANE_EE)


def test_dane_ee_matches_only_the_servers_own_certificate(house: House) -> None:
    record = house.intermediate.tlsa(3, 0, 1)
    assert_refused(dane.verify(house.full_chain, (record,), NAMES, NOW), "tlsa-mismatch")


def test_dane_ee_full_certificate_needs_no_parser() -> None:
    opaque = b"\x30\x03 no certificate"
    record = TlsaRecord(3, 0, 1, hashlib.sha256(opaque).digest())
    assert_by(dane.verify((opaque,), (record,), NAMES, NOW), VerifiedBy.DANE_EE)
    assert_by(dane.verify((opaque,), (TlsaRecord(3, 0, 0, opaque),), NAMES, NOW), VerifiedBy.DANE_EE)


def test_dane_ee_key_of_an_unreadable_certificate_never_matches() -> None:
    opaque = b"\x30\x03 no certificate"
    record = TlsaRecord(3, 1, 1, hashlib.sha256(b"").digest())
    assert_refused(dane.verify((opaque,), (record,), NAMES, NOW), "tlsa-mismatch")


def test_any_one_matching_record_is_enough(house: House) -> None:
    records = (house.stranger.tlsa(3, 1, 1), house.stranger.tlsa(2, 0, 1), house.server.tlsa(3, 1, 2))
    assert_by(dane.verify(house.chain, records, NAMES, NOW), VerifiedBy.DANE_EE)


@pytest.mark.parametrize("usage", [0, 1, 4, 255])
def test_other_usages_authenticate_nobody(house: House, usage: int) -> None:
    records = tuple(issued.tlsa(usage, 0, 1) for issued in (house.server, house.intermediate, house.root))
    assert_refused(dane.verify(house.full_chain, records, NAMES, NOW), "tlsa-mismatch")


@pytest.mark.parametrize(("selector", "matching"), [(2, 1), (0, 3), (1, 255)])
def test_unknown_selectors_and_matching_types_never_match(house: House, selector: int, matching: int) -> None:
    digest = hashlib.sha256(house.server.der).digest()
    assert not dane.matches(TlsaRecord(3, selector, matching, digest), house.server.der)


# --- DANE-TA(2)


@pytest.mark.parametrize(("selector", "matching"), ALL_MATCHES)
@pytest.mark.parametrize("anchor", ["root", "intermediate"])
def test_dane_ta_on_the_wire(house: House, anchor: str, selector: int, matching: int) -> None:
    issued: Issued = getattr(house, anchor)
    verdict = dane.verify(house.full_chain, (issued.tlsa(2, selector, matching),), NAMES, NOW)
    assert_by(verdict, VerifiedBy.DANE_TA)
    assert dict(verdict.findings[0].evidence)["matched_name"] == "mx.example.org"


def test_dane_ta_takes_the_presented_certificates_in_any_order(house: House) -> None:
    presented = (house.server.der, house.root.der, house.stranger.der, house.intermediate.der)
    assert_by(dane.verify(presented, (house.root.tlsa(2, 0, 1),), NAMES, NOW), VerifiedBy.DANE_TA)


def test_dane_ta_ends_at_an_intermediate_whose_issuer_is_absent(house: House) -> None:
    assert_by(dane.verify(house.chain, (house.intermediate.tlsa(2, 1, 1),), NAMES, NOW), VerifiedBy.DANE_TA)


@pytest.mark.parametrize("selector", [0, 1])
def test_dane_ta_anchor_in_the_record_need_not_be_presented(house: House, selector: int) -> None:
    verdict = dane.verify(house.chain, (house.root.tlsa(2, selector, 0),), NAMES, NOW)
    assert_by(verdict, VerifiedBy.DANE_TA)


def test_dane_ta_bare_key_that_signed_the_server_itself(house: House) -> None:
    record = house.intermediate.tlsa(2, 1, 0)
    assert_by(dane.verify((house.server.der,), (record,), NAMES, NOW), VerifiedBy.DANE_TA)


def test_dane_ta_bare_keys_of_rsa_and_ed25519() -> None:
    for key in (rsa_key(2048), ed25519.Ed25519PrivateKey.generate()):
        root = issue(Wish("Key Root", authority=True, key=key))
        server = issue(Wish(dns_names=NAMES), root)
        verdict = dane.verify((server.der,), (root.tlsa(2, 1, 0),), NAMES, NOW)
        assert_by(verdict, VerifiedBy.DANE_TA)


@pytest.mark.parametrize("selector", [0, 1])
def test_dane_ta_digest_of_an_absent_anchor_cannot_match(house: House, selector: int) -> None:
    record = house.root.tlsa(2, selector, 1)
    assert_refused(dane.verify(house.chain, (record,), NAMES, NOW), "tlsa-mismatch")


@pytest.mark.parametrize("matching", [0, 1])
def test_a_presented_anchor_that_issued_nothing_does_not_help(house: House, matching: int) -> None:
    """An attacker appends the real anchor, which is public, to a chain of its own."""
    forged = issue(Wish(dns_names=NAMES), house.stranger)
    presented = (forged.der, house.stranger.der, house.intermediate.der, house.root.der)
    for selector in (0, 1):
        record = house.root.tlsa(2, selector, matching)
        assert_refused(dane.verify(presented, (record,), NAMES, NOW), "tlsa-mismatch")


def test_a_forged_issuer_with_the_anchors_name_does_not_help(house: House) -> None:
    impostor = issue(Wish("Test Root", authority=True))
    forged = issue(Wish(dns_names=NAMES), impostor)
    verdict = dane.verify((forged.der, house.root.der), (house.root.tlsa(2, 0, 1),), NAMES, NOW)
    assert not verdict.ok


def test_dane_ta_server_certificate_is_no_anchor(house: House) -> None:
    presented = (house.server.der, house.server.der, house.intermediate.der)
    for matching in (0, 1):
        record = house.server.tlsa(2, 0, matching)
        assert_refused(dane.verify(presented, (record,), NAMES, NOW), "tlsa-mismatch")


def test_dane_ta_self_signed_server_certificate_is_its_own_anchor() -> None:
    lonely = issue(Wish("mx.example.org", dns_names=NAMES))
    assert_by(dane.verify((lonely.der,), (lonely.tlsa(2, 0, 1),), NAMES, NOW), VerifiedBy.DANE_TA)
    assert_refused(
        dane.verify((lonely.der,), (lonely.tlsa(2, 0, 1),), ("mx.example.net",), NOW), "name-mismatch"
    )


def test_dane_ta_checks_names_and_says_what_was_presented(house: House) -> None:
    verdict = dane.verify(house.full_chain, (house.root.tlsa(2, 0, 1),), ("mx.example.net",), NOW)
    assert_refused(verdict, "name-mismatch")
    assert dict(verdict.findings[0].evidence)["presented_names"] == "mx.example.org"


def test_dane_ta_accepts_any_reference_identifier(house: House) -> None:
    record = house.root.tlsa(2, 0, 1)
    verdict = dane.verify(house.full_chain, (record,), ("example.net", "mx.example.org"), NOW)
    assert_by(verdict, VerifiedBy.DANE_TA)


def test_dane_ta_without_reference_identifiers_is_refused(house: House) -> None:
    assert_refused(dane.verify(house.full_chain, (house.root.tlsa(2, 0, 1),), (), NOW), "name-mismatch")


def test_dane_ta_common_name_counts_without_dns_names(house: House) -> None:
    server = issue(Wish("mx.example.org"), house.root)
    record = house.root.tlsa(2, 0, 1)
    assert_by(dane.verify((server.der, house.root.der), (record,), NAMES, NOW), VerifiedBy.DANE_TA)


@pytest.mark.parametrize(("at", "code"), [(NOW + 31 * DAY, "expired"), (NOW - 31 * DAY, "not-yet-valid")])
def test_dane_ta_dates_are_judged_at_now(house: House, at: float, code: str) -> None:
    assert_refused(dane.verify(house.full_chain, (house.root.tlsa(2, 0, 1),), NAMES, at), code)


def test_dane_ta_dates_count_under_a_bare_key_too(house: House) -> None:
    expired = issue(Wish(dns_names=NAMES, not_after=NOW - DAY), house.root)
    assert_refused(dane.verify((expired.der,), (house.root.tlsa(2, 1, 0),), NAMES, NOW), "expired")


def test_dane_ta_purpose_must_allow_tls_servers(house: House) -> None:
    record = house.root.tlsa(2, 0, 1)
    client = issue(Wish(dns_names=NAMES, purpose=CLIENT_ONLY), house.root)
    server = issue(Wish(dns_names=NAMES, purpose=SERVER), house.root)
    assert_refused(dane.verify((client.der, house.root.der), (record,), NAMES, NOW), "chain-invalid")
    assert_by(dane.verify((server.der, house.root.der), (record,), NAMES, NOW), VerifiedBy.DANE_TA)


@pytest.mark.parametrize(("selector", "matching"), [(0, 0), (0, 1), (1, 0)])
def test_a_server_certificate_cannot_issue_others(house: House, selector: int, matching: int) -> None:
    """Whoever holds any certificate under the anchor must not become an authority."""
    holder = issue(Wish("holder", dns_names=("holder.example.org",)), house.root)
    forged = issue(Wish(dns_names=NAMES), holder)
    presented = (forged.der, holder.der, house.root.der)
    record = house.root.tlsa(2, selector, matching)
    assert_refused(dane.verify(presented, (record,), NAMES, NOW), "chain-invalid")


def test_path_length_and_name_constraints_are_kept(house: House) -> None:
    short = issue(Wish("Short Root", authority=True, path_length=0))
    middle = issue(Wish("Middle", authority=True), short)
    deep = issue(Wish(dns_names=NAMES), middle)
    presented = (deep.der, middle.der, short.der)
    assert_refused(dane.verify(presented, (short.tlsa(2, 0, 1),), NAMES, NOW), "chain-invalid")
    narrow = issue(Wish("Narrow Root", authority=True, permitted=("example.net",)))
    outside = issue(Wish("outside", dns_names=NAMES), narrow)
    verdict = dane.verify((outside.der, narrow.der), (narrow.tlsa(2, 0, 1),), NAMES, NOW)
    assert_refused(verdict, "chain-invalid")


def test_broken_digests_and_short_keys_do_not_authenticate(house: House) -> None:
    record = house.root.tlsa(2, 0, 1)
    short = issue(Wish(dns_names=NAMES, key=rsa_key(1024)), house.root)
    assert_refused(dane.verify((short.der, house.root.der), (record,), NAMES, NOW), "weak-certificate")


@pytest.mark.parametrize("of_rsa", [True, False])
def test_a_path_signed_with_sha1_does_not_authenticate(house: House, of_rsa: bool) -> None:
    root = issue(Wish("RSA Root", authority=True, key=rsa_key(2048))) if of_rsa else house.root
    leaf = with_sha1_signature(issue(Wish(dns_names=NAMES), root))
    by_digest, by_key = root.tlsa(2, 0, 1), root.tlsa(2, 1, 0)
    assert_refused(dane.verify((leaf, root.der), (by_digest,), NAMES, NOW), "weak-certificate")
    assert_refused(dane.verify((leaf,), (by_key,), NAMES, NOW), "tlsa-mismatch")


def test_garbage_among_the_presented_certificates_is_left_out(house: House) -> None:
    presented = (house.server.der, b"\xff garbage", b"", house.intermediate.der, house.root.der)
    assert_by(dane.verify(presented, (house.root.tlsa(2, 0, 1),), NAMES, NOW), VerifiedBy.DANE_TA)


def test_garbage_inside_a_full_record_is_no_anchor(house: House) -> None:
    for selector in (0, 1):
        record = TlsaRecord(2, selector, 0, b"\x30\x82 garbage")
        assert_refused(dane.verify(house.chain, (record,), NAMES, NOW), "tlsa-mismatch")


# --- neither


def test_nothing_presented_and_nothing_published(house: House) -> None:
    assert_refused(dane.verify((), (house.server.tlsa(3, 1, 1),), NAMES, NOW), "no-certificate")
    assert_refused(dane.verify(house.chain, (), NAMES, NOW), "no-records")


def test_mixed_records_fall_through_to_the_anchor(house: House) -> None:
    records = (house.stranger.tlsa(3, 1, 1), house.root.tlsa(2, 0, 1))
    assert_by(dane.verify(house.full_chain, records, NAMES, NOW), VerifiedBy.DANE_TA)


def test_a_mismatch_shows_the_records_and_the_key(house: House) -> None:
    record = house.stranger.tlsa(3, 1, 1)
    evidence = dict(dane.verify(house.chain, (record,), NAMES, NOW).findings[0].evidence)
    assert evidence["key_sha256"] == hashlib.sha256(house.server.spki).hexdigest()
    assert evidence["records"] == str(record)


def test_records_and_certificates_beyond_the_bounds_are_not_looked_at(house: House) -> None:
    noise = tuple(TlsaRecord(3, 1, 1, bytes([n]) * 32) for n in range(dane.MAX_RECORDS))
    assert_refused(
        dane.verify(house.chain, (*noise, house.server.tlsa(3, 1, 1)), NAMES, NOW), "tlsa-mismatch"
    )
    filling = (house.stranger.der,) * (chain.MAX_CERTIFICATES - 1)
    presented = (house.server.der, *filling, house.intermediate.der, house.root.der)
    assert_refused(dane.verify(presented, (house.root.tlsa(2, 0, 1),), NAMES, NOW), "tlsa-mismatch")
    huge = b"\x30" * (MAX_CERTIFICATE + 1)
    record = TlsaRecord(3, 0, 1, hashlib.sha256(huge).digest())
    assert_refused(dane.verify((huge,), (record,), NAMES, NOW), "tlsa-mismatch")


def test_trials_of_bare_keys_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = 0
    honest = chain.signed_by

    def counted(certificate: bytes, public_key: bytes) -> bool:
        nonlocal trials
        trials += 1
        return honest(certificate, public_key)

    monkeypatch.setattr(chain, "signed_by", counted)
    records = tuple(house.stranger.tlsa(2, 1, 0) for _ in range(dane.MAX_RECORDS))
    presented = (house.server.der,) * chain.MAX_CERTIFICATES
    assert not dane.verify(presented, records, NAMES, NOW).ok
    assert trials <= dane.MAX_SIGNATURES + 1  # and one for the self-signature of the server's certificate
