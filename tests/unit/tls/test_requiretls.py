"""What REQUIRETLS makes of the policy for other mail (RFC 8689 2), row by row."""

from __future__ import annotations

from itertools import product

import pytest

from deliver.demands import raised_for
from deliver.relay.route import Login
from deliver.report.trace import Stage
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
from deliver.tls.requiretls import required_by_sender

HOST, DOMAIN, PIN = "mx.example.net", "example.org", "pin.example.com"
NOT_ASKED = TlsaNotAsked("the MX answer is not validated")
ABSENT = TlsaAbsent(secure=True)
USABLE = TlsaRecords(HOST, (TlsaRecord(3, 1, 1, b"\1" * 32),), ())
UNUSABLE = TlsaRecords(HOST, (), ((TlsaRecord(1, 1, 1, b"\3" * 32), "not for SMTP"),))
FAILED = TlsaFailed("SERVFAIL")
EVERY_TLSA = (NOT_ASKED, ABSENT, USABLE, UNUSABLE, FAILED)
ENFORCED, TESTED = (
    StsStanding(StsPolicy(mode, ("*.example.net",), 86400)) for mode in (Mode.ENFORCE, Mode.TESTING)
)
TESTED_ELSEWHERE = StsStanding(StsPolicy(Mode.TESTING, ("mx.example.com",), 86400))
ENDED = StsStanding(StsPolicy(Mode.NONE, ("*.example.net",), 86400))
STANDINGS = (None, ENFORCED, TESTED, TESTED_ELSEWHERE, ENDED)
PINNED = Demands(names=(PIN,))
PLAIN = Demands()


def where(
    tlsa: TlsaStatus = NOT_ASKED,
    *,
    secure: bool = False,
    sts: StsStanding | None = None,
    domain: str = DOMAIN,
) -> tuple[MxPlan, HostPlan]:
    plan = MxPlan(domain, (MxTarget(HOST),), secure)
    return plan, HostPlan(HOST, ("192.0.2.1",), secure, tlsa, sts=sts)


def asked(level: Level, *place: MxPlan | HostPlan, demands: Demands = PLAIN) -> TlsPolicy | Refuse:
    plan, host = place
    assert isinstance(plan, MxPlan)
    assert isinstance(host, HostPlan)
    return required_by_sender(decide(level, plan, host, demands), plan, host)


@pytest.mark.parametrize("level", [level for level in Level if level is not Level.DANE_ONLY])
@pytest.mark.parametrize("tlsa", [NOT_ASKED, ABSENT, UNUSABLE])
def test_a_host_that_dnssec_vouches_for_needs_a_certificate_for_its_name(
    level: Level, tlsa: TlsaStatus
) -> None:
    policy = asked(level, *where(tlsa, secure=True))
    assert isinstance(policy, TlsPolicy)
    assert (policy.use_tls, policy.required, policy.authentication) == (True, True, Authentication.PKIX)
    assert policy.names == (HOST,)
    assert floor_of(policy) is Floor.AUTHENTICATED


@pytest.mark.parametrize(
    ("sts", "names"),
    [
        (None, (DOMAIN,)),
        (ENFORCED, (HOST,)),
        (TESTED, (HOST,)),
        (TESTED_ELSEWHERE, (DOMAIN,)),
        (ENDED, (DOMAIN,)),
    ],
)
@pytest.mark.parametrize("level", [Level.MAY, Level.TRY_VERIFY, Level.ENCRYPT, Level.VERIFY, Level.DANE])
def test_a_host_that_anybody_may_have_chosen_needs_one_for_the_domain(
    level: Level, sts: StsStanding | None, names: tuple[str, ...]
) -> None:
    policy = asked(level, *where(sts=sts))
    assert isinstance(policy, TlsPolicy)
    assert policy.required
    assert policy.authentication is Authentication.PKIX
    assert policy.names == names


def test_only_names_that_the_settings_give_the_domain_are_certain() -> None:
    """Those of a rule for hosts are in the demands too: a forged answer would choose such a host."""
    plan, host = where()
    for level in (Level.VERIFY, Level.MAY):
        before = decide(level, plan, host, PINNED)
        unpinned = required_by_sender(before, plan, host)
        assert isinstance(unpinned, TlsPolicy)
        assert unpinned.names == (DOMAIN,)
    pinned = required_by_sender(decide(Level.VERIFY, plan, host, PINNED), plan, host, (PIN,))
    assert isinstance(pinned, TlsPolicy)
    assert pinned.names == (PIN,), "as for other mail"
    raised = required_by_sender(decide(Level.MAY, plan, host, PINNED), plan, host, (PIN,))
    assert isinstance(raised, TlsPolicy)
    assert raised.names == (DOMAIN, PIN)
    assert raised.demands == PINNED


def test_an_address_literal_is_certain() -> None:
    plan = MxPlan("[192.0.2.1]", (MxTarget("192.0.2.1"),), False)
    host = HostPlan("192.0.2.1", ("192.0.2.1",), False, NOT_ASKED)
    policy = required_by_sender(decide(Level.DANE, plan, host), plan, host)
    assert isinstance(policy, TlsPolicy)
    assert policy.names == ("192.0.2.1",)


def test_the_domain_itself_is_certain() -> None:
    policy = asked(Level.DANE, *where(domain=HOST))
    assert isinstance(policy, TlsPolicy)
    assert policy.names == (HOST,)


def test_dane_is_enough_and_what_is_refused_stays_refused() -> None:
    by_dane = where(USABLE, secure=True)
    assert asked(Level.DANE, *by_dane) == decide(Level.DANE, *by_dane)
    assert isinstance(asked(Level.DANE, *where(FAILED, secure=True)), Refuse)
    assert isinstance(asked(Level.DANE_ONLY, *where(ABSENT, secure=True)), Refuse)


def test_what_is_asked_for_anyway_is_not_said_again() -> None:
    place = where(ABSENT, secure=True)
    assert asked(Level.VERIFY, *place) == decide(Level.VERIFY, *place)


def test_it_explains_itself() -> None:
    policy = asked(Level.DANE, *where())
    assert isinstance(policy, TlsPolicy)
    (found,) = policy.findings
    assert (found.stage, found.code, found.rfc) == (Stage.POLICY, "requiretls", "RFC 8689 2")
    assert DOMAIN in found.text
    assert dict(found.evidence)["names"] == DOMAIN


def test_policies_in_testing_say_so_still() -> None:
    policy = asked(Level.DANE, *where(sts=TESTED))
    assert isinstance(policy, TlsPolicy)
    assert [found.code for found in policy.findings] == ["requiretls", "sts-testing"]


@pytest.mark.parametrize(("level", "tlsa"), list(product(Level, EVERY_TLSA)))
def test_nothing_is_lowered_and_every_name_is_certain(level: Level, tlsa: TlsaStatus) -> None:
    for secure, sts, demands in product((False, True), STANDINGS, (PLAIN, PINNED)):
        plan, host = where(tlsa, secure=secure, sts=sts)
        before = decide(level, plan, host, demands)
        after = required_by_sender(before, plan, host)
        if isinstance(before, Refuse):
            assert after == before
            continue
        assert isinstance(after, TlsPolicy)
        assert floor_of(after) is Floor.AUTHENTICATED
        assert after.also == before.also or before.authentication is not Authentication.PKIX
        if after.authentication is Authentication.PKIX and not secure and sts not in (ENFORCED, TESTED):
            assert HOST not in after.names
        if before.authentication is Authentication.PKIX and before.required:
            assert set(after.names) <= {*before.names, DOMAIN}


@pytest.mark.parametrize("sts", STANDINGS)
def test_a_login_is_not_told_to_more_servers(sts: StsStanding | None) -> None:
    plan, host = where(sts=sts)
    login = Login("ann", "/password", ("plain",))
    before = raised_for(login, decide(Level.DANE, plan, host), plan, host)
    assert isinstance(before, TlsPolicy)
    after = required_by_sender(before, plan, host)
    assert isinstance(after, TlsPolicy)
    assert (after.names, after.also) == (before.names, before.also)


def test_a_fallback_is_raised_as_well() -> None:
    plan, host = where(secure=True)
    owed = at_least(Floor.ENCRYPTED, decide(Level.MAY, plan, host), plan, host)
    policy = required_by_sender(owed, plan, host)
    assert isinstance(policy, TlsPolicy)
    assert policy.authentication is Authentication.PKIX
