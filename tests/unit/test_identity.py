from __future__ import annotations

import pytest

from deliver.errors import ConfigurationError
from deliver.identity import host_name


@pytest.mark.parametrize(
    ("configured", "node", "name"),
    [
        ("relay.example.org", "ignored", "relay.example.org"),
        ("", "Mail.Example.ORG", "mail.example.org"),
        ("", "mail", "mail.localdomain"),
    ],
)
def test_our_name(configured: str, node: str, name: str) -> None:
    assert host_name(configured, node) == name


def test_a_machine_without_a_usable_name() -> None:
    with pytest.raises(ConfigurationError, match=r"set delivery\.helo"):
        host_name("", "my machine")
