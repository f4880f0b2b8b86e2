"""Responses with a single response for each of several certificates, made by `openssl ocsp`."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.ocsp import OCSPCertStatus

from deliver.tls import ocsp
from deliver.tls.ocsp import Issuer, Status
from tests.unit.tls.certificates import DAY, Wish, issue
from tests.unit.tls.responder import respond_together

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")

NOW = datetime.now(UTC).timestamp()
VALID: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW + DAY}
CA = issue(Wish("CA", authority=True, **VALID))
GOOD, REVOKED, UNKNOWN = (issue(Wish(name, **VALID), CA) for name in ("good", "revoked", "unknown"))
STATUS = {
    GOOD: OCSPCertStatus.GOOD,
    REVOKED: OCSPCertStatus.REVOKED,
    UNKNOWN: OCSPCertStatus.UNKNOWN,
}


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
@pytest.mark.parametrize(
    "order",
    list(permutations(STATUS)),
    ids=lambda order: "-".join(one.certificate.subject.rfc4514_string() for one in order),
)
def test_each_certificate_has_its_own_answer(tmp_path: Path, order: tuple[Any, ...], digest: str) -> None:
    response = respond_together(tmp_path, {one: STATUS[one] for one in order}, digest=digest)
    now = datetime.now(UTC).timestamp()
    found = {one: ocsp.check(response, one.der, Issuer.of(CA.der), now) for one in order}
    assert found[GOOD].status is Status.GOOD
    assert found[REVOKED].status is Status.REVOKED
    assert found[UNKNOWN].status is Status.UNKNOWN
    assert "2026-01-01" in found[REVOKED].why


def test_answers_about_others_only_are_about_another_certificate(tmp_path: Path) -> None:
    response = respond_together(tmp_path, {REVOKED: STATUS[REVOKED], UNKNOWN: STATUS[UNKNOWN]})
    found = ocsp.check(response, GOOD.der, Issuer.of(CA.der), datetime.now(UTC).timestamp())
    assert found.status is Status.INVALID
    assert "another certificate" in found.why


def test_a_stranger_of_the_same_serial_number_is_another_certificate(tmp_path: Path) -> None:
    """The issuer counts with the serial number (RFC 6960 4.1.1)."""
    stranger = issue(Wish("CA", authority=True, **VALID))
    response = respond_together(tmp_path, {GOOD: STATUS[GOOD], REVOKED: STATUS[REVOKED]})
    found = ocsp.check(response, GOOD.der, Issuer.of(stranger.der), datetime.now(UTC).timestamp())
    assert found.status is Status.INVALID
