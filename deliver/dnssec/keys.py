"""What is known about zones: their validated keys, that they are insecure, or that a name is no zone cut.

`KeyCache` keeps that between lookups, bounded and while the records it rests on live. `vouched_keys` goes
from DS records or a trust anchor to the DNSKEY RRset (RFC 4035 5.2).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import dns.name

from deliver.dnssec.algorithm import Digest, Policy, matches
from deliver.dnssec.anchors import Anchor
from deliver.dnssec.budget import Budget
from deliver.dnssec.evidence import Step
from deliver.dnssec.names import KEPT_LABELS
from deliver.dnssec.records import RecordSet, Signature
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.signature import Verified, ZoneKey, verify_rrset, zone_key

MAX_ENTRIES = 10_000
MAX_TTL = 3600  # seconds


@dataclass(frozen=True, slots=True)
class SecureZone:
    """A zone whose keys are validated; `chain` are the steps from the trust anchor to them."""

    name: dns.name.Name
    keys: tuple[ZoneKey, ...]
    expires: int
    chain: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class InsecureZone:
    """Everything at and below `name` is insecure by `refusal`, up to a nearer trust anchor."""

    name: dns.name.Name
    refusal: Refusal
    expires: int
    chain: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class NoCut:
    """The name is proved to be no zone cut; nor is any below it if `nothing_below`."""

    name: dns.name.Name
    expires: int
    nothing_below: bool = False


ZoneState = SecureZone | InsecureZone | NoCut


class KeyCache:
    """Zone states by name, the least recently used dropped first; safe to share between threads."""

    def __init__(self, entries: int = MAX_ENTRIES, max_ttl: int = MAX_TTL) -> None:
        self._entries = entries
        self._max_ttl = max_ttl
        self._kept: OrderedDict[dns.name.Name, tuple[int, ZoneState]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: dns.name.Name, now: int) -> ZoneState | None:
        """What is known about `name` and has not expired."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                return None
            expires, state = kept
            if now >= expires:
                del self._kept[name]
                return None
            self._kept.move_to_end(name)
            return state

    def put(self, state: ZoneState, now: int) -> None:
        """Keep it until it expires, at most `max_ttl` seconds.

        Nothing about a name of very many labels, such as only attackers have: each keeps all names above it.
        """
        expires = min(state.expires, now + self._max_ttl)
        if expires <= now or len(state.name.labels) > KEPT_LABELS:
            return
        with self._lock:
            self._kept[state.name] = (expires, state)
            self._kept.move_to_end(state.name)
            while len(self._kept) > self._entries:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything (new trust anchors, another policy)."""
        with self._lock:
            self._kept.clear()


@dataclass(frozen=True, slots=True)
class Vouched:
    """The keys of a zone, the signature over them, and the keys that were vouched for from above."""

    keys: tuple[ZoneKey, ...]
    verified: Verified
    entry: tuple[ZoneKey, ...]


def usable_anchor(anchor: Anchor, policy: Policy) -> bool:
    """Whether the anchor has a key or digest that can be used at all; if not, its zone is insecure."""
    return bool(policy.usable(anchor.ds)) or any(policy.supports(key[3]) for key in anchor.keys)


def vouched_keys(
    dnskeys: RecordSet,
    signatures: Sequence[Signature],
    *,
    ds: tuple[Digest, ...],
    anchor_keys: tuple[bytes, ...] = (),
    now: int,
    policy: Policy,
    budget: Budget,
) -> Vouched | Refusal:
    """The DNSKEY RRset, signed by a key that a usable DS record or anchor matches. Raises Exhausted."""
    zone = dnskeys.name
    if len(dnskeys) > budget.limits.keys_per_zone:
        return Refusal(Rule.TOO_MANY_KEYS, f"{zone} has {len(dnskeys)} DNSKEY records")
    keys = tuple(zone_key(octets) for octets in dnskeys.canonical)
    matching = _matching(zone, keys, policy.usable(ds), anchor_keys, budget)
    entry = tuple(key for key in matching if key.fault is None)
    if not entry:
        if matching and matching[0].fault is not None:
            return Refusal(matching[0].fault, f"{zone} DNSKEY {matching[0].tag}")
        return Refusal(Rule.DS_MISMATCH, str(zone))
    verified = verify_rrset(dnskeys, signatures, zone, entry, now=now, policy=policy, budget=budget)
    if isinstance(verified, Refusal):
        if verified.rule in (Rule.SIGNATURE_MISSING, Rule.NO_KEY):
            return Refusal(Rule.DNSKEY_UNSIGNED, str(zone))
        return verified
    return Vouched(keys, verified, entry)


def _matching(
    zone: dns.name.Name,
    keys: tuple[ZoneKey, ...],
    ds: tuple[Digest, ...],
    anchor_keys: tuple[bytes, ...],
    budget: Budget,
) -> tuple[ZoneKey, ...]:
    """Keys that a DS record or trust anchor matches; of one tag, only the first few are tried."""
    found = []
    for key in keys:
        same_tag = [record for record in ds if record.key_tag == key.tag]
        by_digest = any(
            matches(record, zone, key.octets) for record in same_tag[: budget.limits.keys_per_tag]
        )
        if by_digest or key.octets in anchor_keys:
            found.append(key)
    return tuple(found)
