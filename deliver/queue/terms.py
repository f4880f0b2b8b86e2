"""The settings of the queue as the values that its decisions take. Pure."""

from __future__ import annotations

from deliver.queue import lanes, retry, throttle
from deliver.queue.schedule import Plan
from deliver.settings import Queue, Settings


def plan_of(settings: Queue) -> Plan:
    """When recipients are tried again, and for how long."""
    return Plan(
        tuple(float(seconds) for seconds in settings.retry),
        float(settings.expire),
        tuple(float(age) for age in settings.delay_warning),
        tuple(
            retry.Rule(
                tuple(
                    retry.Step(float(step.until), float(step.wait), step.kind, step.factor)
                    for step in rule.steps
                ),
                rule.domains,
                rule.hosts,
                tuple(sender.lower() for sender in rule.senders),
                rule.errors,
            )
            for rule in settings.retry_rule
        ),
    )


def lanes_of(settings: Queue) -> lanes.Terms:
    """How many attempts at a time a site may have."""
    return lanes.Terms(
        start=settings.site_start,
        widest=settings.per_site,
        per_domain=settings.per_domain,
        pause=float(settings.site_pause),
        longest_pause=float(settings.longest_site_pause),
        slow_after=float(settings.slow_after),
    )


def limits_of(settings: Queue) -> tuple[throttle.Limit, ...]:
    """The administrator's limits."""
    return tuple(
        throttle.Limit(
            limit.of,
            limit.match,
            throttle.Rate.of(limit.messages, float(limit.per), limit.burst) if limit.messages else None,
            limit.at_a_time,
        )
        for limit in settings.limit
    )


def source_addresses(settings: Settings, domain: str) -> tuple[str, ...]:
    """The addresses that mail for the domain may leave from, as far as the settings name them."""
    delivery = settings.towards(domain, None).delivery
    return tuple(each for each in (delivery.source_ipv4, delivery.source_ipv6) if each)
