"""Why mail to a domain would go the way it goes: the decisions of an attempt, without any connection.

The same code decides as in a delivery (`deliver.candidates`, `deliver.tls.policy`). `verdict` says what an
attempt would come to if the servers did their part:

    ready      a host can be used under its policy
    deferred   nobody can be used now
    failed     never: the sender would get a bounce
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import trio

from deliver.agent import Agent
from deliver.candidates import Candidate, find_candidates
from deliver.contact import Contacted, contact
from deliver.demands import policy_for
from deliver.relay.route import Login, Reject, choose, finding, login_of, senders_elsewhere
from deliver.report.trace import Finding, Stage
from deliver.resolve.answer import Answer, Bogus, Found, NoData, NxDomain, Query, Unreachable
from deliver.resolve.mx import HostPlan, MxPlan, NoHost
from deliver.resolve.resolver import Resolver
from deliver.resolve.tlsa import TlsaAbsent, TlsaFailed, TlsaNotAsked, TlsaRecords, TlsaStatus, owner_name
from deliver.tls.policy import Authentication, Refuse, TlsPolicy

READY = "ready"
DEFERRED = "deferred"
FAILED = "failed"
EX_TEMPFAIL = 75
EX_UNAVAILABLE = 69
EXIT_STATUS = {READY: 0, DEFERRED: EX_TEMPFAIL, FAILED: EX_UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class Lookup:
    """One question and its answer in words; `evidence` is the validator's chain, empty where it has none."""

    name: str
    type: str
    result: str
    evidence: tuple[Finding, ...]


class Recording:
    """A resolver that writes down what it is asked and what comes back."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self.lookups: list[Lookup] = []

    async def lookup(self, query: Query) -> Answer:
        """See `Resolver.lookup`."""
        answer = await self._resolver.lookup(query)
        self.lookups.append(Lookup(query.name, query.type, answer_in_words(answer), answer.evidence))
        return answer


def answer_in_words(answer: Answer) -> str:
    """`secure, 2 records`, `insecure, no such type`, `bogus: why` and so on."""
    match answer:
        case Bogus(why=why):
            return f"bogus: {why}"
        case Unreachable(why=why):
            return f"no answer: {why}"
        case Found(records=records):
            count = len(records)
            what = f"{count} record{'' if count == 1 else 's'}"
        case NoData():
            what = "no such type"
        case NxDomain():
            what = "no such name"
    through = f" through {', '.join(answer.aliases)}" if answer.aliases else ""
    return f"{'secure' if answer.secure else 'insecure'}, {what}{through}"


@dataclass(frozen=True, slots=True)
class HostExplained:
    """One candidate: `policy` in a few words; `missing` is what keeps it from DANE, or None."""

    host: str
    port: int
    preference: int
    addresses: tuple[str, ...]
    usable: bool
    policy: str
    missing: str | None
    findings: tuple[Finding, ...]
    contacts: tuple[Contacted, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer; `findings` are those about the domain, each host has its own.

    `sender`: whose mail it is about; "" is the null reverse path, None nobody in particular.
    """

    domain: str
    verdict: str
    findings: tuple[Finding, ...]
    hosts: tuple[HostExplained, ...] = ()
    lookups: tuple[Lookup, ...] = ()
    sender: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {
            "domain": self.domain,
            "sender": self.sender,
            "verdict": self.verdict,
            "dane_ready": bool(self.hosts) and all(host.missing is None for host in self.hosts),
            "findings": [found.as_dict() for found in self.findings],
            "hosts": [
                {
                    "host": host.host,
                    "port": host.port,
                    "preference": host.preference,
                    "addresses": list(host.addresses),
                    "usable": host.usable,
                    "policy": host.policy,
                    "missing_for_dane": host.missing,
                    "findings": [found.as_dict() for found in host.findings],
                    "contacts": [each.as_dict() for each in host.contacts],
                }
                for host in self.hosts
            ],
            "lookups": [
                {
                    "name": each.name,
                    "type": each.type,
                    "result": each.result,
                    "evidence": [found.as_dict() for found in each.evidence],
                }
                for each in self.lookups
            ],
        }


async def explain(
    agent: Agent,
    domain: str,
    *,
    sender: str | None = None,
    connect: bool = False,
    requires_tls: bool = False,
) -> Explanation:
    """Look everything up and decide, for `domain` in lower-case A-labels. Raises ConfigurationError.

    `sender` as in `Explanation`: routes may ask for it. `connect`: contact the hosts too, up to the judgement
    on TLS (`deliver.contact`); then the verdict is `ready` only if one accepts. `requires_tls`: for a message
    with REQUIRETLS.
    """
    recording = Recording(agent.resolver)
    found = await _explain(replace(agent, resolver=recording), domain, sender, connect, requires_tls)
    return replace(found, lookups=tuple(recording.lookups), sender=sender)


async def _explain(
    agent: Agent, domain: str, sender: str | None, connect: bool, requires_tls: bool
) -> Explanation:
    route = choose(agent.settings.route, domain, sender)
    first = (finding(route, domain), *_of_other_senders(agent, domain, sender))
    if isinstance(route, Reject):
        return Explanation(domain, FAILED, first)
    walked = await find_candidates(agent, domain, route)
    findings = (*first, *walked.findings)
    plan = walked.plan
    if isinstance(plan, NoHost):
        return Explanation(domain, FAILED if plan.permanent else DEFERRED, findings)
    candidates = [Candidate(target, agent, domain, plan) for target in plan.targets]
    limit = trio.CapacityLimiter(5)
    async with trio.open_nursery() as nursery:
        for candidate in candidates:
            nursery.start_soon(candidate.look_up, limit)
    login = login_of(route)
    hosts = tuple(_explain_host(candidate, plan, login, requires_tls) for candidate in candidates)
    verdict = _verdict(hosts, candidates)
    if connect:
        announced = requires_tls and sender != ""  # a bounce goes without it
        contacts = [
            await contact(
                agent, domain, plan, candidate, login, requires_tls=requires_tls, announced=announced
            )
            for candidate in candidates
        ]
        hosts = tuple(replace(host, contacts=each) for host, each in zip(hosts, contacts, strict=True))
        if verdict == READY and not any(one.accepted for each in contacts for one in each):
            never = all(each and all(one.never for one in each) for each in contacts)
            verdict = FAILED if never else DEFERRED
    return Explanation(domain, verdict, findings, hosts)


def _of_other_senders(agent: Agent, domain: str, sender: str | None) -> tuple[Finding, ...]:
    others = senders_elsewhere(agent.settings.route, domain) if sender is None else ()
    if not others:
        return ()
    text = f"mail of {', '.join(each or '<>' for each in others)} may go another way: ask for a sender"
    return (Finding(Stage.ROUTE, "route-by-sender", text),)


def _explain_host(
    candidate: Candidate, plan: MxPlan, login: Login | None, requires_tls: bool
) -> HostExplained:
    assert candidate.walked is not None
    host, findings = candidate.walked.plan, candidate.walked.findings
    place = (candidate.target.host, candidate.port, candidate.target.preference)
    if isinstance(host, NoHost):
        return HostExplained(*place, (), False, "unusable", host.why, findings)
    policy = policy_for(candidate, host, login, requires_tls=requires_tls)
    missing = _missing(plan, host, candidate.port)
    if isinstance(policy, Refuse):
        return HostExplained(*place, host.addresses, False, "refused", missing, (*findings, policy.finding))
    return HostExplained(
        *place, host.addresses, True, in_words(policy), missing, (*findings, *policy.findings)
    )


def in_words(policy: TlsPolicy) -> str:
    """`TLS required, authenticated by DANE` and so on."""
    if not policy.use_tls:
        return "clear text"
    if not policy.required:
        tried = policy.authentication is Authentication.TRIED
        return "TLS if offered, verification tried" if tried else "TLS if offered"
    by = {Authentication.DANE: "authenticated by DANE", Authentication.PKIX: "authenticated by PKIX"}
    return f"TLS required, {by.get(policy.authentication, 'not authenticated')}"


def _missing(plan: MxPlan, host: HostPlan, port: int) -> str | None:
    """What the domain or the host's operator would have to do for DANE; None when it is done."""
    if not (plan.secure or plan.implicit):
        return f"sign {plan.domain} with DNSSEC (its MX answer is insecure)"
    status: TlsaStatus = host.tlsa
    match status:
        case TlsaRecords(usable=()):
            return "publish a TLSA record with usage 2 or 3 (none of the present ones is usable)"
        case TlsaRecords():
            return None
        case TlsaAbsent():
            return f"publish a TLSA record at {owner_name(host.expanded or host.host, port)}"
        case TlsaFailed(why=why):
            return f"repair the TLSA answer: {why}"
        case TlsaNotAsked(why=why):
            return f"sign the zone of {host.host} with DNSSEC ({why})"


def _verdict(hosts: tuple[HostExplained, ...], candidates: list[Candidate]) -> str:
    if any(host.usable for host in hosts):
        return READY
    plans = [candidate.walked.plan for candidate in candidates if candidate.walked is not None]
    never = all(isinstance(plan, NoHost) and plan.permanent for plan in plans)
    return FAILED if never else DEFERRED
