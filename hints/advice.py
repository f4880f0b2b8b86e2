"""What the hints about a host or a domain make the next delivery do: pure, for people.

Only what deliveries read is said; rows past their time and rows that make no sense advise nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hints.levels import dropped
from hints.port import FeatureView
from hints.prune import decayed
from hints.records import Word
from hints.show import Row

# draft-harris-early-pipe; Exim's keyword today, and what older versions said.
_EARLY = frozenset({"PIPECONNECT", "PIPE_CONNECT", "X_PIPE_CONNECT"})
RECENT = 300.0  # seconds for which an address that failed is tried last
SHOWN = 5  # patterns of an MTA-STS policy


@dataclass(frozen=True, slots=True)
class Advice:
    """What one row, named by `about`, makes a delivery do."""

    kind: str
    about: str
    text: str


def advice(rows: Iterable[Row], now: float) -> tuple[Advice, ...]:
    """One sentence per row that is believed."""
    return tuple(
        Advice(row.kind, row.key, _sentence(row, now)) for row in rows if row.valid and not row.expired
    )


def _sentence(row: Row, now: float) -> str:
    values = row.values
    match row.kind:
        case "reachability":
            if not values["failures"]:
                return "reached lately: tried in its turn"
            if (values["last_failure"] or 0.0) > now - RECENT:
                return f"failed within the last 5 minutes ({values['last_error']}): tried after the others"
            return f"failed {values['failures']} times, but not lately: tried in its turn"
        case "level":
            if dropped(values["best"], values["level"]):
                return f"the last delivery reached {values['level']}, an earlier one {values['best']}: a drop"
            return f"a delivery below {values['best']} would be a drop; nothing is refused for that"
        case "feature":
            return _feature(row, now)
        case "session":
            return f"a {values['version']} session may be resumed, if what it rests on is judged well again"
        case "sts":
            return _policy(values)
        case _:
            said = f"says {len(values['keywords'])} extensions in the {values['phase']} phase"
            words = {line.partition(" ")[0].upper() for line in values["keywords"]}
            early = "PIPELINING" in words and words & _EARLY
            return f"{said}: commands may be sent before they are asked for" if early else said


def _policy(values: Mapping[str, Any]) -> str:
    if values["mode"] == "none":
        return "the domain has said that it has no MTA-STS policy: nothing is asked of its hosts"
    names = ", ".join(values["patterns"][:SHOWN]) + (", …" if len(values["patterns"]) > SHOWN else "")
    asked = f"hosts of these names with a valid certificate (MTA-STS): {names}"
    if values["mode"] == "testing":
        return f"a policy on trial would allow only {asked}; nothing is refused for that"
    return f"only {asked}"


def _feature(row: Row, now: float) -> str:
    values = row.values
    view = FeatureView(
        Word(values["word"]),
        decayed(values["worked"], values["last_worked"], now),
        decayed(values["failed"], values["last_failed"], now),
        values["last_worked"],
        values["last_failed"],
    )
    words = {True: "works there", False: "failed there: better not used", None: "nothing is known any more"}
    return f"{view.word}: {words[view.works]}"
