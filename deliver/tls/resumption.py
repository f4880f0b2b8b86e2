"""Resumption never weakens a verdict: what is kept of a TLS session, and when it may be offered again. Pure.

A session rests on the chain and the staple of the full handshake it came from. Before it is offered they are
judged again, as if the server had just sent them: against today's TLSA records, names, clock and lists. A
session is only looked for under exactly its key; opportunistic ones have another key than authenticated ones.
After the handshake only this is left to ask: was it resumed, and is the server's certificate the stored one?

    it ends with                            when
    --------------------------------------  --------------------------------------
    its ticket                              always
    MAX_AGE                                 always
    the session it was resumed from         if it was: no chain of tickets outlives the proof
    the staple                              if the staple was good
    the first certificate of its path       PKIX and DANE-TA; dates do not count for DANE-EE (RFC 7672 3.1.1)

The octets come from a file that others may have written to: whatever is odd is a reason in `Rejected`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deliver.tls.certificate import parse
from deliver.tls.crl import NO_LISTS, RevocationLists
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import TlsPolicy
from deliver.tls.ticket import Ticket, read
from deliver.tls.verdict import Handshake, TlsVerdict
from hints.records import SessionKey, TlsSession

MAX_AGE = 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class Offer:
    """A session that was judged well again, what it rests on, and the verdict of today."""

    session: TlsSession
    ticket: bytes = field(repr=False)
    rests_on: Handshake
    verdict: TlsVerdict


@dataclass(frozen=True, slots=True)
class Rejected:
    """A session that must not be offered."""

    why: str


def key_of(
    policy: TlsPolicy, host: str, port: int, client_certificate: str, minimum_version: str, greeted_as: str
) -> SessionKey:
    """Under which a session is kept and looked for. `client_certificate`: hexadecimal digest, "" without."""
    return SessionKey(
        host.lower(),
        port,
        policy.sni.lower(),
        f"{policy.level}/{policy.authentication}",
        client_certificate,
        minimum_version,
        greeted_as.lower(),
    )


def judge_again(
    policy: TlsPolicy,
    key: SessionKey,
    session: TlsSession,
    now: float,
    trust_store: TrustStore,
    lists: RevocationLists = NO_LISTS,
) -> Offer | Rejected:
    """Whether a session from the hints may be offered now."""
    if session.key != key:
        return Rejected("it was kept for another server or policy")
    if not session.saved_at <= now < min(session.expires, session.saved_at + MAX_AGE):
        return Rejected("it is past its time")
    try:
        ticket = read(session.session)
    except ValueError as error:
        return Rejected(f"it cannot be read: {error}")
    if ticket.version != session.version:
        return Rejected(f"it is of {ticket.version}, kept as {session.version}")
    if not session.chain or ticket.peer != session.chain[0]:
        return Rejected("it is with another certificate than the one it was kept with")
    rests_on = Handshake(session.version, "", None, session.chain, resumed=True, staple=session.staple)
    verdict = judge(policy, rests_on, now, trust_store, lists)
    if not verdict.ok:
        return Rejected(f"what it rests on does not do any more: {verdict.findings[-1].text}")
    return Offer(session, ticket.ticket, rests_on, verdict)


def to_keep(
    key: SessionKey,
    session: bytes,
    handshake: Handshake,
    verdict: TlsVerdict,
    now: float,
    offered: Offer | None,
) -> TlsSession | None:
    """What to keep of a judged connection; None if there is no new ticket, or it is worth nothing.

    `offered`: what was offered on it; it bounds the new ticket's life where it was taken.
    """
    try:
        ticket = read(session)
        end = _end(ticket, verdict, now)
    except ValueError:
        return None
    if handshake.chain[:1] != (ticket.peer,) or ticket.version != handshake.version:
        return None
    if offered is not None and handshake.resumed:
        if ticket.ticket == offered.ticket:
            return None  # kept already, or used up
        end = min(end, offered.session.expires)
    if end <= now:
        return None
    return TlsSession(
        key, session, handshake.chain, handshake.staple, verdict.verified_by, handshake.version, now, end
    )


def _end(ticket: Ticket, verdict: TlsVerdict, now: float) -> float:
    """The table above. Raises ValueError for a certificate that cannot be read."""
    ends = [now + ticket.lifetime, now + MAX_AGE]
    ends.extend(parse(der).not_valid_after_utc.timestamp() for der in verdict.path)
    if verdict.staple_until is not None:
        ends.append(verdict.staple_until)
    return min(ends)
