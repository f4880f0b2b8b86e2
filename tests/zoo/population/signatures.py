"""Signatures that break one rule each (RFC 4035 5.3), and healthy ones that look odd."""

from __future__ import annotations

from tests.zoo.animal import Group, Kind, bogus, mail_records, secure
from tests.zoo.keys import CSK, P256, REVOKE, RSASHA256, SEP, ZONE, ZSK, KeyPlan, Signs, colliding
from tests.zoo.sabotage import (
    beside,
    corrupted,
    corrupted_beside,
    everywhere,
    forged,
    only_corrupted,
    resigned,
    shortened,
    unsigned,
    with_keys_like,
)
from tests.zoo.signer import DAY, HOUR, DsPlan, Sabotage, Terms, ZonePlan

_ORIGIN = "sig.test."
_HIDDEN = KeyPlan(number=9)
_STANDBY = KeyPlan(number=5, signs=Signs.NOTHING, delegated=False)
_NOT_ZONE_KEY = KeyPlan(flags=SEP, number=6, signs=Signs.NOTHING, delegated=False)
_REVOKED = KeyPlan(flags=ZONE | SEP | REVOKE, number=7, signs=Signs.NOTHING, delegated=False)
_PARENT_ZSK = ZSK  # the plan of test.'s zone-signing key
_EXPIRED = Terms(inception=-60 * DAY, expiration=-30 * DAY)
_FUTURE = Terms(inception=30 * DAY, expiration=60 * DAY)

_BOGUS: dict[str, tuple[Sabotage, str]] = {
    "unsigned": (unsigned("unsigned", "A"), "no RRSIG in a signed zone (RFC 4035 5.3.1)"),
    "expired": (resigned("expired", "A", _EXPIRED), "signature expired (RFC 4035 5.3.1)"),
    "just-expired": (
        resigned("just-expired", "A", Terms(inception=-30 * DAY, expiration=-DAY)),
        "signature expired (RFC 4035 5.3.1)",
    ),
    "future": (resigned("future", "A", _FUTURE), "signature not yet valid (RFC 4035 5.3.1)"),
    "backwards": (
        resigned("backwards", "A", Terms(inception=10 * DAY, expiration=-10 * DAY)),
        "signature expires before its inception (RFC 4035 5.3.1)",
    ),
    "corrupted": (corrupted("corrupted", "A"), "signature does not verify (RFC 4035 5.3.3)"),
    "shortened": (shortened("shortened", "A"), "signature does not verify (RFC 4035 5.3.3)"),
    "one-octet": (shortened("one-octet", "A", 1), "signature does not verify (RFC 4035 5.3.3)"),
    "by-parent": (
        resigned("by-parent", "A", Terms(signer="test."), by=_PARENT_ZSK, origin="test."),
        "signer is not the zone of the RRset (RFC 4035 5.3.1)",
    ),
    "by-root": (
        resigned("by-root", "A", Terms(signer="."), by=KeyPlan(RSASHA256, ZONE, Signs.DATA, 1, delegated=False), origin="."),
        "signer is not the zone of the RRset (RFC 4035 5.3.1)",
    ),
    "by-sibling": (
        resigned("by-sibling", "A", Terms(signer="sibling.test."), by=CSK, origin="sibling.test."),
        "signer is not the zone of the RRset (RFC 4035 5.3.1)",
    ),
    "signer-claims-sibling": (
        resigned("signer-claims-sibling", "A", Terms(signer="sibling.test.")),
        "signer is not the zone of the RRset (RFC 4035 5.3.1)",
    ),
    "signer-below": (
        resigned("signer-below", "A", Terms(signer="signer-below.sig.test.")),
        "signer is not the zone of the RRset (RFC 4035 5.3.1)",
    ),
    "labels-many": (resigned("labels-many", "A", Terms(labels=4)), "more labels than the owner has (RFC 4035 5.3.1)"),
    "labels-few": (
        resigned("labels-few", "A", Terms(labels=2)),
        "a wildcard's signature without proof that the name does not exist (RFC 4035 5.3.4)",
    ),
    "unpublished": (resigned("unpublished", "A", by=_HIDDEN), "no DNSKEY with that key tag (RFC 4035 5.3.1)"),
    "wrong-tag": (resigned("wrong-tag", "A", Terms(tag=1)), "no DNSKEY with that key tag (RFC 4035 5.3.1)"),
    "wrong-algorithm": (
        resigned("wrong-algorithm", "A", Terms(algorithm=RSASHA256)),
        "no DNSKEY with that key tag and algorithm (RFC 4035 5.3.1)",
    ),
    "unknown-algorithm": (
        resigned("unknown-algorithm", "A", Terms(algorithm=200)),
        "no RRSIG of a supported algorithm (RFC 4035 5.3.1)",
    ),
    "by-non-zone-key": (
        resigned("by-non-zone-key", "A", by=_NOT_ZONE_KEY),
        "the key lacks the Zone Key flag (RFC 4035 5.3.1)",
    ),
    "by-revoked-key": (
        resigned("by-revoked-key", "A", by=_REVOKED),
        "a revoked key signs nothing but its revocation (RFC 5011 2.1)",
    ),
    "altered": (forged("altered.sig.test. A 127.66.66.66"), "signature does not verify (RFC 4035 5.3.3)"),
    "added": (
        forged("added.sig.test. A 127.0.9.2", "added.sig.test. A 127.66.66.66"),
        "signature does not verify (RFC 4035 5.3.3)",
    ),
    "left-out": (forged("left-out.sig.test. A 127.0.9.2"), "signature does not verify (RFC 4035 5.3.3)"),
    "two-corrupted": (only_corrupted("two-corrupted", "A", 2), "signature does not verify (RFC 4035 5.3.3)"),
    "many-corrupted": (only_corrupted("many-corrupted", "A", 12), "signature does not verify (RFC 4035 5.3.3)"),
}  # fmt: skip
_SECURE: dict[str, Sabotage] = {
    "good-beside-corrupted": corrupted_beside("good-beside-corrupted", "A"),
    "good-beside-expired": beside("good-beside-expired", "A", _EXPIRED),
    "good-beside-unpublished": beside("good-beside-unpublished", "A", by=_HIDDEN),
    "good-beside-sibling": beside(
        "good-beside-sibling", "A", Terms(signer="sibling.test."), by=CSK, origin="sibling.test."
    ),
    "good-beside-unknown-algorithm": beside("good-beside-unknown-algorithm", "A", Terms(algorithm=200)),
    "by-standby": resigned("by-standby", "A", by=_STANDBY),
    "original-ttl-smaller": resigned("original-ttl-smaller", "A", Terms(original_ttl=60)),
    "original-ttl-larger": resigned("original-ttl-larger", "A", Terms(original_ttl=86400)),
    "ends-in-an-hour": resigned("ends-in-an-hour", "A", Terms(expiration=HOUR)),
    "ends-in-decades": resigned("ends-in-decades", "A", Terms(expiration=40 * 365 * DAY)),
}

_ODD = ZonePlan(
    _ORIGIN,
    (
        *(f"{name} A 127.0.9.2" for name in (*_BOGUS, *_SECURE)),
        "left-out A 127.0.9.3",
        "plain A 127.0.9.2",
        "many A 127.0.9.2",
        "many A 127.0.9.3",
        "many A 127.0.9.4",
        "MixedCase A 127.0.9.2",
        "mixed MX 10 MixedCase.Sig.Test.",
    ),
    (CSK, _STANDBY, _NOT_ZONE_KEY, _REVOKED),
    ds=(DsPlan(),),
    sabotage=(*(sabotage for sabotage, _ in _BOGUS.values()), *_SECURE.values()),
)

_DUPLICATE_TAGS = colliding("colliding.test.")
_COLLIDING = tuple(
    KeyPlan(number=n, signs=s) for n, s in zip(_DUPLICATE_TAGS, (Signs.ALL, Signs.DATA), strict=True)
)
_JUNK = KeyPlan(RSASHA256)
_WHOLE = (
    ("all-expired", ZonePlan("all-expired.test.", mail_records(), window=(-60 * DAY, -30 * DAY)), "signature expired (RFC 4035 5.3.1)"),
    ("all-future", ZonePlan("all-future.test.", mail_records(), window=(30 * DAY, 60 * DAY)), "signature not yet valid (RFC 4035 5.3.1)"),
    (
        "all-corrupted",
        ZonePlan("all-corrupted.test.", mail_records(), sabotage=(everywhere(corrupted, but=("DNSKEY",)),)),
        "signature does not verify (RFC 4035 5.3.3)",
    ),
    (
        "all-unsigned",
        ZonePlan("all-unsigned.test.", mail_records(), sabotage=(everywhere(unsigned, but=("DNSKEY",)),)),
        "no RRSIG in a signed zone (RFC 4035 5.3.1)",
    ),
    (
        "keys-expired",
        ZonePlan("keys-expired.test.", mail_records(), sabotage=(resigned("@", "DNSKEY", _EXPIRED),)),
        "signature over the DNSKEY RRset expired (RFC 4035 5.3.1)",
    ),
    (
        "keys-corrupted",
        ZonePlan("keys-corrupted.test.", mail_records(), sabotage=(corrupted("@", "DNSKEY"),)),
        "signature over the DNSKEY RRset does not verify (RFC 4035 5.3.3)",
    ),
    (
        "keytrap",
        ZonePlan(
            "keytrap.test.",
            mail_records(),
            (_JUNK,),
            sabotage=(with_keys_like(_JUNK, 10), everywhere(lambda o, t: only_corrupted(o, t, 10), but=("DNSKEY",))),
        ),
        "signature does not verify (RFC 4035 5.3.3), with bounded work (CVE-2023-50387)",
    ),
)  # fmt: skip
_WHOLE_SECURE = (
    ZonePlan("colliding.test.", mail_records(), _COLLIDING),
    ZonePlan(
        "colliding-junk.test.",
        mail_records(),
        (KeyPlan(RSASHA256, number=1),),
        sabotage=(with_keys_like(KeyPlan(RSASHA256, number=1), 2),),
    ),
    ZonePlan(
        "colliding-points.test.",
        mail_records(),
        (KeyPlan(P256, number=1),),
        sabotage=(with_keys_like(KeyPlan(P256, number=1), 2),),
    ),
)

GROUP = Group(
    (_ODD, ZonePlan("sibling.test.", mail_records()), *(zone for _, zone, _ in _WHOLE), *_WHOLE_SECURE),
    (
        *(animal for name, (_, rule) in _BOGUS.items() for animal in bogus(f"{name}.{_ORIGIN} A", rule=rule)),
        *secure(*(f"{name}.{_ORIGIN} A" for name in (*_SECURE, "plain", "many", "mixedcase", "MIXEDcase"))),
        *secure(f"mixed.{_ORIGIN} MX", "sibling.test. MX"),
        *(
            animal
            for name, _, rule in _WHOLE
            for animal in bogus(f"{name}.test. MX", f"mx.{name}.test. A", f"no.{name}.test. A", rule=rule)
        ),
        *(
            animal
            for zone in _WHOLE_SECURE
            for animal in (
                *secure(f"{zone.origin} MX", f"_25._tcp.mx.{zone.origin} TLSA"),
                *secure(f"no.{zone.origin} A", kind=Kind.NXDOMAIN),
            )
        ),
    ),
)
