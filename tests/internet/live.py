"""The miniature Internet in a thread of its own, for tests and demonstrations that start real processes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import trio

from tests.internet.behaviour import Behaviour
from tests.internet.policy import Policy
from tests.internet.policyhost import PolicyAnswer
from tests.internet.sites import STANDARD, Site
from tests.internet.world import World, open_internet

_START = 30  # seconds
_STOP = 10  # seconds

Result = TypeVar("Result")


class LiveInternet:
    """`with LiveInternet() as live:` – `live.world` is a running World.

    What the servers have received may be read from any thread; use `call` to change anything.
    """

    def __init__(self, sites: tuple[Site, ...] = STANDARD, *, resolver_port: int = 0) -> None:
        self._sites = sites
        self._resolver_port = resolver_port
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._stop = trio.Event()
        self._world: World | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="internet", daemon=True)

    @property
    def world(self) -> World:
        """The running world."""
        assert self._world is not None, "not started"
        return self._world

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START):
            raise TimeoutError("the miniature Internet did not start")
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(_STOP)
        if self._thread.is_alive():
            raise TimeoutError("the miniature Internet did not stop")
        if self._error is not None and error is None:
            raise self._error

    def call(self, change: Callable[[World], Result]) -> Result:
        """Run `change` in the world's thread and return what it returns."""
        return trio.from_thread.run_sync(change, self.world, trio_token=self._token)

    def behave(self, host: str, behaviour: Behaviour) -> None:
        """From now on the server of that host does so."""

        def change(world: World) -> None:
            world.server(host).behaviour = behaviour

        self.call(change)

    def publish_policy(self, domain: str, policy: Policy, answer: PolicyAnswer | None = None) -> None:
        """From now on the domain has this MTA-STS policy, see World.publish_policy."""
        self.call(lambda world: world.publish_policy(domain, policy, answer))

    def recipients(self) -> list[str]:
        """For whom messages have arrived, once for each copy."""
        return [recipient for message in self.world.messages for recipient in message.recipients]

    def copies(self) -> Counter[str]:
        """How many copies have arrived for each recipient."""
        return Counter(self.recipients())

    def wait_until(self, condition: Callable[[World], bool], timeout: float = 10) -> None:
        """Return when `condition` holds; looked at after every message, connection and request. TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self.world), timeout):
                raise TimeoutError("the condition did not come true")

    def wait_for_messages(self, count: int, timeout: float = 10) -> None:
        """Wait until so many messages were accepted by all servers together."""
        self.wait_until(lambda world: len(world.messages) >= count, timeout)

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        async with open_internet(self._sites, resolver_port=self._resolver_port) as world:
            self._world = world
            self._token = trio.lowlevel.current_trio_token()
            for server in world.servers.values():
                server.observers.append(self._notify)
            world.policy_host.observers.append(self._notify)
            self._ready.set()
            await self._stop.wait()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
