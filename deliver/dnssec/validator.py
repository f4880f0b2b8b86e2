"""RRsets, denials and zones of one lookup, held against the chain of trust (RFC 4035 5).

Signer-driven: the signer that an RRSIG names proposes the zone; DS and DNSKEY records decide whether that is
so. Where no signature is valid the walk goes from the trust anchor down, name by name (`enclosing`): only a
proved insecure delegation makes data insecure, never a missing signature. Recursion is always towards shorter
names. What cannot be proved is raised as `Unproved`; a bound that is reached as `Exhausted`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.name
import dns.rdatatype
from msgspec import Struct

from deliver.dnssec import proof
from deliver.dnssec.algorithm import Digest, Policy, digest_in
from deliver.dnssec.alias import alias_at
from deliver.dnssec.anchors import Anchor, TrustAnchors, ancestors
from deliver.dnssec.budget import Limits
from deliver.dnssec.denial import Denied
from deliver.dnssec.desk import NO_EXPIRY, Desk, Unproved, Work, scope_of
from deliver.dnssec.evidence import Part, Security, Step
from deliver.dnssec.keys import (
    InsecureZone,
    KeyCache,
    NoCut,
    SecureZone,
    ZoneState,
    usable_anchor,
    vouched_keys,
)
from deliver.dnssec.reading import Reading
from deliver.dnssec.records import RecordSet, Signature, type_name
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.signature import Verified
from deliver.dnssec.verdict import Ask

_PROVED_CUTS = frozenset({Rule.DELEGATION_INSECURE, Rule.UNSUPPORTED})
_UNPROVED_CUTS = frozenset({Rule.OPT_OUT, Rule.ITERATIONS})


class Authentic(Struct, frozen=True):
    """An RRset with a valid signature of a secure zone."""

    zone: SecureZone
    verified: Verified


@dataclass(frozen=True, slots=True)
class Proved:
    """An absence that the records of a secure zone prove; `ttl` in seconds."""

    zone: SecureZone
    denied: Denied
    ttl: int
    step: Step


@dataclass(frozen=True, slots=True)
class _SignedDelegation:
    parent: SecureZone
    ds: tuple[Digest, ...]
    expires: int
    step: Step


class Validator(Desk):
    """One lookup's way from RRsets and denials to the trust anchor."""

    def __init__(
        self, anchors: TrustAnchors, cache: KeyCache, *, now: int, limits: Limits, policy: Policy
    ) -> None:
        super().__init__(anchors, cache, now=now, limits=limits, policy=policy)
        self._failed: dict[dns.name.Name, Unproved] = {}

    # RRsets and denials

    def authenticate(
        self,
        rrset: RecordSet,
        signatures: Sequence[Signature],
        part: Part,
        scope: dns.name.Name | None = None,
    ) -> Work[Authentic | InsecureZone]:
        """The zone that signed the RRset, or the proof that it is insecure. Raises Unproved, Exhausted.

        `scope`: a name of the zone that holds the RRset, where it is not the owner's own.
        """
        scope = scope or scope_of(rrset.name, rrset.rdtype)
        insecure = self.insecure(scope)
        if insecure is not None:
            return insecure
        refusal = Refusal(Rule.SIGNER if signatures else Rule.SIGNATURE_MISSING, _about(rrset))
        tried, pending = False, None
        for signer in self.signers(scope, signatures):
            try:
                state = yield from self._proposed(signer)
            except Unproved as unproved:
                pending = pending or unproved
                continue
            match state:
                case InsecureZone():
                    return state
                case NoCut():
                    refusal = refusal if tried else Refusal(Rule.NO_CUT, f"{_about(rrset)}, signer {signer}")
                case SecureZone():
                    result = self.verify(rrset, signatures, state)
                    tried = True
                    if isinstance(result, Verified):
                        cut = yield from self._cut_between(signer, scope)
                        if cut is None:
                            return Authentic(state, result)
                        result = Refusal(Rule.SIGNER, f"{_about(rrset)}, signer {signer}, zone {cut}")
                    refusal = result
        failure = self.unproved(part, rrset.name, rrset.rdtype, refusal)
        return (yield from self._insecure_or(scope, failure, pending, tried))

    def deny(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, reading: Reading, part: Part
    ) -> Work[Proved | InsecureZone]:
        """What the denial in a reply proves, or the proof that it is insecure. Raises Unproved, Exhausted."""
        scope = scope_of(name, rdtype)
        insecure = self.insecure(scope)
        if insecure is not None:
            return insecure
        rrsets = reading.denials()
        about = f"{name} {type_name(rdtype)}"
        signatures = [rrsig for rrset in rrsets for rrsig in reading.authority.over(rrset)]
        refusal = Refusal(Rule.DENIAL_MISSING, about)
        if rrsets and not signatures:
            refusal = Refusal(Rule.SIGNATURE_MISSING, _about(rrsets[0]))
        elif any(rrsig.signer == name for rrsig in signatures) and scope != name:
            refusal = Refusal(Rule.DENIAL_CHILD_SIDE, about)
        elif signatures:
            refusal = Refusal(Rule.SIGNER, about)
        tried, pending = False, None
        for signer in self.signers(scope, signatures):
            try:
                state = yield from self._proposed(signer)
            except Unproved as unproved:
                pending = pending or unproved
                continue
            match state:
                case InsecureZone():
                    return state
                case NoCut():
                    refusal = refusal if tried else Refusal(Rule.NO_CUT, f"{about}, signer {signer}")
                case SecureZone():
                    valid, fault = self.valid_denials(reading, state)
                    denied = proof.prove(
                        name, rdtype, state.name, valid.rrsets, self.budget, reading.nxdomain
                    )
                    if isinstance(denied, Denied):
                        return self._proved(name, rdtype, state, denied, valid, part)
                    refusal, tried = fault or denied, True
        failure = self.unproved(part, name, rdtype, refusal)
        return (yield from self._insecure_or(scope, failure, pending, tried))

    # Zones

    def enclosing(self, name: dns.name.Name) -> Work[SecureZone | InsecureZone]:
        """The zone that holds `name`, by the walk from the anchor down. Raises Unproved, Exhausted."""
        insecure = self.insecure(name)
        if insecure is not None:
            return insecure
        anchor = self.anchors.closest(name)
        assert anchor is not None  # else insecure
        state = yield from self._state_of(anchor.name)
        if not isinstance(state, SecureZone):
            return self.insecure(anchor.name) or self.by_configuration(anchor.name, Rule.NO_ANCHOR, "")
        deepest, path = state, _path(anchor.name, name)
        for place in range(len(path) - 1, -1, -1):
            found = self.known(path[place])
            if isinstance(found, SecureZone):
                deepest, path = found, path[place + 1 :]
                break
        unknown = [below for below in path if self.known(below) is None]
        yield from self.fetch(
            Ask(below, dns.rdatatype.DS) for below in unknown[: self.budget.limits.parallel]
        )
        for below in path:
            state = yield from self._state_of(below)
            match state:
                case InsecureZone():
                    return state
                case SecureZone():
                    deepest = state
                case NoCut(nothing_below=True):
                    break
        return deepest

    def _insecure_or(
        self, scope: dns.name.Name, failure: Unproved, pending: Unproved | None, tried: bool
    ) -> Work[InsecureZone]:
        """The insecure delegation above `scope`; without one the failure stands. Raises Unproved.

        `pending`: why the keys of a signer could not be had. `tried`: records of a secure zone were at hand
        and did not hold; then an opt-out span or too many iterations excuse nothing, a proved cut does.
        """
        better = failure if tried else pending
        try:
            state = yield from self.enclosing(scope)
        except Unproved as unproved:
            raise (better or unproved) from None
        if isinstance(state, InsecureZone) and not (tried and state.refusal.rule in _UNPROVED_CUTS):
            return state
        raise better or failure

    def _proposed(self, signer: dns.name.Name) -> Work[ZoneState]:
        """The state of a zone that a signature names; its chain is asked for at once."""
        state = self.known(signer)
        if state is not None:
            return state
        if signer not in self._failed:
            yield from self.fetch(self.chain_asks(ancestors(signer), signer))
        return (yield from self._state_of(signer))

    def _cut_between(self, signer: dns.name.Name, scope: dns.name.Name) -> Work[dns.name.Name | None]:
        """A zone cut below `signer` and above `scope`, so that `signer` does not hold it (RFC 4035 5.3.1).

        Only what is at hand is looked at: a parent that signs for its child could as well replace its keys.
        """
        for name in _path(signer, scope):
            state = self.known(name)
            if state is None and Ask(name, dns.rdatatype.DS) in self.replies:
                try:
                    state = yield from self._state_of(name)
                except Unproved:
                    continue
            if isinstance(state, SecureZone):
                return name
            if isinstance(state, InsecureZone) and state.refusal.rule in _PROVED_CUTS:
                return name
        return None

    def chain_asks(self, names: Iterable[dns.name.Name], of: dns.name.Name) -> tuple[Ask, ...]:
        """DS and DNSKEY of `names`, deepest first, up to the nearest known zone or the anchor of `of`."""
        anchor = self.anchors.closest(of)
        asks: list[Ask] = []
        for count, name in enumerate(names):
            state = self.known(name)
            if anchor is None or count >= self.budget.limits.parallel or isinstance(state, SecureZone):
                break
            if name == anchor.name:
                asks.append(Ask(name, dns.rdatatype.DNSKEY))
                break
            if state is None:
                asks += (Ask(name, dns.rdatatype.DS), Ask(name, dns.rdatatype.DNSKEY))
        return tuple(asks)

    def _state_of(self, zone: dns.name.Name) -> Work[ZoneState]:
        """What `zone` is, `zone` being at or below its anchor. Raises Unproved, Exhausted."""
        state = self.known(zone)
        if state is not None:
            return state
        failed = self._failed.get(zone)
        if failed is not None:
            raise failed
        insecure = self.insecure(zone)
        if insecure is not None:
            return insecure
        self.budget.zone()
        try:
            state = yield from self._establish(zone)
        except Unproved as unproved:
            self._failed[zone] = unproved
            raise
        self.states[zone] = state
        if not isinstance(state, InsecureZone) or state.refusal.rule is not Rule.ITERATIONS:
            self.cache.put(state, self.now)  # an unproved cut must not weaken later lookups
        return state

    def _establish(self, zone: dns.name.Name) -> Work[ZoneState]:
        anchor = self.anchors.closest(zone)
        if anchor is not None and anchor.name == zone:
            if not usable_anchor(anchor, self.policy):
                return self.by_configuration(zone, Rule.UNSUPPORTED, "")
            return (yield from self._keys(zone, Part.ANCHOR, anchor, (), self.now + NO_EXPIRY * 24))
        found = yield from self._delegation(zone)
        if not isinstance(found, _SignedDelegation):
            return found
        chain = (*found.parent.chain, found.step)
        if not self.policy.usable(found.ds):
            refusal = Refusal(Rule.UNSUPPORTED, str(zone))
            return InsecureZone(zone, refusal, found.expires, (*chain, _no_ds(found.parent, zone, refusal)))
        keys_from = Anchor(zone, ds=found.ds)
        return (yield from self._keys(zone, Part.DNSKEY, keys_from, chain, found.expires))

    def _keys(
        self, zone: dns.name.Name, part: Part, source: Anchor, chain: tuple[Step, ...], expires: int
    ) -> Work[SecureZone]:
        reading = yield from self.reading(Ask(zone, dns.rdatatype.DNSKEY), part)
        dnskeys = reading.answer.get(zone, dns.rdatatype.DNSKEY)
        if dnskeys is None:
            raise self.unproved(part, zone, dns.rdatatype.DNSKEY, Refusal(Rule.DNSKEY_MISSING, str(zone)))
        vouched = vouched_keys(
            dnskeys,
            reading.answer.over(dnskeys),
            ds=source.ds,
            anchor_keys=source.keys,
            now=self.now,
            policy=self.policy,
            budget=self.budget,
        )
        if isinstance(vouched, Refusal):
            if part is Part.ANCHOR and vouched.rule is Rule.DS_MISMATCH:
                vouched = Refusal(Rule.ANCHOR_MISMATCH, str(zone))
            raise self.unproved(part, zone, dns.rdatatype.DNSKEY, vouched)
        step = Step(
            part,
            str(zone),
            str(zone),
            "DNSKEY",
            Security.SECURE,
            marks=(vouched.verified.mark,),
            keys=tuple((key.tag, key.algorithm) for key in vouched.entry),
            ttl=vouched.verified.ttl,
        )
        expires = min(expires, self.now + vouched.verified.ttl)
        return SecureZone(zone, vouched.keys, expires, (*chain, step))

    def _delegation(self, zone: dns.name.Name) -> Work[_SignedDelegation | InsecureZone | NoCut]:
        """What the parent says about a zone at this name."""
        reading = yield from self.reading(Ask(zone, dns.rdatatype.DS), Part.DS)
        rrset = reading.answer.get(zone, dns.rdatatype.DS)
        if rrset is not None:
            if len(rrset) > self.budget.limits.ds_per_zone:
                refusal = Refusal(Rule.TOO_MANY_RECORDS, _about(rrset))
                raise self.unproved(Part.DS, zone, dns.rdatatype.DS, refusal)
            found = yield from self.authenticate(rrset, reading.answer.over(rrset), Part.DS)
            if isinstance(found, InsecureZone):
                return found
            records = tuple(digest_in(octets) for octets in rrset.canonical)
            step = Step(
                Part.DS,
                str(found.zone.name),
                str(zone),
                "DS",
                Security.SECURE,
                marks=(found.verified.mark,),
                keys=tuple((ds.key_tag, ds.algorithm) for ds in records),
                ttl=found.verified.ttl,
            )
            return _SignedDelegation(found.zone, records, self.now + found.verified.ttl, step)
        alias = alias_at(reading.answer, zone)
        if isinstance(alias, Refusal):
            raise self.unproved(Part.DS, zone, dns.rdatatype.DS, alias)
        if alias is not None and zone != dns.name.root:
            found = yield from self.authenticate(alias.rrset, alias.signatures, Part.ALIAS, zone.parent())
            if isinstance(found, InsecureZone):
                return found
            return NoCut(zone, self.now + found.verified.ttl)
        denied = yield from self.deny(zone, dns.rdatatype.DS, reading, Part.NO_DS)
        if isinstance(denied, InsecureZone):
            return denied
        expires = self.now + denied.ttl
        if denied.denied.delegation or denied.denied.insecure is not None:
            refusal = Refusal(denied.denied.insecure or Rule.DELEGATION_INSECURE, str(zone))
            return InsecureZone(zone, refusal, expires, (*denied.zone.chain, denied.step))
        return NoCut(zone, expires, denied.denied.nothing_below)

    def _proved(
        self,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        zone: SecureZone,
        denied: Denied,
        valid: proof.Valid,
        part: Part,
    ) -> Proved:
        insecure = denied.insecure is not None or denied.delegation
        rule = denied.insecure or (Rule.DELEGATION_INSECURE if denied.delegation else None)
        step = Step(
            part,
            str(zone.name),
            str(name),
            type_name(rdtype),
            Security.INSECURE if insecure else Security.SECURE,
            marks=valid.marks,
            refusal=Refusal(rule, str(name)) if rule is not None else None,
            ttl=valid.ttl,
        )
        return Proved(zone, denied, valid.ttl, step)


def _path(top: dns.name.Name, name: dns.name.Name) -> list[dns.name.Name]:
    """The names below `top` down to `name`."""
    return [above for above in ancestors(name) if len(above.labels) > len(top.labels)][::-1]


def _no_ds(parent: SecureZone, zone: dns.name.Name, refusal: Refusal) -> Step:
    return Step(Part.NO_DS, str(parent.name), str(zone), "DS", Security.INSECURE, refusal=refusal)


def _about(rrset: RecordSet) -> str:
    return f"{rrset.name} {type_name(rrset.rdtype)}"
