"""A resolver that resets its TCP connections, and names that nobody can ask for: answers, never exceptions."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from deliver.checkup import see_the_doctor
from deliver.net.clock import WallClock
from deliver.outcome import Deferred, Delivered
from deliver.resolve.answer import Answer, Query, RecordType, Unreachable
from deliver.resolve.resolver import Resolver as Lookups
from deliver.settings import Dns, Settings
from tests.internet import MailDomain, Security, World
from tests.internet.behaviour import Behaviour, Held, Point
from tests.internet.gate import Gate
from tests.internet.resolver import Fault, Resolver
from tests.unit.attempts import agent, attempt, deliver, dns

Step = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def before(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The resolver reads two octets over TCP, awaits these and resets the connection."""
    steps: list[Step] = []

    async def reset(_resolver: Resolver, stream: Any) -> None:
        await stream.receive_some(2)
        for step in steps:
            await step()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    monkeypatch.setattr(Resolver, "_serve_tcp", reset)
    return steps


class Second:
    """A resolver that tells when an address of the second host was looked up, or could not be."""

    def __init__(self, inner: Lookups) -> None:
        self._inner = inner
        self.over = trio.Event()

    async def lookup(self, query: Query) -> Answer:
        try:
            return await self._inner.lookup(query)
        finally:
            if query.name == "two.cut.test":
                self.over.set()


@pytest.mark.parametrize("mode", ["validate", "trust-ad", "off"])
async def test_a_reset_is_no_answer(world: World, tmp_path: Path, mode: str) -> None:
    world.resolver.trouble("signed.test", "MX", fault=Fault.TRUNCATED)
    ours = agent(world, tmp_path, dns=dns(world, tmp_path, mode))
    answer = await ours.resolver.lookup(Query("signed.test", RecordType.MX))
    assert isinstance(answer, Unreachable)
    assert "cannot be reached" in answer.why


async def test_it_does_not_cut_a_delivery_to_another_host(
    world: World, tmp_path: Path, before: list[Step]
) -> None:
    address = world.addresses["mx.signed.test"]
    world.publish(
        MailDomain(
            "cut.test",
            mx=((10, "one.cut.test"), (20, "two.cut.test")),
            hosts={"one.cut.test": address, "two.cut.test": address},
            security=Security.INSECURE,
        )
    )
    dot, resolver = Gate(), Gate()
    before.append(resolver.passed)
    world.server("mx.signed.test").behaviour = Behaviour(replies={Point.DOT: Held(dot)})
    world.resolver.trouble("two.cut.test", fault=Fault.TRUNCATED)
    ours = agent(world, tmp_path)
    second = Second(ours.resolver)
    story = attempt(replace(ours, resolver=second), "a@cut.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(story.run)
        await trio.to_thread.run_sync(dot.reached.wait)
        resolver.open()
        await second.over.wait()
        dot.open()
    ((_, outcome),) = story.result().outcomes
    assert isinstance(outcome, Delivered)
    assert len(world.messages) == 1


async def test_the_doctor_says_it_and_goes_home(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "outrider.service")
    for question in (".", "signed.test"):
        world.resolver.trouble(question, fault=Fault.TRUNCATED)
    endpoint = world.resolver.endpoint
    settings = Settings(state_dir=str(tmp_path), dns=Dns(resolvers=(endpoint,), timeout=2, attempts=1))
    await see_the_doctor(settings, WallClock())
    assert "resolver unfit" in caplog.text


async def test_a_host_whose_name_leaves_no_room_for_tlsa(world: World, tmp_path: Path) -> None:
    suffix = ".long.test"
    labels = ".".join(["a" * 60] * 3)
    host = f"{labels}.{'b' * (248 - len(labels) - 1 - len(suffix))}{suffix}"
    addresses = world.addresses["mx.signed.test"]
    world.publish(MailDomain("long.test", mx=((10, host),), hosts={host: addresses}))
    result = await deliver(agent(world, tmp_path), "a@long.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    texts = [finding.text for finding in result.trace.findings if finding.code == "tlsa-absent"]
    assert any("cannot exist" in text for text in texts)


class Raising:
    """A resolver with a fault of ours: one host's lookup raises."""

    def __init__(self, inner: Lookups) -> None:
        self._inner = inner

    async def lookup(self, query: Query) -> Answer:
        if query.name == "two.cut.test":
            raise RuntimeError("a fault of ours")
        return await self._inner.lookup(query)


@pytest.mark.parametrize(
    ("hosts", "arrives"), [(("one", "two"), True), (("two", "one"), True), (("two",), False)]
)
async def test_a_fault_of_ours_costs_one_host_at_most(
    world: World, tmp_path: Path, hosts: tuple[str, ...], arrives: bool
) -> None:
    domain = MailDomain(
        "cut.test",
        mx=tuple((place, f"{host}.cut.test") for place, host in enumerate(hosts)),
        hosts={"one.cut.test": world.addresses["mx.signed.test"]},
        security=Security.INSECURE,
    )
    world.publish(domain)
    ours = agent(world, tmp_path)
    ((_, outcome),) = (await deliver(replace(ours, resolver=Raising(ours.resolver)), "a@cut.test")).outcomes
    assert isinstance(outcome, Delivered if arrives else Deferred)
