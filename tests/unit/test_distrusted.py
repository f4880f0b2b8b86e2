"""A root that the administrator removes counts no more, neither for a new connection nor for a resumed session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deliver.level import Level
from deliver.outcome import Deferred, Delivered
from deliver.settings import Tls
from tests.internet import World
from tests.unit.attempts import agent, codes, deliver
from tests.unit.tls.certificates import Wish, issue


async def test_what_rests_on_a_root_that_was_removed(world: World, tmp_path: Path) -> None:
    store = world.write_trust_store(tmp_path)
    before = store.read_bytes()
    ours = agent(world, tmp_path, tls=Tls(trust_store=str(store), level=Level.VERIFY))
    for resumed in (False, True):
        ((_, outcome),) = (await deliver(ours, "a@signed.test")).outcomes
        assert isinstance(outcome, Delivered)
        assert outcome.contact.tls is not None
        assert outcome.contact.tls.resumed is resumed
    store.write_bytes(issue(Wish("another root", authority=True)).pem)
    for used in (ours, replace(ours)):
        result = await deliver(used, "a@signed.test")
        assert isinstance(result.outcomes[0][1], Deferred)
        assert "pkix-untrusted" in codes(result)
    store.write_bytes(before)
    assert isinstance((await deliver(ours, "a@signed.test")).outcomes[0][1], Delivered)
