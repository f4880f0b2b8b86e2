"""How long a session may take: a deadline per reply, one for the whole message, a least speed of content.

    each reply      its phase's own deadline (RFC 5321 4.5.3.2)
    the session     `timeouts.session` from connecting to the last reply before the final one; a later message
                    on the same connection has as much again
    content         on average `min_rate` octets per second once `timeouts.block` has passed; the session's
                    deadline is later by as long as the message may take at that speed

The wait for the final reply is never shortened: whoever gives up there leaves the message in doubt, and the
next attempt may deliver it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import trio

from deliver.outcome import Phase
from deliver.settings import Timeouts

MIN_RATE = 512  # octets per second, the default of `smtp.min_rate`

_UNHURRIED = frozenset({Phase.DOT, Phase.QUIT})
_OWN: dict[Phase, Callable[[Timeouts], float]] = {
    Phase.BANNER: attrgetter("banner"),
    Phase.EHLO: attrgetter("ehlo"),
    Phase.STARTTLS: attrgetter("ehlo"),
    Phase.AUTH: attrgetter("ehlo"),
    Phase.MAIL: attrgetter("mail"),
    Phase.RSET: attrgetter("mail"),
    Phase.RCPT: attrgetter("rcpt"),
    Phase.DATA: attrgetter("data"),
    Phase.BODY: attrgetter("block"),
    Phase.DOT: attrgetter("dot"),
    Phase.QUIT: attrgetter("quit"),
}


class Pace:
    """The clock of one connection, which begins now; its limits may change between messages."""

    def __init__(self, timeouts: Timeouts, min_rate: int = MIN_RATE) -> None:
        self.timeouts = timeouts
        self.min_rate = min_rate
        self._ends = trio.current_time() + timeouts.session
        self._fresh = True
        self._began = 0.0
        self._written = 0

    def begin(self, size: int) -> None:
        """A message of `size` octets is about to be sent."""
        now = trio.current_time()
        if not self._fresh:
            self._ends = now + self.timeouts.session
        self._fresh = False
        self._ends += size / self.min_rate
        self._began, self._written = 0.0, 0

    def own(self, phase: Phase) -> float:
        """Seconds for a reply of this phase, whatever the session has taken so far."""
        return _OWN[phase](self.timeouts)

    def patience(self, phase: Phase) -> float:
        """Seconds for a reply of this phase, from now."""
        own = _OWN[phase](self.timeouts)
        return own if phase in _UNHURRIED else min(own, max(0.0, self._ends - trio.current_time()))

    def deadline(self, phase: Phase) -> float:
        """The same as a moment of trio's clock."""
        due = trio.current_time() + _OWN[phase](self.timeouts)
        return due if phase in _UNHURRIED else min(due, self._ends)

    def patience_with(self, octets: int) -> float:
        """Seconds for the next write of so much content, from now."""
        now = trio.current_time()
        if not self._written:
            self._began = now
        self._written += octets
        due = self._began + self.timeouts.block + self._written / self.min_rate
        return max(0.0, min(self.timeouts.block, due - now, self._ends - now))

    def why(self, phase: Phase) -> str | None:
        """What to say of a wait in vain; None: that its own time was over."""
        if phase not in _UNHURRIED and self._ends <= trio.current_time():
            return f"the session took longer than {self.timeouts.session:g} s (smtp.timeouts.session)"
        if self._written and phase in (Phase.BODY, Phase.DOT):
            due = self._began + self.timeouts.block + self._written / self.min_rate
            if trio.current_time() >= due:
                return f"content went slower than {self.min_rate} octets per second (smtp.min_rate)"
        return None
