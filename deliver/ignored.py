"""Addresses that the settings tell us to ignore: pure."""

from __future__ import annotations

from dataclasses import replace

from deliver.net.address import within
from deliver.report.trace import Finding, Stage, Verdict
from deliver.resolve.mx import HostPlan, NoHost
from deliver.resolve.walk import Walked


def without_ignored(walked: Walked[HostPlan], networks: tuple[str, ...]) -> Walked[HostPlan]:
    """What was found without the addresses in these networks; pure."""
    plan = walked.plan
    if isinstance(plan, NoHost) or not (out := tuple(a for a in plan.addresses if within(a, networks))):
        return walked
    text = f"{', '.join(out)} of {plan.host} ignored (delivery.ignore_addresses)"
    left = tuple(address for address in plan.addresses if address not in out)
    if left:
        finding = Finding(Stage.DNS, "address-ignored", text, Verdict.NOTE)
        return Walked(replace(plan, addresses=left), (*walked.findings, finding))
    why = f"{plan.host} has no address: {text}"
    refusal = NoHost(why, True, (5, 4, 4), "address-ignored", name=plan.host, type="A")
    return Walked(refusal, (*walked.findings, Finding(Stage.DNS, refusal.code, why, Verdict.REFUSED)))
