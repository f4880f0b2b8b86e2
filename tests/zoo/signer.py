"""Signs zones (RFC 4034 3 and 6, RFC 4035 2), deliberately able to sign falsely.

`finish` turns a `ZonePlan` into a `Zone`: records, delegations, denial chain, signatures, then sabotage. An RRSIG
can claim anything through `Terms` (signer, labels, times, ...) while the signature itself is computed correctly over
those claims, so that exactly one rule of RFC 4035 5.3.1 is broken at a time. No code is shared with the validator:
the octets that are signed are put together here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import dns.name
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.zone
from dns.rdtypes.ANY.DS import DS
from dns.rdtypes.ANY.RRSIG import RRSIG

from tests.zoo import keys as zoo_keys
from tests.zoo.denial import NSEC, Denial, Nsec3, add_chain, authoritative, cuts, signed_types
from tests.zoo.keys import CSK, Key, KeyPlan, Signs

TTL = 300  # seconds, of every record
NEGATIVE_TTL = 60  # seconds, SOA MINIMUM (RFC 2308)
HOUR = 3600
DAY = 24 * HOUR
WINDOW = (-HOUR, 30 * DAY)  # inception and expiration, in seconds from now
_DIGESTS: dict[int, Callable[[bytes], hashlib._Hash]] = {
    1: hashlib.sha1,
    2: hashlib.sha256,
    4: hashlib.sha384,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What an RRSIG claims where that is not the truth. Times are seconds from now."""

    signer: str | None = None
    labels: int | None = None
    original_ttl: int | None = None
    inception: int | None = None
    expiration: int | None = None
    algorithm: int | None = None
    tag: int | None = None


HONEST = Terms()


@dataclass(frozen=True, slots=True)
class DsPlan:
    """A DS record in the parent: for which of the zone's keys, and what is wrong with it.

    Digest types 1, 2 and 4 are computed, others get 32 octets without meaning. `broken` turns a bit of the digest.
    """

    digest: int = 2
    key: int = 0
    broken: bool = False
    algorithm: int | None = None
    tag_offset: int = 0


Sabotage = Callable[["Draft"], None]


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """A zone to be made. Records are zone file lines relative to `origin`; SOA, NS and delegations come by themselves.

    `keys` empty: unsigned. `ds` None: a SHA-256 DS for every key that is `delegated`; empty: no DS in the parent.
    `sabotage` is applied in order after signing. `denial` None: signed, but without any proof of absence.
    """

    origin: str
    records: tuple[str, ...] = ()
    keys: tuple[KeyPlan, ...] = (CSK,)
    ds: tuple[DsPlan, ...] | None = None
    denial: Denial | None = NSEC
    window: tuple[int, int] = WINDOW
    sabotage: tuple[Sabotage, ...] = ()


@dataclass(slots=True)
class Draft:
    """A zone while it is being made; sabotage works on it."""

    plan: ZonePlan
    origin: dns.name.Name
    contents: dns.zone.Zone
    keys: tuple[Key, ...]
    now: int

    def name(self, text: str) -> dns.name.Name:
        """An owner name, `@` for the apex, relative to the zone unless it ends with a dot."""
        return self.origin if text == "@" else dns.name.from_text(text, self.origin)

    def rdataset(self, owner: dns.name.Name, rdtype: str) -> dns.rdataset.Rdataset:
        """The records of that name and type; KeyError when there are none, so that no sabotage misses."""
        return self.contents.find_rdataset(owner, rdtype)

    def signatures(self, owner: dns.name.Name, rdtype: str) -> list[RRSIG]:
        """The RRSIGs over that RRset."""
        found = self.contents.get_rdataset(owner, "RRSIG", rdtype)
        return [] if found is None else [r for r in found if isinstance(r, RRSIG)]

    def put_signatures(self, owner: dns.name.Name, rdtype: str, signatures: Iterable[RRSIG]) -> None:
        """Replace the RRSIGs over that RRset; an empty sequence removes them."""
        self.contents.delete_rdataset(owner, "RRSIG", rdtype)
        if records := list(signatures):
            self.contents.replace_rdataset(owner, dns.rdataset.from_rdata_list(TTL, records))

    def rrsig(
        self, owner: dns.name.Name, rdtype: str, key: Key | None = None, terms: Terms = HONEST
    ) -> RRSIG:
        """A new signature over the RRset as it is now; by default of the first key that signs that type."""
        key = key or self._signers(dns.rdatatype.from_text(rdtype))[0]
        return rrsig(self, owner, self.rdataset(owner, rdtype), key, terms)

    def sign(self, owner: dns.name.Name, rdtype: str) -> None:
        """Sign the RRset with all keys that sign that type."""
        rdataset = self.rdataset(owner, rdtype)
        signers = self._signers(rdataset.rdtype)
        self.put_signatures(owner, rdtype, [rrsig(self, owner, rdataset, key, HONEST) for key in signers])

    def _signers(self, rdtype: dns.rdatatype.RdataType) -> list[Key]:
        wanted = Signs.KEYS if rdtype == dns.rdatatype.DNSKEY else Signs.DATA
        return [key for key in self.keys if key.plan.signs in (wanted, Signs.ALL)]


@dataclass(frozen=True, slots=True, eq=False)
class Zone:
    """A finished zone."""

    plan: ZonePlan
    origin: dns.name.Name
    contents: dns.zone.Zone
    names: tuple[dns.name.Name, ...] = field(repr=False)

    @property
    def text(self) -> str:
        """The zone file, for a real name server."""
        return str(self.contents.to_text(relativize=False, sorted=True))

    @property
    def nsec3(self) -> Nsec3 | None:
        """The NSEC3 parameters, if absence is proved that way."""
        return self.plan.denial if self.plan.keys and isinstance(self.plan.denial, Nsec3) else None


def finish(plan: ZonePlan, children: Iterable[ZonePlan], address: str, now: int) -> Zone:
    """Make the zone. `children` are the zones delegated by it, `address` is that of every name server, `now` POSIX seconds."""
    origin = dns.name.from_text(plan.origin)
    draft = Draft(plan, origin, _contents(plan, children, address), _keys(plan), now)
    if plan.keys:
        published = [key.dnskey for key in draft.keys if key.plan.published]
        if published:
            draft.contents.replace_rdataset(origin, dns.rdataset.from_rdata_list(TTL, published))
        if plan.denial is not None:
            add_chain(draft.contents, plan.denial, NEGATIVE_TTL)
        _sign_all(draft)
    for spoil in plan.sabotage:
        spoil(draft)
    names = tuple(
        name
        for name in authoritative(draft.contents)
        if any(r.rdtype not in _CHAIN for r in draft.contents.nodes[name].rdatasets)
    )
    return Zone(plan, origin, draft.contents, names)


_CHAIN = frozenset({dns.rdatatype.NSEC3, dns.rdatatype.RRSIG})


def ds_records(plan: ZonePlan) -> list[DS]:
    """The DS records that the parent holds for the zone."""
    origin = dns.name.from_text(plan.origin)
    made = _keys(plan)
    wanted = plan.ds
    if wanted is None:
        wanted = tuple(DsPlan(key=place) for place, key in enumerate(plan.keys) if key.delegated)
    return [_ds(origin, made[ds.key], ds) for ds in wanted]


def rrsig(
    draft: Draft, owner: dns.name.Name, rdataset: dns.rdataset.Rdataset, key: Key, terms: Terms
) -> RRSIG:
    """The RRSIG of `key` over the RRset under `terms`, the signature correct for what it claims (RFC 4034 3.1.8.1)."""
    own_labels = len(owner.labels) - 1 - (owner.labels[0] == b"*")
    begin, end = draft.plan.window

    def claimed(value: int | None, truth: int) -> int:
        return truth if value is None else value

    unsigned = RRSIG(  # type: ignore[no-untyped-call]
        dns.rdataclass.IN,
        dns.rdatatype.RRSIG,
        rdataset.rdtype,
        claimed(terms.algorithm, key.plan.algorithm),
        claimed(terms.labels, own_labels),
        claimed(terms.original_ttl, rdataset.ttl),
        draft.now + claimed(terms.expiration, end),
        draft.now + claimed(terms.inception, begin),
        claimed(terms.tag, key.tag),
        draft.origin if terms.signer is None else dns.name.from_text(terms.signer),
        b"",
    )
    return with_signature(unsigned, key.sign(_signed_octets(owner, rdataset, unsigned)))


def with_signature(rrsig: RRSIG, signature: bytes) -> RRSIG:
    """The same RRSIG with another signature field."""
    replaced = rrsig.replace(signature=signature)
    assert isinstance(replaced, RRSIG)
    return replaced


def _signed_octets(owner: dns.name.Name, rdataset: dns.rdataset.Rdataset, unsigned: RRSIG) -> bytes:
    if unsigned.labels < len(owner.labels) - 1 - (owner.labels[0] == b"*"):
        owner = dns.name.Name((b"*", *owner.labels[len(owner.labels) - 1 - unsigned.labels :]))
    name = owner.canonicalize().to_wire()
    assert name is not None
    header = struct.pack("!HHI", rdataset.rdtype, rdataset.rdclass, unsigned.original_ttl)
    fields = struct.pack(
        "!HBBIIIH",
        unsigned.type_covered,
        unsigned.algorithm,
        unsigned.labels,
        unsigned.original_ttl,
        unsigned.expiration,
        unsigned.inception,
        unsigned.key_tag,
    )
    signer = unsigned.signer.canonicalize().to_wire()
    assert signer is not None
    records = sorted({record.to_digestable() for record in rdataset})
    return fields + signer + b"".join(name + header + struct.pack("!H", len(r)) + r for r in records)


def _contents(plan: ZonePlan, children: Iterable[ZonePlan], address: str) -> dns.zone.Zone:
    origin = plan.origin
    server = f"ns.{origin}" if origin != "." else "ns."
    lines = [
        f"$ORIGIN {origin}",
        f"$TTL {TTL}",
        f"@ SOA {server} hostmaster.{origin.removeprefix('.')} 1 3600 600 86400 {NEGATIVE_TTL}",
        f"@ NS {server}",
        f"{server} A {address}",
        *plan.records,
    ]
    for child in children:
        lines += [f"{child.origin} NS ns.{child.origin}", f"ns.{child.origin} A {address}"]
        if plan.keys:
            lines += [f"{child.origin} DS {ds.to_text()}" for ds in ds_records(child)]
    return dns.zone.from_text("\n".join(lines) + "\n", origin, relativize=False)


def _keys(plan: ZonePlan) -> tuple[Key, ...]:
    origin = dns.name.from_text(plan.origin)
    return tuple(zoo_keys.make(origin, key) for key in plan.keys)


def _sign_all(draft: Draft) -> None:
    delegations = cuts(draft.contents)
    for name in authoritative(draft.contents):
        for rdtype in signed_types(draft.contents.nodes[name], name in delegations):
            draft.sign(name, dns.rdatatype.to_text(rdtype))


def _ds(origin: dns.name.Name, key: Key, plan: DsPlan) -> DS:
    name = origin.canonicalize().to_wire()
    rdata = key.dnskey.to_wire()
    assert name is not None
    assert rdata is not None
    hashed = _DIGESTS.get(plan.digest, hashlib.sha256)(name + rdata).digest()
    if plan.broken:
        hashed = hashed[:-1] + bytes([hashed[-1] ^ 1])
    algorithm = key.plan.algorithm if plan.algorithm is None else plan.algorithm
    tag = (key.tag + plan.tag_offset) & 0xFFFF
    return DS(  # type: ignore[no-untyped-call]
        dns.rdataclass.IN, dns.rdatatype.DS, tag, algorithm, plan.digest, hashed
    )
