"""Lookups as generators: they yield queries and receive answers, so that tests drive them from a dict.

    find_mx     domain → the ordered candidate hosts (RFC 5321 5.1, RFC 7505)
    find_host   host → addresses, and TLSA where a secure address answer calls for it (RFC 7672 2.2)
    with_sts_record   and the record of MTA-STS beside it (RFC 8461 3.1)

Each step keeps its own security. An absence and a failure are different types (`deliver.resolve.answer`),
so that no failed lookup can be read as "there is none" (RFC 7672 2.1.2). Queries that do not depend on each
other are yielded together.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from deliver.errors import UsageError
from deliver.message import domain_name, literal_address
from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.answer import (
    AddressRecord,
    Answer,
    Bogus,
    Found,
    MxRecord,
    NoData,
    NxDomain,
    Query,
    RecordType,
    TlsaRecord,
    Unreachable,
)
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget, NoHost, order
from deliver.resolve.sts import record_name
from deliver.resolve.tlsa import (
    TlsaAbsent,
    TlsaFailed,
    TlsaNotAsked,
    TlsaRecords,
    TlsaStatus,
    classify,
    fits_a_name,
    owner_name,
)

MAX_TARGETS = 50  # MX records looked at; a domain with more is hostile or broken
MAX_ADDRESSES = 16  # per host and family
SHOWN = 76  # characters of a TLSA record in a sentence; a SHA-256 record has 70

Plan = TypeVar("Plan")

MxWalk = Generator[tuple[Query, ...], tuple[Answer, ...], "Walked[MxPlan]"]
HostWalk = Generator[tuple[Query, ...], tuple[Answer, ...], "Walked[HostPlan]"]
StsWalk = Generator[tuple[Query, ...], tuple[Answer, ...], "tuple[Walked[HostPlan], Answer | None]"]

_TYPE_OF_FAMILY = {"ipv4": RecordType.A, "ipv6": RecordType.AAAA}


@dataclass(frozen=True, slots=True)
class Walked(Generic[Plan]):
    """What a walk found, with its findings in order."""

    plan: Plan | NoHost
    findings: tuple[Finding, ...]


def find_mx(domain: str, rng: Random) -> MxWalk:
    """The candidate hosts of `domain` (A-labels, or an address literal), in the order to try them."""
    address = literal_address(domain)
    if address is not None:
        text = f"{domain} is an address literal: no lookup"
        plan = MxPlan(domain, (MxTarget(address),), secure=False)
        return Walked(plan, (_note("address-literal", text, "RFC 5321 4.1.3"),))
    (answer,) = yield (Query(domain, RecordType.MX),)
    match answer:
        case Bogus(why=why) | Unreachable(why=why):
            return _no_mx(domain, "mx-lookup-failed", f"its MX records could not be looked up: {why}")
        case NxDomain():
            return _no_domain(domain)
        case NoData(secure=secure):
            text = f"{domain} has no MX record: the domain itself is the host"
            finding = _note("mx-implicit", text, "RFC 5321 5.1", secure=_word(secure))
            plan = MxPlan(domain, (MxTarget(domain),), secure, implicit=True, next_hop_names=(domain,))
            return Walked(plan, (finding,))
        case Found(records=records) if _is_null_mx(records):
            why = f"{domain} accepts no mail (null MX)"
            refusal = NoHost(why, True, (5, 1, 10), "mx-null", "RFC 7505 3", domain)
            return Walked(refusal, (_refusal(refusal),))
        case Found() as found:
            return _mx_plan(domain, found, rng)


def _mx_plan(domain: str, found: Found, rng: Random) -> Walked[MxPlan]:
    findings: list[Finding] = []
    targets: dict[str, MxTarget] = {}
    for record in found.records[:MAX_TARGETS]:
        if not isinstance(record, MxRecord) or not record.exchange:
            continue
        try:
            host = domain_name(record.exchange)
        except UsageError as error:
            findings.append(_note("mx-name-unusable", f"MX of {domain} ignored: {error.happened}"))
            continue
        if _as_address(host) is not None:
            text = f"MX of {domain} ignored: {host} is an address, not a host name"
            findings.append(_note("mx-name-unusable", text, "RFC 5321 5.1"))
            continue
        best = targets.get(host)
        if best is None or record.preference < best.preference:
            targets[host] = MxTarget(host, record.preference)
    if not targets:
        walked = _no_mx(domain, "mx-unusable", "none of its MX records names a usable host")
        return Walked(walked.plan, (*findings, *walked.findings))
    ordered = order(targets.values(), rng)
    said = ", ".join(f"{target.preference} {target.host}" for target in ordered)
    text = f"{domain} has MX {said} ({_word(found.secure)})"
    found_as = _ok if found.secure else _note
    findings.append(found_as("mx-found", text, "RFC 5321 5.1", secure=_word(found.secure)))
    names = tuple(dict.fromkeys((domain, *found.aliases[-1:]))) if found.secure else (domain,)
    return Walked(MxPlan(domain, ordered, found.secure, next_hop_names=names), tuple(findings))


def find_host(
    host: str, *, port: int, families: Sequence[str], mx_secure: bool, tlsa_unwanted: str | None
) -> HostWalk:
    """Addresses of `host` in the order of `families`, and its TLSA records.

    `mx_secure`: whether the choice of this host is validated; then one failing address family makes the
    host unusable (RFC 7672 2.2.2). `tlsa_unwanted`: why TLSA is not to be asked, or None.
    """
    address = _as_address(host)
    if address is not None:
        plan = HostPlan(host, (address,), False, TlsaNotAsked("it is an IP address, not a host name"))
        return Walked(plan, ())
    answers = yield tuple(Query(host, _TYPE_OF_FAMILY[family]) for family in families)
    failure = _address_failure(host, answers, mx_secure)
    if failure is not None:
        return failure
    found = tuple(answer for answer in answers if isinstance(answer, Found))
    addresses = tuple(
        record.address
        for answer in found
        for record in answer.records[:MAX_ADDRESSES]
        if isinstance(record, AddressRecord)
    )
    if not addresses:
        why = f"{host} has no address"
        refusal = NoHost(why, True, (5, 4, 4), "host-no-address", "RFC 5321 5.1", host, "A")
        return Walked(refusal, (_refusal(refusal),))
    secure = any(answer.secure for answer in found)
    expanded = next((answer.aliases[-1] for answer in found if answer.aliases), None)
    findings = [_address_finding(host, expanded, addresses, secure)]
    bases: tuple[str, ...] = (expanded, host) if expanded and secure else (host,)
    if tlsa_unwanted is not None:
        return Walked(
            HostPlan(host, addresses, secure, TlsaNotAsked(tlsa_unwanted), expanded), tuple(findings)
        )
    if not secure and expanded:
        (alias,) = yield (Query(host, RecordType.CNAME),)
        if isinstance(alias, Bogus | Unreachable):
            walked = _unusable(host, f"its alias could not be looked up: {alias.why}")
            return Walked(walked.plan, (*findings, *walked.findings))
        if isinstance(alias, Found) and alias.secure:
            secure = True
            text = f"{host} is a secure alias into an insecure zone: TLSA is asked for the original name"
            findings.append(_note("secure-alias", text, "RFC 7672 2.2.2"))
    if not secure:
        not_asked = TlsaNotAsked("its address answer is not validated by DNSSEC")
        return Walked(HostPlan(host, addresses, False, not_asked, expanded), tuple(findings))
    status, tlsa_findings = yield from _find_tlsa(bases, port)
    plan = HostPlan(host, addresses, True, status, expanded)
    return Walked(plan, (*findings, *tlsa_findings))


def _find_tlsa(
    bases: tuple[str, ...], port: int
) -> Generator[tuple[Query, ...], tuple[Answer, ...], tuple[TlsaStatus, tuple[Finding, ...]]]:
    """The expanded name first, the original only after absence or an insecure answer (RFC 7672 2.2.3)."""
    findings: list[Finding] = []
    every_absence_secure = True
    for base in bases:
        owner = owner_name(base, port)
        if not fits_a_name(owner):
            text = f"TLSA {owner} cannot exist: the name would be too long"
            findings.append(_note("tlsa-absent", text, "RFC 1035 2.3.4"))
            continue
        (answer,) = yield (Query(owner, RecordType.TLSA),)
        match answer:
            case Bogus(why=why) | Unreachable(why=why):
                findings.append(_note("tlsa-lookup-failed", f"TLSA {owner}: {why}", "RFC 7672 2.1.2"))
                return TlsaFailed(f"{owner}: {why}"), tuple(findings)
            case Found(records=records, secure=True):
                own = tuple(record for record in records if isinstance(record, TlsaRecord))
                status = classify(base, own)
                records_text = " | ".join(str(record) for record in own)
                text = f"TLSA {owner}: {' | '.join(_short(record) for record in own)} (secure)"
                findings.append(_ok("tlsa-found", text, "RFC 7672 2.2.3", records=records_text))
                findings.extend(
                    _note("tlsa-record-unusable", f"TLSA {_short(record)} is unusable: {why}", "RFC 7671 4")
                    for record, why in status.unusable
                )
                return status, tuple(findings)
            case Found() | NoData() | NxDomain():
                every_absence_secure = every_absence_secure and answer.secure
                there = "exists but is insecure" if isinstance(answer, Found) else "does not exist"
                text = f"TLSA {owner} {there} ({_word(answer.secure)})"
                findings.append(_note("tlsa-absent", text, "RFC 7672 2.2"))
    return TlsaAbsent(every_absence_secure), tuple(findings)


def _address_failure(host: str, answers: tuple[Answer, ...], mx_secure: bool) -> Walked[HostPlan] | None:
    """RFC 7672 2.2.2: when a Bogus or Unreachable family makes the host unusable."""
    failed = [answer for answer in answers if isinstance(answer, Bogus | Unreachable)]
    if not failed:
        return None
    if mx_secure or not any(isinstance(answer, Found) for answer in answers):
        return _unusable(host, f"its addresses could not be looked up: {failed[0].why}")
    return None


def _unusable(host: str, failed: str) -> Walked[HostPlan]:
    why = f"{host} cannot be used now: {failed}"
    refusal = NoHost(why, False, (4, 4, 3), "host-lookup-failed", "RFC 7672 2.1.2", host, "A")
    return Walked(refusal, (_refusal(refusal),))


def _no_mx(domain: str, code: str, failed: str) -> Walked[MxPlan]:
    why = f"{domain} cannot be reached now: {failed}"
    refusal = NoHost(why, False, (4, 4, 3), code, "RFC 7672 2.1.2", domain)
    return Walked(refusal, (_refusal(refusal),))


def _no_domain(domain: str) -> Walked[MxPlan]:
    why = f"{domain} does not exist"
    refusal = NoHost(why, True, (5, 1, 2), "domain-nonexistent", "RFC 5321 5.1", domain)
    return Walked(refusal, (_refusal(refusal),))


def _is_null_mx(records: tuple[object, ...]) -> bool:
    return len(records) == 1 and records[0] == MxRecord(0, "")


def _as_address(host: str) -> str | None:
    if ":" not in host and not host[-1:].isdigit():
        return None  # an IPv4 address ends with a digit
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _address_finding(host: str, expanded: str | None, addresses: tuple[str, ...], secure: bool) -> Finding:
    through = f" through the alias {expanded}" if expanded else ""
    text = f"{host} has {', '.join(addresses)}{through} ({_word(secure)})"
    found_as = _ok if secure else _note
    return found_as("host-found", text, "RFC 7672 2.2.2", secure=_word(secure))


def _word(secure: bool) -> str:
    return "secure" if secure else "insecure"


def _note(code: str, text: str, rfc: str | None = None, **evidence: str) -> Finding:
    return Finding(Stage.DNS, code, text, Verdict.NOTE, rfc, tuple(evidence.items()))


def _ok(code: str, text: str, rfc: str | None = None, **evidence: str) -> Finding:
    return Finding(Stage.DNS, code, text, Verdict.OK, rfc, tuple(evidence.items()))


def _short(record: TlsaRecord) -> str:
    text = str(record)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _refusal(refusal: NoHost) -> Finding:
    return Finding(Stage.DNS, refusal.code, refusal.why, Verdict.REFUSED, refusal.rfc)


def with_sts_record(walk: HostWalk, domain: str | None, *, at_once: bool) -> StsWalk:
    """`walk`, and the MTA-STS record of `domain` (RFC 8461 3.1) where DANE does not decide about the host.

    Without a `domain` no policy counts. `at_once`: it is known before that DANE does not decide, so the
    record is asked for beside the first question. Returns what was found, and the answer; None: not asked.
    """
    if domain is None:
        return (yield from walk), None
    query = Query(record_name(domain), RecordType.TXT)
    record: Answer | None = None
    try:
        queries = next(walk)
        if at_once:
            answers = yield (*queries, query)
            record = answers[-1]
            queries = walk.send(answers[:-1])
        while True:
            queries = walk.send((yield queries))
    except StopIteration as finished:
        walked: Walked[HostPlan] = finished.value
    if record is None and _sts_counts(walked.plan):
        (record,) = yield (query,)
    return walked, record


def _sts_counts(plan: HostPlan | NoHost) -> bool:
    """Neither DANE nor a failure has decided about the host (RFC 8461 2)."""
    if isinstance(plan, NoHost):
        return False
    return not (
        isinstance(plan.tlsa, TlsaFailed) or (isinstance(plan.tlsa, TlsaRecords) and plan.tlsa.usable)
    )
