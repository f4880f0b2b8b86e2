"""How long hints are kept."""

from __future__ import annotations

from hints.prune import EHLO_ANSWER, LEVEL_SEEN, REACHED, UNREACHED, expired, lifetime
from hints.records import EhloAnswer, EhloPhase, LevelSeen, Reachability, StsSeen


def test_each_kind_has_its_lifetime():
    assert lifetime(EhloAnswer("192.0.2.1", 25, EhloPhase.CLEAR, "mx", ())) == EHLO_ANSWER
    assert lifetime(Reachability("mx", "192.0.2.1", 25, None)) == REACHED
    assert lifetime(Reachability("mx", "192.0.2.1", 25, "refused")) == UNREACHED < REACHED
    assert lifetime(LevelSeen("example.org", "mx", "pkix")) == LEVEL_SEEN
    assert lifetime(StsSeen("example.org", "1", "none", (), 86_400, 0.0)) == 86_400


def test_a_row_expires_at_its_time():
    assert not expired(10.0, 9.9)
    assert expired(10.0, 10.0)
