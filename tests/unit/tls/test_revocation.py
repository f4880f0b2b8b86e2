"""Staples and revocation lists in the verdict, by what authenticated the server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp as made

from deliver.errors import ConfigurationError
from deliver.report.trace import Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.tls import crl, revocation
from deliver.tls.crl import NO_LISTS, RevocationLists
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Demands, Level, TlsPolicy
from deliver.tls.verdict import Handshake, TlsVerdict, VerifiedBy
from tests.unit.tls.certificates import NOW, Issued, Wish, build_house, issue
from tests.unit.tls.responder import Answer, respond, revocation_list

HOUSE = build_house()
ROOTS = TrustStore.from_pem(HOUSE.root.pem, "roots")
STRICT = issue(Wish("strict", dns_names=("mx.example.org",), must_staple=True), HOUSE.intermediate)
TA = HOUSE.root.tlsa(2, 0, 1)
REVOKED, UNKNOWN = made.OCSPCertStatus.REVOKED, made.OCSPCertStatus.UNKNOWN
WAYS = ("pkix", "dane-ta", "dane-ee", "none")
ENFORCED = ("pkix", "dane-ta")


def policy(way: str, leaf: Issued = HOUSE.server, **demands: object) -> TlsPolicy:
    records: tuple[TlsaRecord, ...] = ()
    if way == "dane-ta":
        records = (TA,)
    elif way == "dane-ee":  # beside a DANE-TA record, so that a staple is asked for
        records = (leaf.tlsa(3, 1, 1), HOUSE.stranger.tlsa(2, 0, 1))
    authentication = {"pkix": Authentication.PKIX, "none": Authentication.NONE}.get(way, Authentication.DANE)
    return TlsPolicy(
        Level.DANE,
        True,
        way != "none",
        authentication,
        "mx.example.org",
        ("mx.example.org",),
        records,
        demands=Demands(**demands),  # type: ignore[arg-type]
    )


def verdict(
    way: str,
    staple: bytes | None,
    leaf: Issued = HOUSE.server,
    lists: RevocationLists = NO_LISTS,
    **demands: object,
) -> TlsVerdict:
    chain = (leaf.der, *HOUSE.full_chain[1:])
    handshake = Handshake("TLSv1.3", "TLS_AES_256_GCM_SHA384", "X25519", chain, staple=staple)
    return judge(policy(way, leaf, **demands), handshake, NOW, ROOTS, lists)


def refusals(found: TlsVerdict) -> list[str]:
    return [finding.code for finding in found.findings if finding.verdict is Verdict.REFUSED]


def notes(found: TlsVerdict) -> list[str]:
    return [finding.code for finding in found.findings if finding.verdict is Verdict.NOTE]


GOOD = respond(Answer(HOUSE.server))
GONE = respond(Answer(HOUSE.server, REVOKED))


@pytest.mark.parametrize("way", WAYS)
def test_a_good_staple(way: str) -> None:
    found = verdict(way, GOOD)
    assert found.ok
    assert found.ocsp == "good"
    assert found.findings[-1].code == "ocsp-good"
    assert found.verified_by == way


@pytest.mark.parametrize("way", WAYS)
def test_a_revoked_certificate(way: str) -> None:
    found = verdict(way, GONE)
    assert found.ocsp == "revoked"
    assert found.ok is (way not in ENFORCED)
    assert refusals(found) == (["ocsp-revoked"] if way in ENFORCED else [])
    assert found.verified_by == (VerifiedBy.NONE if way in ENFORCED else way)
    assert "ocsp-revoked" in [finding.code for finding in found.findings]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("staple", "status"),
    [
        (None, "none"),
        (b"garbage", "invalid"),
        (respond(Answer(HOUSE.server, UNKNOWN)), "unknown"),
        (respond(Answer(HOUSE.server, REVOKED, next_update=NOW - 301)), "invalid"),
    ],
)
def test_nothing_to_rely_on_is_as_nothing(way: str, staple: bytes | None, status: str) -> None:
    found = verdict(way, staple)
    assert found.ok
    assert found.ocsp == status
    required = verdict(way, staple, require_ocsp=True)
    assert not required.ok
    assert refusals(required) == ["ocsp-required"]


@pytest.mark.parametrize("way", WAYS)
def test_a_required_staple_that_is_good(way: str) -> None:
    assert verdict(way, GOOD, require_ocsp=True).ok


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("staple", [None, b"garbage", respond(Answer(STRICT, UNKNOWN))])
def test_must_staple_without_a_staple(way: str, staple: bytes | None) -> None:
    found = verdict(way, staple, STRICT)
    assert found.ok is (way not in ENFORCED)
    assert ("must-staple" in refusals(found)) is (way in ENFORCED)
    assert ("must-staple" in notes(found)) is (way not in ENFORCED)


@pytest.mark.parametrize("way", WAYS)
def test_must_staple_with_one(way: str) -> None:
    assert verdict(way, respond(Answer(STRICT)), STRICT).ok


@pytest.mark.parametrize("way", WAYS)
def test_what_was_not_asked_for_does_not_count(way: str) -> None:
    for leaf, staple in ((HOUSE.server, GONE), (STRICT, None)):
        found = verdict(way, staple, leaf, request_ocsp=False)
        assert found.ok
        assert found.ocsp == "none"


def test_the_settings_decide_about_skew() -> None:
    late = respond(Answer(HOUSE.server, next_update=NOW - 10))
    assert verdict("pkix", late, skew=11.0).ocsp == "good"
    assert verdict("pkix", late, skew=9.0).ocsp == "invalid"


def test_only_dane_ee_asks_for_no_staple_unless_it_is_required() -> None:
    only = replace(policy("dane-ee"), records=(HOUSE.server.tlsa(3, 1, 1),))
    assert not only.request_ocsp
    assert replace(only, demands=Demands(require_ocsp=True)).request_ocsp
    assert all(policy(way).request_ocsp for way in WAYS)
    assert not any(policy(way, request_ocsp=False).request_ocsp for way in WAYS)


def test_a_bare_key_as_anchor_is_the_issuer_of_the_staple() -> None:
    record = HOUSE.root.tlsa(2, 1, 0)
    server = issue(Wish("direct", dns_names=("mx.example.org",)), HOUSE.root)
    demanded = replace(policy("dane-ta"), records=(record,))
    for status, ok in ((made.OCSPCertStatus.GOOD, True), (REVOKED, False)):
        staple = respond(Answer(server, status))
        found = judge(demanded, Handshake("", "", None, (server.der,), staple=staple), NOW, ROOTS)
        assert found.ok is ok


def test_a_surprise_in_the_staple_refuses_only_where_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(revocation.ocsp, "check", surprise)
    assert {way: verdict(way, GOOD).ok for way in WAYS} == {way: way not in ENFORCED for way in WAYS}
    assert not verdict("none", GOOD, require_ocsp=True).ok


# --- revocation lists


def lists(*pem: bytes) -> RevocationLists:
    return RevocationLists.from_pem(b"".join(pem), "lists.pem")


ROOT_LIST, CA_LIST = revocation_list(HOUSE.root), revocation_list(HOUSE.intermediate)


@pytest.mark.parametrize("way", WAYS)
def test_a_list_revokes_the_server(way: str) -> None:
    found = verdict(way, None, lists=lists(revocation_list(HOUSE.intermediate, HOUSE.server)))
    assert found.ok is (way not in ENFORCED)
    assert refusals(found) == (["crl-revoked"] if way in ENFORCED else [])


@pytest.mark.parametrize("way", ENFORCED)
def test_a_list_revokes_the_intermediate(way: str) -> None:
    found = verdict(way, None, lists=lists(CA_LIST, revocation_list(HOUSE.root, HOUSE.intermediate)))
    assert refusals(found) == ["crl-revoked"]


@pytest.mark.parametrize("way", ENFORCED)
def test_lists_of_every_issuer(way: str) -> None:
    found = verdict(way, GOOD, lists=lists(CA_LIST, ROOT_LIST), require_crl=True)
    assert found.ok
    assert "crl-good" in [finding.code for finding in found.findings]


@pytest.mark.parametrize(
    "incomplete",
    [
        (ROOT_LIST,),
        (CA_LIST,),
        (ROOT_LIST, revocation_list(HOUSE.intermediate, next_update=NOW - 1)),
        (ROOT_LIST, revocation_list(HOUSE.intermediate, signer=HOUSE.stranger)),
    ],
)
@pytest.mark.parametrize("way", ENFORCED)
def test_a_list_is_missing_stale_or_forged(way: str, incomplete: tuple[bytes, ...]) -> None:
    assert verdict(way, None, lists=lists(*incomplete)).ok
    assert refusals(verdict(way, None, lists=lists(*incomplete), require_crl=True)) == ["crl-required"]


def test_a_forged_list_revokes_nothing() -> None:
    forged = revocation_list(HOUSE.intermediate, HOUSE.server, signer=HOUSE.stranger)
    assert verdict("pkix", None, lists=lists(forged)).ok


def test_a_partial_list_says_nothing() -> None:
    partial = revocation_list(HOUSE.intermediate, HOUSE.server, critical=x509.DeltaCRLIndicator(1))
    assert lists(partial).state(HOUSE.server.der, HOUSE.intermediate.der, NOW) is crl.State.UNKNOWN


@pytest.mark.parametrize(
    ("usage", "state"), [("crl_sign", crl.State.GOOD), ("key_cert_sign", crl.State.UNKNOWN)]
)
def test_the_issuer_must_be_allowed_to_sign_lists(usage: str, state: crl.State) -> None:
    issuer = issue(Wish("CA", authority=True, usage=usage))
    server = issue(Wish("server"), issuer)
    assert lists(revocation_list(issuer)).state(server.der, issuer.der, NOW) is state


def test_a_file_of_lists_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "lists.pem"
    file.write_bytes(CA_LIST)
    first = crl.load(str(file))
    assert crl.load(str(file)) is first
    file.write_bytes(CA_LIST + ROOT_LIST)
    assert len(crl.load(str(file)).lists) == 2


@pytest.mark.parametrize("content", [b"", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", None])
def test_an_unusable_file_of_lists(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "lists.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"tls\.crl"):
        crl.load(str(file))
