"""What is kept of a session, what is read from hostile octets, and when it is offered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.x509.ocsp import OCSPCertStatus
from hypothesis import HealthCheck, example, given, settings, strategies as st
from OpenSSL import SSL

from deliver.tls import sessions
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine
from deliver.tls.hello import Hello, after
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Demands, Level, TlsPolicy
from deliver.tls.resumption import MAX_AGE, Offer, Rejected, judge_again, key_of, to_keep
from deliver.tls.ticket import MAX_SESSION, Ticket, read
from deliver.tls.verdict import Handshake, TlsVerdict, VerifiedBy
from hints.records import SessionKey, TlsSession
from tests.unit.tls.certificates import DAY, Issued, Wish, issue
from tests.unit.tls.responder import Answer, respond

NOW = datetime.now(UTC).timestamp()
NAME = "mx.example.org"
VALID: dict[str, Any] = {"not_before": NOW - DAY, "not_after": NOW + 10 * DAY}
CA = issue(Wish("CA", authority=True, **VALID))
SERVER = issue(Wish("server", dns_names=(NAME,), **VALID), CA)
SHORT = issue(Wish("short", dns_names=(NAME,), not_before=NOW - DAY, not_after=NOW + 600), CA)
OTHER = issue(Wish("other", dns_names=(NAME,), **VALID), CA)
STORE = TrustStore.from_pem(CA.pem, "CA")
PKIX = TlsPolicy(Level.VERIFY, True, True, Authentication.PKIX, NAME, (NAME,))
EE = TlsPolicy(Level.DANE, True, True, Authentication.DANE, NAME, (NAME,), (SHORT.tlsa(3, 1, 1),))
KEY = key_of(PKIX, "MX.example.org", 25, "", "1.2", "MX.Example.Org")
HOUR = 3600.0


def server(who: Issued = SERVER, version: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(version)
    context.use_certificate(who.certificate)
    context.use_privatekey(who.key)  # type: ignore[arg-type]
    context.add_extra_chain_cert(CA.certificate)
    return context


def shake(context: SSL.Context, resume: bytes | None = None) -> TlsEngine:
    client = TlsEngine(context_for(PKIX), NAME, resume=resume)
    other = TlsEngine(context, server_side=True)
    for _ in range(6):
        if not client.finished:
            client.handshake()
        if octets := client.outgoing():
            other.feed(octets)
        if not other.finished:
            other.handshake()
        if octets := other.outgoing():
            client.feed(octets)
    other.write(b"250 ok\r\n")
    client.feed(other.outgoing())
    assert client.read() == b"250 ok\r\n"
    return client


def exported(version: int = SSL.TLS1_3_VERSION, who: Issued = SERVER) -> bytes:
    session = shake(server(who, version)).session()
    assert session is not None
    return session


SESSIONS = {"TLSv1.2": exported(SSL.TLS1_2_VERSION), "TLSv1.3": exported()}


def handshake(who: Issued = SERVER, version: str = "TLSv1.3", **changes: Any) -> Handshake:
    return replace(Handshake(version, "x", None, (who.der, CA.der)), **changes)


def kept(**changes: Any) -> TlsSession:
    plain = TlsSession(
        KEY, SESSIONS["TLSv1.3"], (SERVER.der, CA.der), None, "pkix", "TLSv1.3", NOW, NOW + HOUR
    )
    return replace(plain, **changes)


def again(
    session: TlsSession, policy: TlsPolicy = PKIX, now: float = NOW, key: SessionKey = KEY
) -> Offer | Rejected:
    return judge_again(policy, key, session, now, STORE)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_reads_what_openssl_writes(version: str) -> None:
    ticket = read(SESSIONS[version])
    assert (ticket.version, ticket.peer) == (version, SERVER.der)
    assert ticket.ticket in SESSIONS[version]
    assert ticket.lifetime == 7200  # OpenSSL's default


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_session_leaves_and_comes_back(version: int) -> None:
    context = server(version=version)
    session = shake(context).session()
    assert session is not None
    client = shake(context, resume=session)
    assert client.offered
    assert client.facts().resumed
    assert client.leaf() == SERVER.der


def test_a_handshake_that_is_not_over_has_no_session() -> None:
    client = TlsEngine(context_for(PKIX), NAME)
    client.handshake()
    assert client.session() is None


def test_before_the_first_reply_there_is_no_ticket_in_tls_1_3() -> None:
    client = TlsEngine(context_for(PKIX), NAME)
    other = TlsEngine(server(), server_side=True)
    while not client.handshake():
        other.feed(client.outgoing())
        other.handshake()
        client.feed(other.outgoing())
    session = client.session()
    assert session is not None
    with pytest.raises(ValueError, match="no ticket"):
        read(session)


@pytest.mark.parametrize(
    "octets",
    [
        *(b"", b"\x30", b"\x30\x00", b"\x30\x84\x00\x00\x00\x01\x00", b"\x31\x00"),
        *(SESSIONS["TLSv1.3"] + b"x", SESSIONS["TLSv1.3"][:-1], b"\x30\x83\x01\x00\x00" + b"\0" * 65536),
        bytes(MAX_SESSION + 1),
    ],
)
def test_what_is_no_session_is_a_value_error(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(octets)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=300))
@example(b"\x30\x0b\x02\x01\x01\x02\x02\x03\x04\x04\x02\x13\x02")
def test_reading_never_fails_otherwise(octets: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(read(octets), Ticket)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_mutated_sessions_neither_crash_nor_pass_for_another_server(data: st.DataObject) -> None:
    """Whatever reaches OpenSSL: refused, or a handshake whose certificate is looked at."""
    session = bytearray(SESSIONS[data.draw(st.sampled_from(sorted(SESSIONS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        session[data.draw(st.integers(0, len(session) - 1))] = data.draw(st.integers(0, 255))
    octets = bytes(session[: data.draw(st.integers(1, len(session)))])
    client = TlsEngine(context_for(PKIX), NAME, resume=octets)
    assert client.handshake() is False
    assert client.outgoing()
    found = again(kept(session=octets))
    if isinstance(found, Offer):
        assert read(octets).peer == SERVER.der


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_what_is_judged_well_again_is_offered(version: str) -> None:
    found = again(kept(session=SESSIONS[version], version=version))
    assert isinstance(found, Offer)
    assert found.verdict.verified_by is VerifiedBy.PKIX
    assert found.rests_on.chain == (SERVER.der, CA.der)


@pytest.mark.parametrize(
    ("session", "why"),
    [
        (kept(key=replace(KEY, host="other.example.org")), "another server"),
        (kept(key=replace(KEY, level="may/none")), "another server or policy"),
        (kept(expires=NOW), "past its time"),
        (kept(saved_at=NOW + 1), "past its time"),
        (kept(saved_at=NOW - MAX_AGE, expires=NOW + HOUR), "past its time"),
        (kept(session=b"garbage"), "cannot be read"),
        (kept(session=SESSIONS["TLSv1.3"][:400]), "cannot be read"),
        (kept(session=SESSIONS["TLSv1.2"]), "it is of TLSv1.2"),
        (kept(chain=(OTHER.der, CA.der)), "another certificate"),
        (kept(chain=()), "another certificate"),
        (kept(chain=(CA.der, SERVER.der)), "another certificate"),
        (kept(staple=b"garbage"), None),  # a staple that cannot be used counts as none
    ],
)
def test_what_is_odd_is_not_offered(session: TlsSession, why: str | None) -> None:
    found = again(session)
    assert isinstance(found, Offer) if why is None else isinstance(found, Rejected) and why in found.why


def test_todays_policy_decides() -> None:
    assert isinstance(again(kept(), replace(PKIX, names=("elsewhere.example",))), Rejected)
    assert isinstance(again(kept(), replace(PKIX, demands=Demands(require_ocsp=True))), Rejected)
    assert isinstance(again(kept(), replace(PKIX, demands=Demands(require_crl=True))), Rejected)
    assert isinstance(judge_again(PKIX, KEY, kept(), NOW, TrustStore.empty()), Rejected)
    dane = replace(EE, records=(SERVER.tlsa(3, 1, 1),))
    key = key_of(dane, NAME, 25, "", "1.2", NAME)
    assert isinstance(again(kept(key=key), dane, key=key), Offer)
    assert isinstance(again(kept(key=key), replace(dane, records=(OTHER.tlsa(3, 1, 1),)), key=key), Rejected)


def test_a_staple_that_says_revoked_by_now_is_not_offered() -> None:
    revoked = respond(Answer(SERVER, OCSPCertStatus.REVOKED, this_update=NOW - 60, next_update=NOW + HOUR))
    found = again(kept(staple=revoked))
    assert isinstance(found, Rejected)
    assert "revoked" in found.why


def keep(
    policy: TlsPolicy = PKIX, who: Issued = SERVER, offered: Offer | None = None, **changes: Any
) -> TlsSession | None:
    session = exported(who=who)
    shown = handshake(who, **changes)
    verdict = judge(policy, shown, NOW, STORE)
    assert verdict.ok
    return to_keep(key_of(policy, NAME, 25, "", "1.2", NAME), session, shown, verdict, NOW, offered)


def test_a_session_ends_with_its_ticket() -> None:
    found = keep()
    assert found is not None
    assert found.expires == NOW + 7200
    assert (found.chain, found.verified_by, found.version) == ((SERVER.der, CA.der), "pkix", "TLSv1.3")


def test_a_session_ends_with_the_certificate_but_not_for_dane_ee() -> None:
    by_pkix, by_dane = keep(who=SHORT), keep(EE, SHORT)
    assert by_pkix is not None
    assert by_dane is not None
    assert by_pkix.expires == float(int(NOW + 600))
    assert by_dane.expires == NOW + 7200


def test_a_session_ends_with_a_good_staple() -> None:
    staple = respond(Answer(SERVER, this_update=NOW - 60, next_update=float(int(NOW)) + 300))
    found = keep(staple=staple)
    assert found is not None
    assert found.expires == float(int(NOW)) + 300
    assert found.staple == staple


def test_a_chain_of_tickets_does_not_outlive_the_proof() -> None:
    offer = again(kept(expires=NOW + 60))
    assert isinstance(offer, Offer)
    found = keep(offered=offer, resumed=True)
    assert found is not None
    assert found.expires == NOW + 60
    full = keep(offered=offer, resumed=False)  # offered, but the server wanted a full handshake
    assert full is not None
    assert full.expires == NOW + 7200


def test_what_was_offered_is_not_kept_a_second_time() -> None:
    offer = again(kept())
    assert isinstance(offer, Offer)
    shown = handshake(resumed=True)
    assert to_keep(KEY, SESSIONS["TLSv1.3"], shown, offer.verdict, NOW, offer) is None


@pytest.mark.parametrize(
    ("session", "shown"),
    [
        (b"", handshake()),
        (SESSIONS["TLSv1.3"], handshake(OTHER)),
        (SESSIONS["TLSv1.3"], handshake(chain=())),
        (SESSIONS["TLSv1.2"], handshake()),
    ],
)
def test_what_does_not_fit_is_not_kept(session: bytes, shown: Handshake) -> None:
    verdict = TlsVerdict(True, VerifiedBy.NONE, ())
    assert to_keep(KEY, session, shown, verdict, NOW, None) is None


def test_the_key_tells_opportunistic_and_authenticated_sessions_apart() -> None:
    opportunistic = TlsPolicy(Level.DANE, True, False, Authentication.NONE, NAME)
    one, other = (key_of(policy, NAME, 25, "", "1.2", NAME) for policy in (opportunistic, EE))
    assert one != other
    assert (KEY.host, KEY.greeted_as, KEY.sni) == (NAME, NAME, NAME)


@pytest.mark.parametrize("name", ["d2i_SSL_SESSION", "SSL_set_session", "SSL_get1_session"])
def test_a_binding_that_vanishes_turns_resumption_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def __getattr__(self, asked: str) -> Any:
            if asked == name:
                raise AttributeError(asked)
            return getattr(real, asked)

    real = SSL._lib  # type: ignore[attr-defined]
    client = shake(server())
    monkeypatch.setattr(SSL, "_lib", Without())
    sessions.unavailable.cache_clear()
    try:
        assert name in sessions.unavailable()
        assert client.session() is None
        assert not TlsEngine(context_for(PKIX), NAME, resume=SESSIONS["TLSv1.3"]).offered
    finally:
        sessions.unavailable.cache_clear()


def test_a_binding_that_changes_turns_resumption_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_offer", lambda connection, session: True)
    sessions.unavailable.cache_clear()
    try:
        assert "not resumed" in sessions.unavailable()
    finally:
        sessions.unavailable.cache_clear()


def test_the_binding_works_here() -> None:
    assert sessions.unavailable() == ""


FULL = Hello(resume=False)


@pytest.mark.parametrize(
    ("tried", "offered", "lost", "may_shrink", "then"),
    [
        (Hello(), True, False, True, Hello(resume=False)),
        (Hello(), True, True, True, Hello(large=False, resume=False)),
        (Hello(), True, True, False, Hello(resume=False)),
        (Hello(large=False), True, True, True, Hello(large=False, resume=False)),
        (Hello(), False, True, True, Hello(large=False, resume=False, shrunk=True)),
        (FULL, False, True, True, Hello(large=False, resume=False, shrunk=True)),
        (FULL, False, True, False, None),
        (FULL, False, False, True, None),
        (Hello(large=False, resume=False), False, True, True, None),
        (Hello(large=False), False, True, True, None),
    ],
)
def test_what_is_tried_next(
    tried: Hello, offered: bool, lost: bool, may_shrink: bool, then: Hello | None
) -> None:
    assert after(tried, offered=offered, lost=lost, may_shrink=may_shrink) == then


@given(st.builds(Hello), st.booleans(), st.booleans(), st.booleans())
def test_trying_again_comes_to_an_end(hello: Hello, offered: bool, lost: bool, may_shrink: bool) -> None:
    tries = 0
    now: Hello | None = hello
    while now is not None:
        tries += 1
        now = after(now, offered=offered and now.resume, lost=lost, may_shrink=may_shrink)
    assert tries <= 2


@pytest.mark.parametrize(
    ("timeout", "lifetime"), [(600, 600), (3 * 86400, 3 * 86400), (30 * 86400, 7 * 86400)]
)
def test_the_lifetime_is_the_servers_and_a_week_at_most(timeout: int, lifetime: int) -> None:
    """RFC 8446 4.6.1; MAX_AGE bounds what is kept further."""
    context = server()
    context.set_timeout(timeout)
    session = shake(context).session()
    assert session is not None
    assert read(session).lifetime == lifetime
    kept_session = to_keep(KEY, session, handshake(), TlsVerdict(True, VerifiedBy.NONE, ()), NOW, None)
    assert kept_session is not None
    assert kept_session.expires == NOW + min(lifetime, MAX_AGE)


def test_a_ticket_without_a_lifetime_is_not_used_again_in_tls_1_3() -> None:
    """RFC 8446 4.6.1: 0 means discard at once."""
    session = SESSIONS["TLSv1.3"]
    hint = bytes.fromhex("a90402021c20")  # [9] INTEGER 7200
    assert session.count(hint) == 1
    length = int.from_bytes(session[2:4]) - len(hint)
    without = session[:2] + length.to_bytes(2) + session[4:].replace(hint, b"")
    assert read(without).lifetime == 0
    verdict = TlsVerdict(True, VerifiedBy.NONE, ())
    assert to_keep(KEY, without, handshake(), verdict, NOW, None) is None


def test_a_resumed_connection_of_tls_1_3_has_a_new_key_exchange() -> None:
    """RFC 8446 4.2.9, psk_dhe_ke: who steals the ticket's secret later reads nothing."""
    context = server()
    session = shake(context).session()
    resumed = shake(context, resume=session).facts()
    assert resumed.resumed
    assert resumed.group is not None


def test_nothing_is_sent_before_the_server_has_answered() -> None:
    """No early data (RFC 8446 2.3), whatever the ticket allows: it could be replayed."""
    client = TlsEngine(context_for(PKIX), NAME, resume=SESSIONS["TLSv1.3"])
    client.handshake()
    found = _extensions(client.outgoing())
    assert found[-1] == b"\x00\x29"  # pre_shared_key
    assert b"\x00\x2a" not in found  # early_data


def _extensions(hello: bytes) -> list[bytes]:
    """Their types, in order (RFC 8446 4.1.2)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2])
    at += 1 + hello[at]
    at += 2
    found = []
    while at < len(hello):
        found.append(hello[at : at + 2])
        at += 4 + int.from_bytes(hello[at + 2 : at + 4])
    return found
