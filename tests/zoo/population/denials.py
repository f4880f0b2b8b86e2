"""Proofs of absence that hold: NSEC (RFC 4035 5.4), NSEC3 (RFC 5155 8) with salt, iterations and opt-out."""

from __future__ import annotations

from tests.zoo.animal import Animal, Group, Kind, insecure, secure
from tests.zoo.denial import Denial, Nsec, Nsec3
from tests.zoo.signer import ZonePlan

_OPT_OUT = "an opt-out NSEC3 covers the next closer name (RFC 5155 9.2)"
_ITERATIONS = "more NSEC3 iterations than 100 (RFC 9276 3.2)"
_NO_DS = "the parent proves that there is no DS (RFC 4035 5.2)"

_RECORDS = (
    "@ MX 10 mx",
    "mx A 127.0.9.1",
    "leaf A 127.0.9.2",
    "leaf TXT leaf",
    "a.ent.deep A 127.0.9.3",
    "*.wild A 127.0.9.4",
    "*.wild TXT wild",
    "there.wild MX 10 mx",
    "deep.below.wild2 A 127.0.9.5",
    "*.wild2 A 127.0.9.6",
)


def _zones(origin: str, denial: Denial) -> tuple[ZonePlan, ...]:
    child = ("@ MX 10 mx", "mx A 127.0.9.1")
    return (
        ZonePlan(origin, _RECORDS, denial=denial),
        ZonePlan(f"signed.{origin}", child),
        ZonePlan(f"plain.{origin}", child, keys=()),
        ZonePlan(f"plain.hollow.{origin}", child, keys=()),
        ZonePlan(f"island.{origin}", child, ds=()),
    )


def _positive(origin: str) -> tuple[Animal, ...]:
    return (
        *secure(f"{origin} MX", f"leaf.{origin} A TXT", f"a.ent.deep.{origin} A", f"*.wild.{origin} A"),
        *secure(f"deep.below.wild2.{origin} A", f"there.wild.{origin} MX"),
        *secure(f"signed.{origin} MX DS DNSKEY", f"{origin} DS DNSKEY SOA NS"),
        *insecure(f"plain.{origin} MX", f"plain.hollow.{origin} MX", f"island.{origin} MX", why=_NO_DS),
        *insecure(f"plain.{origin} TXT", f"island.{origin} TXT", why=_NO_DS, kind=Kind.NODATA),
        *insecure(f"no.plain.{origin} A", f"no.island.{origin} A", why=_NO_DS, kind=Kind.NXDOMAIN),
    )


def _matched(origin: str) -> tuple[str, ...]:
    """Absent types of names that have a record in the chain of their own."""
    return (
        f"{origin} A TLSA CNAME",
        f"leaf.{origin} AAAA MX CNAME DS",
        f"deep.{origin} A MX",
        f"ent.deep.{origin} A",
        f"wild.{origin} A",
        f"below.wild2.{origin} A",
        f"there.wild.{origin} A",
        f"*.wild.{origin} MX",
        f"signed.{origin} A",
        f"island.{origin} DS",
    )


_EXPANDED = ("x.wild.{} A TXT", "x.y.z.wild.{} A", "x.wild2.{} A")
_EXPANDED_WITHOUT = ("x.wild.{} MX", "x.y.wild.{} AAAA TLSA")
_ABSENT = (
    "no.{} A",
    "no.such.name.{} MX",
    "below.leaf.{} A",
    "b.ent.deep.{} A",
    "x.below.wild2.{} A",
    "_25._tcp.mx.{} TLSA",
    "zzzz.{} A",
    "no.{} DS",
    "a.b.c.d.e.f.g.h.{} TXT",
)


def _at(origin: str, questions: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(question.format(origin) for question in questions)


def _sound(origin: str) -> tuple[Animal, ...]:
    """Everything is proved."""
    return (
        *_positive(origin),
        *secure(*_matched(origin), kind=Kind.NODATA),
        *secure(f"plain.{origin} DS", f"hollow.{origin} A", f"plain.hollow.{origin} DS", kind=Kind.NODATA),
        *secure(*_at(origin, _EXPANDED)),
        *secure(*_at(origin, _EXPANDED_WITHOUT), kind=Kind.NODATA),
        *secure(*_at(origin, _ABSENT), kind=Kind.NXDOMAIN),
    )


def _opted_out(origin: str) -> tuple[Animal, ...]:
    return (
        *_positive(origin),
        *secure(*(q for q in _matched(origin) if not q.startswith("island")), kind=Kind.NODATA),
        *insecure(f"plain.{origin} DS", f"island.{origin} DS", f"plain.hollow.{origin} DS", why=_OPT_OUT, kind=Kind.NODATA),
        *secure(f"hollow.{origin} A", kind=Kind.NODATA),
        *insecure(*_at(origin, _EXPANDED), why=_OPT_OUT),
        *insecure(*_at(origin, _EXPANDED_WITHOUT), why=_OPT_OUT, kind=Kind.NODATA),
        *insecure(*_at(origin, _ABSENT), why=_OPT_OUT, kind=Kind.NXDOMAIN),
    )  # fmt: skip


def _laborious(origin: str) -> tuple[Animal, ...]:
    """Too many iterations: what needs a proof is insecure."""
    return (
        *_positive(origin),
        *insecure(
            f"{origin} A", f"leaf.{origin} AAAA", f"deep.{origin} A", why=_ITERATIONS, kind=Kind.NODATA
        ),
        *insecure(f"x.wild.{origin} A", why=_ITERATIONS),
        *insecure(f"x.wild.{origin} MX", f"plain.{origin} DS", why=_ITERATIONS, kind=Kind.NODATA),
        *insecure(f"no.{origin} A", f"no.{origin} DS", why=_ITERATIONS, kind=Kind.NXDOMAIN),
    )


_SOUND: tuple[tuple[str, Denial], ...] = (
    ("nsec.test.", Nsec()),
    ("nsec3.test.", Nsec3()),
    ("nsec3-salt.test.", Nsec3(iterations=5, salt="c0ffee00")),
    ("nsec3-100.test.", Nsec3(iterations=100, salt="ab" * 32)),
    ("nsec3-in-optout.optout.", Nsec3()),
)
_LABORIOUS = tuple((f"nsec3-{n}.test.", Nsec3(iterations=n, salt="00")) for n in (101, 150, 151, 200, 2500))

GROUP = Group(
    (
        *(zone for origin, denial in (*_SOUND, *_LABORIOUS) for zone in _zones(origin, denial)),
        *_zones("nsec3-opt.test.", Nsec3(opt_out=True)),
    ),
    (
        *(animal for origin, _ in _SOUND for animal in _sound(origin)),
        *(animal for origin, _ in _LABORIOUS for animal in _laborious(origin)),
        *_opted_out("nsec3-opt.test."),
        *secure("no-such-tld. A", "no.such-tld. MX", kind=Kind.NXDOMAIN),
        *secure("test. A", ". MX", "ns.test. AAAA", kind=Kind.NODATA),
        *secure("test. DS", ". DNSKEY", "test. SOA", "optout. DS"),
        *insecure("no-such.optout. A", "no.such.optout. MX", why=_OPT_OUT, kind=Kind.NXDOMAIN),
    ),
)
