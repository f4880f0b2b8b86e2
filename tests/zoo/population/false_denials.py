"""Proofs of absence that prove nothing (RFC 4035 5.4, RFC 5155 8, RFC 6840 4): every animal is bogus."""

from __future__ import annotations

from collections.abc import Callable

from tests.zoo.animal import Animal, Group, Kind, bogus, insecure, secure
from tests.zoo.denial import Nsec, Nsec3
from tests.zoo.sabotage import (
    beside,
    corrupted,
    everywhere,
    lying_nsec,
    lying_nsec3,
    on_nsec3,
    removed,
    resigned,
    unsigned,
)
from tests.zoo.signer import DAY, Sabotage, Terms, ZonePlan

_EXPIRED = Terms(inception=-60 * DAY, expiration=-30 * DAY)
_TYPE_EXISTS = "the bit map says that the type exists (RFC 4035 5.4)"
_CNAME_EXISTS = "the bit map says that there is a CNAME (RFC 6840 4.3)"
_ANCESTOR = "an ancestor delegation's record denies nothing below or at the cut (RFC 6840 4.1)"
_DNAME = "a record with DNAME denies nothing below it (RFC 6840 4.1)"
_BAD_SIGNATURE = "the RRSIG of the denial does not verify (RFC 4035 5.4)"
_SAYS_CUT = "the zone proves an insecure delegation (RFC 4035 5.2)"
_NO_NAME = "nothing proves that the name does not exist (RFC 4035 5.4)"
_NO_MATCH = "nothing matches the name that should lack the type (RFC 4035 5.4)"


def _expired(owner: str, rdtype: str) -> Sabotage:
    return resigned(owner, rdtype, _EXPIRED)


def _as_wildcard(owner: str, rdtype: str) -> Sabotage:
    return resigned(owner, rdtype, Terms(labels=2))


# Owner name, what is done to its NSEC, the question, the rule. The question for `x` falls into the gap after `x`.
_NSEC: tuple[tuple[str, Sabotage, str, str], ...] = (
    ("n01", removed("n01", "NSEC"), "n01m A", _NO_NAME),
    ("n02", lying_nsec("n02", following="n02a"), "n02m A", _NO_NAME),
    ("n03", corrupted("n03", "NSEC"), "n03m A", _BAD_SIGNATURE),
    ("n04", _expired("n04", "NSEC"), "n04m A", "the RRSIG of the denial expired (RFC 4035 5.3.1)"),
    ("n05", unsigned("n05", "NSEC"), "n05m A", "the denial has no RRSIG (RFC 4035 5.4)"),
    ("n06", _as_wildcard("n06", "NSEC"), "n06m A", "an NSEC is never expanded from a wildcard (RFC 4035 5.3.4)"),
    ("n07", lying_nsec("n07", types="DNAME RRSIG NSEC"), "x.n07 A", _DNAME),
    ("n08", lying_nsec("n08", types="NS DS RRSIG NSEC"), "x.n08 A", _ANCESTOR),
    ("n09", removed("n09", "NSEC"), "n09 TXT", _NO_MATCH),
    ("n10", lying_nsec("n10", types="A TXT RRSIG NSEC"), "n10 TXT", _TYPE_EXISTS),
    ("n11", lying_nsec("n11", types="CNAME RRSIG NSEC"), "n11 TXT", _CNAME_EXISTS),
    ("n12", lying_nsec("n12", types="NS DS RRSIG NSEC"), "n12 TXT", _ANCESTOR),
    ("n13", corrupted("n13", "NSEC"), "n13 TXT", _BAD_SIGNATURE),
    ("n14", removed("n14", "A"), "n14 A", _TYPE_EXISTS),
    ("n15", _expired("n15", "NSEC"), "n15 TXT", "the RRSIG of the denial expired (RFC 4035 5.3.1)"),
    ("n16", _as_wildcard("n16", "NSEC"), "n16 TXT", "an NSEC is never expanded from a wildcard (RFC 4035 5.3.4)"),
    ("n17", lying_nsec("0first", following="n01"), "ent17 A", "the next name is not below the empty name (RFC 4035 5.4)"),
    ("n18", unsigned("n18", "NSEC"), "n18 TXT", "the denial has no RRSIG (RFC 4035 5.4)"),
)  # fmt: skip
_NSEC_ZONE = ZonePlan(
    "false-nsec.test.",
    (
        "0first A 127.0.9.2",
        *(f"{name} A 127.0.9.2" for name, *_ in _NSEC),
        "x.n17a.ent17 A 127.0.9.2",
        "sound A 127.0.9.2",
    ),
    sabotage=tuple(sabotage for _, sabotage, *_ in _NSEC),
)

_NSEC3: tuple[tuple[str, Sabotage, str, str], ...] = (
    ("h01", on_nsec3("h01", removed), "h01 TXT", _NO_MATCH),
    ("h02", lying_nsec3("h02", types="A TXT RRSIG"), "h02 TXT", _TYPE_EXISTS),
    ("h03", lying_nsec3("h03", types="CNAME RRSIG"), "h03 TXT", _CNAME_EXISTS),
    ("h04", lying_nsec3("h04", types="NS DS RRSIG"), "h04 TXT", _ANCESTOR),
    ("h05", on_nsec3("h05", corrupted), "h05 TXT", _BAD_SIGNATURE),
    ("h06", on_nsec3("h06", unsigned), "h06 TXT", "the denial has no RRSIG (RFC 4035 5.4)"),
    ("h07", on_nsec3("h07", _expired), "h07 TXT", "the RRSIG of the denial expired (RFC 4035 5.3.1)"),
    ("h08", removed("h08", "A"), "h08 A", _TYPE_EXISTS),
    ("h09", lying_nsec3("h09", flags=2), "h09 TXT", "NSEC3 with unknown flags is ignored (RFC 5155 8.2)"),
    ("h10", on_nsec3("h10", _as_wildcard), "h10 TXT", "an NSEC3 is never expanded from a wildcard (RFC 4035 5.3.4)"),
)  # fmt: skip
_NSEC3_ZONE = ZonePlan(
    "false-nsec3.test.",
    (*(f"{name} A 127.0.9.2" for name, *_ in _NSEC3), "h08 MX 10 h01"),
    denial=Nsec3(iterations=2, salt="ab"),
    sabotage=tuple(sabotage for _, sabotage, *_ in _NSEC3),
)


def _alone(name: str, denial: Nsec | Nsec3 | None, *sabotage: Sabotage) -> ZonePlan:
    return ZonePlan(f"{name}.test.", ("@ MX 10 mx", "mx A 127.0.9.1", "other A 127.0.9.2", "*.w A 127.0.9.3", "v.w TXT v"), denial=denial, sabotage=sabotage)  # fmt: skip


def _nsec3_broken(
    spoil: Callable[[str, str], Sabotage], *, covering: str = "", matching: str = ""
) -> Sabotage:
    return on_nsec3(covering or matching, spoil, covering=bool(covering))


_ENCLOSER = "no closest encloser proof (RFC 5155 8.3)"
_ALONE: tuple[tuple[ZonePlan, tuple[Animal, ...]], ...] = (
    (
        _alone("no-wildcard-proof", Nsec(), removed("@", "NSEC")),
        bogus("p.no-wildcard-proof.test. A", rule="nothing proves that there is no wildcard (RFC 4035 5.4)"),
    ),
    (
        _alone("no-denial", None),
        (
            *secure("no-denial.test. MX", "mx.no-denial.test. A"),
            *bogus("no.no-denial.test. A", rule=_NO_NAME),
            *bogus("mx.no-denial.test. TXT", rule=_NO_MATCH),
            *bogus("x.w.no-denial.test. A", rule="nothing proves that the expanded name does not exist (RFC 4035 5.3.4)"),
        ),
    ),
    (
        _alone("h-no-next-closer", Nsec3(), _nsec3_broken(removed, covering="no")),
        bogus("no.h-no-next-closer.test. A", rule="no NSEC3 covers the next closer name (RFC 5155 8.4)"),
    ),
    (
        _alone("h-no-encloser", Nsec3(), _nsec3_broken(removed, matching="@")),
        bogus("no.h-no-encloser.test. A", "h-no-encloser.test. TXT", rule=_ENCLOSER),
    ),
    (
        _alone("h-dname-encloser", Nsec3(), lying_nsec3("mx", types="DNAME RRSIG")),
        bogus("x.mx.h-dname-encloser.test. A", rule="the closest encloser has a DNAME (RFC 5155 8.3)"),
    ),
    (
        _alone("h-cut-encloser", Nsec3(), lying_nsec3("mx", types="NS DS RRSIG")),
        bogus("x.mx.h-cut-encloser.test. A", rule="the closest encloser is a delegation (RFC 5155 8.3)"),
    ),
    (
        _alone("h-lost-encloser", Nsec3(), on_nsec3("mx", removed)),
        bogus("x.mx.h-lost-encloser.test. A", rule=_ENCLOSER),
    ),
    (
        _alone("h-bad-encloser", Nsec3(), on_nsec3("mx", corrupted)),
        bogus("x.mx.h-bad-encloser.test. A", rule=_BAD_SIGNATURE),
    ),
    # NS without DS and SOA: the zone itself says that these are insecure delegations.
    (
        _alone("says-cut", Nsec(), lying_nsec("other", types="NS RRSIG NSEC")),
        (
            *insecure("other.says-cut.test. TXT", why=_SAYS_CUT, kind=Kind.NODATA),
            *insecure("x.other.says-cut.test. A", why=_SAYS_CUT, kind=Kind.NXDOMAIN),
        ),
    ),
    (
        _alone("h-says-cut", Nsec3(), lying_nsec3("other", types="NS")),
        (
            *insecure("other.h-says-cut.test. TXT", why=_SAYS_CUT, kind=Kind.NODATA),
            *insecure("x.other.h-says-cut.test. A", why=_SAYS_CUT, kind=Kind.NXDOMAIN),
        ),
    ),
    (
        _alone("h-no-wildcard-proof", Nsec3(), _nsec3_broken(removed, covering="*")),
        bogus("no.h-no-wildcard-proof.test. A", rule="no NSEC3 covers the wildcard (RFC 5155 8.4)"),
    ),
    (
        _alone("h-bad-wildcard-proof", Nsec3(), _nsec3_broken(corrupted, covering="*")),
        bogus("no.h-bad-wildcard-proof.test. A", rule=_BAD_SIGNATURE),
    ),
    (
        _alone("h-bad-next-closer", Nsec3(), _nsec3_broken(corrupted, covering="no")),
        bogus("no.h-bad-next-closer.test. A", rule=_BAD_SIGNATURE),
    ),
    (
        _alone("h-hash-2", Nsec3(hash=2)),
        bogus("no.h-hash-2.test. A", "mx.h-hash-2.test. TXT", rule="NSEC3 of an unknown hash is ignored (RFC 5155 8.1)"),
    ),
    (
        _alone("h-flags", Nsec3(flags=4)),
        bogus("no.h-flags.test. A", "mx.h-flags.test. TXT", rule="NSEC3 with unknown flags is ignored (RFC 5155 8.2)"),
    ),
    (
        _alone("h-laborious-corrupted", Nsec3(iterations=200), everywhere(corrupted, but=("A", "MX", "SOA", "DNSKEY", "NS"))),
        bogus(
            "no.h-laborious-corrupted.test. A",
            "mx.h-laborious-corrupted.test. TXT",
            rule="iterations excuse nothing before the RRSIG over the NSEC3 validated (RFC 9276 3.2)",
        ),
    ),
    (
        _alone("h-good-beside-corrupted", Nsec3(), on_nsec3("mx", lambda o, t: beside(o, t, _EXPIRED))),
        secure("mx.h-good-beside-corrupted.test. TXT", kind=Kind.NODATA),
    ),
    (
        _alone("soa-corrupted", Nsec(), corrupted("@", "SOA")),
        bogus("no.soa-corrupted.test. A", "mx.soa-corrupted.test. TXT", rule="every RRset of the authority section is checked (RFC 4035 5.3)"),
    ),
    (
        _alone("soa-unsigned", Nsec(), unsigned("@", "SOA")),
        bogus("no.soa-unsigned.test. A", rule="every RRset of the authority section is checked (RFC 4035 5.3)"),
    ),
    (
        _alone("w-corrupted", Nsec(), corrupted("*.w", "A")),
        bogus("x.w.w-corrupted.test. A", "*.w.w-corrupted.test. A", rule="signature does not verify (RFC 4035 5.3.3)"),
    ),
    (
        _alone("w-unproved", Nsec(), removed("v.w", "NSEC")),
        bogus("x.w.w-unproved.test. A", rule="nothing proves that the expanded name does not exist (RFC 4035 5.3.4)"),
    ),
    (
        _alone("w-bad-proof", Nsec(), corrupted("v.w", "NSEC")),
        bogus("x.w.w-bad-proof.test. A", rule=_BAD_SIGNATURE),
    ),
    (
        _alone("w-type-exists", Nsec(), lying_nsec("*.w", types="A TXT RRSIG NSEC")),
        bogus("x.w.w-type-exists.test. TXT", rule=_TYPE_EXISTS),
    ),
    (
        _alone("w-no-type-proof", Nsec(), removed("*.w", "NSEC")),
        bogus("x.w.w-no-type-proof.test. TXT", rule="nothing proves that the wildcard lacks the type (RFC 4035 5.4)"),
    ),
    (
        _alone("wh-unproved", Nsec3(), _nsec3_broken(removed, covering="x.w")),
        bogus("x.w.wh-unproved.test. A", rule="no NSEC3 covers the next closer name (RFC 5155 8.8)"),
    ),
    (
        _alone("wh-bad-proof", Nsec3(), _nsec3_broken(corrupted, covering="x.w")),
        bogus("x.w.wh-bad-proof.test. A", rule=_BAD_SIGNATURE),
    ),
    (
        _alone("wh-type-exists", Nsec3(), lying_nsec3("*.w", types="A TXT RRSIG")),
        bogus("x.w.wh-type-exists.test. TXT", rule=_TYPE_EXISTS),
    ),
    (
        _alone("w-replayed", Nsec(), resigned("other", "A", Terms(labels=2))),
        bogus("other.w-replayed.test. A", rule="a wildcard's signature without proof that the name does not exist (RFC 4035 5.3.4)"),
    ),
)  # fmt: skip

GROUP = Group(
    (_NSEC_ZONE, _NSEC3_ZONE, *(zone for zone, _ in _ALONE)),
    (
        *(
            animal
            for entries, origin in ((_NSEC, "false-nsec.test."), (_NSEC3, "false-nsec3.test."))
            for _, _, question, rule in entries
            for animal in bogus(question.replace(" ", f".{origin} "), rule=rule)
        ),
        *secure("sound.false-nsec.test. TXT", kind=Kind.NODATA),
        *secure("sounder.false-nsec.test. A", kind=Kind.NXDOMAIN),
        *(animal for _, animals in _ALONE for animal in animals),
    ),
)
