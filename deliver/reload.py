"""What SIGHUP changes. Pure.

New settings hold for what begins afterwards: attempts, client connections, reports. These keys wait for a
restart, since rows, files or tasks hang on them; a reload keeps the old values and says so:

    state_dir, queue.directory, hints, events, the event actions of rules, pool, lmtp, send, spool
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from deliver.settings import Settings

SECTIONS: Final = ("state_dir", "hints", "events", "pool", "lmtp", "send", "spool")


@dataclass(frozen=True, slots=True)
class Change:
    """`settings` are to hold from now on; `waiting` are the keys whose new values need a restart."""

    settings: Settings
    waiting: tuple[str, ...]
    opened: tuple[str, ...]  # of relay.listen
    closed: tuple[str, ...]


def change(old: Settings, new: Settings) -> Change:
    """From the settings that hold to those that were read."""
    waiting = [key for key in SECTIONS if getattr(old, key, None) != getattr(new, key, None)]
    kept: dict[str, Any] = {key: getattr(old, key) for key in waiting}
    if old.queue.directory != new.queue.directory:
        waiting.append("queue.directory")
        kept["queue"] = msgspec.structs.replace(new.queue, directory=old.queue.directory)
    if _actions(old) != _actions(new):
        waiting.append("rule.event_action")
    return Change(
        msgspec.structs.replace(new, **kept),
        tuple(waiting),
        tuple(each for each in new.relay.listen if each not in old.relay.listen),
        tuple(each for each in old.relay.listen if each not in new.relay.listen),
    )


def _actions(settings: Settings) -> Sequence[object]:
    return [(rule.domains, rule.hosts, rule.event_action) for rule in settings.rule if rule.event_action]


Reread = Callable[[], Settings]  # reads the file again; raises what reading raises
