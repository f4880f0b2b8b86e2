"""One host of a plan, reached: an idle session with it, else the first of its addresses that connects.

    idle      a session under the same terms that still stands up to this message's policy
    race      a connection to one address after the other, each with a head start (`deliver.net.race`)
    session   what won is greeted and secured; when it is left it waits in the pool, or is closed

`waiting` are the addresses that are still worth a try. A connection that fails uses its address up, one that
merely lost the race does not. The policy is known before any socket is opened, and only one of them ever
carries SMTP.
"""

from __future__ import annotations

from collections.abc import Callable

from deliver.agent import Agent
from deliver.encounter import Target, Unusable
from deliver.net.race import Racer, race
from deliver.outcome import Deferred
from deliver.report.testimony import Testimony
from deliver.reusing import terms_of
from deliver.session import Session, opened
from deliver.settings import Destination
from deliver.tls.policy import TlsPolicy

SLOWER = "another address of the host connected first"

Missed = Callable[[Deferred], None]


class Reach:
    """The addresses of one host, under one policy, for one message."""

    def __init__(
        self,
        agent: Agent,
        destination: Destination,
        policy: TlsPolicy,
        testimony: Testimony,
        targets: tuple[Target, ...],
        missed: Missed,
    ) -> None:
        """`missed(outcome)` is called for every address that does not connect while others go on."""
        self.destination = destination
        self.policy = policy
        self.waiting = targets
        self._agent = agent
        self._testimony = testimony
        self._missed = missed

    def once_more(self, target: Target, policy: TlsPolicy) -> Reach:
        """One address again, under another policy."""
        return Reach(self._agent, self.destination, policy, self._testimony, (target,), self._missed)

    async def open(self, *, fresh: bool = False) -> Session:
        """A session with an address that is then no longer `waiting`; `fresh`: a new one. To be left again.

        Raises Unusable when no address connects, or the one that did is no use.
        """
        session = None if fresh else await self._idle()
        if session is None:
            connected = await self._connected()
            self._use_up(connected.target)
            session = await opened(connected)
        return session

    async def leave(self, session: Session, why: str | None) -> None:
        """It may wait for the next message, or is closed; `why`: what went wrong, None: nothing."""
        if why is None and self._agent.pool.put(session):  # which takes only what is usable
            session.rest()
        else:
            await session.close(why)

    async def _idle(self) -> Session | None:
        """An idle session that serves this message too. Raises Unusable where an event action refuses it."""
        for target in self.waiting:
            terms = terms_of(self._agent, self.destination, target, self.policy)
            while (found := await self._agent.pool.take(terms)) is not None:
                assert isinstance(found, Session)
                if await self._adopted(found, target):
                    self._use_up(target)
                    return found
        return None

    async def _adopted(self, session: Session, target: Target) -> bool:
        adopted = False
        try:
            adopted = await session.adopt(self._agent, self.destination, target, self.policy, self._testimony)
        except Unusable:
            self._use_up(target)
            if adopted := self._agent.pool.put(session):  # nothing is wrong with it
                session.rest()
            raise
        finally:
            if not adopted:
                await session.close("not used again")
        return adopted

    async def _connected(self) -> Session:
        """Connected, and nothing more. Raises Unusable for the last address when none connects."""
        make = (self._agent, self.destination)
        sessions = [Session(*make, target, self.policy, self._testimony) for target in self.waiting]
        failures: list[Unusable] = []
        won: int | None = None

        def racer(session: Session) -> Racer:
            async def connect() -> bool:
                try:
                    await session.connect(alone=len(sessions) == 1)
                except Unusable as unusable:
                    self._use_up(session.target)
                    failures.append(unusable)
                    return False
                return True

            return connect

        try:
            delay = self.destination.delivery.race_delay
            won = await race([racer(session) for session in sessions], delay)
        finally:
            for place, session in enumerate(sessions):
                if place != won:
                    await session.close(SLOWER)
        last = failures.pop() if won is None else None
        for unusable in failures:
            self._missed(unusable.outcome)
        if won is None:
            assert last is not None, "a race without racers"
            raise last
        return sessions[won]

    def _use_up(self, target: Target) -> None:
        if self.waiting == (target,):  # the usual case
            self.waiting = ()
        else:
            self.waiting = tuple(other for other in self.waiting if other != target)
