"""Where mail for a domain goes, decided once for as long as nothing that decides it can have changed.

    route       by domain and sender: the settings stand, an Agent with others has its own courses
    candidates  as long as the answers from DNS last; not where chance has a say in their order (RFC 5321 5.1)
    host        addresses, TLSA and the TLS policy that follows: as long as those answers last

Everything else is asked for each message: hints, our own addresses, idle sessions, certificates.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from deliver.candidates import Candidate, Seeker, find_candidates_while, site_of
from deliver.demands import policy_for
from deliver.relay.route import Login, Reject, Route, ViaMx, ViaSmarthost, choose, finding, login_of
from deliver.resolve.cache import CachingResolver
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget, NoHost
from deliver.resolve.walk import Walked
from deliver.settings import Settings
from deliver.tls.policy import Floor, Refuse, TlsPolicy, floor_of

if TYPE_CHECKING:
    from deliver.addresses import Ways

MAX_COURSES = 5_000  # per agent; the one not used for longest goes first


class Host(Candidate):
    """A candidate with what follows from its lookup; `login`: as whom mail goes there."""

    def __init__(
        self,
        target: MxTarget,
        agent: Seeker,
        domain: str,
        plan: MxPlan,
        login: Login | None = None,
        keep: Callable[[Host], None] = lambda host: None,
    ) -> None:
        """`keep(host)` is called when it was looked up."""
        super().__init__(target, agent, domain, plan)
        self._keep = keep
        self.login = login
        self.ways: Ways | None = None  # see `deliver.addresses.targets_at`
        self._decided: tuple[HostPlan, TlsPolicy | Refuse, Floor] | None = None

    async def look_up_at_once(self) -> None:
        """See `Candidate`."""
        await super().look_up_at_once()
        self._keep(self)

    def policy(self, host: HostPlan) -> tuple[TlsPolicy | Refuse, Floor]:
        """What the settings and DNS ask of the host as it was found, raised by a login; and its floor."""
        if self._decided is None or self._decided[0] is not host:
            policy = policy_for(self, host, self.login)
            self._decided = host, policy, floor_of(policy)
        return self._decided[1:]


class Course:
    """For one domain, and for the senders whose mail goes the same way."""

    def __init__(self, settings: Settings, domain: str, route: Route) -> None:
        delivery = settings.towards(domain, None).delivery
        self.domain = domain
        self.route = route
        self.finding = finding(route, domain)
        self.login = login_of(route)
        self.by_settings = isinstance(route, ViaSmarthost)
        self.router = "smarthost" if self.by_settings else "mx"
        self.deadline = float(delivery.deadline)
        self.max_hosts = delivery.max_hosts
        # else in the order of the route
        self.by_preference = isinstance(route, ViaMx) or (isinstance(route, ViaSmarthost) and bool(route.mx))
        self.site: str | None = None  # of the candidates that were found last
        self._walked: tuple[Walked[MxPlan], float] | None = None
        self._hosts: dict[MxTarget, Host] = {}

    async def candidates(self, agent: Seeker) -> Walked[MxPlan]:
        """See `deliver.candidates.find_candidates`."""
        if self._walked is not None and _lasts(agent, self._walked[1]):
            return self._walked[0]
        assert not isinstance(self.route, Reject), "mail that is refused goes nowhere"
        walked, until = await find_candidates_while(agent, self.domain, self.route)
        before = None if self._walked is None else self._walked[0].plan
        if before is None or _unordered(before) != _unordered(walked.plan):
            self._hosts.clear()
            self.site = None if isinstance(walked.plan, NoHost) else site_of(agent, self.domain, walked.plan)
        self._walked = walked, 0.0 if _by_chance(walked.plan) else until
        return walked

    def host(self, agent: Seeker, target: MxTarget, plan: MxPlan) -> Host:
        """One of the plan's hosts: as it is known, or not `ready`."""
        kept = self._hosts.get(target)
        if kept is not None and _lasts(agent, kept.until):
            return kept
        return Host(target, agent, self.domain, plan, self.login, self._keep)

    def _keep(self, host: Host) -> None:
        """Unless the candidates have changed since its lookup began: its policy follows from theirs."""
        if self._walked is not None and _unordered(host.plan) == _unordered(self._walked[0].plan):
            self._hosts[host.target] = host


class Courses:
    """Those of one agent."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str | None], Course] = OrderedDict()
        self._by_sender: bool | None = None  # whether any route is for some senders only

    def of(self, settings: Settings, domain: str, sender: str) -> Course:
        """For mail of `sender` to `domain`. Raises ConfigurationError, see `deliver.relay.route.choose`."""
        if self._by_sender is None:
            self._by_sender = any(route.senders for route in settings.route)
        key = domain, sender if self._by_sender else None
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = Course(settings, domain, choose(settings.route, domain, sender))
            if len(self._kept) > MAX_COURSES:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return kept


def _lasts(agent: Seeker, until: float) -> bool:
    if until == math.inf:
        return True
    return isinstance(agent.resolver, CachingResolver) and agent.resolver.now() < until


def _by_chance(plan: MxPlan | NoHost) -> bool:
    """Whether hosts of one preference are in an order that is drawn for each message."""
    if isinstance(plan, NoHost) or plan.named:
        return False
    return len({target.preference for target in plan.targets}) < len(plan.targets)


def _unordered(plan: MxPlan | NoHost) -> MxPlan | NoHost:
    """The same for all orders of the hosts."""
    if isinstance(plan, NoHost) or len(plan.targets) == 1:
        return plan
    return replace(plan, targets=tuple(sorted(plan.targets, key=_place)))


def _place(target: MxTarget) -> tuple[str, int, int]:
    return target.host, target.preference, target.port or 0
