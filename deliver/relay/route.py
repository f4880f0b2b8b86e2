"""Where a recipient domain's mail goes: its MX hosts, a smarthost, or nowhere (RFC 5321 5.1). Pure.

    [[route]] that matches first    Route
    ------------------------------  ---------------------------------------------
    none                            ViaMx(domain)
    via = "mx"                      ViaMx(domain): an exception from a later route
    via = "smarthost"               ViaSmarthost(hosts, mx, port)
    via = "reject"                  Reject(why)

A route with `senders` is for their mail only. The first two kinds may have a `fallback`.
An address literal is a domain like any other here; the lookup turns it into its address (RFC 5321 4.1.3).
A smarthost that cannot be read is a ConfigurationError: a typing error never makes mail fall back to MX.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache

from deliver.endpoint import CACHED, is_address, split
from deliver.errors import ConfigurationError, UsageError
from deliver.level import Level
from deliver.message import domain_name
from deliver.pattern import matches
from deliver.report.trace import Finding, Stage, Verdict
from deliver.settings import FallbackOn, Route as RouteSettings


@dataclass(frozen=True, slots=True)
class ViaMx:
    """The hosts that DNS names for `domain`. `matched` is the pattern that decided, None without one.

    `level` counts in place of `tls.level`.
    """

    domain: str
    level: Level | None = None
    fallback: Fallback | None = None
    matched: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Login:
    """As whom to log in at a smarthost, and by what: `mechanisms` in lower case, the best first.

    `password_file` as it stands in the settings. `in_clear`: also where TLS does not prove who the server is.
    """

    username: str
    password_file: str
    mechanisms: tuple[str, ...]
    in_clear: bool = False


@dataclass(frozen=True, slots=True)
class ViaSmarthost:
    """Fixed next hops: `hosts` in the order to try them, or the hosts that DNS names for `mx`.

    A host is a name in lower-case A-labels or an IP address without brackets; its own port comes before
    `port`, which comes before `delivery.port`.
    """

    hosts: tuple[tuple[str, int | None], ...]
    mx: str | None = None
    port: int | None = None
    login: Login | None = None
    level: Level | None = None
    fallback: Fallback | None = None
    matched: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Fallback:
    """The hosts of last resort, without the login of the others; see `deliver.fallback` for `on`.

    `after`: so many attempts go without them.
    """

    to: ViaSmarthost
    on: tuple[FallbackOn, ...]
    after: int = 0


@dataclass(frozen=True, slots=True)
class Reject:
    """Mail for this domain is refused; `why` is for the sender's eyes."""

    why: str
    matched: str | None = field(default=None, compare=False)


Route = ViaMx | ViaSmarthost | Reject


def choose(routes: Iterable[RouteSettings], domain: str, sender: str | None = None) -> Route:
    """The route of `domain` (lower-case A-labels or an address literal) for mail of `sender`.

    "" is the null reverse path; None: nobody in particular, so that no route with `senders` matches. Raises
    ConfigurationError.
    """
    for candidate in routes:
        of = _sender_pattern(candidate, sender) if candidate.senders else None
        if candidate.senders and of is None:
            continue
        matched = _domain_pattern(candidate, domain)
        if matched is not None:
            return _route(candidate, domain, matched if of is None else f"{matched} for senders {of or '<>'}")
    return ViaMx(domain)


def senders_elsewhere(routes: Iterable[RouteSettings], domain: str) -> tuple[str, ...]:
    """Patterns of the senders whose mail for `domain` does not go as that of nobody in particular."""
    found: list[str] = []
    for candidate in routes:
        if _domain_pattern(candidate, domain) is None:
            continue
        if not candidate.senders:
            break
        found += candidate.senders
    return tuple(found)


def fixed(routes: Iterable[RouteSettings], domain: str) -> bool:
    """Whether mail for the domain, of some sender at least, goes to next hops that the settings name."""
    return any(each.via == "smarthost" and _domain_pattern(each, domain) is not None for each in routes)


def _domain_pattern(route: RouteSettings, domain: str) -> str | None:
    for pattern in route.domains:
        if matches(pattern, domain):
            return pattern
    return None


def _sender_pattern(route: RouteSettings, sender: str | None) -> str | None:
    """The pattern of `senders` that the sender fits; None also where the route is for all."""
    if sender is None:
        return None
    return next((each for each in route.senders if fnmatchcase(sender.lower(), each.lower())), None)


@lru_cache(maxsize=CACHED)
def _route(chosen: RouteSettings, domain: str, matched: str) -> Route:
    if chosen.via == "reject":
        return Reject(chosen.reason, matched)
    level, fallback = chosen.level, _fallback(chosen, matched)
    if chosen.via == "mx":
        return ViaMx(domain, level, fallback, matched)
    hosts = tuple(endpoint(text) for text in chosen.hosts)
    if not hosts and not chosen.mx:
        raise _unusable(f"the smarthost route for {matched}", "it names neither hosts nor mx")
    mx = _name(chosen.mx) if chosen.mx else None
    return ViaSmarthost(hosts, mx, chosen.port, _login(chosen), level, fallback, matched)


def _fallback(chosen: RouteSettings, matched: str) -> Fallback | None:
    if not chosen.fallback:
        return None
    hosts = tuple(endpoint(text) for text in chosen.fallback)
    to = ViaSmarthost(hosts, None, chosen.port, None, chosen.level, None, matched)
    return Fallback(to, chosen.fallback_on, chosen.fallback_after)


def login_of(route: Route) -> Login | None:
    """As whom to log in along `route`, if at all."""
    return route.login if isinstance(route, ViaSmarthost) else None


def _login(chosen: RouteSettings) -> Login | None:
    if not chosen.username or chosen.password_file is None:
        return None
    return Login(chosen.username, chosen.password_file, tuple(chosen.auth), chosen.auth_in_clear)


@lru_cache(maxsize=CACHED)
def endpoint(text: str) -> tuple[str, int | None]:
    """Read a smarthost such as `host:port` (see `deliver.endpoint`): (host, port or None).

    The host comes out as a name in lower-case A-labels or as an IP address. Raises ConfigurationError.
    """
    try:
        host, port = split(text)
    except ValueError as error:
        raise _unusable(f"the host {text!r}", str(error)) from None
    if port == 0:
        raise _unusable(f"the host {text!r}", "a port is between 1 and 65535")
    return (str(ipaddress.ip_address(host)) if is_address(host) else _name(host)), port


def finding(route: Route, domain: str) -> Finding:
    """The choice as evidence for the trace."""
    said = f"the pattern {route.matched}" if route.matched else "no route, so its MX records count"
    match route:
        case ViaMx():
            return _finding("route-mx", f"{domain} is routed by MX: {said}", route.matched)
        case ViaSmarthost(hosts=hosts, mx=mx):
            named = ", ".join(name if port is None else f"{name} port {port}" for name, port in hosts)
            to = named or f"the MX hosts of {mx}"
            return _finding("route-smarthost", f"{domain} goes to {to}: {said}", route.matched)
        case Reject(why=why):
            text = f"mail for {domain} is refused: {why} ({said})"
            return _finding("route-reject", text, route.matched, Verdict.REFUSED)


def _finding(code: str, text: str, matched: str | None, verdict: Verdict = Verdict.NOTE) -> Finding:
    evidence = (("pattern", matched),) if matched else ()
    return Finding(Stage.ROUTE, code, text, verdict, "RFC 5321 5.1", evidence)


def _name(text: str) -> str:
    try:
        return domain_name(text)
    except UsageError as error:
        raise _unusable(f"the host {text!r}", error.happened) from None


def _unusable(what: str, why: str) -> ConfigurationError:
    remedy = 'write "host", "host:port", "[address]" or "[address]:port"'
    return ConfigurationError(f"choosing a route by {what}", why, remedy)
