"""Is a resolver fit for us? Asked with the root's own records, and with names that the administrator chose.

    state        meaning                                                     validate   trust-ad
    -----------  ----------------------------------------------------------  ---------  ---------
    validating   it validates, and passes on what is needed to do so         fit        fit
    passing      it passes on what is needed, and does not validate          fit        no DANE
    breaking     it drops or spoils DNSSEC records: everything signed waits  unfit      unfit
    dead         it does not answer                                          unfit      unfit

Only facts count: the root's SOA record must validate, and so must the denial of a name that does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import dns.flags
import dns.name
import dns.rcode
import dns.rdatatype

from deliver.dnssec.evidence import Security
from deliver.dnssec.response import Response
from deliver.dnssec.verdict import Ask, Judged
from deliver.resolve.exchange import Request
from deliver.resolve.transport import NoReply, Recursor, ResolverAddress
from deliver.resolve.validating import ValidatingResolver

ABSENT = dns.name.from_text("outrider-doctor.invalid.")  # RFC 6761 6.4: never exists


class State(StrEnum):
    """See the module."""

    VALIDATING = "validating"
    PASSING = "passing"
    BREAKING = "breaking"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Examination:
    """The state of one resolver and what it was concluded from; `notes` are sentences."""

    resolver: str
    state: State
    notes: tuple[str, ...]

    def fit_for(self, mode: str) -> bool:
        """Whether `dns.dnssec = mode` works over it."""
        if mode == "off":
            return self.state is not State.DEAD
        if mode == "trust-ad":
            return self.state is State.VALIDATING
        return self.state in (State.VALIDATING, State.PASSING)


async def examine(
    address: ResolverAddress,
    recursor: Recursor,
    validator: ValidatingResolver,
    *,
    secure: tuple[str, ...] = (),
    bogus: tuple[str, ...] = (),
) -> Examination:
    """Ask everything of the resolver at `address`, which alone stands behind `recursor` and `validator`."""
    own = await _plain(recursor, dns.name.root, dns.rdatatype.SOA)
    if isinstance(own, NoReply):
        return Examination(str(address), State.DEAD, (own.why,))
    notes: list[str] = []
    root = await validator.judge_ask(Ask(dns.name.root, dns.rdatatype.SOA))
    absent = await validator.judge_ask(Ask(ABSENT, dns.rdatatype.A))
    sound = _expect(root, Security.SECURE, "the root's SOA record", notes)
    sound = _expect(absent, Security.SECURE, f"the denial of {ABSENT}", notes) and sound
    for name in secure:
        judged = await validator.judge_ask(Ask(dns.name.from_text(f"{name}."), dns.rdatatype.SOA))
        _expect(judged, Security.SECURE, f"{name} (dns.probe_secure)", notes)
    for name in bogus:
        judged = await validator.judge_ask(Ask(dns.name.from_text(f"{name}."), dns.rdatatype.A))
        _expect(judged, Security.BOGUS, f"{name} (dns.probe_bogus)", notes)
    if not sound:
        return Examination(str(address), State.BREAKING, tuple(notes))
    vouches = bool(own.flags & dns.flags.AD)
    notes.append(
        "it sets the AD bit" if vouches else "it does not set the AD bit: it does not validate itself"
    )
    for name in bogus:
        refused = await _plain(recursor, dns.name.from_text(f"{name}."), dns.rdatatype.A)
        if vouches and not isinstance(refused, NoReply) and refused.rcode == dns.rcode.NOERROR:
            vouches = False
            notes.append(f"it answers for {name}, which is bogus: its AD bit is worth nothing")
    return Examination(str(address), State.VALIDATING if vouches else State.PASSING, tuple(notes))


async def _plain(
    recursor: Recursor, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> Response | NoReply:
    """As an ordinary client asks: with AD, without CD."""
    response, _ = await recursor.ask(Request(name, rdtype, dns.flags.RD | dns.flags.AD, dnssec=True))
    return response


def _expect(judged: Judged, wanted: Security, what: str, notes: list[str]) -> bool:
    if judged.security is wanted:
        notes.append(f"{what} is {wanted.value}, as it must be")
        return True
    why = f": {judged.refusal}" if judged.refusal else ""
    notes.append(f"{what} is {judged.security.value} instead of {wanted.value}{why}")
    return False
