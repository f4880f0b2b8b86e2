"""What one client may have: connections, and rates that fill evenly."""

from __future__ import annotations

import pytest

from deliver.relay import limits
from deliver.relay.limits import Allowance, ClientLimits, account, connections_within


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_connections_at_a_time() -> None:
    accounts = ClientLimits(Allowance(connections=2), Clock())
    assert [accounts.connect("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert accounts.connect("192.0.2.2")
    accounts.disconnect("192.0.2.1")
    assert accounts.connect("192.0.2.1")


def test_no_limits_by_default() -> None:
    accounts = ClientLimits(Allowance(), Clock())
    assert all(accounts.connect("192.0.2.1") for _ in range(1000))
    assert all(accounts.message("192.0.2.1") and accounts.recipient("192.0.2.1") for _ in range(1000))


def test_a_minutes_worth_at_once_and_then_evenly() -> None:
    clock = Clock()
    accounts = ClientLimits(Allowance(messages=6), clock)
    assert [accounts.message("192.0.2.1") for _ in range(8)] == [True] * 6 + [False] * 2
    assert accounts.message("192.0.2.2")
    clock.now += 9.9
    assert not accounts.message("192.0.2.1")
    clock.now += 0.2
    assert [accounts.message("192.0.2.1") for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [accounts.message("192.0.2.1") for _ in range(8)] == [True] * 6 + [False] * 2


def test_messages_and_recipients_are_counted_apart() -> None:
    accounts = ClientLimits(Allowance(messages=1, recipients=2), Clock())
    assert accounts.message("192.0.2.1")
    assert [accounts.recipient("192.0.2.1") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("client", "same"),
    [
        ("2001:db8:0:1::5", "2001:db8:0:1:ffff::9"),
        ("192.0.2.1", "192.0.2.1"),
        ("local", "local"),
    ],
)
def test_who_is_counted_together(client: str, same: str) -> None:
    assert account(client) == account(same)


@pytest.mark.parametrize(
    ("one", "other"), [("2001:db8:0:1::5", "2001:db8:0:2::5"), ("192.0.2.1", "192.0.2.2")]
)
def test_who_is_not(one: str, other: str) -> None:
    assert account(one) != account(other)


def test_what_is_remembered_is_bounded_and_who_was_stopped_stays_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 5)
    clock = Clock()
    accounts = ClientLimits(Allowance(messages=1), clock)
    for number in range(10):
        accounts.message(f"192.0.2.{number}")
    clock.now += 61
    accounts.message("198.51.100.1")
    assert not accounts.message("198.51.100.1")
    assert len(accounts._buckets) == 1
    for number in range(100):
        accounts.message(f"203.0.113.{number}")
    assert len(accounts._buckets) <= 10


@pytest.mark.parametrize(
    ("wanted", "files", "most"),
    [(500, 1024, 500), (500, 1000, 500), (500, 999, 499), (10_000, 4096, 2048), (1, 1, 1)],
)
def test_half_of_the_files_are_for_the_mail(wanted: int, files: int, most: int) -> None:
    assert connections_within(wanted, files) == most
