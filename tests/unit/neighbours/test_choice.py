"""Which worker a domain's mail goes to."""

from __future__ import annotations

from collections import Counter

import pytest

from deliver.neighbours.choice import DOMAINS, ENOUGH, MORE, Choice, keeper
from deliver.settings import Route

AWAY = float("inf")
THERE = next(name for name in (f"d{n}.test" for n in range(100)) if keeper(name, 2) == 1)
HERE = next(name for name in (f"d{n}.test" for n in range(100)) if keeper(name, 2) == 0)
SMARTHOST = Route(domains=(THERE, "*.smart.test"), via="smarthost", hosts=("relay.test",))


def choice(*routes: Route, here: float = 0, there: float = 0) -> Choice:
    return Choice(0, 2, (here, there).__getitem__, routes, kept=10.0)


def test_every_domain_has_one_keeper_and_they_share_the_domains() -> None:
    kept = Counter(keeper(f"domain{number}.example", 4) for number in range(1000))
    assert set(kept) == {0, 1, 2, 3}
    assert min(kept.values()) > 200
    assert [keeper("example.org", n) for n in (1, 2, 3, 7)] == [0, 1, 0, 5], "in every version the same"


@pytest.mark.parametrize(
    ("domain", "routes", "here", "there", "goes"),
    [
        (THERE, (), 0, 0, True),
        (HERE, (), 0, 0, False),
        (THERE, (SMARTHOST,), 0, 0, False),
        (THERE, (Route(domains=(THERE,), via="smarthost", mx="x.test", senders=("*@a.test",)),), 0, 0, False),
        (THERE, (Route(domains=("other.test",), via="smarthost", hosts=("x.test",)),), 0, 0, True),
        (THERE, (Route(domains=("*",), via="mx"),), 0, 0, True),
        (THERE, (), 0, MORE, True),
        (THERE, (), 0, MORE + 1, False),
        (THERE, (), 1, MORE + 1, True),
        (THERE, (), 0, AWAY, False),
        (THERE, (), AWAY, AWAY, False),
        (THERE, (), AWAY, 0, False),
    ],
)
def test_what_goes(domain: str, routes: tuple[Route, ...], here: float, there: float, goes: bool) -> None:
    assert choice(*routes, here=here, there=there).of(domain, 0.0) == (1 if goes else None)


def send(mine: Choice, now: float) -> int | None:
    """One message for THERE, which arrives wherever it goes."""
    owner = mine.of(THERE, now)
    if owner is not None:
        mine.went(THERE, now)
    return owner


def test_a_busy_domain_stays_from_enough_messages_on_until_it_pauses() -> None:
    mine = choice()
    assert [send(mine, number / 10) for number in range(ENOUGH)] == [1] * ENOUGH
    busy = ENOUGH / 10
    assert [send(mine, busy + 9.0 * number) for number in range(5)] == [None] * 5
    assert send(mine, busy + 36.0 + 10.1) == 1, "its sessions are closed"


def test_few_messages_at_a_time_always_go() -> None:
    mine = choice()
    assert {send(mine, number * 10.1) for number in range(3 * ENOUGH)} == {1}


def test_what_did_not_arrive_does_not_count() -> None:
    mine = choice()
    assert {mine.of(THERE, 0.0) for _ in range(3 * ENOUGH)} == {1}


def test_what_stays_once_goes_on_staying() -> None:
    loads = [0.0, MORE + 1]
    mine = Choice(0, 2, loads.__getitem__, (), kept=10.0)
    assert mine.of(THERE, 0.0) is None
    loads[1] = 0.0
    assert mine.of(THERE, 9.0) is None
    assert mine.of(THERE, 19.1) == 1


def test_it_remembers_so_many_domains() -> None:
    others = [name for name in (f"m{number}.test" for number in range(3 * DOMAINS)) if keeper(name, 2) == 1]
    loads = [0.0, MORE + 1]
    mine = Choice(0, 2, loads.__getitem__, (), kept=10.0)
    for name in (THERE, *others[:DOMAINS]):
        assert mine.of(name, 0.0) is None
    loads[1] = 0.0
    assert mine.of(others[DOMAINS - 1], 0.0) is None
    assert mine.of(THERE, 0.0) == 1, "the oldest is forgotten"
