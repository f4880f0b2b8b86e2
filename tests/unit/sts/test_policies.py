"""Which policy of a domain counts: the table of `deliver.sts.knowledge`, with hints in memory and a scripted web."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock

from deliver.net.clock import WallClock
from deliver.resolve.answer import Answer, Bogus, Found, NoData, NxDomain, TextRecord, Unreachable
from deliver.resolve.sts import BadPolicy, Mode, StsStanding, parse_policy, policy_id
from deliver.sts.knowledge import FRESH, HURRY, REFRESH, RETRY
from deliver.sts.policies import MAX_DOMAINS, KeptPolicies
from deliver.sts.source import NotFetched
from deliver.sts.standing import NoPolicies, Stood
from hints.check import accept
from hints.memory import MemoryHints
from hints.port import Unreadable
from hints.records import StsSeen

DOMAIN, HOST = "example.org", "mx.example.org"
DAY = 86400.0
SILENT = (NoData(False), NxDomain(True), Found((TextRecord(b"v=spf1 -all"),), False, 60))
FAILED = (Bogus("signature expired"), Unreachable("SERVFAIL"))


def record(number: str = "1") -> Answer:
    return Found((TextRecord(f"v=STSv1; id={number};".encode()),), False, 60)


def policy(mode: str = "enforce", host: str = HOST, age: float = 7 * DAY) -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {host}\nmax_age: {age:.0f}\n".encode()


@dataclass
class Web:
    """A source that gives what the test says, and counts."""

    says: bytes | str = field(default_factory=policy)  # a text: why nothing is fetched
    asked: list[str] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def fetch(self, domain: str) -> bytes:
        self.asked.append(domain)
        await self.before()
        if isinstance(self.says, str):
            raise NotFetched(self.says)
        return self.says


class Broken(MemoryHints):
    """Hints that cannot be read."""

    async def sts_policy(self, domain: str) -> StsSeen | None:
        raise Unreadable("the disk is full")


@dataclass
class Scene:
    web: Web
    clock: WallClock
    hints: MemoryHints
    kept: KeptPolicies

    @classmethod
    def build(cls, hints: type[MemoryHints] = MemoryHints) -> Scene:
        clock, web = WallClock(1_800_000_000.0), Web()
        store = hints(clock=clock.now)
        return cls(web, clock, store, KeptPolicies(store, web, clock, learner="test"))

    async def stand(self, answer: Answer, host: str = HOST, domain: str = DOMAIN) -> Stood:
        return await self.kept.stand(domain, answer, host)

    def restart(self) -> None:
        """Another process with the same hints."""
        self.kept = KeptPolicies(self.hints, self.web, self.clock, learner="test")


@pytest.fixture
def scene() -> Scene:
    return Scene.build()


def mode_of(stood: Stood) -> Mode | None:
    return None if stood.standing.policy is None else stood.standing.policy.mode


def codes(stood: Stood) -> list[str]:
    return [found.code for found in stood.findings]


async def test_without_an_installation_of_policies_there_is_none() -> None:
    stood = await NoPolicies().stand(DOMAIN, record(), HOST)
    assert stood == Stood(StsStanding())


@pytest.mark.parametrize("answer", SILENT)
async def test_without_a_record_nothing_is_fetched(
    autojump_clock: MockClock, scene: Scene, answer: Answer
) -> None:
    stood = await scene.stand(answer)
    assert stood == Stood(StsStanding(), (), trio.current_time() + RETRY)
    assert scene.web.asked == []


@pytest.mark.parametrize("answer", FAILED)
async def test_a_record_that_cannot_be_looked_up_is_no_policy_and_said(
    autojump_clock: MockClock, scene: Scene, answer: Answer
) -> None:
    stood = await scene.stand(answer)
    assert stood.standing == StsStanding()
    assert codes(stood) == ["sts-record-unknown"]
    assert scene.web.asked == []


async def test_a_record_has_its_policy_fetched_once_and_remembered(
    autojump_clock: MockClock, scene: Scene
) -> None:
    first, second = await scene.stand(record()), await scene.stand(record())
    scene.restart()
    third = await scene.stand(record())
    assert [mode_of(stood) for stood in (first, second, third)] == [Mode.ENFORCE] * 3
    assert codes(first) == ["sts-found"]
    assert scene.web.asked == [DOMAIN]


async def test_a_first_policy_that_cannot_be_fetched_is_none_and_tried_again_later(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.web.says = "mta-sts.example.org does not answer"
    stood = await scene.stand(record())
    assert stood.standing == StsStanding()
    assert codes(stood) == ["sts-not-fetched"]
    assert "does not answer" in stood.findings[0].text
    again = trio.current_time() + RETRY
    assert stood.until == again
    await trio.sleep(RETRY / 2)
    assert (await scene.stand(record())).until == again
    assert len(scene.web.asked) == 1
    await trio.sleep(RETRY / 2)
    scene.web.says = policy()
    assert mode_of(await scene.stand(record())) is Mode.ENFORCE
    assert len(scene.web.asked) == 2


async def test_what_is_no_policy_was_not_fetched(autojump_clock: MockClock, scene: Scene) -> None:
    scene.web.says = b"<html>"
    stood = await scene.stand(record())
    assert stood.standing == StsStanding()
    assert codes(stood) == ["sts-not-fetched"]
    assert "no policy" in stood.findings[0].text


@pytest.mark.parametrize("answer", [*SILENT, *FAILED])
async def test_a_known_policy_counts_until_its_age_is_over(
    autojump_clock: MockClock, scene: Scene, answer: Answer
) -> None:
    await scene.stand(record())
    scene.restart()
    await trio.sleep(7 * DAY - 1)
    stood = await scene.stand(answer)
    assert mode_of(stood) is Mode.ENFORCE
    assert stood.until == trio.current_time() + 1
    await trio.sleep(1)
    assert (await scene.stand(answer)).standing == StsStanding()
    assert scene.web.asked == [DOMAIN]


async def test_another_id_has_it_fetched_again(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.stand(record("1"))
    await trio.sleep(FRESH)
    scene.web.says = policy("none")
    assert mode_of(await scene.stand(record("1"))) is Mode.ENFORCE
    assert mode_of(await scene.stand(record("2"))) is Mode.NONE
    assert mode_of(await scene.stand(record("2"))) is Mode.NONE
    assert len(scene.web.asked) == 2


async def test_a_fetch_that_fails_never_ends_a_policy(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.stand(record("1"))
    await trio.sleep(FRESH)
    scene.web.says = "404"
    stood = await scene.stand(record("2"))
    assert mode_of(stood) is Mode.ENFORCE
    assert codes(stood) == ["sts-not-fetched", "sts-found"]
    assert "known before counts on" in stood.findings[0].text
    await scene.stand(record("2"))
    assert len(scene.web.asked) == 2
    await trio.sleep(RETRY)
    await scene.stand(record("2"))
    assert len(scene.web.asked) == 3


async def test_a_policy_is_fetched_again_once_a_day_before_it_runs_out(
    autojump_clock: MockClock, scene: Scene
) -> None:
    first = await scene.stand(record())
    assert first.until == trio.current_time() + RETRY
    await trio.sleep(REFRESH - 1)
    await scene.stand(record())
    assert len(scene.web.asked) == 1
    await trio.sleep(1)
    await scene.stand(record())
    assert len(scene.web.asked) == 2
    for _ in range(10):
        await trio.sleep(DAY)
        assert mode_of(await scene.stand(record())) is Mode.ENFORCE


async def test_a_short_policy_is_fetched_again_at_half_of_its_age(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.web.says = policy(age=1000)
    await scene.stand(record())
    await trio.sleep(499)
    await scene.stand(record())
    assert len(scene.web.asked) == 1
    await trio.sleep(1)
    await scene.stand(record())
    assert len(scene.web.asked) == 2


async def test_a_daily_fetch_that_fails_is_not_repeated_for_each_message(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record())
    await trio.sleep(DAY)
    scene.web.says = "500"
    first, second = await scene.stand(record()), await scene.stand(record())
    assert [mode_of(first), mode_of(second)] == [Mode.ENFORCE] * 2
    assert first.until == trio.current_time() + RETRY
    assert len(scene.web.asked) == 2


async def test_a_host_that_is_not_covered_has_the_policy_fetched_again(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record())
    scene.web.says = policy(host="new.example.org")
    await trio.sleep(RETRY - 1)
    await scene.stand(record(), "new.example.org")
    assert len(scene.web.asked) == 1  # it has only just been fetched
    await trio.sleep(1)
    stood = await scene.stand(record(), "new.example.org")
    assert stood.standing.policy is not None
    assert stood.standing.policy.covers("new.example.org")
    await scene.stand(record(), "other.example.org")
    assert len(scene.web.asked) == 2


@pytest.mark.parametrize("age", [0, 1])
async def test_a_policy_of_hardly_any_age_counts_until_it_is_fetched_again(
    autojump_clock: MockClock, scene: Scene, age: float
) -> None:
    """There is no moment without a policy, and no fetch for every message."""
    scene.web.says = policy(age=age)
    for fetched in range(1, 4):
        for _ in range(3):
            assert mode_of(await scene.stand(record())) is Mode.ENFORCE
        assert len(scene.web.asked) == fetched
        await trio.sleep(FRESH)
    assert (await scene.stand(SILENT[0])).standing == StsStanding()


async def test_mail_for_one_domain_waits_for_one_first_fetch(autojump_clock: MockClock, scene: Scene) -> None:
    gate = trio.Event()
    scene.web.before = gate.wait
    stood: list[Stood] = []

    async def ask() -> None:
        stood.append(await scene.stand(record()))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert stood == []
        gate.set()
    assert [mode_of(one) for one in stood] == [Mode.ENFORCE] * 5
    assert scene.web.asked == [DOMAIN]


async def test_mail_with_a_known_policy_waits_for_no_fetch(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.stand(record("1"))
    await trio.sleep(FRESH)
    gate = trio.Event()
    scene.web.before, scene.web.says = gate.wait, policy("none")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.stand, record("2"))
        await trio.testing.wait_all_tasks_blocked()
        assert mode_of(await scene.stand(record("2"))) is Mode.ENFORCE
        gate.set()
    assert mode_of(await scene.stand(record("2"))) is Mode.NONE


async def test_mail_does_not_wait_for_a_fetch_once_another_process_has_a_policy(
    autojump_clock: MockClock, scene: Scene
) -> None:
    gate = trio.Event()
    scene.web.before = gate.wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.stand, record("2"))
        await trio.sleep(FRESH)
        seen = StsSeen(DOMAIN, "1", "testing", (HOST,), int(7 * DAY), scene.clock.now())
        scene.hints.note(seen, source="test", reason="fetched", now=scene.clock.now())
        assert mode_of(await scene.stand(record("2"))) is Mode.TESTING
        gate.set()


async def test_who_waits_for_a_fetch_that_is_cancelled_fetches(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.web.before = trio.sleep_forever
    stood: list[Any] = []

    async def ask() -> None:
        stood.append(await scene.stand(record()))

    first = trio.CancelScope()

    async def fetch() -> None:
        with first:
            await scene.stand(record())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        scene.web.before = trio.lowlevel.checkpoint
        first.cancel()
    assert [mode_of(one) for one in stood] == [Mode.ENFORCE] * 3
    assert len(scene.web.asked) == 2


async def test_hints_that_cannot_be_read_stop_no_mail_of_domains_without_a_record(
    autojump_clock: MockClock,
) -> None:
    scene = Scene.build(Broken)
    for answer in SILENT:
        assert (await scene.stand(answer)).standing == StsStanding()


@pytest.mark.parametrize("answer", [record(), *FAILED])
async def test_hints_that_cannot_be_read_leave_it_open_whether_there_is_a_policy(
    autojump_clock: MockClock, answer: Answer
) -> None:
    scene = Scene.build(Broken)
    scene.web.says = "404"
    stood = await scene.stand(answer)
    assert stood.standing.policy is None
    assert stood.standing.unknown is not None
    assert "disk is full" in stood.standing.unknown
    assert stood.until <= trio.current_time()


async def test_a_policy_that_can_be_fetched_needs_no_hints(autojump_clock: MockClock) -> None:
    scene = Scene.build(Broken)
    assert mode_of(await scene.stand(record())) is Mode.ENFORCE
    assert mode_of(await scene.stand(SILENT[0])) is Mode.ENFORCE


async def test_a_process_forgets_no_policy_that_the_hints_have_lost(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record())
    scene.hints._policies.clear()
    await trio.sleep(RETRY)
    for answer in (*SILENT, *FAILED, record()):
        assert mode_of(await scene.stand(answer)) is Mode.ENFORCE
    scene.restart()  # as a reload does
    assert (await scene.stand(SILENT[0])).standing == StsStanding()


@pytest.mark.parametrize("answer", [*SILENT, *FAILED])
async def test_what_another_process_fetches_counts_where_nothing_was_known(
    autojump_clock: MockClock, scene: Scene, answer: Answer
) -> None:
    assert (await scene.stand(answer)).standing == StsStanding()
    await trio.sleep(FRESH)
    seen = StsSeen(DOMAIN, "1", "enforce", (HOST,), int(7 * DAY), scene.clock.now())
    scene.hints.note(seen, source="test", reason="fetched", now=scene.clock.now())
    assert mode_of(await scene.stand(answer)) is Mode.ENFORCE


async def test_an_older_fetch_of_another_process_changes_nothing(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record())
    older = StsSeen(DOMAIN, "0", "none", (), int(7 * DAY), scene.clock.now() - 60)
    scene.hints._policies[DOMAIN] = older
    await trio.sleep(FRESH)
    assert mode_of(await scene.stand(record())) is Mode.ENFORCE


async def test_hints_that_could_not_be_read_are_asked_again_by_the_next_message(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene.build()
    with monkeypatch.context() as trouble:
        trouble.setattr(scene.hints, "sts_policy", Broken(clock=scene.clock.now).sts_policy)
        stood = await scene.stand(NxDomain(True))
    assert stood.until <= trio.current_time()
    assert (await scene.stand(NxDomain(True))).until == trio.current_time() + RETRY
    await trio.sleep(FRESH)
    seen = StsSeen(DOMAIN, "1", "enforce", (HOST,), int(7 * DAY), scene.clock.now())
    scene.hints.note(seen, source="test", reason="fetched", now=scene.clock.now())
    assert mode_of(await scene.stand(NxDomain(True))) is Mode.ENFORCE


async def test_a_mistake_of_ours_is_a_fetch_that_failed(
    autojump_clock: MockClock, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("a bug")

    scene.web.before = broken
    for _ in range(3):
        stood = await scene.stand(record())
        assert codes(stood) == ["sts-not-fetched"]
    assert len(scene.web.asked) == 1
    assert "a bug" in caplog.text


async def test_a_fetch_that_a_known_policy_could_do_without_is_short(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record("1"))
    await trio.sleep(FRESH)
    scene.web.before = trio.sleep_forever
    began = trio.current_time()
    stood = await scene.stand(record("2"))
    assert trio.current_time() - began == HURRY
    assert mode_of(stood) is Mode.ENFORCE
    assert codes(stood) == ["sts-not-fetched", "sts-found"]
    await scene.stand(record("2"))
    assert trio.current_time() - began == HURRY
    assert len(scene.web.asked) == 2


async def test_a_failure_is_remembered_whatever_is_read_beside_it(
    autojump_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, real = trio.Event(), scene.hints.sts_policy

    async def slowly(domain: str) -> StsSeen | None:
        await slow.wait()
        return await real(domain)

    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as later:
            later.setattr(scene.hints, "sts_policy", slowly)
            nursery.start_soon(scene.stand, record())
            await trio.testing.wait_all_tasks_blocked()
        scene.web.says = "404"
        await scene.stand(record())
        slow.set()
    assert len(scene.web.asked) == 1


async def test_trouble_is_told_only_while_it_matters(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.stand(record("1"))
    await trio.sleep(FRESH)
    scene.web.says = "404"
    assert "sts-not-fetched" in codes(await scene.stand(record("2")))
    assert codes(await scene.stand(record("1"))) == ["sts-found"]


async def test_a_very_short_policy_is_not_fetched_for_every_message(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.web.says = policy(age=400)
    await scene.stand(record())
    await trio.sleep(RETRY - 1)
    await scene.stand(record())
    assert len(scene.web.asked) == 1
    await trio.sleep(1)
    await scene.stand(record())
    assert len(scene.web.asked) == 2


async def test_a_policy_that_another_process_has_fetched_counts(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record("1"))
    await trio.sleep(10)
    now = scene.clock.now()
    seen = StsSeen(DOMAIN, "2", "testing", (HOST,), int(7 * DAY), now)
    scene.hints.note(seen, source="test", reason="fetched", now=now)
    assert mode_of(await scene.stand(record("2"))) is Mode.TESTING
    assert len(scene.web.asked) == 1


async def test_a_known_policy_outlives_trouble_with_the_hints(
    autojump_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stand(record())
    scene.web.says = "404"
    await trio.sleep(RETRY)
    monkeypatch.setattr(scene.hints, "sts_policy", Broken(clock=scene.clock.now).sts_policy)
    for answer in (record(), *SILENT, *FAILED):
        assert mode_of(await scene.stand(answer)) is Mode.ENFORCE


async def test_a_clock_that_is_set_back_makes_no_policy_older_or_longer(
    autojump_clock: MockClock, scene: Scene
) -> None:
    later = scene.clock.now() + DAY / 2
    seen = StsSeen(DOMAIN, "1", "enforce", (HOST,), int(7 * DAY), later)
    scene.hints.note(seen, source="test", reason="fetched", now=later)
    stood = await scene.stand(SILENT[0])
    assert mode_of(stood) is Mode.ENFORCE
    assert stood.until <= trio.current_time() + RETRY


async def test_a_clock_that_is_set_back_makes_no_short_policy_long(
    autojump_clock: MockClock, scene: Scene
) -> None:
    later = scene.clock.now() + DAY / 2
    seen = StsSeen(DOMAIN, "1", "enforce", (HOST,), 100, later)
    scene.hints.note(seen, source="test", reason="fetched", now=later)
    assert (await scene.stand(SILENT[0])).until <= trio.current_time() + 100


async def test_a_first_policy_may_take_its_time(autojump_clock: MockClock, scene: Scene) -> None:
    async def slowly() -> None:
        await trio.sleep(HURRY + 1)

    scene.web.before = slowly
    assert mode_of(await scene.stand(record())) is Mode.ENFORCE


async def test_a_policy_that_would_refuse_this_host_is_worth_waiting(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record("1"))
    await trio.sleep(FRESH)

    async def slowly() -> None:
        await trio.sleep(HURRY + 1)

    scene.web.before, scene.web.says = slowly, policy(host="new.example.org")
    stood = await scene.stand(record("2"), "new.example.org")
    assert stood.standing.policy is not None
    assert stood.standing.policy.covers("new.example.org")


async def test_a_fetch_that_is_cut_off_is_not_begun_by_every_message(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """As where another host has taken the mail meanwhile."""
    await scene.stand(record("1"))
    await trio.sleep(FRESH)
    scene.web.before = trio.sleep_forever
    for _ in range(5):
        with trio.move_on_after(0.1):
            await scene.stand(record("2"))
    assert len(scene.web.asked) == 2


async def test_two_ids_in_turn_are_not_fetched_for_every_message(
    autojump_clock: MockClock, scene: Scene
) -> None:
    for number in "1212121212":
        await scene.stand(record(number))
    assert len(scene.web.asked) == 1


_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True)
_HOSTS = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)
_PATTERNS = st.lists(st.tuples(st.sampled_from(["", "*."]), _HOSTS).map("".join), max_size=20)


@given(
    st.sampled_from(["enforce", "testing", "none"]), _PATTERNS, st.integers(0, 9_999_999_999), _HOSTS,
    st.from_regex(r"[A-Za-z0-9]{1,32}", fullmatch=True),
)  # fmt: skip
def test_what_is_a_policy_is_kept_by_the_hints(
    mode: str, patterns: list[str], age: int, domain: str, number: str
) -> None:
    """Two grammars, one on each side of the port: what one takes the other must not drop."""
    text = [f"version: STSv1\nmode: {mode}\nmax_age: {age}", *(f"mx: {one}" for one in patterns)]
    try:
        policy = parse_policy("\n".join(text).encode())
    except BadPolicy:
        return
    seen = StsSeen(domain, number, policy.mode.value, policy.patterns, policy.max_age, 1_800_000_000.0)
    assert policy_id([f"v=STSv1; id={number};".encode()]) == number
    assert accept(seen) == seen


@dataclass
class Counted:
    """How often the hints were asked."""

    real: Any
    asked: int = 0

    async def __call__(self, domain: str) -> StsSeen | None:
        self.asked += 1
        found: StsSeen | None = await self.real(domain)
        return found


@pytest.mark.parametrize("answer", [record(), *SILENT, *FAILED])
async def test_the_hints_are_asked_once_for_many_messages(
    autojump_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    counted = Counted(scene.hints.sts_policy)
    monkeypatch.setattr(scene.hints, "sts_policy", counted)
    for _ in range(5):
        await scene.stand(answer)
    assert counted.asked == 1


async def test_a_known_policy_does_not_wait_for_hints_that_hang(
    autojump_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.stand(record())
    counted = Counted(Broken(clock=scene.clock.now).sts_policy)
    monkeypatch.setattr(scene.hints, "sts_policy", counted)
    await trio.sleep(FRESH)
    for _ in range(5):
        assert mode_of(await scene.stand(record())) is Mode.ENFORCE
    assert counted.asked == 1


async def test_a_policy_of_a_clock_that_was_ahead_gives_way_to_a_new_one(
    autojump_clock: MockClock, scene: Scene
) -> None:
    later = scene.clock.now() + DAY / 2
    seen = StsSeen(DOMAIN, "1", "enforce", ("old.example.org",), int(7 * DAY), later)
    scene.hints.note(seen, source="test", reason="fetched", now=later)
    scene.web.says = policy(host="new.example.org")
    for _ in range(3):
        stood = await scene.stand(record("1"), "new.example.org")
        assert stood.standing.policy is not None
        assert stood.standing.policy.covers("new.example.org")
        await trio.sleep(RETRY)
    assert len(scene.web.asked) == 1


async def test_a_known_policy_is_remembered_among_many_domains_without(
    autojump_clock: MockClock, scene: Scene
) -> None:
    await scene.stand(record(), domain="old.example")
    scene.hints._policies.clear()
    for number in range(MAX_DOMAINS + 10):
        await scene.stand(SILENT[0], domain=f"d{number}.example")
    assert mode_of(await scene.stand(SILENT[0], domain="old.example")) is Mode.ENFORCE
    assert len(scene.kept._known) == MAX_DOMAINS


async def test_of_very_many_policies_those_asked_for_last_are_remembered(
    autojump_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deliver.sts.policies.MAX_DOMAINS", 3)
    for name in "abcd":
        await scene.stand(record(), domain=f"{name}.example")
    assert list(scene.kept._known) == ["b.example", "c.example", "d.example"]
