"""What the resolvers are not fit for, said once when a service starts."""

from __future__ import annotations

import logging

from deliver.lookup import examine_resolvers
from deliver.net.clock import Clock
from deliver.report.log import say
from deliver.settings import Settings

_log = logging.getLogger("outrider.service")


async def see_the_doctor(settings: Settings, clock: Clock) -> None:
    """Look at every resolver of the settings; mail is not held up by it, whatever happens."""
    mode = settings.dns.dnssec
    try:
        examined = await examine_resolvers(settings, clock)
    except Exception:
        _log.exception("examining the resolvers failed unexpectedly; mail goes on")
        return
    for found in examined:
        fit = found.fit_for(mode)
        say(
            _log,
            logging.INFO if fit else logging.WARNING,
            "resolver" if fit else f"resolver unfit for dns.dnssec = {mode}",
            resolver=found.resolver,
            state=found.state,
            why=None if fit else "; ".join(found.notes),
        )
