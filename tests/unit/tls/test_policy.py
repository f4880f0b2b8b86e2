"""The policy table of `deliver.tls.policy`, row by row."""

from __future__ import annotations

from itertools import product

import pytest

from deliver.explanation import in_words
from deliver.report.trace import Stage, Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget
from deliver.resolve.tlsa import TlsaAbsent, TlsaFailed, TlsaNotAsked, TlsaRecords, TlsaStatus
from deliver.tls.policy import (
    Authentication,
    Demands,
    Level,
    Refuse,
    TlsPolicy,
    clear_text_allowed,
    decide,
    in_clear_text,
)

HOST = "mx.example.net"
EE = TlsaRecord(3, 1, 1, b"\1" * 32)
TA = TlsaRecord(2, 0, 1, b"\2" * 32)
PKIX_EE = TlsaRecord(1, 1, 1, b"\3" * 32)

NOT_ASKED = TlsaNotAsked("the MX answer is not validated")
ABSENT = TlsaAbsent(secure=True)
INSECURE = TlsaAbsent(secure=False)
USABLE = TlsaRecords(HOST, (EE,), ())
UNUSABLE = TlsaRecords(HOST, (), ((PKIX_EE, "not for SMTP"),))
FAILED = TlsaFailed("SERVFAIL")
EVERY_STATUS = (NOT_ASKED, ABSENT, INSECURE, USABLE, UNUSABLE, FAILED)

CLEAR = (False, False, Authentication.NONE)
OPPORTUNISTIC = (True, False, Authentication.NONE)
TRIED = (True, False, Authentication.TRIED)
ENCRYPTED = (True, True, Authentication.NONE)
BY_PKIX = (True, True, Authentication.PKIX)
BY_DANE = (True, True, Authentication.DANE)


def mx_plan(*, secure: bool = True, implicit: bool = False) -> MxPlan:
    return MxPlan("example.org", (MxTarget(HOST),), secure, implicit, ("example.org", "example.com"))


def host_plan(tlsa: TlsaStatus) -> HostPlan:
    return HostPlan(HOST, ("192.0.2.1",), True, tlsa)


def demand(policy: TlsPolicy | Refuse) -> tuple[bool, bool, Authentication] | None:
    if isinstance(policy, Refuse):
        return None
    return policy.use_tls, policy.required, policy.authentication


ROWS = [
    *((Level.NONE, status, CLEAR) for status in EVERY_STATUS),
    *((Level.MAY, status, OPPORTUNISTIC) for status in EVERY_STATUS),
    *((Level.TRY_VERIFY, status, TRIED) for status in EVERY_STATUS),
    *((Level.ENCRYPT, status, ENCRYPTED) for status in EVERY_STATUS),
    *((Level.VERIFY, status, BY_PKIX) for status in EVERY_STATUS),
    (Level.DANE, NOT_ASKED, OPPORTUNISTIC),
    (Level.DANE, ABSENT, OPPORTUNISTIC),
    (Level.DANE, INSECURE, OPPORTUNISTIC),
    (Level.DANE, USABLE, BY_DANE),
    (Level.DANE, UNUSABLE, ENCRYPTED),
    (Level.DANE, FAILED, None),
    (Level.DANE_ONLY, NOT_ASKED, None),
    (Level.DANE_ONLY, ABSENT, None),
    (Level.DANE_ONLY, INSECURE, None),
    (Level.DANE_ONLY, USABLE, BY_DANE),
    (Level.DANE_ONLY, UNUSABLE, None),
    (Level.DANE_ONLY, FAILED, None),
]


def test_the_rows_cover_every_level_and_status() -> None:
    assert [(level, status) for level, status, _ in ROWS] == list(product(Level, EVERY_STATUS))


@pytest.mark.parametrize(("level", "status", "wanted"), ROWS)
def test_row(level: Level, status: TlsaStatus, wanted: tuple[bool, bool, Authentication] | None) -> None:
    assert demand(decide(level, mx_plan(), host_plan(status))) == wanted


@pytest.mark.parametrize(("level", "status", "wanted"), ROWS)
def test_every_row_explains_itself(level: Level, status: TlsaStatus, wanted: object) -> None:
    policy = decide(level, mx_plan(), host_plan(status))
    findings = (policy.finding,) if isinstance(policy, Refuse) else policy.findings
    assert len(findings) == 1
    assert findings[0].stage is Stage.POLICY
    assert findings[0].verdict is (Verdict.REFUSED if wanted is None else Verdict.NOTE)


def test_only_authenticated_policies_carry_names_and_records() -> None:
    for level, status, wanted in ROWS:
        policy = decide(level, mx_plan(), host_plan(status))
        if isinstance(policy, TlsPolicy):
            assert bool(policy.names) is (wanted in (BY_PKIX, BY_DANE, TRIED))
            assert bool(policy.records) is (wanted == BY_DANE)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (Level.NONE, "clear text"),
        (Level.MAY, "TLS if offered"),
        (Level.TRY_VERIFY, "TLS if offered, verification tried"),
        (Level.ENCRYPT, "TLS required, not authenticated"),
        (Level.VERIFY, "TLS required, authenticated by PKIX"),
        (Level.DANE, "TLS required, authenticated by DANE"),
    ],
)
def test_each_level_in_words(level: Level, words: str) -> None:
    policy = decide(level, mx_plan(), host_plan(USABLE))
    assert isinstance(policy, TlsPolicy)
    assert in_words(policy) == words


def test_levels_that_want_tlsa() -> None:
    assert {level for level in Level if level.wants_tlsa} == {Level.DANE, Level.DANE_ONLY}


def dane_policy(plan: MxPlan, found: TlsaRecords) -> TlsPolicy:
    policy = decide(Level.DANE, plan, host_plan(found))
    assert isinstance(policy, TlsPolicy)
    return policy


def test_sni_and_first_name_are_the_base_domain() -> None:
    """RFC 7672 8.1 and 3.2.2; the base domain may be the expanded name of the host."""
    policy = dane_policy(mx_plan(), TlsaRecords("expanded.example.com", (TA,), ()))
    assert policy.sni == "expanded.example.com"
    assert policy.names == ("expanded.example.com", "example.org", "example.com")


def test_next_hop_names_count_only_where_their_binding_is_beyond_forgery() -> None:
    found = TlsaRecords(HOST, (TA,), ())
    assert dane_policy(mx_plan(secure=False), found).names == (HOST,)
    assert dane_policy(mx_plan(secure=False, implicit=True), found).names == (
        HOST,
        "example.org",
        "example.com",
    )


def test_names_are_not_repeated() -> None:
    plan = MxPlan("example.org", (MxTarget("example.org"),), True, True, ("example.org",))
    assert dane_policy(plan, TlsaRecords("example.org", (EE,), ())).names == ("example.org",)


def test_only_usable_records_are_judged() -> None:
    found = TlsaRecords(HOST, (EE, TA), ((PKIX_EE, "not for SMTP"),))
    assert dane_policy(mx_plan(), found).records == (EE, TA)


def test_pkix_names_the_host_and_says_when_the_mx_was_not_validated() -> None:
    for secure in (True, False):
        policy = decide(Level.VERIFY, mx_plan(secure=secure), host_plan(NOT_ASKED))
        assert isinstance(policy, TlsPolicy)
        assert policy.names == (HOST,)
        assert policy.sni == HOST
        assert ("not validated" in policy.findings[0].text) is not secure


def test_clear_text_replaces_only_what_does_not_require_tls() -> None:
    may = decide(Level.MAY, mx_plan(), host_plan(NOT_ASKED))
    assert isinstance(may, TlsPolicy)
    assert demand(in_clear_text(may, "STARTTLS failed")) == CLEAR
    for level, status in ((Level.ENCRYPT, NOT_ASKED), (Level.VERIFY, NOT_ASKED), (Level.DANE, USABLE)):
        policy = decide(level, mx_plan(), host_plan(status))
        assert isinstance(policy, TlsPolicy)
        with pytest.raises(ValueError, match="never falls back"):
            in_clear_text(policy, "STARTTLS failed")


# --- demands beyond the level


@pytest.mark.parametrize("demands", [Demands(require_ocsp=True), Demands(require_crl=True)])
@pytest.mark.parametrize("status", EVERY_STATUS)
@pytest.mark.parametrize("level", list(Level))
def test_a_required_staple_or_list_implies_required_and_authenticated(
    level: Level, status: TlsaStatus, demands: Demands
) -> None:
    """Where the level itself does not refuse the host."""
    policy = decide(level, mx_plan(), host_plan(status), demands)
    before = decide(level, mx_plan(), host_plan(status))
    if isinstance(policy, Refuse):
        assert isinstance(before, Refuse)
        return
    assert policy.use_tls
    assert policy.required
    by_dane = level.wants_tlsa and status is USABLE
    assert policy.authentication is (Authentication.DANE if by_dane else Authentication.PKIX)
    assert policy.demands is demands


def test_extra_names_count_for_pkix_only() -> None:
    demands = Demands(names=("mail.example.org",))
    pkix = decide(Level.VERIFY, mx_plan(), host_plan(ABSENT), demands)
    assert isinstance(pkix, TlsPolicy)
    assert pkix.names == (HOST, "mail.example.org")
    dane = decide(Level.DANE, mx_plan(), host_plan(TlsaRecords(HOST, (TA,), ())), demands)
    assert isinstance(dane, TlsPolicy)
    assert "mail.example.org" not in dane.names


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("tls_offered", [True, False])
@pytest.mark.parametrize("fallback", [True, False])
def test_clear_text_only_without_a_requirement(required: bool, tls_offered: bool, fallback: bool) -> None:
    policy = TlsPolicy(Level.MAY, True, required, Authentication.NONE, "mx.example")
    allowed = clear_text_allowed(policy, tls_offered=tls_offered, fallback=fallback)
    assert allowed is (not required and (fallback or not tls_offered))
