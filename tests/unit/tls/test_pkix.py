"""PKIX judged against a trust store at a given time: RFC 5280 6, RFC 9525 6."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.errors import ConfigurationError
from deliver.report.trace import Verdict
from deliver.tls import pkix
from deliver.tls.pkix import TrustStore
from deliver.tls.verdict import TlsVerdict, VerifiedBy
from tests.unit.tls.certificates import (
    CLIENT_ONLY,
    DAY,
    NOW,
    House,
    Wish,
    issue,
    rsa_key,
    with_sha1_signature,
)

NAMES = ("mx.example.org",)


@pytest.fixture(scope="session")
def roots(house: House) -> TrustStore:
    return TrustStore.from_pem(house.stranger.pem + b"\ncomment\n" + house.root.pem, "test roots")


def assert_refused(verdict: TlsVerdict, code: str) -> None:
    assert not verdict.ok
    assert verdict.verified_by is VerifiedBy.NONE
    assert [finding.code for finding in verdict.findings] == [code]
    assert verdict.findings[0].verdict is Verdict.REFUSED


def test_a_trusted_path_and_the_right_name(house: House, roots: TrustStore) -> None:
    verdict = pkix.verify(house.chain, roots, NAMES, NOW)
    assert verdict.ok
    assert verdict.verified_by is VerifiedBy.PKIX
    assert [finding.code for finding in verdict.findings] == ["pkix-ok"]
    evidence = dict(verdict.findings[0].evidence)
    assert evidence["matched_name"] == "mx.example.org"
    assert evidence["path_length"] == "3"


def test_order_and_strangers_among_the_presented_do_not_matter(house: House, roots: TrustStore) -> None:
    presented = (house.server.der, house.stranger.der, house.root.der, b"garbage", house.intermediate.der)
    assert pkix.verify(presented, roots, NAMES, NOW).ok


def test_one_store_judges_at_different_times(house: House, roots: TrustStore) -> None:
    """OpenSSL keeps the first time that a store is given; each judgement must still have its own."""
    assert pkix.verify(house.chain, roots, NAMES, NOW).ok
    assert_refused(pkix.verify(house.chain, roots, NAMES, NOW + 31 * DAY), "expired")
    assert_refused(pkix.verify(house.chain, roots, NAMES, NOW - 31 * DAY), "not-yet-valid")
    assert pkix.verify(house.chain, roots, NAMES, NOW).ok


@pytest.mark.parametrize("now", [-1.0, 0.0, 1e18, float("inf")])
def test_absurd_times_do_not_raise(house: House, roots: TrustStore, now: float) -> None:
    assert not pkix.verify(house.chain, roots, NAMES, now).ok


def test_an_unknown_root_is_untrusted(house: House) -> None:
    only_stranger = TrustStore.from_pem(house.stranger.pem, "stranger")
    assert_refused(pkix.verify(house.full_chain, only_stranger, NAMES, NOW), "pkix-untrusted")
    assert_refused(pkix.verify(house.full_chain, TrustStore.empty(), NAMES, NOW), "pkix-untrusted")


def test_a_missing_intermediate_is_untrusted(house: House, roots: TrustStore) -> None:
    assert_refused(pkix.verify((house.server.der,), roots, NAMES, NOW), "pkix-untrusted")


def test_a_self_signed_certificate_is_untrusted(roots: TrustStore) -> None:
    lonely = issue(Wish("mx.example.org", dns_names=NAMES))
    assert_refused(pkix.verify((lonely.der,), roots, NAMES, NOW), "pkix-untrusted")


def test_a_root_with_a_trusted_name_and_another_key_is_refused(roots: TrustStore) -> None:
    impostor = issue(Wish("Test Root", authority=True))
    forged = issue(Wish(dns_names=NAMES), impostor)
    assert not pkix.verify((forged.der, impostor.der), roots, NAMES, NOW).ok


def test_an_intermediate_in_the_store_is_no_root(house: House) -> None:
    store = TrustStore.from_pem(house.intermediate.pem, "intermediate only")
    assert_refused(pkix.verify(house.chain, store, NAMES, NOW), "pkix-untrusted")


def test_the_name_must_match(house: House, roots: TrustStore) -> None:
    verdict = pkix.verify(house.chain, roots, ("mx.example.net",), NOW)
    assert_refused(verdict, "name-mismatch")
    assert dict(verdict.findings[0].evidence)["presented_names"] == "mx.example.org"
    assert_refused(pkix.verify(house.chain, roots, (), NOW), "name-mismatch")


def test_the_common_name_never_counts(house: House, roots: TrustStore) -> None:
    server = issue(Wish("mx.example.org"), house.root)
    assert_refused(pkix.verify((server.der,), roots, NAMES, NOW), "name-mismatch")


def test_hostile_names_are_shown_printable_and_bounded(house: House, roots: TrustStore) -> None:
    server = issue(Wish(dns_names=tuple(f"evil\n{n}" + "x" * 200 for n in range(30))), house.root)
    shown = dict(pkix.verify((server.der,), roots, NAMES, NOW).findings[0].evidence)["presented_names"]
    assert "\n" not in shown
    assert shown.endswith("and 22 more")
    assert len(shown) < 1000


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish(dns_names=NAMES, not_after=NOW - DAY), "expired"),
        (Wish(dns_names=NAMES, not_before=NOW + DAY), "not-yet-valid"),
        (Wish(dns_names=NAMES, purpose=CLIENT_ONLY), "chain-invalid"),
        (Wish(dns_names=NAMES, key=rsa_key(1024)), "weak-certificate"),
    ],
)
def test_certificates_that_the_root_issued_in_vain(
    house: House, roots: TrustStore, wish: Wish, code: str
) -> None:
    assert_refused(pkix.verify((issue(wish, house.root).der,), roots, NAMES, NOW), code)


def test_sha1_signatures_do_not_count(house: House, roots: TrustStore) -> None:
    leaf = with_sha1_signature(issue(Wish(dns_names=NAMES), house.root))
    assert_refused(pkix.verify((leaf,), roots, NAMES, NOW), "weak-certificate")


def test_nothing_and_nonsense_presented(roots: TrustStore) -> None:
    assert_refused(pkix.verify((), roots, NAMES, NOW), "no-certificate")
    assert_refused(pkix.verify((b"nonsense",), roots, NAMES, NOW), "chain-invalid")


# --- the trust store


def test_a_file_is_read_again_only_when_it_has_changed(house: House, tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(house.root.pem)
    store = TrustStore.load(str(file))
    assert len(store.anchors.certificates) == 1
    assert store.source == str(file)
    assert TrustStore.load(str(file)) is store
    file.write_bytes(2 * house.root.pem)
    assert len(TrustStore.load(str(file)).anchors.certificates) == 2
    other = tmp_path / "other.pem"
    other.write_bytes(house.root.pem)
    other.replace(file)
    assert len(TrustStore.load(str(file)).anchors.certificates) == 1
    file.unlink()
    with pytest.raises(ConfigurationError):
        TrustStore.load(str(file))


@pytest.mark.parametrize(
    "content",
    [b"", b"no PEM here", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_a_file_without_certificates_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        TrustStore.load(str(file))
    assert "tls.trust_store" in caught.value.remedy


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        TrustStore.load(str(tmp_path / "none.pem"))


def test_the_systems_store_is_found_where_it_lies(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "system.pem"
    file.write_bytes(house.root.pem)
    monkeypatch.setattr(pkix, "SYSTEM_FILES", (str(tmp_path / "none.pem"), str(file)))
    assert TrustStore.load().source == str(file)
    monkeypatch.setattr(pkix, "SYSTEM_FILES", (str(tmp_path / "none.pem"),))
    with pytest.raises(ConfigurationError):
        TrustStore.load()
