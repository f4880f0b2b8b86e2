"""A live look at the servers of a domain: connect, EHLO, STARTTLS, judge, log in, QUIT; no mail is sent.

The session of a delivery does it (`deliver.session`), under the policy that a delivery would have, so what is
said here is what a delivery would find. Nothing is learnt and nothing is told to the event actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deliver.agent import Agent
from deliver.candidates import Candidate
from deliver.demands import policy_for
from deliver.message import Envelope, MessageId
from deliver.outcome import TlsFacts
from deliver.relay.route import Login
from deliver.report.testimony import Testimony
from deliver.report.trace import Finding, Trace
from deliver.resolve.mx import MxPlan, NoHost
from deliver.session import Target, Unusable, open_session
from deliver.tls.policy import Refuse

_NO_MAIL = Envelope(MessageId("explain"), None, (), 0, False, 0.0)


@dataclass(frozen=True, slots=True)
class Contacted:
    """What one address of a host did: `accepted` if a delivery would go on to MAIL FROM, `why` otherwise.

    `never`: it cannot do what the message needs, so that mail would not wait for it.
    """

    host: str
    address: str
    port: int
    accepted: bool
    why: str
    tls: TlsFacts | None
    findings: tuple[Finding, ...]
    never: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        tls = self.tls
        facts = {name: getattr(tls, name) for name in tls.__dataclass_fields__} if tls else None
        return {
            "host": self.host,
            "address": self.address,
            "port": self.port,
            "accepted": self.accepted,
            "why": self.why,
            "tls": facts,
            "findings": [found.as_dict() for found in self.findings],
        }


async def contact(
    agent: Agent,
    domain: str,
    plan: MxPlan,
    candidate: Candidate,
    login: Login | None = None,
    *,
    requires_tls: bool = False,
    announced: bool = False,
) -> tuple[Contacted, ...]:
    """Every address of a host that was looked up, one after the other; none if no policy allows it.

    `login`: as a delivery would log in there. `requires_tls`: for a message with REQUIRETLS;
    with `announced` the host has to announce it.
    """
    walked, tls = candidate.walked, candidate.destination.tls
    if walked is None or isinstance(walked.plan, NoHost):
        return ()
    host = walked.plan
    policy = policy_for(candidate, host, login, requires_tls=requires_tls)
    if isinstance(policy, Refuse):
        return ()
    found = []
    for address in host.addresses:
        target = Target(candidate.target.host, address, candidate.port, host.secure, login=login)
        trace = Trace()
        testimony = Testimony(trace, agent.clock.now, _NO_MAIL, domain, 0)
        accepted, why, facts, never = True, "", None, False
        try:
            async with open_session(agent, candidate.destination, target, policy, testimony) as session:
                facts = session.contact.tls
                never = announced and not session.offers.requiretls
        except Unusable as unusable:
            accepted, why = False, unusable.outcome.why
            if unusable.tls_failed and not policy.required and tls.clear_text_fallback:
                why += "; a delivery would go on in clear text"
        if never:
            accepted, why = False, f"{target} does not announce REQUIRETLS"
        found.append(Contacted(*target.place, accepted, why, facts, tuple(trace.findings), never))
    return tuple(found)
