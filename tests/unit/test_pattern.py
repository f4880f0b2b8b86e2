"""Patterns of names, as routes and rules use them."""

from __future__ import annotations

import pytest

from deliver.errors import UsageError
from deliver.pattern import any_matches, canonical, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("example.org", "example.org", True),
        ("Example.ORG.", "example.org", True),
        ("example.org", "Example.org.", True),
        ("example.org", "mail.example.org", False),
        ("*.example.org", "mail.example.org", True),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "badexample.org", False),
        ("*", "example.org", True),
        ("*", "[192.0.2.1]", True),
        ("[192.0.2.1]", "[192.0.2.1]", True),
        ("*.org", "[192.0.2.1]", False),
        ("*.bücher.example", "mail.xn--bcher-kva.example", True),
    ],
)
def test_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["", "**", "a.*.org", "*example.org", "exa mple.org", "*.", "a..b"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UsageError):
        canonical(pattern)


def test_any_of_several() -> None:
    assert any_matches(("a.example", "*.b.example"), "x.b.example")
    assert not any_matches((), "x.b.example")
