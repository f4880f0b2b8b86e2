"""The settings tree: exceptions by destination, paths, database URLs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from deliver.settings import Delivery, Rule, Settings, Smtp, Tls, overridden
from deliver.tls.policy import Level

RULES = Settings(
    rule=(
        Rule(domains=("*.example.org", "example.org"), tls={"level": "verify"}),
        Rule(hosts=("mx.slow.example",), smtp={"timeouts": {"dot": "20m"}}),
        Rule(domains=("strict.example.org",), hosts=("*.slow.example",), tls={"level": "dane-only"}),
        Rule(domains=("late.example.org",), tls={"level": "encrypt", "min_version": "1.3"}),
        Rule(domains=("late.example.org",), tls={"level": "may"}, delivery={"port": 2525}),
    )
)


def test_without_rules_the_sections_hold() -> None:
    settings = Settings(tls=Tls(level=Level.ENCRYPT))
    found = settings.towards("example.org", "mx.example.org")
    assert (found.tls, found.smtp, found.delivery) == (settings.tls, settings.smtp, settings.delivery)


@pytest.mark.parametrize(
    ("domain", "host", "level"),
    [
        ("other.example", None, Level.DANE),
        ("example.org", None, Level.VERIFY),
        ("a.b.example.org", "mx.slow.example", Level.VERIFY),
        ("strict.example.org", None, Level.VERIFY),
        ("strict.example.org", "mx.other.example", Level.VERIFY),
        ("strict.example.org", "mx.slow.example", Level.DANE_ONLY),
        ("elsewhere.example", "mx.slow.example", Level.DANE),
    ],
)
def test_level_towards(domain: str, host: str | None, level: Level) -> None:
    assert RULES.towards(domain, host).tls.level is level


def test_later_rules_win_and_the_other_keys_stay() -> None:
    found = RULES.towards("late.example.org", None)
    assert found.tls == Tls(level=Level.MAY, min_version="1.3")
    assert found.delivery == Delivery(port=2525)


def test_a_nested_table_overrides_only_its_keys() -> None:
    timeouts = RULES.towards("example.net", "mx.slow.example").smtp.timeouts
    assert timeouts.dot == 1200
    assert timeouts.mail == Smtp().timeouts.mail


def test_equal_exceptions_share_one_value() -> None:
    assert RULES.towards("a.example.org", None) is RULES.towards("b.example.org", "mx.example.org")


def test_the_cache_of_exceptions_is_no_part_of_the_value() -> None:
    one, two = Settings(rule=RULES.rule), Settings(rule=RULES.rule)
    one.towards("a.example.org", None)
    assert one == two


def test_a_rule_that_the_type_does_not_allow_raises() -> None:
    with pytest.raises(msgspec.ValidationError):
        overridden(Tls(), {"levle": "may"})


def test_paths_are_taken_from_the_state_directory() -> None:
    settings = Settings(state_dir="/var/lib/x")
    assert settings.path("queue") == Path("/var/lib/x/queue")
    assert settings.path("/srv/queue") == Path("/srv/queue")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///hints.db", "sqlite:////var/lib/x/hints.db"),
        ("sqlite+pysqlite:///a/b.db?timeout=5", "sqlite+pysqlite:////var/lib/x/a/b.db?timeout=5"),
        ("sqlite:////srv/hints.db", "sqlite:////srv/hints.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("memory", "memory"),
        ("postgresql+psycopg:///mail", "postgresql+psycopg:///mail"),
    ],
)
def test_database_urls(url: str, expected: str) -> None:
    assert Settings(state_dir="/var/lib/x").database_url(url) == expected
