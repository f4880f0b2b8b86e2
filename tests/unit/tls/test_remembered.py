"""What is remembered of a judgement never outlives what it says: dates and revocation count each time."""

from __future__ import annotations

from itertools import product

import pytest
from cryptography.x509.ocsp import OCSPCertStatus
from hypothesis import given, settings, strategies as st

from deliver.tls import chain, ocsp
from deliver.tls.chain import Anchors, NoPath, Path
from deliver.tls.ocsp import Issuer, Status
from tests.unit.tls.certificates import DAY, NOW, Issued, Wish, issue
from tests.unit.tls.responder import HOUR, Answer, delegate, respond

ROOT = issue(Wish("Root", authority=True, not_before=NOW - 20 * DAY, not_after=NOW + 20 * DAY))
TWIN = issue(Wish("Root", authority=True))  # another key under the same name
MIDDLE = issue(Wish("Middle", authority=True, not_before=NOW - 10 * DAY, not_after=NOW + 5 * DAY), ROOT)
LEAF = issue(
    Wish("leaf", dns_names=("mx.example.org",), not_before=NOW - 2 * DAY, not_after=NOW + 10 * DAY), MIDDLE
)
STRANGERS = tuple(issue(Wish(f"Stranger {number}", authority=True)) for number in range(5))
CHAIN = (LEAF.der, MIDDLE.der)


def anchors(*issued: Issued) -> Anchors:
    return Anchors.of(one.der for one in issued)


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    chain.forget()
    ocsp.forget()


@settings(deadline=None)
@given(st.lists(st.floats(NOW - 30 * DAY, NOW + 30 * DAY), min_size=2, max_size=6))
def test_a_remembered_path_is_judged_by_its_dates_as_a_new_one(moments: list[float]) -> None:
    trusted = anchors(ROOT)
    for now in moments:
        remembered = chain.build(CHAIN, trusted, now, partial=False)
        chain.forget()
        anew = chain.build(CHAIN, trusted, now, partial=False)
        assert remembered == anew
        assert isinstance(anew, Path) is (NOW - 2 * DAY <= now < NOW + 5 * DAY)


@pytest.mark.parametrize(
    "now", [NOW - 2 * DAY, NOW - 2 * DAY - 1, NOW + 5 * DAY, NOW + 5 * DAY - 0.5, NOW + 5 * DAY + 1]
)
def test_the_edges_of_a_remembered_path_are_openssls(now: float) -> None:
    anew = chain.build(CHAIN, anchors(ROOT), now, partial=False)
    assert isinstance(chain.build(CHAIN, anchors(ROOT), NOW, partial=False), Path)
    assert chain.build(CHAIN, anchors(ROOT), now, partial=False) == anew


def test_a_path_is_remembered_for_its_very_anchors_and_certificates() -> None:
    assert isinstance(chain.build(CHAIN, anchors(ROOT), NOW, partial=False), Path)
    assert isinstance(chain.build(CHAIN, anchors(TWIN), NOW, partial=False), NoPath)
    assert isinstance(chain.build(CHAIN, anchors(MIDDLE), NOW, partial=False), NoPath)
    assert isinstance(chain.build(CHAIN, anchors(MIDDLE), NOW, partial=True), Path)
    assert isinstance(chain.build((LEAF.der,), anchors(ROOT), NOW, partial=False), NoPath)


def test_what_was_refused_is_looked_at_again() -> None:
    assert isinstance(chain.build(CHAIN, anchors(ROOT), NOW + 6 * DAY, partial=False), NoPath)
    assert isinstance(chain.build(CHAIN, anchors(ROOT), NOW, partial=False), Path)


def test_remembered_paths_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MAX_PATHS", 3)
    for stranger in STRANGERS:
        assert isinstance(chain.build(CHAIN, anchors(ROOT, stranger), NOW, partial=False), Path)
    assert len(chain._proven) == 3
    monkeypatch.setattr(chain, "MAX_PATH", 10)
    chain.forget()
    assert isinstance(chain.build(CHAIN, anchors(ROOT), NOW, partial=False), Path)
    assert not chain._proven


def test_of_many_anchors_those_are_taken_that_openssl_would_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins of one name, an anchor above an anchor, and strangers; beside the whole store."""
    cross = issue(Wish("Cross", authority=True), STRANGERS[0])
    below = issue(Wish("below", dns_names=("mx.example.org",)), cross)
    stores = (
        anchors(TWIN, ROOT, *STRANGERS),
        anchors(*STRANGERS, MIDDLE),
        anchors(cross, STRANGERS[0]),
        anchors(*STRANGERS),
    )
    presented = (
        CHAIN,
        (LEAF.der,),
        (below.der,),
        (below.der, cross.der),
        (ROOT.der,),
        (MIDDLE.der, ROOT.der),
    )
    selected = [
        chain.build(each, store, NOW, partial=partial)
        for each, store, partial in product(presented, stores, (False, True))
    ]
    monkeypatch.setattr(Anchors, "above", lambda self, certificates: list(self.certificates))
    chain.forget()
    whole = [
        chain.build(each, store, NOW, partial=partial)
        for each, store, partial in product(presented, stores, (False, True))
    ]
    assert selected == whole
    assert any(isinstance(found, Path) for found in whole)


def test_few_of_many_anchors_are_taken() -> None:
    leaf, middle = chain.load(LEAF.der), chain.load(MIDDLE.der)
    assert leaf is not None
    assert middle is not None
    assert len(anchors(*STRANGERS, ROOT).above((leaf, middle))) == 1


def test_a_remembered_response_is_current_each_time() -> None:
    issuer = Issuer.of(MIDDLE.der)
    answer = respond(Answer(LEAF, this_update=NOW - HOUR, next_update=NOW + HOUR))
    for now, status in (
        (NOW, Status.GOOD),
        (NOW + 2 * HOUR, Status.INVALID),
        (NOW - 3 * HOUR, Status.INVALID),
        (NOW, Status.GOOD),
    ):
        assert ocsp.check(answer, LEAF.der, issuer, now).status is status


def test_a_remembered_delegate_must_be_valid_each_time() -> None:
    short = delegate(MIDDLE, not_before=NOW - HOUR, not_after=NOW + HOUR)
    answer = respond(Answer(LEAF, this_update=NOW - HOUR, next_update=NOW + DAY, signer=short))
    issuer = Issuer.of(MIDDLE.der)
    assert ocsp.check(answer, LEAF.der, issuer, NOW).status is Status.GOOD
    late = ocsp.check(answer, LEAF.der, issuer, NOW + 2 * HOUR)
    assert (late.status, late.why) == (Status.INVALID, "its signer's certificate is not valid now")


def test_a_response_is_remembered_for_its_very_certificate_and_issuer() -> None:
    answer = respond(Answer(LEAF, OCSPCertStatus.GOOD))
    other = issue(Wish("other", dns_names=("mx.example.org",)), MIDDLE)
    assert ocsp.check(answer, LEAF.der, Issuer.of(MIDDLE.der), NOW).status is Status.GOOD
    assert ocsp.check(answer, other.der, Issuer.of(MIDDLE.der), NOW).status is Status.INVALID
    assert ocsp.check(answer, LEAF.der, Issuer.of(ROOT.der), NOW).status is Status.INVALID


def test_remembered_responses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsp, "MAX_REMEMBERED", 2)
    for hours in range(1, 6):
        ocsp.check(
            respond(Answer(LEAF, next_update=NOW + hours * HOUR)), LEAF.der, Issuer.of(MIDDLE.der), NOW
        )
    assert len(ocsp._remembered) == 2
