"""The rules of the animals as codes of `deliver.dnssec.rule`: which code our validator may give for each.

More than one where the records that a server shows decide which rule fails first.
"""

from __future__ import annotations

from collections.abc import Mapping

_EXPIRED, _FUTURE, _MISSING = "signature-expired", "signature-not-yet-valid", "signature-missing"
_WRONG = "signature-wrong"

CODES: Mapping[str, frozenset[str]] = {
    text: frozenset(codes.split())
    for text, codes in {
        # Signatures
        "signature does not verify (RFC 4035 5.3.3)": f"{_WRONG} bound-failures",
        "signature does not verify (RFC 4035 5.3.3), with bounded work (CVE-2023-50387)": "bound-failures bound-keys",
        "signature expired (RFC 4035 5.3.1)": _EXPIRED,
        "signature not yet valid (RFC 4035 5.3.1)": _FUTURE,
        "signature expires before its inception (RFC 4035 5.3.1)": f"{_FUTURE} {_EXPIRED}",
        "no RRSIG in a signed zone (RFC 4035 5.3.1)": _MISSING,
        "no RRSIG of a supported algorithm (RFC 4035 5.3.1)": "signature-algorithm",
        "signer is not the zone of the RRset (RFC 4035 5.3.1)": "signature-signer signer-not-a-zone",
        "more labels than the owner has (RFC 4035 5.3.1)": "signature-labels",
        "no DNSKEY with that key tag (RFC 4035 5.3.1)": "signature-no-key",
        "no DNSKEY with that key tag and algorithm (RFC 4035 5.3.1)": "signature-no-key",
        "a wildcard's signature without proof that the name does not exist (RFC 4035 5.3.4)": "wildcard-unproven",
        "the key lacks the Zone Key flag (RFC 4035 5.3.1)": "key-not-zone",
        "a revoked key signs nothing but its revocation (RFC 5011 2.1)": "key-revoked",
        # Keys and DS records
        "the key lacks the Zone Key flag (RFC 4034 2.1.1, RFC 4035 5.2)": "key-not-zone",
        "a revoked key serves nothing but its revocation (RFC 5011 2.1)": "key-revoked",
        "DNSKEY protocol is not 3 (RFC 4034 2.1.2)": "key-protocol",
        "no DNSKEY matches a DS (RFC 4035 5.2)": "ds-mismatch",
        "no DNSKEY matches a DS of supported algorithm and digest (RFC 4035 5.2)": "ds-mismatch",
        "SHA-1 DS ignored beside SHA-256, which matches no key (RFC 4509 3)": "ds-mismatch",
        "no DNSKEY RRset under a DS (RFC 4035 5.2)": "dnskey-missing",
        "the DNSKEY RRset has no RRSIG by a key that a DS vouches for (RFC 4035 5.2)": "dnskey-unsigned",
        "signature over the DNSKEY RRset expired (RFC 4035 5.3.1)": _EXPIRED,
        "signature over the DNSKEY RRset does not verify (RFC 4035 5.3.3)": _WRONG,
        "the DS RRset has no RRSIG (RFC 4035 5.2)": _MISSING,
        "the RRSIG of the DS RRset does not verify (RFC 4035 5.3.3)": _WRONG,
        "the RRSIG of the DS RRset expired (RFC 4035 5.3.1)": _EXPIRED,
        "the signer of a DS RRset is the parent (RFC 4035 5.3.1)": "signature-signer",
        # Denials
        "nothing proves that the name does not exist (RFC 4035 5.4)": "denial-not-covered denial-missing",
        "nothing matches the name that should lack the type (RFC 4035 5.4)": "denial-not-covered denial-missing "
        "nsec3-closest-encloser nsec3-next-closer denial-rcode",
        "nothing proves that there is no wildcard (RFC 4035 5.4)": "denial-wildcard",
        "nothing proves that the wildcard lacks the type (RFC 4035 5.4)": "denial-wildcard",
        "nothing proves that the expanded name does not exist (RFC 4035 5.3.4)": "wildcard-unproven",
        "the RRSIG of the denial does not verify (RFC 4035 5.4)": _WRONG,
        "the RRSIG of the denial expired (RFC 4035 5.3.1)": _EXPIRED,
        "the denial has no RRSIG (RFC 4035 5.4)": _MISSING,
        "every RRset of the authority section is checked (RFC 4035 5.3)": f"{_WRONG} {_MISSING}",
        "an NSEC is never expanded from a wildcard (RFC 4035 5.3.4)": "signature-expanded",
        "an NSEC3 is never expanded from a wildcard (RFC 4035 5.3.4)": "signature-expanded",
        "the bit map says that the type exists (RFC 4035 5.4)": "denial-type-exists",
        "the bit map says that there is a CNAME (RFC 6840 4.3)": "denial-cname-exists",
        "the next name is not below the empty name (RFC 4035 5.4)": "denial-wildcard denial-rcode",
        "a record with DNAME denies nothing below it (RFC 6840 4.1)": "denial-below-cut",
        "an ancestor delegation's record denies nothing below or at the cut (RFC 6840 4.1)": "denial-below-cut "
        "denial-parent-side denial-type-exists",
        # NSEC3
        "no closest encloser proof (RFC 5155 8.3)": "nsec3-closest-encloser nsec3-next-closer denial-missing",
        "the closest encloser has a DNAME (RFC 5155 8.3)": "denial-below-cut",
        "the closest encloser is a delegation (RFC 5155 8.3)": "denial-below-cut denial-type-exists",
        "no NSEC3 covers the next closer name (RFC 5155 8.4)": "nsec3-next-closer",
        "no NSEC3 covers the next closer name (RFC 5155 8.8)": "wildcard-unproven",
        "no NSEC3 covers the wildcard (RFC 5155 8.4)": "denial-wildcard",
        "NSEC3 of an unknown hash is ignored (RFC 5155 8.1)": "denial-missing nsec3-unknown-hash",
        "NSEC3 with unknown flags is ignored (RFC 5155 8.2)": "nsec3-unknown-hash",
        "iterations excuse nothing before the RRSIG over the NSEC3 validated (RFC 9276 3.2)": _WRONG,
        # Delegations
        "nothing proves that there is no DS (RFC 4035 5.2)": "denial-not-covered denial-missing "
        f"nsec3-closest-encloser nsec3-next-closer nsec3-ds {_WRONG} {_MISSING} {_EXPIRED}",
        "the bit map says that there is a DS (RFC 4035 5.2)": "denial-type-exists",
        "the bit map says that there is a DS (RFC 5155 8.6)": "denial-type-exists",
        "the NSEC of the child's apex denies no DS (RFC 6840 4.4, RFC 4035 5.2)": "denial-child-side",
        "the NSEC3 of the child's apex denies no DS (RFC 5155 8.6)": "denial-child-side",
        "a denial without the NS bit is no insecure delegation (RFC 6840 4.4)": _MISSING,
        # Aliases
        "the alias leads to records whose signatures do not verify (RFC 4035 5.3.3)": _WRONG,
        "signature over the alias does not verify (RFC 4035 5.3.3)": f"{_WRONG} bound-failures",
        "no RRSIG over the alias in a signed zone (RFC 4035 5.3.1)": _MISSING,
        "signature over the alias expired (RFC 4035 5.3.1)": _EXPIRED,
    }.items()
}
