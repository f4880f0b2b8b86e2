"""What SIGHUP changes. Pure.

New settings hold for what begins afterwards: attempts, client connections, reports. These keys wait for a
restart, since rows, files or tasks hang on them; a reload keeps the old values and says so:

    state_dir, hints, events, the event actions of rules, pool, lmtp, send, spool,
    queue.directory, queue.url, queue.password_file, queue.node, queue.connections
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from deliver.relay.terms import places
from deliver.settings import Settings

SECTIONS: Final = ("state_dir", "hints", "events", "pool", "lmtp", "send", "spool", "metrics")
PLACE: Final = ("directory", "url", "password_file", "node", "connections")  # of the queue


@dataclass(frozen=True, slots=True)
class Change:
    """`settings` are to hold from now on; `waiting` are the keys whose new values need a restart."""

    settings: Settings
    waiting: tuple[str, ...]
    opened: tuple[str, ...]  # of relay.listen and relay.listener
    closed: tuple[str, ...]


def change(old: Settings, new: Settings) -> Change:
    """From the settings that hold to those that were read."""
    waiting = [key for key in SECTIONS if getattr(old, key, None) != getattr(new, key, None)]
    kept: dict[str, Any] = {key: getattr(old, key) for key in waiting}
    fixed = {
        key: getattr(old.queue, key) for key in PLACE if getattr(old.queue, key) != getattr(new.queue, key)
    }
    if fixed:
        waiting += [f"queue.{key}" for key in fixed]
        kept["queue"] = msgspec.structs.replace(new.queue, **fixed)
    for key in ("workers", "user"):
        if getattr(old.relay, key) != getattr(new.relay, key):
            waiting.append(f"relay.{key}")
            kept["relay"] = msgspec.structs.replace(
                kept.get("relay", new.relay), **{key: getattr(old.relay, key)}
            )
    if _actions(old) != _actions(new):
        waiting.append("rule.event_action")
    return Change(
        msgspec.structs.replace(new, **kept),
        tuple(waiting),
        tuple(each for each in places(new.relay) if each not in places(old.relay)),
        tuple(each for each in places(old.relay) if each not in places(new.relay)),
    )


def _actions(settings: Settings) -> Sequence[object]:
    return [(rule.domains, rule.hosts, rule.event_action) for rule in settings.rule if rule.event_action]


Reread = Callable[[], Settings]  # reads the file again; raises what reading raises
