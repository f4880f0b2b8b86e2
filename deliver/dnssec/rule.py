"""The rules by which data is refused or insecure, each with a stable code and the RFC section behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Rule(Enum):
    """(code, RFC section, what happened)."""

    # One signature
    SIGNATURE_MISSING = (
        "signature-missing",
        "RFC 4035 5.3",
        "a signed zone gave an RRset without a signature",
    )
    SIGNER = ("signature-signer", "RFC 4035 5.3.1", "the signer is not the zone that holds the RRset")
    TYPE_COVERED = ("signature-type-covered", "RFC 4035 5.3.1", "the signature covers another type")
    LABELS = ("signature-labels", "RFC 4035 5.3.1", "the label count of the signature does not fit its owner")
    EXPANDED = ("signature-expanded", "RFC 4035 5.3.4", "a wildcard cannot stand for this type of record")
    EXPIRED = ("signature-expired", "RFC 4035 5.3.1", "the signature has expired")
    NOT_YET_VALID = ("signature-not-yet-valid", "RFC 4035 5.3.1", "the signature is not valid yet")
    NO_KEY = ("signature-no-key", "RFC 4035 5.3.1", "the zone has no key with this tag and algorithm")
    ALGORITHM = ("signature-algorithm", "RFC 4035 5.2", "the algorithm of the signature is not supported")
    WRONG = ("signature-wrong", "RFC 4035 5.3.3", "the signature does not verify")
    # One key
    KEY_NOT_ZONE = ("key-not-zone", "RFC 4034 2.1.1", "the key is not a zone key")
    KEY_REVOKED = ("key-revoked", "RFC 5011 2.1", "the key is revoked")
    KEY_PROTOCOL = ("key-protocol", "RFC 4034 2.1.2", "the protocol of the key is not 3")
    KEY_MALFORMED = ("key-malformed", "RFC 4034 2.1.4", "the public key cannot be read")
    # From parent to child
    DS_MISMATCH = ("ds-mismatch", "RFC 4035 5.2", "no DNSKEY matches a DS record of the parent")
    ANCHOR_MISMATCH = ("anchor-mismatch", "RFC 4035 5.2", "no DNSKEY matches the trust anchor")
    DNSKEY_MISSING = ("dnskey-missing", "RFC 4035 5.2", "the zone has a DS record but no DNSKEY records")
    DNSKEY_UNSIGNED = (
        "dnskey-unsigned",
        "RFC 4035 5.2",
        "no key that a DS record vouches for signed the keys",
    )
    NO_CUT = ("signer-not-a-zone", "RFC 4035 5.3.1", "the signer's name is not the apex of a zone")
    # Denials
    DENIAL_MISSING = ("denial-missing", "RFC 4035 5.4", "a signed zone denied without NSEC or NSEC3 records")
    DENIAL_TYPE_EXISTS = ("denial-type-exists", "RFC 4035 5.4", "the type is in the bitmap of the denial")
    DENIAL_CNAME_EXISTS = ("denial-cname-exists", "RFC 6840 4.3", "the bitmap of the denial has a CNAME")
    DENIAL_PARENT_SIDE = (
        "denial-parent-side",
        "RFC 6840 4.1",
        "the denial is from the wrong side of a zone cut",
    )
    DENIAL_CHILD_SIDE = ("denial-child-side", "RFC 6840 4.4", "a DS record was denied by the child zone")
    DENIAL_BELOW_CUT = (
        "denial-below-cut",
        "RFC 6840 4.1",
        "the denial is of a name below a delegation or DNAME",
    )
    DENIAL_NOT_COVERED = ("denial-not-covered", "RFC 4035 5.4", "no NSEC record covers or matches the name")
    DENIAL_NAME_EXISTS = ("denial-name-exists", "RFC 4035 5.4", "the denial shows that the name exists")
    DENIAL_RCODE = ("denial-rcode", "RFC 4035 5.4", "the response code is not what the denial proves")
    DENIAL_WILDCARD = ("denial-wildcard", "RFC 4035 5.4", "the denial does not exclude a wildcard")
    DENIAL_MALFORMED = ("denial-malformed", "RFC 4034 4", "the NSEC or NSEC3 records make no sense")
    NSEC3_ENCLOSER = ("nsec3-closest-encloser", "RFC 5155 8.3", "no closest encloser is proved")
    NSEC3_NEXT_CLOSER = ("nsec3-next-closer", "RFC 5155 8.3", "the next closer name is not covered")
    NSEC3_MIXED = ("nsec3-mixed", "RFC 5155 8.2", "the NSEC3 records have different parameters")
    NSEC3_UNKNOWN = ("nsec3-unknown-hash", "RFC 5155 8.1", "the NSEC3 hash algorithm or flags are not known")
    NSEC3_DS = ("nsec3-ds", "RFC 5155 8.6", "the absence of DS is covered by a span without opt-out")
    WILDCARD_UNPROVEN = (
        "wildcard-unproven",
        "RFC 4035 5.3.4",
        "nothing proves that a wildcard had to answer for the name",
    )
    # Aliases
    DNAME_SYNTHESIS = ("dname-synthesis", "RFC 6672 5.3.3", "the CNAME does not follow from the DNAME")
    ALIAS_LOOP = ("alias-loop", "RFC 1034 3.6.2", "the aliases lead in a circle")
    ALIAS_TOO_LONG = ("alias-too-long", "RFC 6672 2.2", "the DNAME makes a name that is too long")
    # Why data is insecure
    DELEGATION_INSECURE = (
        "delegation-insecure",
        "RFC 4035 5.2",
        "the parent proves that there is no DS record",
    )
    OPT_OUT = ("nsec3-opt-out", "RFC 5155 9.2", "the name is in an opt-out span")
    ITERATIONS = ("nsec3-iterations", "RFC 9276 3.2", "the NSEC3 records ask for too many iterations")
    UNSUPPORTED = ("zone-unsupported", "RFC 4035 5.2", "no DS record has a supported algorithm and digest")
    NO_ANCHOR = ("no-anchor", "RFC 4033 5", "no trust anchor is above the name")
    NEGATIVE_ANCHOR = ("negative-anchor", "RFC 7646 2", "a negative trust anchor suspends validation")
    # Bounds (the KeyTrap and NSEC3-encloser classes) and replies
    TOO_MANY_SIGNATURES = ("bound-signatures", "RFC 4035 5.3.3", "too many signatures had to be checked")
    TOO_MANY_FAILURES = ("bound-failures", "RFC 4035 5.3.3", "too many signatures did not verify")
    TOO_MANY_KEYS = ("bound-keys", "RFC 4035 5.3.1", "too many keys share a tag, or the zone has too many")
    TOO_MANY_HASHES = ("bound-hashes", "RFC 9276 3.2", "too many NSEC3 hashes had to be computed")
    TOO_MANY_ZONES = ("bound-zones", "RFC 4035 5", "the chain of zones is too long")
    TOO_MANY_ALIASES = ("bound-aliases", "RFC 1034 3.6.2", "too many aliases")
    TOO_MANY_RECORDS = ("bound-records", "RFC 4035 5", "the answer has too many records")
    TOO_MANY_QUERIES = ("bound-queries", "RFC 4035 5", "the lookup needs too many queries")
    NO_REPLY = ("no-reply", "RFC 4035 4.3", "a needed answer could not be had")
    UNUSABLE_REPLY = ("unusable-reply", "RFC 4035 4.3", "a needed answer does not fit its question")

    def __init__(self, code: str, rfc: str, sentence: str) -> None:
        self.code = code
        self.rfc = rfc
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule that failed, and where; `detail` is a phrase for people."""

    rule: Rule
    detail: str = ""

    def __str__(self) -> str:
        said = f"{self.rule.sentence} ({self.rule.rfc})"
        return f"{self.detail}: {said}" if self.detail else said
