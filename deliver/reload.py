"""What SIGHUP changes. Pure.

New settings hold for what begins afterwards: attempts, client connections, reports. These keys wait for a
restart, since rows, files or tasks hang on them; a reload keeps the old values and says so:

    state_dir, hints, events, the event actions of rules, pool, metrics, spool,
    lmtp.listen, lmtp.socket_mode, lmtp.socket_group, send.handover, send.socket, relay.workers, relay.user,
    queue.directory, queue.url, queue.password_file, queue.node, queue.connections
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from deliver.relay.terms import places
from deliver.settings import Settings

SECTIONS: Final = ("state_dir", "hints", "events", "pool", "spool", "metrics")
KEYS: Final = {
    "queue": ("directory", "url", "password_file", "node", "connections"),
    "lmtp": ("listen", "socket_mode", "socket_group"),
    "send": ("handover", "socket"),
    "relay": ("workers", "user"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """`settings` are to hold from now on; `waiting` are the keys whose new values need a restart.

    `digest` stands for the settings towards callers that hand over; None: not for any of theirs.
    """

    settings: Settings
    waiting: tuple[str, ...]
    opened: tuple[str, ...]  # of relay.listen and relay.listener
    closed: tuple[str, ...]
    digest: str | None = None


def change(old: Settings, new: Settings, digest: str | None = None) -> Change:
    """From the settings that hold to those that were read, for which `digest` stands."""
    waiting = [key for key in SECTIONS if getattr(old, key, None) != getattr(new, key, None)]
    kept: dict[str, Any] = {key: getattr(old, key) for key in waiting}
    for section, keys in KEYS.items():
        before, after = getattr(old, section), getattr(new, section)
        fixed = {key: getattr(before, key) for key in keys if getattr(before, key) != getattr(after, key)}
        if fixed:
            waiting += [f"{section}.{key}" for key in fixed]
            kept[section] = msgspec.structs.replace(after, **fixed)
    if _actions(old) != _actions(new):
        waiting.append("rule.event_action")
    return Change(
        msgspec.structs.replace(new, **kept),
        tuple(waiting),
        tuple(each for each in places(new.relay) if each not in places(old.relay)),
        tuple(each for each in places(old.relay) if each not in places(new.relay)),
        None if waiting else digest,
    )


def _actions(settings: Settings) -> Sequence[object]:
    return [(rule.domains, rule.hosts, rule.event_action) for rule in settings.rule if rule.event_action]


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings as the file has them, and what stands for them towards callers that hand over."""

    settings: Settings
    digest: str | None = None


Reread = Callable[[], Reading]  # reads the file again; raises what reading raises
