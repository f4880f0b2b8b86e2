"""Zone cuts: secure over many levels, insecure with proof, islands, and cuts whose missing DS nobody proves."""

from __future__ import annotations

from tests.zoo.animal import Animal, Group, Kind, bogus, insecure, mail_records, secure
from tests.zoo.denial import NSEC, Denial, Nsec3
from tests.zoo.keys import CSK, ED25519, RSASHA256, KeyPlan, split
from tests.zoo.sabotage import (
    corrupted,
    forged,
    lying_nsec,
    lying_nsec3,
    on_nsec3,
    removed,
    resigned,
    unsigned,
)
from tests.zoo.signer import DAY, DsPlan, Sabotage, Terms, ZonePlan

_NO_DS = "the parent proves that there is no DS (RFC 4035 5.2)"
_BELOW_INSECURE = "below an insecure delegation (RFC 4035 4.3)"
_UNPROVED = "nothing proves that there is no DS (RFC 4035 5.2)"
_MAIL = mail_records()


def _plain(origin: str) -> ZonePlan:
    return ZonePlan(origin, _MAIL, keys=())


_CHAINS = (
    # Five levels, each with another algorithm.
    ZonePlan("l2.test.", _MAIL, (KeyPlan(ED25519),)),
    ZonePlan("l3.l2.test.", _MAIL, split(RSASHA256), denial=Nsec3()),
    ZonePlan("l4.l3.l2.test.", _MAIL, (KeyPlan(16),)),
    ZonePlan("l5.l4.l3.l2.test.", _MAIL, (KeyPlan(14),), denial=Nsec3(opt_out=True)),
    # A cut two labels below its parent, no zone between.
    ZonePlan("x.far.l2.test.", _MAIL),
    # Insecure, and what is below it, signed or not.
    _plain("dark.test."),
    ZonePlan("lit.dark.test.", _MAIL),
    _plain("darker.dark.test."),
    # An island of security, with a signed child.
    ZonePlan("island.test.", _MAIL, ds=()),
    ZonePlan("child.island.test.", _MAIL),
    # Unsupported algorithm above a supported one.
    ZonePlan("exotic.test.", _MAIL, (KeyPlan(200),)),
    ZonePlan("child.exotic.test.", _MAIL),
    # A bogus zone above signed and unsigned ones.
    ZonePlan("broken.test.", _MAIL, ds=(DsPlan(broken=True),)),
    ZonePlan("child.broken.test.", _MAIL),
    _plain("plain.broken.test."),
    # Below the opt-out top-level domain.
    _plain("dark.optout."),
    ZonePlan("lit.optout.", _MAIL),
    ZonePlan("island.optout.", _MAIL, ds=()),
    ZonePlan("lit.dark.optout.", _MAIL),
    ZonePlan("x.far.optout.", _MAIL),
    _plain("x.faint.optout."),
)
_CHAIN_ANIMALS = (
    *secure("l2.test. MX", "l3.l2.test. MX", "l4.l3.l2.test. MX", "l5.l4.l3.l2.test. MX DS"),
    *secure("_25._tcp.mx.l5.l4.l3.l2.test. TLSA", "x.far.l2.test. MX DS", "lit.optout. MX DS", "x.far.optout. MX"),
    *secure("far.l2.test. A", "far.l2.test. DS", "l5.l4.l3.l2.test. A", "_tcp.mx.l3.l2.test. A", kind=Kind.NODATA),
    *secure("no.l4.l3.l2.test. A", "no.far.l2.test. A", "no.lit.optout. A", kind=Kind.NXDOMAIN),
    *insecure("no.l5.l4.l3.l2.test. A", why="an opt-out NSEC3 (RFC 5155 9.2)", kind=Kind.NXDOMAIN),
    *insecure("dark.test. MX", "mx.dark.test. A AAAA", "_25._tcp.mx.dark.test. TLSA", why=_NO_DS),
    *insecure("dark.test. A", "dark.test. CNAME", why=_NO_DS, kind=Kind.NODATA),
    *insecure("no.dark.test. A", "a.b.c.no.dark.test. MX", why=_NO_DS, kind=Kind.NXDOMAIN),
    *secure("dark.test. DS", "island.test. DS", kind=Kind.NODATA),
    *insecure("lit.dark.test. MX DNSKEY", "darker.dark.test. MX", why=_BELOW_INSECURE),
    *insecure("lit.dark.test. DS", "darker.dark.test. DS", why=_BELOW_INSECURE, kind=Kind.NODATA),
    *insecure("no.lit.dark.test. A", why=_BELOW_INSECURE, kind=Kind.NXDOMAIN),
    *insecure("island.test. MX DNSKEY", "child.island.test. MX DS", why=_NO_DS),
    *insecure("child.island.test. A", why=_BELOW_INSECURE, kind=Kind.NODATA),
    *insecure("exotic.test. MX", "child.exotic.test. MX DS", why="unsupported algorithm (RFC 4035 5.2)"),
    *bogus("broken.test. MX", "child.broken.test. MX", "plain.broken.test. MX", rule="no DNSKEY matches a DS (RFC 4035 5.2)"),
    *bogus("child.broken.test. DS", "plain.broken.test. DS", rule="no DNSKEY matches a DS (RFC 4035 5.2)"),
    *secure("broken.test. DS"),
    *insecure("dark.optout. MX", "island.optout. MX", "lit.dark.optout. MX", "x.faint.optout. MX", why=_NO_DS),
    *insecure("no.dark.optout. A", why=_NO_DS, kind=Kind.NXDOMAIN),
    *insecure("dark.optout. DS", "x.faint.optout. DS", why="an opt-out NSEC3 (RFC 5155 9.2)", kind=Kind.NODATA),
    *secure("far.optout. A", kind=Kind.NODATA),
)  # fmt: skip


def _unproved(
    name: str, rule: str, *sabotage: Sabotage, denial: Denial | None = NSEC, signed: bool = False
) -> tuple[tuple[ZonePlan, ...], tuple[Animal, ...]]:
    """A parent with one child `c`, which is insecure (or `signed`), and a sabotage of its delegation."""
    origin = f"{name}.test."
    child = ZonePlan(f"c.{origin}", _MAIL, keys=(CSK,) if signed else ())
    return (
        (ZonePlan(origin, _MAIL, denial=denial, sabotage=sabotage), child),
        (
            *secure(f"{origin} MX"),
            *bogus(f"c.{origin} MX", f"mx.c.{origin} A", f"no.c.{origin} A", f"c.{origin} DS", rule=rule),
        ),
    )


_HASHED = Nsec3()
_BAD_CUTS = (
    _unproved("cut-nsec-removed", _UNPROVED, removed("c", "NSEC")),
    _unproved("cut-nsec-corrupted", _UNPROVED, corrupted("c", "NSEC")),
    _unproved("cut-nsec-unsigned", _UNPROVED, unsigned("c", "NSEC")),
    _unproved(
        "cut-nsec-expired",
        _UNPROVED,
        resigned("c", "NSEC", Terms(inception=-60 * DAY, expiration=-30 * DAY)),
    ),
    _unproved(
        "cut-nsec-has-soa",
        "the NSEC of the child's apex denies no DS (RFC 6840 4.4, RFC 4035 5.2)",
        lying_nsec("c", types="NS SOA RRSIG NSEC"),
    ),
    _unproved("cut-nsec-has-ds", "the bit map says that there is a DS (RFC 4035 5.2)", lying_nsec("c", types="NS DS RRSIG NSEC")),
    _unproved("cut-nothing", _UNPROVED, denial=None),
    _unproved("cut-nsec3-removed", _UNPROVED, on_nsec3("c", removed), denial=_HASHED),
    _unproved("cut-nsec3-corrupted", _UNPROVED, on_nsec3("c", corrupted), denial=_HASHED),
    _unproved("cut-nsec3-has-ds", "the bit map says that there is a DS (RFC 5155 8.6)", lying_nsec3("c", types="NS DS RRSIG"), denial=_HASHED),
    _unproved("cut-nsec3-has-soa", "the NSEC3 of the child's apex denies no DS (RFC 5155 8.6)", lying_nsec3("c", types="NS SOA RRSIG"), denial=_HASHED),
    _unproved(
        "cut-optout-corrupted",
        _UNPROVED,
        on_nsec3("c", corrupted, covering=True),
        denial=Nsec3(opt_out=True),
    ),
    _unproved("ds-unsigned", "the DS RRset has no RRSIG (RFC 4035 5.2)", unsigned("c", "DS"), signed=True),
    _unproved("ds-corrupted", "the RRSIG of the DS RRset does not verify (RFC 4035 5.3.3)", corrupted("c", "DS"), signed=True),
    _unproved(
        "ds-expired",
        "the RRSIG of the DS RRset expired (RFC 4035 5.3.1)",
        resigned("c", "DS", Terms(inception=-60 * DAY, expiration=-30 * DAY)),
        signed=True,
    ),
    _unproved(
        "ds-forged",
        "the RRSIG of the DS RRset does not verify (RFC 4035 5.3.3)",
        forged(f"c.ds-forged.test. DS 1 13 2 {'00' * 32}"),
        signed=True,
    ),
    _unproved(
        "ds-by-child",
        "the signer of a DS RRset is the parent (RFC 4035 5.3.1)",
        resigned("c", "DS", Terms(signer="c.ds-by-child.test."), by=CSK, origin="c.ds-by-child.test."),
        signed=True,
    ),
    _unproved("ds-removed", "the bit map says that there is a DS (RFC 4035 5.2)", removed("c", "DS"), signed=True),
    _unproved("ds3-removed", "the bit map says that there is a DS (RFC 5155 8.6)", removed("c", "DS"), signed=True, denial=_HASHED),
)  # fmt: skip
_NO_CUT = (
    # The parent denies the cut itself: no delegation, so the child's records ought to be signed by the parent.
    ZonePlan("cut-denied.test.", _MAIL, sabotage=(lying_nsec("c", types="TXT RRSIG NSEC"),)),
    _plain("c.cut-denied.test."),
    ZonePlan("cut3-denied.test.", _MAIL, denial=_HASHED, sabotage=(lying_nsec3("c", types="TXT RRSIG"),)),
    _plain("c.cut3-denied.test."),
)

GROUP = Group(
    (*_CHAINS, *(zone for zones, _ in _BAD_CUTS for zone in zones), *_NO_CUT),
    (
        *_CHAIN_ANIMALS,
        *(animal for _, animals in _BAD_CUTS for animal in animals),
        *bogus(
            "c.cut-denied.test. MX",
            "c.cut3-denied.test. MX",
            rule="a denial without the NS bit is no insecure delegation (RFC 6840 4.4)",
        ),
    ),
)
