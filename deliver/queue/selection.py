"""Which recipients of a queue are meant: filters as values, and as conditions on the tables.

The text of a filter is matched against what `outrider queue list` shows as the reason (host, address and the
server's words are part of it); SQL narrows it down, `says` decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, false, func, or_, true

from deliver.errors import UsageError
from deliver.pattern import ANY, canonical
from deliver.queue.schema import OPEN_STATES, State, message, recipient

OPEN: Final = tuple(state.value for state in OPEN_STATES)
NULL_SENDER: Final = frozenset({"", "<>"})


@dataclass(frozen=True, slots=True)
class Selection:
    """Recipients that are not done and meet every condition that is given; without any, all of them.

    `domain` is a pattern of `deliver.pattern`. `sender` and `recipient` are an address or a domain pattern;
    `<>` is the null sender. `text` occurs in the last reason, in any case. Ages in seconds since the message
    was received, sizes in octets.
    """

    ids: tuple[str, ...] = ()
    domain: str | None = None
    sender: str | None = None
    recipient: str | None = None
    states: tuple[State, ...] = ()
    older_than: float | None = None
    newer_than: float | None = None
    text: str | None = None
    larger_than: int | None = None
    smaller_than: int | None = None

    @property
    def everything(self) -> bool:
        """No condition is given."""
        return self == Selection()

    @property
    def of_messages(self) -> bool:
        """Whether a condition needs the message's row."""
        about = (self.sender, self.older_than, self.newer_than, self.larger_than, self.smaller_than)
        return any(each is not None for each in about)

    def says(self, reason: str | None) -> bool:
        """Whether the reason has the text."""
        return self.text is None or (reason is not None and self.text.lower() in reason.lower())


def conditions(selection: Selection, now: float) -> list[ColumnElement[bool]]:
    """What holds for the rows of `recipient` (joined to `message` if `of_messages`). Raises UsageError."""
    found: list[ColumnElement[bool]] = [recipient.c.state.in_([s.value for s in selection.states] or OPEN)]
    if selection.ids:
        found.append(recipient.c.message_id.in_(selection.ids))
    if selection.domain is not None:
        found.append(name_matches(recipient.c.domain, selection.domain))
    if selection.recipient is not None:
        found.append(address_matches(recipient.c.local_part, recipient.c.domain, selection.recipient))
    if selection.sender is not None:
        found.append(sent_by(selection.sender))
    if selection.text is not None:
        needle = json.dumps(selection.text)[1:-1]
        found.append(func.lower(recipient.c.last_outcome).contains(needle.lower(), autoescape=True))
    if selection.older_than is not None:
        found.append(message.c.received_at <= now - selection.older_than)
    if selection.newer_than is not None:
        found.append(message.c.received_at > now - selection.newer_than)
    if selection.larger_than is not None:
        found.append(message.c.size > selection.larger_than)
    if selection.smaller_than is not None:
        found.append(message.c.size < selection.smaller_than)
    return found


def sent_by(sender: str) -> ColumnElement[bool]:
    """The message's sender is this address, of this domain pattern, or null."""
    if sender in NULL_SENDER:
        return message.c.sender_domain.is_(None)
    return and_(
        message.c.sender_domain.is_not(None),
        address_matches(message.c.sender_local_part, message.c.sender_domain, sender),
    )


def address_matches(local_part: Any, domain: Any, wanted: str) -> ColumnElement[bool]:
    """An address, or a domain pattern when there is no local part. Raises UsageError."""
    local, at, name = wanted.rpartition("@")
    same_domain = name_matches(domain, name)
    return and_(same_domain, local_part == local) if at and local else same_domain


def name_matches(column: Any, pattern: str) -> ColumnElement[bool]:
    """A domain pattern (see `deliver.pattern`) as a condition. Raises UsageError."""
    wanted = canonical(pattern)
    if wanted == ANY:
        return true()
    name: ColumnElement[str] = func.lower(column) if column.name == "sender_domain" else column
    if wanted.startswith("*."):
        return name.endswith(wanted[1:], autoescape=True)
    return name == wanted


def any_of(found: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    """At least one of them."""
    return or_(false(), *found)


def parse_states(words: Iterable[str]) -> tuple[State, ...]:
    """`queued`, `leased` (or `active`) and `held`. Raises UsageError."""
    try:
        states = tuple(State("leased" if word == "active" else word) for word in words)
    except ValueError:
        states = (State.FAILED,)
    if any(state not in OPEN_STATES for state in states):
        raise UsageError("reading --state", "it is none of queued, active and held", "use one of these")
    return states
