"""The composition root: builds what a delivery takes from outside, and the nursery tree of the relay.

    outer    hints writer, event shipper       live until everything else has ended
    middle   queue runner, its attempts        get `queue.shutdown_grace` after SIGTERM
    inner    listeners                         stop first

SIGHUP reads the settings again, see `deliver.reload`. SIGTERM and SIGINT stop the relay in that order; a
second one cuts the grace short. What is not settled by then is in the queue, and its attempt on record. Only
this module builds SQL stores.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random, SystemRandom

import dns.name
import trio

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import NegativeAnchor, TrustAnchors, parse, root_anchors
from deliver.doors import Doors, open_doors
from deliver.errors import ConfigurationError, OutriderError, StorageError
from deliver.frozen import FrozenHosts
from deliver.identity import host_name
from deliver.message import Content
from deliver.net.clock import Clock, WallClock
from deliver.net.dial import TcpDialer
from deliver.outbox import event_actions, event_gate
from deliver.pool import NoPool, Pool, SessionPool
from deliver.queue.intake import QueueIntake
from deliver.queue.latch import unlatch
from deliver.queue.notice import Notifier, Terms
from deliver.queue.runner import JournalReply, Runner
from deliver.queue.shard import Shard, open_shard
from deliver.queue.store import Claim
from deliver.queue.upkeep import Upkeep
from deliver.relay.access import networks
from deliver.relay.identity import MessageIds
from deliver.relay.listener import Listener, open_listeners
from deliver.reload import Change, Reread, change
from deliver.report.log import say
from deliver.resolve.cache import CachingResolver
from deliver.resolve.doctor import Examination, examine
from deliver.resolve.resolver import Resolver
from deliver.resolve.transport import AdResolver, Recursor, resolver_addresses
from deliver.resolve.validating import ValidatingResolver
from deliver.settings import Settings, overridden
from deliver.tls.pkix import TrustStore
from events.actions import matcher
from events.backlog import Backlog
from events.catalogue import Event
from events.port import EventGate, OpenGate
from events.shipper import Shipper
from hints.memory import MemoryHints
from hints.port import Hints
from hints.sql import SqlHints

SHARD = 0  # one worker process owns one shard
SILENCE_MARGIN = 60.0  # seconds
RESYNC = 60.0  # seconds
LAST_EVENTS = 2.0  # seconds at the end for the databases of the event actions

_log = logging.getLogger("outrider.service")


def open_hints(settings: Settings, clock: Clock) -> Hints:
    """The hints of the settings; in memory, and said so, where the state directory cannot be written."""
    if settings.hints.url == "memory":
        return MemoryHints(clock=clock.now)
    try:
        Path(settings.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("%s: %s; nothing is remembered beyond this run", settings.state_dir, error.strerror)
        return MemoryHints(clock=clock.now)
    url = settings.database_url(settings.hints.url)
    return SqlHints(url, clock=clock.now, max_size=settings.hints.max_size)


def build_resolver(settings: Settings, clock: Clock) -> Resolver:
    """The resolver of `dns.dnssec`, without a cache. Raises ConfigurationError."""
    recursor = Recursor(settings.dns, resolver_addresses(settings.dns))
    if settings.dns.dnssec != "validate":
        return AdResolver(settings.dns, recursor)
    return build_validator(settings, recursor, clock)


def build_validator(settings: Settings, recursor: Recursor, clock: Clock) -> ValidatingResolver:
    """Our own validation over `recursor`, from the settings' trust anchors. Raises ConfigurationError."""
    policy = Policy(sha1=settings.dns.sha1)
    return ValidatingResolver(recursor, trust_anchors(settings), now=clock.now, policy=policy)


def trust_anchors(settings: Settings) -> TrustAnchors:
    """The root's keys or `dns.trust_anchors`, and where they are suspended. Raises ConfigurationError."""
    if settings.dns.trust_anchors is None:
        anchors = root_anchors()
    else:
        path = settings.path(settings.dns.trust_anchors)
        try:
            anchors = parse(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"reading {path} (dns.trust_anchors)",
                str(error),
                "give DNSKEY or DS records in zone-file form",
            ) from error
    return anchors.but_not(
        NegativeAnchor(
            dns.name.from_text(f"{each.name}."),
            each.reason,
            datetime.fromisoformat(each.until).replace(tzinfo=UTC).timestamp(),
        )
        for each in settings.dns.negative_trust_anchor
    )


async def examine_resolvers(settings: Settings, clock: Clock) -> tuple[Examination, ...]:
    """What the doctor finds of each resolver. Raises ConfigurationError."""
    found = []
    for address in resolver_addresses(settings.dns):
        recursor = Recursor(settings.dns, (address,))
        validator = build_validator(settings, recursor, clock)
        probes = {"secure": settings.dns.probe_secure, "bogus": settings.dns.probe_bogus}
        found.append(await examine(address, recursor, validator, **probes))
    return tuple(found)


def build_agent(
    settings: Settings,
    *,
    hints: Hints,
    clock: Clock,
    rng: Random,
    learner: str,
    own_sockets: frozenset[tuple[str, int]] = frozenset(),
    gate: EventGate | None = None,
    pool: Pool | None = None,
) -> Agent:
    """Everything that a delivery takes from outside. Raises ConfigurationError for unusable resolvers."""
    resolver = CachingResolver(
        build_resolver(settings, clock),
        now=trio.current_time,
        entries=settings.dns.cache_entries,
        max_ttl=settings.dns.cache_max_ttl,
    )
    helo = host_name(settings.delivery.helo)
    names = (helo, settings.relay.hostname, *settings.relay.local_names)
    return Agent(
        settings=settings,
        resolver=resolver,
        dialer=TcpDialer(),
        hints=hints,
        clock=clock,
        rng=rng,
        trust=TrustStore.load,
        helo=helo,
        learner=learner,
        own_names=frozenset(name for name in names if name),
        own_sockets=own_sockets,
        gate=gate or OpenGate(),
        pool=NoPool() if pool is None else pool,
    )


async def run_relay(settings: Settings, digest: str | None = None, reread: Reread | None = None) -> None:
    """Accept, queue and deliver until SIGTERM or SIGINT. Raises ConfigurationError or StorageError.

    SIGHUP calls `reread` and changes over to the settings that it returns. `digest` stands for the settings
    towards calls of `outrider send`; without it none is taken over.
    """
    clock = WallClock()
    actions = event_actions(settings)
    backlog = Backlog(settings.events.backlog, matcher(actions))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        sockets = await open_listeners(settings.relay.listen)
        try:
            async with (
                open_shard(
                    settings.path(settings.queue.directory), SHARD, clock.now(), append=backlog.append
                ) as shard,
                open_doors(settings, digest, clock) as doors,
            ):
                shipper = Shipper(shard.sql, actions, clock=clock.now)
                relay = Relay(settings, clock, shard, backlog, shipper, sockets, doors, reread)
                await relay.run(signals)
        finally:
            for listener in sockets:
                listener.socket.close()


class Relay:
    """The parts of a running relay and the order in which they stop."""

    def __init__(
        self,
        settings: Settings,
        clock: WallClock,
        shard: Shard,
        backlog: Backlog,
        shipper: Shipper,
        sockets: Sequence[trio.SocketListener],
        doors: Doors,
        reread: Reread | None = None,
    ) -> None:
        self._settings = settings
        self._doors = doors
        self._reread = reread
        self._clock = clock
        self._shipper = shipper
        self._count_backlog = partial(backlog.watch, shard.sql)
        self._sockets = dict(zip(settings.relay.listen, sockets, strict=True))
        self._rng = SystemRandom()
        self._hints = open_hints(settings, clock)
        self._gate = event_gate(settings)
        self._frozen = FrozenHosts(self._gate)
        self._shard = shard
        self._backlog = backlog
        self._pool = SessionPool(settings.pool, self._tell)
        self._agent = self._build_agent(settings)
        self._ids = MessageIds(clock.now, self._rng)
        self._runner = Runner(
            shard,
            self._begin,
            settings=settings.queue,
            attempt_deadline=longest_attempt(settings),
            silence=longest_silence(settings),
            clock=clock,
            rng=self._rng,
            gather=settings.bounce.gather,
            append=backlog.append,
            settled=self._settled,
            sources=partial(source_addresses, settings),
        )
        self._upkeep = Upkeep(
            shard,
            notifier=self._notifier(settings),
            clock=clock,
            changed=self._accepted,
            retry=self._runner.retry_sites,
            frozen=self._frozen.freeze,
            append=backlog.append,
        )
        hostname = self._hostname(settings)
        self._listener = Listener(
            settings.relay, hostname, self._intake(settings), clock, self._ids, settings.route
        )
        self._run_doors = partial(doors.run, self._agent, hostname, self._ids)

    def _build_agent(self, settings: Settings) -> Agent:
        places = [listener.socket.getsockname() for listener in self._sockets.values()]
        return build_agent(
            settings,
            hints=self._hints,
            clock=self._clock,
            rng=self._rng,
            learner="relay",
            own_sockets=frozenset((place[0], place[1]) for place in places),
            gate=self._frozen,
            pool=self._pool,
        )

    def _hostname(self, settings: Settings) -> str:
        return settings.relay.hostname or self._agent.helo

    def _notifier(self, settings: Settings) -> Notifier:
        return Notifier(self._hostname(settings), self._ids, self._rng, report_terms(settings))

    def _intake(self, settings: Settings) -> QueueIntake:
        return QueueIntake(
            self._shard,
            self._backlog.append,
            self._accepted,
            inline_limit=settings.queue.inline_limit,
            max_size=settings.relay.max_message_size,
            min_free=settings.queue.min_free_disk,
            room=lambda: not self._backlog.full,
        )

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Until the first signal and the end of what was under way; a second signal cuts that short."""
        async with trio.open_nursery() as testimony:
            testimony.start_soon(self._shipper.run)
            testimony.start_soon(self._count_backlog)
            testimony.start_soon(self._see_the_doctor)
            testimony.start_soon(self._keep_time)
            testimony.start_soon(self._upkeep.run)
            testimony.start_soon(partial(unlatch, self._shard, mended=self._runner.poke))
            if isinstance(self._hints, SqlHints):
                testimony.start_soon(self._hints.run)
            async with self._pool.open(), trio.open_nursery() as signalled:
                async with trio.open_nursery() as work:
                    work.start_soon(self._runner.run)
                    await work.start(self._listener.serve, tuple(self._sockets.values()))
                    await work.start(self._run_doors)
                    for listener in self._sockets.values():
                        say(_log, logging.INFO, "listening", on=_endpoint(listener))
                    # signals that came before are obeyed now, when there is something to stop
                    signalled.start_soon(self._obey, signals, signalled.cancel_scope)
                signalled.cancel_scope.cancel()
            with trio.move_on_after(LAST_EVENTS):
                await self._shipper.ship_once()
            testimony.cancel_scope.cancel()
        await self._gate.aclose()
        await self._shipper.aclose()
        await self._hints.aclose()
        say(_log, logging.INFO, "stopped")

    async def _keep_time(self) -> None:
        """Follow a system clock that is set: signatures and schedules go by it."""
        while True:
            await trio.sleep(RESYNC)
            self._clock.resync()

    async def _see_the_doctor(self) -> None:
        """Say once, plainly, what a resolver is not fit for; mail is not held up by it."""
        mode = self._settings.dns.dnssec
        for found in await examine_resolvers(self._settings, self._clock):
            fit = found.fit_for(mode)
            say(
                _log,
                logging.INFO if fit else logging.WARNING,
                "resolver" if fit else f"resolver unfit for dns.dnssec = {mode}",
                resolver=found.resolver,
                state=found.state,
                why=None if fit else "; ".join(found.notes),
            )

    def _begin(self, claim: Claim, content: Content, journal: JournalReply) -> Attempt:
        return Attempt(
            self._agent,
            claim.envelope,
            claim.recipients,
            content,
            number=claim.number,
            tried=claim.tried,
            journal=journal,
        )

    async def _tell(self, events: Sequence[Event]) -> None:
        """Commit what belongs to no attempt: a session that has waited in vain is closed."""
        wanted = [event for event in events if self._backlog.wanted(event)]
        if not wanted:
            return
        about = str(wanted[0].fields.get("message_id"))
        append = partial(self._backlog.append, message_id=about, events=wanted)
        try:
            await self._shard.sql.write(append, durable=False)
        except StorageError as error:
            _log.error("%s", error)
        self._shipper.poke()

    def _settled(self) -> None:
        self._upkeep.poke()
        self._shipper.poke()

    def _accepted(self) -> None:
        self._runner.poke()
        self._shipper.poke()

    async def _obey(self, signals: AsyncIterator[int], work: trio.CancelScope) -> None:
        while await anext(signals) == signal.SIGHUP:
            await self._reload()
        grace = self._settings.queue.shutdown_grace
        say(_log, logging.INFO, "stopping", grace=f"{grace:g}")
        self._listener.stop(grace)
        self._runner.stop()
        async with trio.open_nursery() as stopping:
            stopping.start_soon(self._doors.stop, grace)
            while await anext(signals) == signal.SIGHUP:
                pass
            say(_log, logging.WARNING, "stopping at once")
            work.cancel()

    async def _reload(self) -> None:
        """Change over to the settings as they are now, or refuse them as a whole and go on."""
        if self._reread is None:
            return
        try:
            new = change(self._settings, await trio.to_thread.run_sync(self._reread))
            await self._change_over(new)
        except OutriderError as error:
            for line in str(error).splitlines():
                _log.error("%s", line)
            say(_log, logging.ERROR, "new settings refused", effect="the old ones hold")
            return
        except Exception:
            _log.exception("the new settings cannot be used; the old ones hold")
            return
        if new.waiting:
            say(_log, logging.WARNING, "wait for a restart", keys=", ".join(new.waiting))
        say(_log, logging.INFO, "reloaded", opened=len(new.opened), closed=len(new.closed))

    async def _change_over(self, new: Change) -> None:
        """What can fail comes first. Raises ConfigurationError, and nothing has changed."""
        settings = new.settings
        networks(settings.relay.networks)
        opened = dict(zip(new.opened, await open_listeners(new.opened), strict=True))
        before = self._sockets
        try:
            kept = {place: one for place, one in before.items() if place not in new.closed}
            self._sockets = kept | opened
            agent = self._build_agent(settings)
        except BaseException:
            self._sockets = before
            for listener in opened.values():
                listener.socket.close()
            raise
        self._settings, self._agent = settings, agent
        self._runner.reconfigure(
            settings.queue,
            attempt_deadline=longest_attempt(settings),
            gather=settings.bounce.gather,
            silence=longest_silence(settings),
            sources=partial(source_addresses, settings),
        )
        self._upkeep.reconfigure(self._notifier(settings))
        self._doors.reload(agent)
        self._listener.reconfigure(
            settings.relay, self._hostname(settings), self._intake(settings), settings.route
        )
        for listener in opened.values():
            self._listener.add(listener)
            say(_log, logging.INFO, "listening", on=_endpoint(listener))
        for place in new.closed:
            self._listener.remove(before[place])
            say(_log, logging.INFO, "listening no more", on=_endpoint(before[place]))


def report_terms(settings: Settings) -> Terms:
    """What the settings say about reports to senders."""
    return Terms(
        to=settings.bounce.to,
        per_sender=settings.bounce.per_sender,
        return_content=settings.bounce.return_content,
        return_limit=settings.bounce.return_limit,
        expire=settings.queue.expire,
    )


def longest_attempt(settings: Settings) -> float:
    """The largest `delivery.deadline` that a rule or the base allows, seconds: the lease must cover it."""
    deadlines = [overridden(settings.delivery, rule.delivery).deadline for rule in settings.rule]
    return max(settings.delivery.deadline, *deadlines, 0.0)


def longest_silence(settings: Settings) -> float:
    """More seconds without any progress than the timeouts of any destination allow."""
    phases = [settings.smtp.timeouts]
    phases += [overridden(settings.smtp, rule.smtp).timeouts for rule in settings.rule]
    longest = max(float(getattr(each, name)) for each in phases for name in each.__struct_fields__)
    return longest + SILENCE_MARGIN


def source_addresses(settings: Settings, domain: str) -> tuple[str, ...]:
    """The addresses that mail for the domain may leave from, as far as the settings name them."""
    delivery = settings.towards(domain, None).delivery
    return tuple(each for each in (delivery.source_ipv4, delivery.source_ipv6) if each)


def _endpoint(listener: trio.SocketListener) -> str:
    address, port = listener.socket.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
