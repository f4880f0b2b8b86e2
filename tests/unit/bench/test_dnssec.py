"""Queries and round trips of a delivery's lookups: those figures of the measurement that no machine's load changes."""

from __future__ import annotations

import pytest

from bench.dnssec import DOMAINS, Bench, Row, missed, over_the_zoo


@pytest.fixture(scope="module")
def bench() -> Bench:
    return over_the_zoo()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("state", ["cold", "neighbour", "keys", "warm"])
def test_round_trips_are_within_the_target(bench: Bench, domain: str, state: str) -> None:
    queries, round_trips = bench.count(domain, state)
    assert missed(Row(domain, "", state, queries, round_trips, 0, 0)) == ()
    assert (queries == 0) == (state == "warm")


def test_keys_of_a_neighbour_save_queries(bench: Bench) -> None:
    cold, neighbour, keys = (bench.count("alg13.test", state)[0] for state in ("cold", "neighbour", "keys"))
    assert cold > neighbour > keys


def test_missed_targets_are_named() -> None:
    assert missed(Row("alg13.test", "", "cold", 9, 5, 7.5, 0)) == ("round_trips 5 > 4", "cpu_ms 7.5 > 6")
