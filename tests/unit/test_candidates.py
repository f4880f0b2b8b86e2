"""What counts as one site: the same servers under the same settings, whatever the recipient domain."""

from __future__ import annotations

from dataclasses import dataclass

from deliver.candidates import MAX_SITE, site_of
from deliver.resolve.mx import MxPlan, MxTarget
from deliver.settings import Delivery, Rule, Settings


@dataclass
class Desk:
    """Of an agent only the settings."""

    settings: Settings


def site(domain: str, *targets: MxTarget, settings: Settings | None = None) -> str:
    return site_of(Desk(settings or Settings()), domain, MxPlan(domain, targets, True))  # type: ignore[arg-type]


ONE, TWO = MxTarget("mx1.example.org", 10), MxTarget("mx2.example.org", 10)


def test_domains_with_the_same_exchangers_share_a_site_in_whatever_order_they_come() -> None:
    assert site("a.test", ONE, TWO) == site("b.test", TWO, ONE)


def test_other_exchangers_ports_and_preferences_are_another_site() -> None:
    sites = {
        site("a.test", ONE),
        site("a.test", ONE, TWO),
        site("a.test", MxTarget("mx1.example.org", 20)),
        site("a.test", MxTarget("mx1.example.org", 10, 587)),
        site("a.test", ONE, settings=Settings(delivery=Delivery(port=26))),
    }
    assert len(sites) == 5


def test_another_level_for_a_domain_is_another_site() -> None:
    settings = Settings(rule=(Rule(domains=("strict.test",), tls={"level": "encrypt"}),))
    assert site("strict.test", ONE, settings=settings) != site("a.test", ONE, settings=settings)


def test_a_long_site_stays_bounded_and_distinct() -> None:
    many = tuple(MxTarget(f"mx{number}.{'x' * 60}.example.org", number) for number in range(50))
    assert len(site("a.test", *many)) == MAX_SITE
    assert site("a.test", *many) != site("a.test", *many[:-1])
