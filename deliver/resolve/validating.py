"""The `Resolver` port with DNSSEC validated by ourselves, over any recursive resolver (`dns.dnssec = "validate"`).

Queries carry DO and CD: the resolver passes on what it has, the judgement is `deliver.dnssec`'s. Its generators
say what to ask next; identical questions in flight are asked once, and keys that were validated are kept, so
that a warm lookup costs one question and one signature. A judgement that is expected to take longer than
OFF_LOOP runs in a worker thread.

    Secure, Insecure   Found, NoData, NxDomain with `secure` accordingly
    Bogus              Bogus, with the rule and its RFC section
    Indeterminate      Unreachable: no answer, no anchor, or a bound on the work was reached
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import trio

from deliver.dnssec.anchors import TrustAnchors
from deliver.dnssec.budget import expected_seconds
from deliver.dnssec.chain import Policy, judge
from deliver.dnssec.evidence import Security, findings
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.verdict import Absence, Ask, Failure, Judged, Reply
from deliver.report.trace import Finding
from deliver.resolve.answer import Answer, Bogus, Found, NoData, NxDomain, Query, Unreachable
from deliver.resolve.transport import (
    EDNS_PAYLOAD,
    NoReply,
    Recursor,
    failure_in_words,
    name_of,
    record_of,
)

OFF_LOOP = 0.005  # seconds of expected work from which on it leaves the event loop
THREADS = 2  # judgements at a time outside the event loop
