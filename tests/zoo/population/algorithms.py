"""Signing algorithms (RFC 9904): supported, deprecated, unknown, several at once; and the DS records that point at keys."""

from __future__ import annotations

from tests.zoo.animal import Animal, Group, Kind, bogus, insecure, mail_questions, mail_records, secure
from tests.zoo.denial import Nsec, Nsec3
from tests.zoo.keys import (
    CSK,
    ED448,
    ED25519,
    P256,
    P384,
    REVOKE,
    RSASHA1,
    RSASHA256,
    RSASHA512,
    SEP,
    ZONE,
    KeyPlan,
    Signs,
    split,
)
from tests.zoo.sabotage import stripped, unsigned, without_algorithm
from tests.zoo.signer import DsPlan, ZonePlan

_RECORDS = mail_records()
_SHA1_DEPRECATED = "RSASHA1 is deprecated: the zone reads as insecure (RFC 9905 2, RFC 4035 5.2)"
_NO_ALGORITHM = "no DS of a supported algorithm (RFC 4035 5.2)"
_NO_DIGEST = "no DS of a supported digest type (RFC 4035 5.2, RFC 4509 3)"
_NO_KEY = "no DNSKEY matches a DS of supported algorithm and digest (RFC 4035 5.2)"


def _zone(name: str, *keys: KeyPlan, ds: tuple[DsPlan, ...] | None = None, nsec3: bool = False) -> ZonePlan:
    return ZonePlan(
        f"{name}.test.", _RECORDS, keys or (CSK,), ds, Nsec3(iterations=1, salt="c0de") if nsec3 else Nsec()
    )


def _healthy(name: str) -> tuple[Animal, ...]:
    origin = f"{name}.test."
    return (
        *secure(*mail_questions(origin)),
        *secure(f"{origin} AAAA", f"_tcp.mx.{origin} TLSA", kind=Kind.NODATA),
        *secure(f"no.such.{origin} A", kind=Kind.NXDOMAIN),
    )


def _unsupported(name: str, why: str) -> tuple[Animal, ...]:
    origin = f"{name}.test."
    return (
        *insecure(f"{origin} MX", f"_25._tcp.mx.{origin} TLSA", why=why),
        *insecure(f"no.such.{origin} A", why=why, kind=Kind.NXDOMAIN),
    )


def _broken(name: str, rule: str) -> tuple[Animal, ...]:
    return bogus(f"{name}.test. MX", f"_25._tcp.mx.{name}.test. TLSA", f"no.such.{name}.test. A", rule=rule)


def _csk(algorithm: int, number: int = 0) -> KeyPlan:
    return KeyPlan(algorithm, number=number)


_SUPPORTED = (
    (_zone("alg8", *split(RSASHA256)), _healthy("alg8")),
    (_zone("alg8-nsec3", _csk(RSASHA256), nsec3=True), _healthy("alg8-nsec3")),
    (_zone("alg10", *split(RSASHA512)), _healthy("alg10")),
    (_zone("alg13", *split(P256)), _healthy("alg13")),
    (_zone("alg13-nsec3", _csk(P256), nsec3=True), _healthy("alg13-nsec3")),
    (_zone("alg14", *split(P384)), _healthy("alg14")),
    (_zone("alg15", *split(ED25519)), _healthy("alg15")),
    (_zone("alg15-nsec3", _csk(ED25519), nsec3=True), _healthy("alg15-nsec3")),
    (_zone("alg16", *split(ED448)), _healthy("alg16")),
    (_zone("alg8-and-13", _csk(RSASHA256), _csk(P256)), _healthy("alg8-and-13")),
    (_zone("alg13-and-unknown", _csk(P256), _csk(200)), _healthy("alg13-and-unknown")),
    (_zone("alg13-and-sha1", _csk(P256), _csk(RSASHA1)), _healthy("alg13-and-sha1")),
    # A key of a second algorithm without DS: the chain goes through the first (RFC 6840 5.11).
    (_zone("alg15-without-ds", _csk(P256), _csk(ED25519), ds=(DsPlan(),)), _healthy("alg15-without-ds")),
    # KSK of one algorithm, ZSK of another: not how zones are signed, yet a valid chain (RFC 6840 5.11).
    (_zone("ksk8-zsk13", split(RSASHA256)[0], split(P256)[1]), _healthy("ksk8-zsk13")),
)
_DEPRECATED = (
    (_zone("alg5", *split(RSASHA1)), _unsupported("alg5", _SHA1_DEPRECATED)),
    (_zone("alg7", _csk(7), nsec3=True), _unsupported("alg7", _SHA1_DEPRECATED)),
)
_UNKNOWN = tuple(
    (_zone(f"alg{number}", _csk(number)), _unsupported(f"alg{number}", _NO_ALGORITHM))
    for number in (1, 3, 12, 18, 200, 253)
)
_TWO_ALGORITHMS_HALF_SIGNED = (
    (
        ZonePlan(
            "only8-of-8-and-13.test.",
            _RECORDS,
            (_csk(RSASHA256), _csk(P256)),
            sabotage=(without_algorithm("@", "MX", P256), without_algorithm("mx", "A", RSASHA256)),
        ),
        # RFC 6840 5.11: one valid signature suffices, of whichever algorithm.
        secure("only8-of-8-and-13.test. MX", "mx.only8-of-8-and-13.test. A"),
    ),
    (
        ZonePlan(
            "sha1-left.test.",
            _RECORDS,
            (_csk(P256), _csk(RSASHA1)),
            sabotage=(without_algorithm("@", "MX", P256),),
        ),
        bogus("sha1-left.test. MX", rule="no RRSIG of a supported algorithm (RFC 4035 5.3.1)"),
    ),
)
_DIGESTS = (
    (_zone("ds-sha1", ds=(DsPlan(1),)), secure(*mail_questions("ds-sha1.test."))),
    (_zone("ds-sha384", ds=(DsPlan(4),)), _healthy("ds-sha384")),
    (_zone("ds-sha1-and-sha256", ds=(DsPlan(1), DsPlan(2))), _healthy("ds-sha1-and-sha256")),
    (_zone("ds-unknown-digest", ds=(DsPlan(200),)), _unsupported("ds-unknown-digest", _NO_DIGEST)),
    (_zone("ds-gost-digest", ds=(DsPlan(3),)), _unsupported("ds-gost-digest", _NO_DIGEST)),
    (_zone("ds-unknown-and-256", ds=(DsPlan(200), DsPlan(2))), _healthy("ds-unknown-and-256")),
    (_zone("ds-unknown-algorithm", ds=(DsPlan(algorithm=200),)), _unsupported("ds-unknown-algorithm", _NO_ALGORITHM)),
    (_zone("ds-unknown-both", ds=(DsPlan(200), DsPlan(2, algorithm=200))), _unsupported("ds-unknown-both", _NO_ALGORITHM)),
    (_zone("ds-mismatch", ds=(DsPlan(broken=True),)), _broken("ds-mismatch", _NO_KEY)),
    (_zone("ds-unknown-and-mismatch", ds=(DsPlan(200), DsPlan(broken=True))), _broken("ds-unknown-and-mismatch", _NO_KEY)),
    (_zone("ds-mismatch-and-good", ds=(DsPlan(broken=True), DsPlan())), _healthy("ds-mismatch-and-good")),
    (_zone("ds-wrong-tag", ds=(DsPlan(tag_offset=1),)), _broken("ds-wrong-tag", _NO_KEY)),
    (_zone("ds-wrong-algorithm", ds=(DsPlan(algorithm=RSASHA256),)), _broken("ds-wrong-algorithm", _NO_KEY)),
    (_zone("ds-four", ds=tuple(DsPlan(tag_offset=n) for n in (1, 2, 3, 0))), _healthy("ds-four")),
    (
        _zone("ds-sha256-bad", ds=(DsPlan(1), DsPlan(2, broken=True))),
        _broken("ds-sha256-bad", "SHA-1 DS ignored beside SHA-256, which matches no key (RFC 4509 3)"),
    ),
)  # fmt: skip
_HIDDEN = KeyPlan(number=7, published=False)
_NOT_A_ZONE_KEY = "the key lacks the Zone Key flag (RFC 4034 2.1.1, RFC 4035 5.2)"
_KEYS = (
    (_zone("ds-of-absent-key", CSK, _HIDDEN, ds=(DsPlan(key=1),)), _broken("ds-of-absent-key", _NO_KEY)),
    (_zone("ds-of-one-absent-key", CSK, _HIDDEN), _healthy("ds-of-one-absent-key")),
    (_zone("no-sep", KeyPlan(flags=ZONE)), _healthy("no-sep")),
    (_zone("no-zone-flag", KeyPlan(flags=SEP)), _broken("no-zone-flag", _NOT_A_ZONE_KEY)),
    (_zone("no-flags", KeyPlan(flags=0)), _broken("no-flags", _NOT_A_ZONE_KEY)),
    (_zone("protocol-4", KeyPlan(protocol=4)), _broken("protocol-4", "DNSKEY protocol is not 3 (RFC 4034 2.1.2)")),
    (
        _zone("revoked", KeyPlan(flags=ZONE | SEP | REVOKE)),
        _broken("revoked", "a revoked key serves nothing but its revocation (RFC 5011 2.1)"),
    ),
    (
        _zone("revoked-beside", CSK, KeyPlan(flags=ZONE | SEP | REVOKE, number=3, delegated=False)),
        _healthy("revoked-beside"),
    ),
    (
        ZonePlan("no-dnskey.test.", _RECORDS, (KeyPlan(published=False),)),
        _broken("no-dnskey", "no DNSKEY RRset under a DS (RFC 4035 5.2)"),
    ),
    (
        ZonePlan("dnskey-unsigned.test.", _RECORDS, sabotage=(unsigned("@", "DNSKEY"),)),
        _broken("dnskey-unsigned", "the DNSKEY RRset has no RRSIG by a key that a DS vouches for (RFC 4035 5.2)"),
    ),
    (
        _zone("dnskey-by-other", KeyPlan(signs=Signs.DATA), KeyPlan(number=1, delegated=False)),
        _broken("dnskey-by-other", "the DNSKEY RRset has no RRSIG by a key that a DS vouches for (RFC 4035 5.2)"),
    ),
    (
        ZonePlan("stripped.test.", _RECORDS, sabotage=(stripped(),)),
        _broken("stripped", "no DNSKEY RRset under a DS (RFC 4035 5.2)"),
    ),
)  # fmt: skip

_ALL = (*_SUPPORTED, *_DEPRECATED, *_UNKNOWN, *_TWO_ALGORITHMS_HALF_SIGNED, *_DIGESTS, *_KEYS)
GROUP = Group(tuple(zone for zone, _ in _ALL), tuple(animal for _, animals in _ALL for animal in animals))
