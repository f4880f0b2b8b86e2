"""Durations and sizes: units demanded, exact round trip, plain numbers to everybody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from deliver.quantity import Duration, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("5d", 432000),
        ("1w", 604800),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5s", 1.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    "value", [5, 1.5, True, "5", "5 m", "m", "-5s", "5x", "", "٣s", "1h30", None, [], "9" * 200 + "s"]
)
def test_not_durations(value: object) -> None:
    with pytest.raises(ValueError):
        Duration.parse(value)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("64kB", 64_000),
        ("64KiB", 65_536),
        ("50MB", 50_000_000),
        ("1GiB", 2**30),
        ("1.5 MB", 1_500_000),
        ("7B", 7),
        ("1kb", 1000),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert Size.parse(text) == octets


@pytest.mark.parametrize("value", [5, True, "5", "5m", "-5kB", "kB", "", None, "9" * 40 + "B"])
def test_not_sizes(value: object) -> None:
    with pytest.raises(ValueError):
        Size.parse(value)


def test_zero_needs_no_unit() -> None:
    assert Duration.parse(0) == 0
    assert Size.parse(0) == 0


def test_they_print_as_plain_numbers() -> None:
    assert f"SIZE {Size(50_000_000)}" == "SIZE 50000000"
    assert f"{Duration(2)}" == "2.0"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_round_trip(number: int) -> None:
    assert Size.parse(Size(number).text()) == number
    assert Duration.parse(Duration(number).text()) == number
    assert Duration.parse(Duration(number / 1000).text()) == pytest.approx(number / 1000)
