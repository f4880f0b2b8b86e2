"""What a message with REQUIRETLS asks of a host, beyond what is asked for other mail (RFC 8689 2). Pure.

    policy for other mail  how the host was chosen                    then
    ---------------------  -----------------------------------------  --------------------------------------
    the host is refused    -                                          refused
    authenticated by DANE  -                                          as it is: DNSSEC vouches for the name
    PKIX, certain names    -                                          as it is
    anything else          configured, the domain itself, a           TLS required, authenticated by PKIX
                           validated MX, or named by the domain's     for the host
                           MTA-STS policy
    anything else          an MX answer without DNSSEC                TLS required, authenticated by PKIX
                                                                      for the domain, or `pinned` names

RFC 8689 has no use for hosts of the last row; a certificate for the domain proves more than it asks for. That
the server announces REQUIRETLS is seen when it has answered EHLO: `deliver.smtp.plan`.
"""

from __future__ import annotations

from dataclasses import replace

from deliver.report.trace import Finding, Stage
from deliver.resolve.mx import HostPlan, MxPlan
from deliver.resolve.sts import Mode
from deliver.tls.policy import Authentication, Refuse, TlsPolicy, verified, vouched_for

VERIFY = "level-verify"  # says that the settings ask for it


def required_by_sender(
    policy: TlsPolicy | Refuse, plan: MxPlan, host: HostPlan, pinned: tuple[str, ...] = ()
) -> TlsPolicy | Refuse:
    """The table above; `pinned`: the names that the settings give the domain, whatever its hosts."""
    if isinstance(policy, Refuse) or policy.authentication is Authentication.DANE:
        return policy
    certain = vouched_for(plan, host) or _named_by_policy(host)
    names_are_certain = certain or set(policy.names) <= {plan.domain, *pinned}
    if policy.required and policy.authentication is Authentication.PKIX and names_are_certain:
        return policy
    raised = verified(plan, host, policy.demands, pinned=None if certain else pinned)
    found = _note(raised, host)
    return replace(raised, findings=(found, *(other for other in raised.findings if other.code != VERIFY)))


def _note(raised: TlsPolicy, host: HostPlan) -> Finding:
    names = ", ".join(raised.names)
    text = f"The sender asks for REQUIRETLS: {host.host} needs a valid certificate"
    text += "" if raised.names == (host.host,) else f" for {' or '.join(raised.names)}"
    return Finding(Stage.POLICY, "requiretls", text, rfc="RFC 8689 2", evidence=(("names", names),))


def _named_by_policy(host: HostPlan) -> bool:
    """RFC 8461 4.1; a policy in testing names the domain's hosts as well."""
    sts = host.sts.policy if host.sts is not None else None
    return sts is not None and sts.mode is not Mode.NONE and sts.covers(host.host)
