"""What one lookup has at hand: replies, zone states, the budget, and the checks that ask for nothing more.

What cannot be proved is raised as `Unproved`, a bound that is reached as `Exhausted`. `Validator`
(`deliver.dnssec.validator`) builds the chain of trust on top of this.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

import dns.name
import dns.rdatatype

from deliver.dnssec import proof
from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import TrustAnchors, ancestors
from deliver.dnssec.budget import Budget, Exhausted, Limits
from deliver.dnssec.evidence import Part, Security, Step
from deliver.dnssec.keys import InsecureZone, KeyCache, SecureZone, ZoneState
from deliver.dnssec.reading import Reading, read
from deliver.dnssec.records import RecordSet, Signature, type_name
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.signature import Verified, verify_rrset
from deliver.dnssec.verdict import Ask, Failure, Reply

T = TypeVar("T")
Work = Generator[tuple[Ask, ...], tuple[Reply, ...], T]

NO_EXPIRY = 3600  # seconds; of what configuration alone decides


class Unproved(Exception):
    """Bogus or Indeterminate, with the step that failed."""

    def __init__(self, step: Step, zone: dns.name.Name) -> None:
        super().__init__(str(step))
        self.step = step
        self.zone = zone


class Desk:
    """Everything about one lookup that is looked up without asking. `now` in epoch seconds."""

    def __init__(
        self, anchors: TrustAnchors, cache: KeyCache, *, now: int, limits: Limits, policy: Policy
    ) -> None:
        self.anchors = anchors
        self.now = now
        self.policy = policy
        self.budget = Budget(limits)
        self.cache = cache
        self.replies: dict[Ask, Reply] = {}
        self.states: dict[dns.name.Name, ZoneState] = {}

    # Replies

    def fetch(self, asks: Iterable[Ask]) -> Work[None]:
        """Have the replies to these questions at hand. Raises Exhausted."""
        missing = tuple(dict.fromkeys(ask for ask in asks if ask not in self.replies))
        if missing:
            self.budget.ask(len(missing))
            replies = yield missing
            self.replies.update(zip(missing, replies, strict=True))

    def reading(self, ask: Ask, part: Part) -> Work[Reading]:
        """The reply to `ask`, read. Raises Unproved (indeterminate) and Exhausted."""
        yield from self.fetch((ask,))
        found = read(ask, self.replies[ask], self.budget.limits)
        if isinstance(found, Failure):
            refusal = Refusal(Rule.NO_REPLY, f"{ask}: {found.why}")
            raise self.unproved(part, ask.name, ask.rdtype, refusal, security=Security.INDETERMINATE)
        return found

    # Checks

    def verify(
        self, rrset: RecordSet, signatures: Sequence[Signature], zone: SecureZone
    ) -> Verified | Refusal:
        """Whether `zone` signed the RRset. Raises Exhausted."""
        own = [rrsig for rrsig in signatures if rrsig.signer == zone.name]
        return verify_rrset(
            rrset, own, zone.name, zone.keys, now=self.now, policy=self.policy, budget=self.budget
        )

    def valid_denials(self, reading: Reading, zone: SecureZone) -> tuple[proof.Valid, Refusal | None]:
        """The NSEC and NSEC3 RRsets that `zone` signed, and why the first of the others is not valid.

        Raises Exhausted.
        """
        denials = reading.denials()
        if len(denials) > self.budget.limits.denials:
            raise Exhausted(Rule.TOO_MANY_RECORDS)
        rrsets, marks, ttl = [], [], NO_EXPIRY * 24
        fault: Refusal | None = None
        for rrset in denials:
            signatures = reading.authority.over(rrset)
            if signatures and not any(rrsig.signer == zone.name for rrsig in signatures):
                continue  # of another zone that the answer passed through
            result = self.verify(rrset, signatures, zone)
            if isinstance(result, Refusal):
                fault = fault or result
                continue
            rrsets.append(rrset)
            marks.append(result.mark)
            ttl = min(ttl, result.ttl)
        return proof.Valid(tuple(rrsets), tuple(marks), ttl), fault

    def unproved(
        self,
        part: Part,
        owner: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        refusal: Refusal,
        *,
        security: Security = Security.BOGUS,
    ) -> Unproved:
        """The error for a step that failed."""
        zone = owner if part in (Part.DNSKEY, Part.ANCHOR) else scope_of(owner, rdtype)
        step = Step(part, str(zone), str(owner), type_name(rdtype), security, refusal=refusal)
        return Unproved(step, zone)

    def known(self, name: dns.name.Name) -> ZoneState | None:
        """What this lookup or the cache knows about `name`."""
        state = self.states.get(name)
        if state is None and (state := self.cache.get(name, self.now)) is not None:
            self.states[name] = state
        return state

    def insecure(self, name: dns.name.Name) -> InsecureZone | None:
        """Whether `name` is known to be insecure without asking."""
        anchor = self.anchors.closest(name)
        negative = self.anchors.suspended(name, self.now)
        if negative is not None:
            left = NO_EXPIRY if negative.until is None else int(negative.until) - self.now
            return self.by_configuration(negative.name, Rule.NEGATIVE_ANCHOR, negative.reason, left)
        if anchor is None:
            return self.by_configuration(name, Rule.NO_ANCHOR, "")
        for above in ancestors(name):
            state = self.known(above)
            if isinstance(state, InsecureZone):
                return state
            if isinstance(state, SecureZone) or above == anchor.name:
                return None
        return None

    def chain_above(self, name: dns.name.Name) -> tuple[Step, ...]:
        """The proved steps down to the deepest secure zone at or above `name`."""
        for above in ancestors(name):
            state = self.known(above)
            if isinstance(state, SecureZone):
                return state.chain
        return ()

    def by_configuration(
        self, name: dns.name.Name, rule: Rule, why: str, left: int = NO_EXPIRY
    ) -> InsecureZone:
        """A zone that is insecure by our own settings, for `left` seconds."""
        refusal = Refusal(rule, f"{name}, {why}" if why else str(name))
        step = Step(Part.ANCHOR, str(name), str(name), "DNSKEY", Security.INSECURE, refusal=refusal)
        return InsecureZone(name, refusal, self.now + left, (step,))

    def signers(self, scope: dns.name.Name, signatures: Sequence[Signature]) -> list[dns.name.Name]:
        """The zones that signatures name and that can hold `scope`, deepest first; none above its anchor."""
        anchor = self.anchors.closest(scope)
        top = anchor.name if anchor is not None else dns.name.root
        found = {rrsig.signer for rrsig in signatures if scope.is_subdomain(rrsig.signer)}
        signers = sorted((name for name in found if name.is_subdomain(top)), key=len, reverse=True)
        return signers[: self.budget.limits.signers]


def scope_of(name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.name.Name:
    """The name whose zone holds these records: for DS that of the parent (RFC 4035 3.1.4.1)."""
    return name.parent() if rdtype == dns.rdatatype.DS and name != dns.name.root else name
