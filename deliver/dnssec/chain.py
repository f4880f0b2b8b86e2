"""One question, from its answer to the trust anchor, as a generator without I/O (RFC 4035 5).

`judge` yields tuples of `Ask`s that do not depend on each other and is sent as many replies; it returns a
`Judged` and never raises for what a reply holds. Replies are those of any recursive resolver to queries with DO
and CD, so nothing in them is trusted.

Signer-driven: the signer named by an RRSIG proposes the zone, and its DS and DNSKEY records decide whether that
is so. Walking down zone cut by zone cut would ask for DS at every label of a name like `_25._tcp.mx.example`,
where nearly always only one is a cut. Where there is no valid signature, the walk from the anchor down is done
(`_enclosing`): only a proved insecure delegation, never a missing signature, makes data insecure.
Before the first reply is known, the DS and DNSKEY records up the chain are asked together with the question.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import dns.exception
import dns.name
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.DS import DS
from dns.rdtypes.ANY.NSEC import NSEC
from dns.rdtypes.ANY.NSEC3 import NSEC3
from dns.rdtypes.ANY.RRSIG import RRSIG

from deliver.dnssec import denial, nsec3
from deliver.dnssec.algorithm import Policy
from deliver.dnssec.alias import AliasFound, alias_at
from deliver.dnssec.anchors import Anchor, TrustAnchors, ancestors
from deliver.dnssec.budget import Budget, Exhausted, Limits
from deliver.dnssec.denial import Denied
from deliver.dnssec.evidence import Mark, Part, Security, Step
from deliver.dnssec.keys import (
    InsecureZone,
    KeyCache,
    NoCut,
    SecureZone,
    ZoneState,
    usable_anchor,
    vouched_keys,
)
from deliver.dnssec.reading import Reading, read
from deliver.dnssec.rule import Refusal, Rule
from deliver.dnssec.signature import Verified, verify_rrset
from deliver.dnssec.speculation import likely_zones
from deliver.dnssec.verdict import Absence, Alias, AliasKind, Ask, Failure, Judged, Lookup, Reply

T = TypeVar("T")
Part_ = Generator[tuple[Ask, ...], tuple[Reply, ...], T]
