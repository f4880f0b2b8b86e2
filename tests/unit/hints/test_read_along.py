"""One look at the file answers what a delivery asks next; what this process knows better counts at once."""

from __future__ import annotations

import pytest
import trio

from hints.file import HintsFile
from hints.recent import CACHE_SECONDS
from hints.records import LevelSeen, SessionKey, TlsSession
from tests.unit.hints.hintsfile import HOST, A

DOMAIN = "example.org"
KEY = SessionKey(HOST, 25, HOST, "dane-ee", "", "TLSv1.2", "mx")
OTHER = SessionKey(HOST, 26, HOST, "dane-ee", "", "TLSv1.2", "mx")


@pytest.fixture
def asked(monkeypatch):
    """What the file is asked beside looks."""
    calls = []
    for name in ("best_level", "claim"):
        real = getattr(HintsFile, name)
        monkeypatch.setattr(
            HintsFile,
            name,
            lambda self, *args, _name=name, _real=real: calls.append(_name) or _real(self, *args),
        )
    return calls


def session(clock, key=KEY):
    return TlsSession(key, b"secret", (b"leaf",), None, "dane-ee", "TLSv1.3", clock.now, clock.now + 7200)


def keep(hints, clock, key=KEY):
    hints.keep_session(session(clock, key), source="relay", reason="test", now=clock.now)


def reach(hints, clock, level="dane-ee"):
    hints.note(LevelSeen(DOMAIN, HOST, level), source="relay", reason="test", now=clock.now)


async def test_of_an_unknown_host_nothing_more_is_asked(opened, asked):
    hints = opened()
    await hints.look(HOST.upper(), (A,), 25, DOMAIN.upper())
    assert await hints.claim_session(KEY) is None
    assert await hints.best_level(DOMAIN, HOST) is None
    assert not asked


async def test_a_level_is_read_along_and_a_session_is_taken_from_the_file(opened, clock, asked):
    other, hints = opened(), opened()
    reach(other, clock)
    keep(other, clock)
    await other.flush()
    await hints.look(HOST, (A,), 25, DOMAIN)
    assert await hints.best_level(DOMAIN, HOST) == "dane-ee"
    assert not asked
    assert await hints.claim_session(KEY) == session(clock)
    assert asked == ["claim"]


async def test_what_was_not_looked_for_is_asked(opened, clock, asked):
    other, hints = opened(), opened()
    reach(other, clock)
    keep(other, clock, OTHER)
    await other.flush()
    await hints.look(HOST, (A,), 25)
    assert await hints.best_level(DOMAIN, HOST) == "dane-ee"
    assert await hints.claim_session(OTHER) == session(clock, OTHER)
    assert asked == ["best_level", "claim"]


async def test_what_another_process_saves_is_found_after_a_while(opened, clock):
    other, hints = opened(), opened()
    await hints.look(HOST, (A,), 25, DOMAIN)
    reach(other, clock)
    keep(other, clock)
    await other.flush()
    assert await hints.claim_session(KEY) is None
    assert await hints.best_level(DOMAIN, HOST) is None
    clock.now += CACHE_SECONDS
    assert await hints.claim_session(KEY) is not None
    assert await hints.best_level(DOMAIN, HOST) == "dane-ee"


@pytest.mark.parametrize("flushed", [False, True])
async def test_what_this_process_saves_is_found_at_once(opened, clock, flushed):
    hints = opened()
    await hints.look(HOST, (A,), 25, DOMAIN)
    keep(hints, clock)
    reach(hints, clock)
    if flushed:
        await hints.flush()
    assert await hints.claim_session(KEY) == session(clock)
    assert await hints.best_level(DOMAIN, HOST) == "dane-ee"


async def test_a_level_that_waits_to_be_written_is_not_hidden_by_a_look(opened, clock):
    hints = opened()
    reach(hints, clock)
    await hints.look(HOST, (A,), 25, DOMAIN)
    await hints.flush()
    assert await hints.best_level(DOMAIN, HOST) == "dane-ee"


async def test_a_session_that_is_being_written_is_not_hidden_by_a_look(opened, clock, monkeypatch):
    hints = opened()
    keep(hints, clock)
    real = hints._file.write

    def write(*args, **more):
        trio.from_thread.run(hints.look, HOST, (A,), 25, DOMAIN)  # the file has it not yet
        return real(*args, **more)

    monkeypatch.setattr(hints._file, "write", write)
    await hints.flush()
    assert await hints.claim_session(KEY) == session(clock)


async def test_an_expired_session_is_none(opened, clock):
    other, hints = opened(), opened()
    keep(other, clock)
    await other.flush()
    clock.now += 7201
    await hints.look(HOST, (A,), 25)
    assert hints._recent.without_sessions(HOST, 25, clock.now)
