"""Which recipients of a queue are meant: filters as values, and as conditions in SQL on the tables.

The text of a filter is matched against what `outrider queue list` shows as the reason (host, address and the
server's words are part of it); SQL narrows it down, `says` decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deliver.errors import UsageError
from deliver.queue.layout import IS_OPEN, OPEN_STATES, State

OPEN: Final = tuple(state.value for state in OPEN_STATES)
NULL_SENDER: Final = frozenset({"", "<>"})
# so that planners use the index of those that are open: they know it by these very words
_IS_OPEN: Final = "(" + " OR ".join(f"recipient.{each}" for each in IS_OPEN) + ")"
_ESCAPE: Final = "/"  # of LIKE


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

    @property
    def of_recipients(self) -> bool:
        """Whether a condition names some recipients or their messages."""
        return bool(self.ids) or self.domain is not None or self.recipient is not None

    def says(self, reason: str | None) -> bool:
        """Whether the reason has the text."""
        return self.text is None or (reason is not None and self.text.lower() in reason.lower())


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL that SQLite and PostgreSQL understand, and the values of its `:names`."""

    sql: str
    values: Mapping[str, object] = field(default_factory=dict)


def conditions(selection: Selection, now: float, *, by_state: bool = True) -> Condition:
    """What holds for the rows of `recipient` (joined to `message` if `of_messages`). Raises UsageError.

    Unless `by_state` no index of states is used: the rows are found by their messages.
    """
    wanted = [state.value for state in selection.states]
    if not by_state:
        found = [_one_of("coalesce(recipient.state, '')", "state", wanted or OPEN)]
    else:
        found = [Condition(_IS_OPEN), *([_one_of("recipient.state", "state", wanted)] if wanted else [])]
    if selection.ids:
        found.append(_one_of("recipient.message_id", "id", selection.ids))
    if selection.domain is not None:
        found.append(name_matches("recipient.domain", selection.domain, "domain"))
    if selection.recipient is not None:
        found.append(_address_matches("recipient.local_part", "recipient.domain", selection.recipient, "to"))
    if selection.sender is not None:
        found.append(sent_by(selection.sender))
    if selection.text is not None:
        needle = _escaped(json.dumps(selection.text)[1:-1].lower())
        says = f"lower(recipient.last_outcome) LIKE :says ESCAPE '{_ESCAPE}'"
        found.append(Condition(says, {"says": f"%{needle}%"}))
    if selection.older_than is not None:
        found.append(Condition("message.received_at <= :before", {"before": now - selection.older_than}))
    if selection.newer_than is not None:
        found.append(Condition("message.received_at > :after", {"after": now - selection.newer_than}))
    if selection.larger_than is not None:
        found.append(Condition("message.size > :above", {"above": selection.larger_than}))
    if selection.smaller_than is not None:
        found.append(Condition("message.size < :below", {"below": selection.smaller_than}))
    return _all_of(*found)


def sent_by(sender: str) -> Condition:
    """The message's sender is this address, of this domain pattern, or null. Raises UsageError."""
    if sender in NULL_SENDER:
        return Condition("message.sender_domain IS NULL")
    return _all_of(
        Condition("message.sender_domain IS NOT NULL"),
        _address_matches("message.sender_local_part", "lower(message.sender_domain)", sender, "from"),
    )


def name_matches(column: str, pattern: str, value: str) -> Condition:
    """A domain pattern (see `deliver.pattern`); `value` is the name of its value. Raises UsageError."""
    from deliver.pattern import ANY, canonical  # few calls have a pattern

    wanted = canonical(pattern)
    if wanted == ANY:
        return Condition("1 = 1")
    if wanted.startswith("*."):
        return Condition(f"{column} LIKE :{value} ESCAPE '{_ESCAPE}'", {value: f"%{_escaped(wanted[1:])}"})
    return Condition(f"{column} = :{value}", {value: wanted})


def _address_matches(local_part: str, domain: str, wanted: str, value: str) -> Condition:
    """An address, or a domain pattern when there is no local part. Raises UsageError."""
    local, at, name = wanted.rpartition("@")
    same_domain = name_matches(domain, name, f"{value}_domain")
    if not (at and local):
        return same_domain
    return _all_of(
        same_domain, Condition(f"{local_part} = :{value}_local_part", {f"{value}_local_part": local})
    )


def _one_of(column: str, value: str, wanted: Sequence[str]) -> Condition:
    values = {f"{value}_{number}": each for number, each in enumerate(wanted)}
    return Condition(f"{column} IN ({', '.join(f':{name}' for name in values)})", values)


def _all_of(*found: Condition) -> Condition:
    values: dict[str, object] = {}
    for each in found:
        values |= each.values
    return Condition(" AND ".join(each.sql for each in found), values)


def _escaped(text: str) -> str:
    """The text for LIKE, meaning itself."""
    for special in (_ESCAPE, "%", "_"):
        text = text.replace(special, _ESCAPE + special)
    return text


def parse_states(words: Iterable[str]) -> tuple[State, ...]:
    """`queued`, `leased` (or `active`) and `held`. Raises UsageError."""
    try:
        states = tuple(State("leased" if word == "active" else word) for word in words)
    except ValueError:
        states = (State.FAILED,)
    if any(state not in OPEN_STATES for state in states):
        raise UsageError("reading --state", "it is none of queued, active and held", "use one of these")
    return states
