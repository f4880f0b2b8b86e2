"""What both kinds of hints promise: the same answers from memory and from a file, never an error."""

from __future__ import annotations

import pytest
import trio

from hints.check import MAX_ERROR, MAX_KEYWORD, MAX_KEYWORDS
from hints.memory import MemoryHints
from hints.port import AddressView, FeatureView, Hints
from hints.prune import EHLO_ANSWER, FEATURE, HALF_LIFE, REACHED, UNREACHED
from hints.records import EhloAnswer, EhloPhase, Feature, LevelSeen, Reachability, Word
from hints.sql import SqlHints

A, B, HOST = "192.0.2.1", "2001:db8::1", "mx.example.org"


@pytest.fixture(params=["memory", "sql", "sql, flushed after every note"])
async def hints(request, clock, tmp_path):
    if request.param == "memory":
        made: Hints = MemoryHints(clock=clock)
    else:
        made = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**20, patience=10)
    made.eager = "flushed" in request.param  # type: ignore[attr-defined]
    yield made
    await made.aclose()


async def tell(hints, clock, *notes):
    for note in notes:
        hints.note(note, source="relay", reason="test", now=clock.now)
        if hints.eager:
            await hints.flush()


def answer(phase=EhloPhase.CLEAR, *keywords: str, address=A) -> EhloAnswer:
    return EhloAnswer(address, 25, phase, "mx", keywords or ("SIZE 1000", "STARTTLS"))


async def test_nothing_is_known_at_first(hints):
    assert await hints.look(HOST, (A, B), 25) == (AddressView(A), AddressView(B))
    assert await hints.look(HOST, (), 25) == ()


async def test_failures_count_until_a_success(hints, clock):
    await tell(hints, clock, Reachability(HOST, A, 25, "refused"))
    clock.now += 10
    await tell(hints, clock, Reachability(HOST, A, 25, "timed out"))
    assert await hints.look(HOST, (A,), 25) == (AddressView(A, 2, "timed out", clock.now),)
    clock.now += 10
    await tell(hints, clock, Reachability(HOST, A, 25, None))
    expected = AddressView(A, 0, "timed out", clock.now - 10, clock.now)
    assert await hints.look(HOST, (A,), 25) == (expected,)
    await hints.flush()
    assert await hints.look(HOST, (A,), 25) == (expected,)


async def test_hosts_addresses_and_ports_are_kept_apart(hints, clock):
    await tell(hints, clock, Reachability(HOST, A, 25, "refused"))
    assert [view.failures for view in await hints.look(HOST, (B, A), 25)] == [0, 1]
    assert (await hints.look(HOST, (A,), 587))[0].failures == 0
    assert (await hints.look("other.example", (A,), 25))[0].failures == 0
    assert (await hints.look(HOST.upper(), (A,), 25))[0].failures == 1


async def test_ehlo_answers_are_kept_by_phase_and_replaced(hints, clock):
    tls = answer(EhloPhase.TLS, "PIPELINING")
    await tell(hints, clock, tls, answer())
    assert (await hints.look(HOST, (A,), 25))[0].ehlo == (answer(), tls)
    await tell(hints, clock, answer(EhloPhase.CLEAR, "8BITMIME"))
    assert (await hints.look(HOST, (A,), 25))[0].ehlo == (answer(EhloPhase.CLEAR, "8BITMIME"), tls)
    await hints.flush()
    assert (await hints.look("whatever", (A,), 25))[0].ehlo == (answer(EhloPhase.CLEAR, "8BITMIME"), tls)


async def test_what_is_past_its_time_is_unknown(hints, clock):
    await tell(hints, clock, Reachability(HOST, A, 25, "refused"), Reachability(HOST, B, 25, None), answer())
    await hints.flush()
    clock.now += UNREACHED
    one, two = await hints.look(HOST, (A, B), 25)
    assert (one.failures, one.ehlo) == (0, (answer(),))
    assert two.last_success is not None
    clock.now += REACHED
    assert (await hints.look(HOST, (B,), 25))[0].last_success is None
    clock.now += EHLO_ANSWER
    assert await hints.look(HOST, (A,), 25) == (AddressView(A),)


async def test_an_expired_row_starts_anew(hints, clock):
    await tell(hints, clock, Reachability(HOST, A, 25, None))
    await tell(hints, clock, Reachability(HOST, A, 25, "refused"))
    await hints.flush()
    clock.now += REACHED
    await tell(hints, clock, Reachability(HOST, A, 25, "refused"))
    await hints.flush()
    assert await hints.look(HOST, (A,), 25) == (AddressView(A, 1, "refused", clock.now),)


async def test_hostile_texts_are_bounded(hints, clock):
    lines = tuple(f"X{number} \x1b[31m" + "y" * 9999 for number in range(999))
    await tell(hints, clock, EhloAnswer(A, 25, EhloPhase.CLEAR, "g\0" * 999, lines))
    await tell(hints, clock, Reachability(HOST, A, 25, "e\n" * 9999))
    await hints.flush()
    (view,) = await hints.look(HOST, (A,), 25)
    assert len(view.ehlo[0].keywords) == MAX_KEYWORDS
    assert {len(line) for line in view.ehlo[0].keywords} == {MAX_KEYWORD}
    assert "\x1b" not in view.ehlo[0].keywords[0]
    assert view.last_error is not None
    assert len(view.last_error) == MAX_ERROR
    assert view.last_error.isprintable()


@pytest.mark.parametrize(
    "note",
    [
        Reachability("", A, 25, None),
        Reachability("h" * 256, A, 25, None),
        Reachability(HOST, "x'; DROP TABLE reachability; --", 25, None),
        Reachability(HOST, A, 0, None),
        Reachability(HOST, A, 65536, None),
        EhloAnswer("192.0.2.001", 25, EhloPhase.CLEAR, "mx", ()),
        LevelSeen("example.org", HOST, "quantum"),
    ],
)
async def test_notes_that_make_no_sense_are_dropped(hints, clock, note):
    await tell(hints, clock, note, Reachability(HOST, B, 25, "kept"))
    await hints.flush()
    assert [view.failures for view in await hints.look(HOST, (A, B), 25)] == [0, 1]


async def test_levels_are_accepted(hints, clock):
    await tell(hints, clock, LevelSeen("example.org", HOST, "dane-ee"))
    await hints.flush()
    assert await hints.look(HOST, (A,), 25) == (AddressView(A),)


async def test_closing_twice_and_late_notes_are_no_error(hints, clock):
    await hints.aclose()
    await tell(hints, clock, Reachability(HOST, A, 25, None))
    await hints.aclose()


async def test_memory_is_bounded(clock):
    hints = MemoryHints(clock=clock, max_entries=2)
    for number in range(1, 4):
        hints.note(Reachability(HOST, f"192.0.2.{number}", 25, "no"), source="s", reason="r", now=clock.now)
    views = await hints.look(HOST, ("192.0.2.1", "192.0.2.2", "192.0.2.3"), 25)
    assert [view.failures for view in views] == [0, 1, 1]


@pytest.mark.parametrize("addresses", [(), (A,), (A, "192.0.2.77")])
async def test_looking_can_be_cancelled_also_when_cached(tmp_path, clock, addresses):
    hints = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**20)
    await hints.look(HOST, addresses, 25)
    with trio.CancelScope() as scope:
        scope.cancel()
        await hints.look(HOST, addresses, 25)
    assert scope.cancelled_caught
    await hints.aclose()


async def test_one_address_and_several_read_alike(tmp_path, clock):
    """One address that is cached takes a short cut."""
    hints = SqlHints(f"sqlite:///{tmp_path}/hints.db", clock=clock, max_size=2**20)
    other = "192.0.2.77"
    for word, worked in ((Word.CHUNKING, True), (Word.PRDR, False)):
        await hints.look(HOST, (A, other), 25)
        use = Feature(HOST, A, 25, word, worked)
        hints.note(use, source="s", reason="r", now=clock.now)
        (alone,) = await hints.look(HOST, (A,), 25)
        assert alone == (await hints.look(HOST, (A, other), 25))[0]
        assert alone.works(word) is worked
        await hints.flush()
        assert (await hints.look(HOST, (A,), 25))[0] == (await hints.look(HOST, (A, other), 25))[0] == alone
    await hints.aclose()


async def test_features_are_remembered_with_decay(hints, clock):
    def use(worked):
        return Feature(HOST, A, 25, Word.CHUNKING, worked)

    assert (await hints.look(HOST, (A,), 25))[0].works(Word.CHUNKING) is None
    await tell(hints, clock, use(True), use(True))
    assert (await hints.look(HOST, (A,), 25))[0].works(Word.CHUNKING) is True
    assert (await hints.look(HOST, (A,), 25))[0].works(Word.PRDR) is None
    clock.now += 1
    await tell(hints, clock, use(False))
    expected = FeatureView(Word.CHUNKING, 2, 1, clock.now - 1, clock.now)
    assert (await hints.look(HOST, (A,), 25))[0].features == (expected,)
    assert expected.works is False
    await hints.flush()
    clock.now += HALF_LIFE
    (seen,) = (await hints.look(HOST, (A,), 25))[0].features
    assert (seen.worked, seen.failed, seen.works) == (1, 0, True)
    await tell(hints, clock, use(True))
    await hints.flush()
    clock.now += 40
    (seen,) = (await hints.look(HOST, (A,), 25))[0].features
    assert (seen.worked, seen.failed) == (2, 0)
    clock.now += FEATURE
    assert (await hints.look(HOST, (A,), 25))[0].features == ()
