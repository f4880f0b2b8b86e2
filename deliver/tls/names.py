"""Does a certificate carry one of the names that we look for? (RFC 9525, RFC 6125, RFC 7672 3.2.2)

Reference identifiers and presented names are compared as A-labels without regard to ASCII case. Presented
names are the dNSName entries of subjectAltName. The common name counts only where the caller allows it
(DANE-TA, RFC 7672 3.2.2; never PKIX, RFC 9525 2) and the certificate has no dNSName at all. A wildcard is the
whole left-most label and stands for exactly one label, in front of at least two others (RFC 9525 6.3).

A reference that is an IP address is compared with the iPAddress entries alone (RFC 9525 6.2): a dNSName that
looks like one stands for nothing.

A presented name with a NUL, a non-ASCII octet, an empty label or a second `*` matches nothing. A certificate
whose extensions cannot be read has no names. Name constraints are OpenSSL's affair (`deliver.tls.chain`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

from deliver.endpoint import is_address
from deliver.tls.certificate import REMEMBERED, looking, parse

_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")
_MAX_NAME = 253  # octets, RFC 1035 2.3.4


@dataclass(frozen=True, slots=True)
class NameMatch:
    """`presented`, as it stands in the certificate, matches `reference`."""

    reference: str
    presented: str


@dataclass(frozen=True, slots=True)
class NameMismatch:
    """None of the `presented` names matches; `why` is set when they could not even be read."""

    presented: tuple[str, ...]
    why: str = ""


def check(certificate: bytes, references: tuple[str, ...], *, common_name: bool) -> NameMatch | NameMismatch:
    """Compare the names in a DER certificate with `references`, the first of which that matches is reported.

    `common_name`: the subject's last common name counts where there is no dNSName.
    """
    try:
        presented = presented_names(certificate, common_name=common_name)
        addresses = presented_addresses(certificate) if any(map(is_address, references)) else ()
    except ValueError as error:
        return NameMismatch((), f"the certificate's names cannot be read: {error}")
    for reference in references:
        if is_address(reference):
            if str(ipaddress.ip_address(reference)) in addresses:
                return NameMatch(reference, reference)
            continue
        for name in presented:
            if matches(name, reference):
                return NameMatch(reference, name)
    return NameMismatch((*presented, *addresses))


def presented_addresses(certificate: bytes) -> tuple[str, ...]:
    """The iPAddress entries in a DER certificate, in canonical text. Raises ValueError."""
    with looking():
        try:
            found = parse(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return ()
        return tuple(map(str, found.value.get_values_for_type(x509.IPAddress)))


@lru_cache(maxsize=REMEMBERED)
def presented_names(certificate: bytes, *, common_name: bool) -> tuple[str, ...]:
    """The names in a DER certificate, unchecked. Raises ValueError when it cannot be read."""
    with looking():
        parsed = parse(certificate)
        try:
            extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            dns_names = tuple(extension.value.get_values_for_type(x509.DNSName))
        except x509.ExtensionNotFound:
            dns_names = ()
        if dns_names or not common_name:
            return dns_names
        subject = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return tuple(attribute.value for attribute in subject[-1:] if isinstance(attribute.value, str))


def matches(presented: str, reference: str) -> bool:
    """Whether `presented`, perhaps with a wildcard, stands for the host name `reference`."""
    name = _normal(reference.removesuffix("."))
    if name is None:
        return False
    if not presented.startswith("*."):
        return _normal(presented) == name
    parent = _normal(presented[2:])
    label, _, rest = name.partition(".")
    return parent is not None and "." in parent and bool(label) and rest == parent


def _normal(name: str) -> str | None:
    """Lower case, or None if it is no name of A-labels."""
    if not name.isascii() or len(name) > _MAX_NAME:
        return None
    lowered = name.lower()
    return lowered if _NAME.match(lowered) else None
