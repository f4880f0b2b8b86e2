"""CNAME and DNAME (RFC 4035 3.2.3 and 5, RFC 6672 5.3) within a zone and across cuts of every security."""

from __future__ import annotations

from tests.zoo.animal import Animal, Group, Kind, bogus, failed, insecure, secure
from tests.zoo.denial import Nsec3
from tests.zoo.keys import ED25519, KeyPlan
from tests.zoo.sabotage import beside, corrupted, everywhere, forged, removed, resigned, unsigned
from tests.zoo.signer import DAY, Terms, ZonePlan

_FAR = "far-away-with-a-long-name." * 8
_TARGET = (
    "@ A 127.0.9.1",
    "host A 127.0.9.1",
    "host TXT host",
    "_25._tcp.host TLSA 3 1 1 " + "cd" * 32,
    "*.any A 127.0.9.7",
    "a.ent A 127.0.9.8",
)
_OTHERS = ("away.test.", "away3.test.", "optaway.test.", "darkaway.test.", "badaway.test.")
_ALIASES = (
    "local CNAME host",
    "local2 CNAME local",
    "local3 CNAME local2",
    *(f"chain{n} CNAME chain{n + 1}" for n in range(1, 7)),
    "chain7 CNAME host",
    *(f"long{n} CNAME long{n + 1}" for n in range(1, 40)),
    "long40 CNAME host",
    "loop CNAME loop",
    "loop1 CNAME loop2",
    "loop2 CNAME loop1",
    "to-wild CNAME x.any",
    "to-ent CNAME ent",
    "to-nothing CNAME nothing",
    "to-no-tld CNAME no.such-tld.",
    "to-pingpong CNAME pong.away.test.",
    "ping CNAME host",
    "*.wildalias CNAME host",
    "*.wildaway CNAME host.away.test.",
    "*.wilddark CNAME host.darkaway.test.",
    "_25._tcp.tlsa CNAME _25._tcp.host",
    "_25._tcp.tlsadark CNAME _25._tcp.host.darkaway.test.",
    "_25._tcp.tlsabad CNAME _25._tcp.host.badaway.test.",
    "tree DNAME sub",
    "host.sub A 127.0.9.9",
    "treeself DNAME a.treeself2",
    "treelong DNAME " + _FAR + "sub",
    *(f"to-{other.split('.')[0]} CNAME host.{other}" for other in _OTHERS),
    *(f"to-no-{other.split('.')[0]} CNAME no.{other}" for other in _OTHERS),
    *(f"tree-{other.split('.')[0]} DNAME {other}" for other in _OTHERS),
    "to-tree CNAME host.tree",
    "to-tree-dark CNAME host.tree-darkaway",
    *(f"{name} CNAME host" for name in ("c-unsigned", "c-corrupted", "c-expired", "c-beside", "c-forged")),
    *(f"{name} DNAME sub" for name in ("d-unsigned", "d-corrupted", "d-expired", "d-forged")),
)
_EXPIRED = Terms(inception=-60 * DAY, expiration=-30 * DAY)


def _alias_zone(origin: str, *, signed: bool) -> ZonePlan:
    records = (*_TARGET, *_ALIASES)
    if not signed:
        return ZonePlan(origin, records, keys=())
    return ZonePlan(
        origin,
        records,
        denial=Nsec3(iterations=1) if origin.startswith("alias3") else ZonePlan("x.").denial,
        sabotage=(
            unsigned("c-unsigned", "CNAME"),
            corrupted("c-corrupted", "CNAME"),
            resigned("c-expired", "CNAME", _EXPIRED),
            beside("c-beside", "CNAME", _EXPIRED),
            forged(f"c-forged.{origin} CNAME host.darkaway.test."),
            unsigned("d-unsigned", "DNAME"),
            corrupted("d-corrupted", "DNAME"),
            resigned("d-expired", "DNAME", _EXPIRED),
            forged(f"d-forged.{origin} DNAME darkaway.test."),
        ),
    )


_ZONES = (
    _alias_zone("alias.test.", signed=True),
    _alias_zone("alias3.test.", signed=True),
    _alias_zone("darkalias.test.", signed=False),
    ZonePlan("away.test.", (*_TARGET, "pong CNAME ping.alias.test."), (KeyPlan(ED25519),)),
    ZonePlan("away3.test.", _TARGET, denial=Nsec3()),
    ZonePlan("optaway.test.", _TARGET, denial=Nsec3(opt_out=True)),
    ZonePlan("darkaway.test.", (*_TARGET, "back CNAME host.alias.test."), keys=()),
    ZonePlan("badaway.test.", _TARGET, sabotage=(everywhere(corrupted, but=("DNSKEY",)),)),
    # A wildcard alias that nothing proves.
    ZonePlan(
        "unprovedalias.test.",
        ("host A 127.0.9.1", "*.w CNAME host", "v.w TXT v"),
        sabotage=(removed("v.w", "NSEC"),),
    ),
)
_ANSWER = "the alias leads into an insecure zone (RFC 4035 4.3, RFC 7672 2.1.3)"
_BAD_ALIAS = "signature over the alias does not verify (RFC 4035 5.3.3)"
_BAD_TARGET = "the alias leads to records whose signatures do not verify (RFC 4035 5.3.3)"
_LOOP = "the aliases never end (RFC 1034 3.6.2)"


def _signed_animals(o: str) -> tuple[Animal, ...]:
    return (
        *secure(f"local.{o} A TXT CNAME", f"local3.{o} A", f"chain1.{o} A", f"to-wild.{o} A", f"x.wildalias.{o} A TXT"),
        *secure(f"x.y.wildaway.{o} A", f"to-away.{o} A TXT", f"to-away3.{o} A", f"to-optaway.{o} A"),
        *secure(f"_25._tcp.tlsa.{o} TLSA", f"c-beside.{o} A", f"to-pingpong.{o} A"),
        *secure(f"host.tree.{o} A", f"tree.{o} DNAME", f"to-tree.{o} A", f"host.tree-away.{o} A", f"host.tree-away3.{o} TXT"),
        *secure(f"x.any.tree-away3.{o} A"),
        *secure(f"local.{o} MX", f"to-ent.{o} A", f"to-away.{o} MX", f"to-away3.{o} MX", f"x.wildalias.{o} MX", kind=Kind.NODATA),
        *secure(f"to-optaway.{o} MX", f"host.tree-away.{o} MX", f"tree.{o} A", f"ent.tree-away.{o} A", kind=Kind.NODATA),
        *secure(f"to-nothing.{o} A", f"to-no-tld.{o} A", f"to-no-away.{o} A MX", f"to-no-away3.{o} A", kind=Kind.NXDOMAIN),
        *secure(f"no.tree.{o} A", f"no.tree-away3.{o} A", kind=Kind.NXDOMAIN),
        *insecure(f"to-no-optaway.{o} A", f"no.tree-optaway.{o} A", why="opt-out (RFC 5155 9.2)", kind=Kind.NXDOMAIN),
        *insecure(f"to-darkaway.{o} A", f"host.tree-darkaway.{o} A", f"to-tree-dark.{o} A", f"x.wilddark.{o} A", why=_ANSWER),
        *insecure(f"_25._tcp.tlsadark.{o} TLSA", why=_ANSWER),
        *insecure(f"to-darkaway.{o} MX", f"host.tree-darkaway.{o} MX", why=_ANSWER, kind=Kind.NODATA),
        *insecure(f"to-no-darkaway.{o} A", f"no.tree-darkaway.{o} A", why=_ANSWER, kind=Kind.NXDOMAIN),
        *bogus(f"to-badaway.{o} A MX", f"to-no-badaway.{o} A", f"host.tree-badaway.{o} A", rule=_BAD_TARGET),
        *bogus(f"_25._tcp.tlsabad.{o} TLSA", rule=_BAD_TARGET),
        *bogus(f"c-corrupted.{o} A CNAME", f"c-forged.{o} A", f"d-corrupted.{o} DNAME", f"host.d-corrupted.{o} A", rule=_BAD_ALIAS),
        *bogus(f"host.d-forged.{o} A", rule=_BAD_ALIAS),
        *bogus(f"c-unsigned.{o} A", f"host.d-unsigned.{o} A", rule="no RRSIG over the alias in a signed zone (RFC 4035 5.3.1)"),
        *bogus(f"c-expired.{o} A", f"host.d-expired.{o} A", rule="signature over the alias expired (RFC 4035 5.3.1)"),
        *failed(f"loop.{o} A", f"loop1.{o} A", f"long1.{o} A", why=_LOOP),
        *failed(f"{'x' * 60}.{'y' * 60}.treelong.{o} A", why="the name that the DNAME makes is too long (RFC 6672 2.2)"),
        *secure(f"loop.{o} CNAME", f"long1.{o} CNAME"),
    )  # fmt: skip


_FROM_DARK = "the alias is in an insecure zone (RFC 7672 2.1.3)"
GROUP = Group(
    _ZONES,
    (
        *_signed_animals("alias.test."),
        *_signed_animals("alias3.test."),
        *insecure("local.darkalias.test. A", "to-away.darkalias.test. A", "to-darkaway.darkalias.test. A", why=_FROM_DARK),
        *insecure("host.tree.darkalias.test. A", "host.tree-away.darkalias.test. A", "back.darkaway.test. A", why=_FROM_DARK),
        *insecure("to-away.darkalias.test. MX", "host.tree-away3.darkalias.test. MX", why=_FROM_DARK, kind=Kind.NODATA),
        *insecure("to-no-away3.darkalias.test. A", "no.tree-away.darkalias.test. A", why=_FROM_DARK, kind=Kind.NXDOMAIN),
        *bogus("to-badaway.darkalias.test. A", "host.tree-badaway.darkalias.test. A", rule=_BAD_TARGET),
        *failed("loop.darkalias.test. A", "loop1.darkalias.test. A", why=_LOOP),
        *bogus("x.w.unprovedalias.test. A", rule="nothing proves that the expanded name does not exist (RFC 4035 5.3.4)"),
    ),
)  # fmt: skip
