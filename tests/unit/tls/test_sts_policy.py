"""What a domain's MTA-STS policy makes of the table of levels (RFC 8461 2, 4, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product as each
from typing import Any

import pytest

from deliver.demands import raised_for
from deliver.relay.route import Login
from deliver.report.trace import Stage, Verdict
from deliver.resolve.answer import TlsaRecord
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget
from deliver.resolve.sts import Mode, StsPolicy, StsStanding
from deliver.resolve.tlsa import TlsaAbsent, TlsaFailed, TlsaNotAsked, TlsaRecords, TlsaStatus
from deliver.tls.policy import (
    Authentication,
    Demands,
    Floor,
    Level,
    Refuse,
    TlsPolicy,
    at_least,
    decide,
    floor_of,
)

HOST, DOMAIN = "mx.example.net", "example.org"
EE = TlsaRecord(3, 1, 1, b"\1" * 32)
NOT_ASKED = TlsaNotAsked("the MX answer is not validated")
ABSENT = TlsaAbsent(secure=True)
USABLE = TlsaRecords(HOST, (EE,), ())
UNUSABLE = TlsaRecords(HOST, (), ((TlsaRecord(1, 1, 1, b"\3" * 32), "not for SMTP"),))
FAILED = TlsaFailed("SERVFAIL")

COVERED = StsStanding(StsPolicy(Mode.ENFORCE, ("*.example.net",), 86400))
ELSEWHERE = StsStanding(StsPolicy(Mode.ENFORCE, ("mx.example.com",), 86400))
TESTED = StsStanding(StsPolicy(Mode.TESTING, ("*.example.net",), 86400))
TESTED_ELSEWHERE = StsStanding(StsPolicy(Mode.TESTING, ("mx.example.com",), 86400))
ENDED = StsStanding(StsPolicy(Mode.NONE, (), 86400))
NONE = StsStanding()
UNKNOWN = StsStanding(unknown="whether example.org has a policy is not known: disk full")
EVERY = (COVERED, ELSEWHERE, TESTED, TESTED_ELSEWHERE, ENDED, NONE, UNKNOWN)

NO_DEMANDS = Demands()
RAISED = (Level.MAY, Level.TRY_VERIFY, Level.ENCRYPT, Level.VERIFY, Level.DANE)


def combined(*values: Sequence[Any]) -> list[tuple[Any, ...]]:
    return list(each(*values))


def under(
    sts: StsStanding | None,
    level: Level = Level.DANE,
    tlsa: TlsaStatus = NOT_ASKED,
    demands: Demands = NO_DEMANDS,
    *,
    secure: bool = False,
) -> TlsPolicy | Refuse:
    plan = MxPlan(DOMAIN, (MxTarget(HOST),), secure)
    return decide(level, plan, HostPlan(HOST, ("192.0.2.1",), secure, tlsa, sts=sts), demands)


@pytest.mark.parametrize(("level", "tlsa"), combined(RAISED, (NOT_ASKED, ABSENT, UNUSABLE)))
def test_enforce_requires_a_valid_certificate_for_the_host(level: Level, tlsa: TlsaStatus) -> None:
    policy = under(COVERED, level, tlsa)
    assert isinstance(policy, TlsPolicy)
    assert (policy.use_tls, policy.required, policy.authentication) == (True, True, Authentication.PKIX)
    assert policy.names == (HOST,)
    assert policy.level is level
    assert floor_of(policy) is Floor.AUTHENTICATED


@pytest.mark.parametrize(("level", "tlsa"), combined(RAISED, (NOT_ASKED, ABSENT, UNUSABLE)))
def test_a_host_that_the_policy_does_not_cover_is_not_used(level: Level, tlsa: TlsaStatus) -> None:
    refused = under(ELSEWHERE, level, tlsa)
    assert isinstance(refused, Refuse)
    assert refused.finding.code == "sts-mx-mismatch"
    assert refused.finding.stage is Stage.POLICY
    assert refused.finding.verdict is Verdict.REFUSED
    assert DOMAIN in refused.finding.text
    assert HOST in refused.finding.text


@pytest.mark.parametrize("level", RAISED)
def test_a_policy_that_nobody_can_read_lets_mail_wait(level: Level) -> None:
    refused = under(UNKNOWN, level)
    assert isinstance(refused, Refuse)
    assert refused.finding.code == "sts-unknown"
    assert "disk full" in refused.finding.text


@pytest.mark.parametrize("sts", EVERY)
def test_dane_comes_first(sts: StsStanding) -> None:
    assert under(sts, tlsa=USABLE, secure=True) == under(None, tlsa=USABLE, secure=True)


@pytest.mark.parametrize("sts", EVERY)
def test_no_policy_rescues_a_failure_of_dane(sts: StsStanding) -> None:
    assert under(sts, tlsa=FAILED, secure=True) == under(None, tlsa=FAILED, secure=True)
    assert isinstance(under(sts, tlsa=FAILED, secure=True), Refuse)


@pytest.mark.parametrize(
    ("sts", "level", "tlsa"),
    combined(
        (COVERED, TESTED, TESTED_ELSEWHERE, ENDED, NONE),
        (Level.NONE, Level.DANE_ONLY),
        (NOT_ASKED, ABSENT, USABLE, UNUSABLE, FAILED),
    ),
)
def test_clear_text_for_a_host_that_the_policy_names_and_dane_only_stay_as_they_are(
    sts: StsStanding, level: Level, tlsa: TlsaStatus
) -> None:
    assert under(sts, level, tlsa) == under(None, level, tlsa)


@pytest.mark.parametrize(("sts", "level"), combined((ELSEWHERE, UNKNOWN), (Level.NONE, Level.DANE_ONLY)))
def test_no_rule_for_a_host_serves_one_that_a_forged_mx_has_chosen(sts: StsStanding, level: Level) -> None:
    assert isinstance(under(sts, level), Refuse)


@pytest.mark.parametrize(
    ("sts", "level", "tlsa"),
    combined((NONE, ENDED), tuple(Level), (NOT_ASKED, ABSENT, USABLE, UNUSABLE, FAILED)),
)
def test_no_policy_and_mode_none_change_nothing(sts: StsStanding, level: Level, tlsa: TlsaStatus) -> None:
    assert under(sts, level, tlsa) == under(None, level, tlsa)


_STRENGTH = {
    Authentication.NONE: 0,
    Authentication.TRIED: 0,
    Authentication.PKIX: 1,
    Authentication.DANE: 1,
}


@pytest.mark.parametrize(
    ("sts", "level", "tlsa", "demands"),
    combined(
        EVERY,
        tuple(Level),
        (NOT_ASKED, ABSENT, USABLE, UNUSABLE, FAILED),
        (Demands(), Demands(require_ocsp=True), Demands(names=("mail.example.com",))),
    ),
)
def test_no_policy_ever_lowers_what_the_level_asks_for(
    sts: StsStanding, level: Level, tlsa: TlsaStatus, demands: Demands
) -> None:
    before, after = under(None, level, tlsa, demands), under(sts, level, tlsa, demands)
    if isinstance(before, Refuse):
        assert after == before
    elif isinstance(after, TlsPolicy):
        assert after.use_tls >= before.use_tls
        assert after.required >= before.required
        assert _STRENGTH[after.authentication] >= _STRENGTH[before.authentication]
        assert after.demands == demands


@pytest.mark.parametrize("level", [Level.MAY, Level.DANE])
def test_testing_delivers_as_before_and_tries_the_certificate(level: Level) -> None:
    policy = under(TESTED, level)
    assert isinstance(policy, TlsPolicy)
    assert (policy.use_tls, policy.required, policy.authentication) == (True, False, Authentication.TRIED)
    assert policy.names == (HOST,)
    assert policy.findings[-1].code == "sts-testing"


@pytest.mark.parametrize("level", [Level.TRY_VERIFY, Level.ENCRYPT, Level.VERIFY])
def test_testing_adds_a_finding_where_the_level_asks_for_more(level: Level) -> None:
    plain, tested = under(None, level), under(TESTED, level)
    assert isinstance(plain, TlsPolicy)
    assert isinstance(tested, TlsPolicy)
    assert replace(tested, findings=plain.findings) == plain
    assert tested.findings[-1].code == "sts-testing"


@pytest.mark.parametrize("level", RAISED)
def test_testing_tells_of_a_host_that_it_would_not_allow(level: Level) -> None:
    plain, tested = under(None, level), under(TESTED_ELSEWHERE, level)
    assert isinstance(plain, TlsPolicy)
    assert isinstance(tested, TlsPolicy)
    assert replace(tested, findings=plain.findings) == plain
    assert "does not allow" in tested.findings[-1].text


def test_an_enforced_policy_is_demanded_beside_the_names_of_the_settings() -> None:
    names = Demands(names=("mail.example.com",))
    plain, enforced = under(None, Level.VERIFY, demands=names), under(COVERED, Level.VERIFY, demands=names)
    assert isinstance(plain, TlsPolicy)
    assert isinstance(enforced, TlsPolicy)
    assert (plain.names, plain.also) == (("mail.example.com",), None)
    assert (enforced.names, enforced.also) == (("mail.example.com",), HOST)


@pytest.mark.parametrize("secure", [False, True])
def test_names_beside_that_of_the_host_do_not_stand_for_it(secure: bool) -> None:
    demands = Demands(names=("mail.example.com",), require_ocsp=True)
    policy = under(COVERED, Level.DANE, demands=demands, secure=secure, tlsa=ABSENT)
    assert isinstance(policy, TlsPolicy)
    assert policy.also == HOST


@pytest.mark.parametrize("sts", [TESTED, TESTED_ELSEWHERE, ENDED, NONE])
def test_no_other_policy_demands_a_name_beside_those_of_the_settings(sts: StsStanding) -> None:
    policy = under(sts, Level.VERIFY, demands=Demands(names=("mail.example.com",)))
    assert isinstance(policy, TlsPolicy)
    assert policy.also is None


def test_names_that_are_only_tried_do_not_make_enforce_a_trial() -> None:
    policy = under(COVERED, Level.TRY_VERIFY, demands=Demands(names=("mail.example.com",)))
    assert isinstance(policy, TlsPolicy)
    assert policy.required
    assert (policy.authentication, policy.names) == (Authentication.PKIX, (HOST,))


def test_the_server_is_told_which_host_is_meant() -> None:
    policy = under(COVERED)
    assert isinstance(policy, TlsPolicy)
    assert policy.sni == HOST


def test_testing_leaves_names_that_are_tried_as_they_are() -> None:
    names = Demands(names=("mail.example.com",))
    plain, tested = (
        under(None, Level.TRY_VERIFY, demands=names),
        under(TESTED, Level.TRY_VERIFY, demands=names),
    )
    assert isinstance(plain, TlsPolicy)
    assert isinstance(tested, TlsPolicy)
    assert replace(tested, findings=plain.findings) == plain


def test_names_of_the_settings_do_not_weaken_an_enforced_policy_below_verify() -> None:
    policy = under(COVERED, Level.DANE, demands=Demands(names=("mail.example.com",)))
    assert isinstance(policy, TlsPolicy)
    assert policy.names == (HOST,)


def test_a_policy_in_testing_vouches_for_nobody() -> None:
    policy = under(TESTED, Level.VERIFY, demands=Demands(names=("mail.example.com",)))
    assert isinstance(policy, TlsPolicy)
    assert policy.names == ("mail.example.com",)


def test_a_login_does_not_hide_what_a_policy_in_testing_would_say() -> None:
    plan = MxPlan(DOMAIN, (MxTarget(HOST),), secure=False)
    for sts in (TESTED, TESTED_ELSEWHERE):
        host = HostPlan(HOST, ("192.0.2.1",), False, NOT_ASKED, sts=sts)
        raised = raised_for(Login("user", "password", ("plain",)), decide(Level.DANE, plan, host), plan, host)
        assert isinstance(raised, TlsPolicy)
        assert (raised.names, raised.also) == ((DOMAIN,), None)
        assert [found.code for found in raised.findings] == ["login-verify", "level-verify", "sts-testing"]


def test_a_fallback_host_and_a_login_keep_what_the_policy_asks_for() -> None:
    plan = MxPlan(DOMAIN, (MxTarget(HOST),), secure=False)
    host = HostPlan(HOST, ("192.0.2.1",), False, NOT_ASKED, sts=COVERED)
    policy = decide(Level.DANE, plan, host)
    assert at_least(Floor.AUTHENTICATED, policy, plan, host) == policy
    raised = raised_for(Login("user", "password", ("plain",)), policy, plan, host)
    assert isinstance(raised, TlsPolicy)
    assert raised.required
    assert raised.authentication is Authentication.PKIX
    assert (raised.names, raised.also) == ((DOMAIN,), HOST)
