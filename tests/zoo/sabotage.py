"""Ways to break a signed zone, each breaking one rule (RFC 4035 5.3, RFC 4034 4, RFC 5155 8).

Every function returns a `Sabotage` for `ZonePlan.sabotage`. Owners are names relative to the zone, `@` for its apex. A sabotage
that finds nothing to break raises KeyError, so that no animal is healthy by mistake.
"""

from __future__ import annotations

from collections.abc import Callable

import dns.name
import dns.rdataset
import dns.rdatatype
import dns.zone
from dns.rdtypes.ANY.NSEC import NSEC
from dns.rdtypes.ANY.NSEC3 import NSEC3
from dns.rdtypes.ANY.RRSIG import RRSIG

from tests.zoo import keys
from tests.zoo.denial import Nsec3, windows
from tests.zoo.keys import KeyPlan
from tests.zoo.signer import HONEST, TTL, Draft, Sabotage, Terms, with_signature

_DNSSEC = ("DNSKEY", "NSEC", "NSEC3", "NSEC3PARAM")


def unsigned(owner: str, rdtype: str) -> Sabotage:
    """Remove the signatures over an RRset."""

    def spoil(draft: Draft) -> None:
        _required(draft, owner, rdtype)
        draft.put_signatures(draft.name(owner), rdtype, ())

    return spoil


def resigned(
    owner: str, rdtype: str, terms: Terms = HONEST, *, by: KeyPlan | None = None, origin: str | None = None
) -> Sabotage:
    """Replace the signatures by one that claims `terms`, made with key `by` of zone `origin` (default: the zone's)."""
    return _signatures(owner, rdtype, lambda draft: [_made(draft, owner, rdtype, terms, by, origin)])


def beside(
    owner: str, rdtype: str, terms: Terms = HONEST, *, by: KeyPlan | None = None, origin: str | None = None
) -> Sabotage:
    """Add such a signature to the good ones."""
    return _signatures(
        owner,
        rdtype,
        lambda draft: [*_required(draft, owner, rdtype), _made(draft, owner, rdtype, terms, by, origin)],
    )


def corrupted(owner: str, rdtype: str) -> Sabotage:
    """Turn one bit of every signature over an RRset."""
    return _signatures(
        owner, rdtype, lambda draft: [_flipped(rrsig, 1) for rrsig in _required(draft, owner, rdtype)]
    )


def corrupted_beside(owner: str, rdtype: str, copies: int = 1) -> Sabotage:
    """Add altered copies of the signatures to the good ones."""

    def made(draft: Draft) -> list[RRSIG]:
        good = _required(draft, owner, rdtype)
        return good + [_flipped(rrsig, bit + 1) for rrsig in good for bit in range(copies)]

    return _signatures(owner, rdtype, made)


def only_corrupted(owner: str, rdtype: str, copies: int) -> Sabotage:
    """Replace the signatures by so many altered copies."""

    def made(draft: Draft) -> list[RRSIG]:
        return [_flipped(rrsig, n + 1) for rrsig in _required(draft, owner, rdtype) for n in range(copies)]

    return _signatures(owner, rdtype, made)


def shortened(owner: str, rdtype: str, octets: int = 20) -> Sabotage:
    """Cut the signatures to so many octets."""
    return _signatures(
        owner,
        rdtype,
        lambda draft: [
            with_signature(rrsig, rrsig.signature[:octets]) for rrsig in _required(draft, owner, rdtype)
        ],
    )


def without_algorithm(owner: str, rdtype: str, algorithm: int) -> Sabotage:
    """Remove the signatures of one algorithm."""
    return _signatures(
        owner,
        rdtype,
        lambda draft: [r for r in _required(draft, owner, rdtype) if r.algorithm != algorithm],
    )


def everywhere(make: Callable[[str, str], Sabotage], *, but: tuple[str, ...] = ()) -> Sabotage:
    """Apply a sabotage of an RRset to all signed RRsets but those of some types."""

    def spoil(draft: Draft) -> None:
        for name, covered in _signed(draft):
            if covered not in but:
                make(name.to_text(), covered)(draft)

    return spoil


def forged(*lines: str) -> Sabotage:
    """Replace whole RRsets behind the back of their signatures."""

    def spoil(draft: Draft) -> None:
        text = f"$TTL {TTL}\n" + "\n".join(lines) + "\n"
        forgery = dns.zone.from_text(text, draft.origin, relativize=False, check_origin=False)
        for name, rdataset in forgery.iterate_rdatasets():
            draft.contents.replace_rdataset(name, rdataset)

    return spoil


def removed(owner: str, rdtype: str) -> Sabotage:
    """Remove an RRset with its signatures; the denial chain goes on claiming it."""

    def spoil(draft: Draft) -> None:
        name = draft.name(owner)
        draft.rdataset(name, rdtype)
        draft.contents.delete_rdataset(name, rdtype)
        draft.contents.delete_rdataset(name, "RRSIG", rdtype)

    return spoil


def stripped() -> Sabotage:
    """Remove all that DNSSEC put into the zone, as if it had never been signed."""

    def spoil(draft: Draft) -> None:
        for name, covered in _signed(draft):
            draft.contents.delete_rdataset(name, "RRSIG", covered)
        for name in list(draft.contents.nodes):
            for rdtype in _DNSSEC:
                draft.contents.delete_rdataset(name, rdtype)

    return spoil


def lying_nsec(owner: str, *, types: str | None = None, following: str | None = None) -> Sabotage:
    """Re-sign the NSEC of `owner` with other types (`A MX ...`) or another next name."""

    def spoil(draft: Draft) -> None:
        name = draft.name(owner)
        [record] = draft.rdataset(name, "NSEC")
        assert isinstance(record, NSEC)
        if types is not None:
            record = record.replace(windows=_windows(types))
        if following is not None:
            record = record.replace(next=draft.name(following))
        _replace(draft, name, "NSEC", record)

    return spoil


def lying_nsec3(owner: str, *, types: str | None = None, flags: int | None = None) -> Sabotage:
    """Re-sign the NSEC3 that matches `owner` (a name before hashing) with other types or flags."""

    def spoil(draft: Draft) -> None:
        name = _hashed(draft, draft.name(owner))
        [record] = draft.rdataset(name, "NSEC3")
        assert isinstance(record, NSEC3)
        if types is not None:
            record = record.replace(windows=_windows(types))
        if flags is not None:
            record = record.replace(flags=flags)
        _replace(draft, name, "NSEC3", record)

    return spoil


def on_nsec3(owner: str, make: Callable[[str, str], Sabotage], *, covering: bool = False) -> Sabotage:
    """Apply a sabotage of an RRset to the NSEC3 that matches (or covers) the name `owner`."""

    def spoil(draft: Draft) -> None:
        label = _hashed(draft, draft.name(owner))
        if covering:
            labels = sorted(name for name, _ in draft.contents.iterate_rdatasets("NSEC3"))
            label = max((name for name in labels if name < label), default=labels[-1])
        make(label.to_text(), "NSEC3")(draft)

    return spoil


def with_keys_like(plan: KeyPlan, copies: int) -> Sabotage:
    """Publish keys beside `plan`'s that have its tag and cannot verify anything (CVE-2023-50387)."""

    def spoil(draft: Draft) -> None:
        key = keys.make(draft.origin, plan)
        records = list(draft.rdataset(draft.origin, "DNSKEY"))
        records += [keys.disguised(key, rotation + 1) for rotation in range(copies)]
        draft.contents.replace_rdataset(draft.origin, dns.rdataset.from_rdata_list(TTL, records))
        draft.sign(draft.origin, "DNSKEY")

    return spoil


def _signatures(owner: str, rdtype: str, make: Callable[[Draft], list[RRSIG]]) -> Sabotage:
    def spoil(draft: Draft) -> None:
        draft.put_signatures(draft.name(owner), rdtype, make(draft))

    return spoil


def _made(
    draft: Draft, owner: str, rdtype: str, terms: Terms, by: KeyPlan | None, origin: str | None
) -> RRSIG:
    zone = draft.origin if origin is None else dns.name.from_text(origin)
    key = None if by is None else keys.make(zone, by)
    return draft.rrsig(draft.name(owner), rdtype, key, terms)


def _signed(draft: Draft) -> list[tuple[dns.name.Name, str]]:
    """Owner and type of every signed RRset."""
    return [
        (name, dns.rdatatype.to_text(rdataset.covers))
        for name, rdataset in draft.contents.iterate_rdatasets()
        if rdataset.rdtype == dns.rdatatype.RRSIG
    ]


def _required(draft: Draft, owner: str, rdtype: str) -> list[RRSIG]:
    signatures = draft.signatures(draft.name(owner), rdtype)
    if not signatures:
        raise KeyError(f"{owner} {rdtype} in {draft.origin} has no signature to break")
    return signatures


def _flipped(rrsig: RRSIG, number: int) -> RRSIG:
    octets = bytearray(rrsig.signature)
    octets[-1 - number // 8] ^= 1 << number % 8
    return with_signature(rrsig, bytes(octets))


def _replace(draft: Draft, name: dns.name.Name, rdtype: str, record: NSEC | NSEC3) -> None:
    ttl = draft.rdataset(name, rdtype).ttl
    draft.contents.replace_rdataset(name, dns.rdataset.from_rdata(ttl, record))
    draft.sign(name, rdtype)


def _hashed(draft: Draft, name: dns.name.Name) -> dns.name.Name:
    denial = draft.plan.denial
    assert isinstance(denial, Nsec3)
    return dns.name.from_text(denial.digest(name), draft.origin)


def _windows(types: str) -> tuple[tuple[int, bytes], ...]:
    return windows({dns.rdatatype.from_text(text) for text in types.split()})
