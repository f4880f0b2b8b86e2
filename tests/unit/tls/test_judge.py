"""One verdict per handshake, whatever the peer sent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from deliver.report.trace import Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.tls import pkix
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Level, TlsPolicy
from deliver.tls.verdict import Handshake, VerifiedBy
from tests.unit.tls.certificates import NOW, House, build_house

NAMES = ("mx.example.org",)
HOUSE = build_house()
ROOTS = TrustStore.from_pem(HOUSE.root.pem, "test roots")


def policy(authentication: Authentication, *records: TlsaRecord) -> TlsPolicy:
    return TlsPolicy(Level.DANE, True, True, authentication, NAMES[0], NAMES, records)


def handshake(*chain: bytes) -> Handshake:
    return Handshake("TLSv1.3", "TLS_AES_256_GCM_SHA384", "X25519", chain)


@pytest.mark.parametrize("chain", [(), (b"garbage",), HOUSE.chain])
def test_without_authentication_every_certificate_will_do(chain: tuple[bytes, ...]) -> None:
    verdict = judge(policy(Authentication.NONE), handshake(*chain), NOW, TrustStore.empty())
    assert verdict.ok
    assert verdict.verified_by is VerifiedBy.NONE
    assert [(finding.code, finding.verdict) for finding in verdict.findings] == [
        ("not-authenticated", Verdict.NOTE)
    ]


def test_pkix(house: House) -> None:
    roots = TrustStore.from_pem(house.root.pem, "roots")
    verdict = judge(policy(Authentication.PKIX), handshake(*house.chain), NOW, roots)
    assert verdict.ok
    assert verdict.verified_by is VerifiedBy.PKIX


def test_pkix_with_a_name_that_must_be_there_in_any_case(house: House) -> None:
    roots = TrustStore.from_pem(house.root.pem, "roots")
    either = replace(policy(Authentication.PKIX), names=("other.example.org", *NAMES))
    assert judge(either, handshake(*house.chain), NOW, roots).ok
    assert judge(replace(either, also=NAMES[0]), handshake(*house.chain), NOW, roots).ok
    refused = judge(replace(either, also="other.example.org"), handshake(*house.chain), NOW, roots)
    assert not refused.ok
    assert [finding.code for finding in refused.findings] == ["name-mismatch"]
    missing = replace(policy(Authentication.PKIX), names=("other.example.org",), also=NAMES[0])
    assert not judge(missing, handshake(*house.chain), NOW, roots).ok


def test_dane(house: House) -> None:
    for record, by in (
        (house.server.tlsa(3, 1, 1), VerifiedBy.DANE_EE),
        (house.root.tlsa(2, 0, 1), VerifiedBy.DANE_TA),
    ):
        verdict = judge(
            policy(Authentication.DANE, record), handshake(*house.full_chain), NOW, TrustStore.empty()
        )
        assert verdict.ok
        assert verdict.verified_by is by


def test_a_trusted_certificate_never_rescues_dane() -> None:
    record = HOUSE.stranger.tlsa(3, 1, 1)
    verdict = judge(policy(Authentication.DANE, record), handshake(*HOUSE.full_chain), NOW, ROOTS)
    assert not verdict.ok
    assert [finding.code for finding in verdict.findings] == ["tlsa-mismatch"]


def test_a_matching_record_never_rescues_pkix() -> None:
    demanded = policy(Authentication.PKIX, HOUSE.server.tlsa(3, 1, 1))
    verdict = judge(demanded, handshake(*HOUSE.full_chain), NOW, TrustStore.empty())
    assert not verdict.ok


def test_a_session_that_shows_no_chain_is_refused_where_one_must_be_judged() -> None:
    resumed = Handshake("TLSv1.3", "TLS_AES_256_GCM_SHA384", None, (), resumed=True)
    for demanded in (
        policy(Authentication.PKIX),
        policy(Authentication.DANE, HOUSE.server.tlsa(3, 1, 1)),
    ):
        verdict = judge(demanded, resumed, NOW, ROOTS)
        assert not verdict.ok
        assert [finding.code for finding in verdict.findings] == ["no-certificate"]


def test_a_failure_that_nobody_foresaw_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(pkix, "verify", surprise)
    verdict = judge(policy(Authentication.PKIX), handshake(*HOUSE.chain), NOW, ROOTS)
    assert not verdict.ok
    assert [finding.code for finding in verdict.findings] == ["judgement-failed"]


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    odd = HOUSE.server.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a00302015d"))
    for demanded in (policy(Authentication.PKIX), policy(Authentication.DANE, HOUSE.root.tlsa(2, 1, 0))):
        verdict = judge(demanded, handshake(odd, *HOUSE.full_chain[1:]), NOW, ROOTS)
        assert not verdict.ok
        assert [finding.code for finding in verdict.findings] != ["judgement-failed"]


CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


def damage(der: bytes, changes: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(der)
    for place, octet in changes:
        damaged[place % len(der)] = octet
    return bytes(damaged)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CHANGES, st.integers(0, 2), st.sampled_from(["pkix", "ta", "ta-key", "ta-bare", "ee"]))
def test_damaged_certificates_lead_to_a_verdict(changes: list[tuple[int, int]], which: int, how: str) -> None:
    """Never an exception, and never acceptance of a damaged server certificate."""
    chain = list(HOUSE.full_chain)
    chain[which] = damage(chain[which], changes)
    demanded = {
        "pkix": policy(Authentication.PKIX),
        "ta": policy(Authentication.DANE, HOUSE.root.tlsa(2, 0, 1)),
        "ta-key": policy(Authentication.DANE, HOUSE.intermediate.tlsa(2, 1, 1)),
        "ta-bare": policy(Authentication.DANE, HOUSE.root.tlsa(2, 1, 0)),
        "ee": policy(Authentication.DANE, HOUSE.server.tlsa(3, 0, 1)),
    }[how]
    verdict = judge(demanded, handshake(*chain), NOW, ROOTS)
    assert [finding.code for finding in verdict.findings] != ["judgement-failed"]
    if chain[0] != HOUSE.server.der:
        assert not verdict.ok


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.binary(max_size=80), max_size=4),
    st.lists(
        st.builds(
            TlsaRecord, st.integers(0, 4), st.integers(0, 2), st.integers(0, 3), st.binary(max_size=70)
        ),
        max_size=4,
    ),
    st.sampled_from([Authentication.DANE, Authentication.PKIX]),
)
def test_random_octets_authenticate_nobody(
    chain: list[bytes], records: list[TlsaRecord], authentication: Authentication
) -> None:
    verdict = judge(policy(authentication, *records), handshake(*chain), NOW, ROOTS)
    full = any(
        record.usage == 3 and record.selector == 0 and chain and record.data == chain[0] for record in records
    )
    assert not verdict.ok or full
    assert [finding.code for finding in verdict.findings] != ["judgement-failed"]
