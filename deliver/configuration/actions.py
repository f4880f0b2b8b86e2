"""Event actions of the settings: where they stand, what they mean, and what is wrong with them.

Global ones stand in `[[events.action]]`, those of a rule in `[[rule.event_action]]`: they are told only of
events about the rule's domains and hosts, and asked only about them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deliver import pattern
from deliver.configuration.problem import KeyPath, Problem
from deliver.settings import EventAction, EventFile, Settings
from events.towards import ANYWHERE, Towards

if TYPE_CHECKING:
    from events import actions as parsing

REMEDY = "see docs/events.md, or `outrider events list` for the names of events and fields"


def placed(settings: Settings) -> Iterator[tuple[KeyPath, EventAction, Towards]]:
    """Every SQL action with its path and the destinations that it is for."""
    for index, action in enumerate(settings.events.action):
        yield ("events", "action", index), action, ANYWHERE
    for index, rule in enumerate(settings.rule):
        for number, action in enumerate(rule.event_action):
            towards = Towards(
                tuple(pattern.canonical(one) for one in rule.domains),
                tuple(pattern.canonical(one) for one in rule.hosts),
            )
            yield ("rule", index, "event_action", number), action, towards


def parsed(
    settings: Settings, action: EventAction, towards: Towards, *, password: str | None = None
) -> parsing.EventAction:
    """The checked action. Raises BadAction."""
    from events import actions as parsing  # loads SQLAlchemy

    return parsing.parse_action(
        action.name,
        action.events,
        settings.database_url(action.database),
        action.sql,
        password=password,
        when=action.when,
        veto=parsing.Veto(action.deadline, action.on_error) if action.veto else None,
        towards=towards,
    )


def parsed_file(settings: Settings, file: EventFile) -> parsing.FileAction:
    """The checked action. Raises BadAction."""
    from events import actions as parsing

    return parsing.parse_file(file.name, file.events, settings.path(file.path), file.when)


def problems(settings: Settings) -> Iterator[Problem]:
    """Actions that could not run: unknown events, fields and drivers, broken conditions."""
    given = tuple(placed(settings))
    if not given and not settings.events.file:
        return
    from events.actions import BadAction

    for path, action, towards in given:
        try:
            parsed(settings, action, towards)
        except BadAction as error:
            yield Problem((*path, error.key), str(error), REMEDY)
    for index, file in enumerate(settings.events.file):
        try:
            parsed_file(settings, file)
        except BadAction as error:
            yield Problem(("events", "file", index, error.key), str(error), REMEDY)
