"""The queue: when what is tried again, how much at a time, and what senders hear of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from deliver.quantity import Duration, Size
from deliver.sections.kinds import (
    DAY,
    HOUR,
    MINUTE,
    Count,
    DatabaseUrl,
    FilePath,
    HostName,
    NamePattern,
    SecretFile,
    Section,
)


class RetryStep(Section, frozen=True):
    """How long to wait until the message is `until` old; see `deliver.queue.retry`."""

    until: Duration
    wait: Duration
    kind: Literal["fixed", "geometric", "random-geometric"] = "fixed"
    factor: Annotated[float, Meta(ge=1, le=100)] = 1.5


class RetryRule(Section, frozen=True):
    """Retries of some destinations, servers, senders or errors; the first rule that matches counts."""

    steps: tuple[RetryStep, ...]  # none: no second attempt
    domains: tuple[NamePattern, ...] = ()
    hosts: tuple[NamePattern, ...] = ()
    senders: tuple[str, ...] = ()  # globs of addresses, "" for the null reverse path
    errors: tuple[str, ...] = ()


class Limit(Section, frozen=True):
    """A limit for each domain, site, sender or source address by itself, or for all mail together."""

    of: Literal["domain", "site", "sender", "source", "all"]
    match: tuple[str, ...] = ()  # globs; none: each
    messages: Count | None = None
    per: Duration = Duration(1 * HOUR)
    burst: Count | None = None  # none: what falls into a minute
    at_a_time: Count | None = None


class Queue(Section, frozen=True):
    """The durable queue of `outrider relay`."""

    directory: FilePath = "queue"
    url: DatabaseUrl | None = None  # PostgreSQL, for several nodes; none: SQLite in the directory
    password_file: SecretFile | None = None  # of url
    node: HostName = ""  # our name among the nodes; none: this machine's
    connections: Count = 8  # to url, for writing; a few more read
    inline_limit: Size = Size(128 * 1024)
    workers: Count = 50  # attempts at a time
    slow_workers: Count = 200  # attempts beside them that take longer than slow_after
    slow_after: Duration = Duration(2)
    per_domain: Count = 5  # attempts at a time to one recipient domain
    per_site: Count = 20  # and to one set of servers
    site_start: Count = 1  # of these, for a site of which nothing is known
    site_pause: Duration = Duration(1 * MINUTE)  # after a site could not be reached; doubles
    longest_site_pause: Duration = Duration(15 * MINUTE)
    limit: tuple[Limit, ...] = ()
    retry: tuple[Duration, ...] = tuple(
        Duration(minutes * MINUTE) for minutes in (1, 5, 10, 15, 30, 60, 120, 240)
    )  # the last one repeats
    retry_rule: tuple[RetryRule, ...] = ()
    expire: Duration = Duration(5 * DAY)
    keep_history: Duration = Duration(1 * DAY)  # for which `outrider queue show` knows a completed message
    delay_warning: tuple[Duration, ...] = (Duration(1 * DAY),)  # ages at which the sender hears of a delay
    lease_margin: Duration = Duration(5 * MINUTE)
    min_free_disk: Size = Size(100 * 1024 * 1024)
    shutdown_grace: Duration = Duration(20)


class Bounce(Section, frozen=True):
    """What senders are told: failures, delays, and success where the next server cannot tell it."""

    to: tuple[NamePattern, ...] = ("*",)  # sender domains that are told; logged-in clients always are
    gather: Duration = Duration(1 * MINUTE)  # more failures of the same message go into one report
    per_sender: Annotated[int, Meta(ge=0)] = 1000  # reports an hour; 0: no limit; what is above waits
    return_content: Literal["headers", "full"] = "headers"  # where the sender did not ask by RET
    return_limit: Size = Size(100 * 1024)  # a larger message is returned without its body
