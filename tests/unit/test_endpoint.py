"""Reading host:port."""

from __future__ import annotations

import pytest

from deliver.endpoint import is_loopback, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail.example.org", ("mail.example.org", None)),
        ("mail.example.org:587", ("mail.example.org", 587)),
        ("192.0.2.1:25", ("192.0.2.1", 25)),
        ("2001:db8::1", ("2001:db8::1", None)),
        ("[2001:db8::1]:25", ("2001:db8::1", 25)),
        ("[192.0.2.1]", ("192.0.2.1", None)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_split(text: str, expected: tuple[str, int | None]) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":25", "host:", "host:x", "host:70000", "[mail.example.org]:25", "[::1", "a:b:c", "[::1]25"]
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError):
        split(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.53", True), ("::1", True), ("0.0.0.0", False), ("192.0.2.1", False), ("localhost", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
