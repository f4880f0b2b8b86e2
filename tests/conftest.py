"""How every test runs: hypothesis profiles, which long tests run at all, and what a missing real server means.

- Profiles: `dev` and `ci` are short and repeat exactly; `soak` is long and random. HYPOTHESIS_PROFILE chooses another.
- Tests marked `soak` are left out unless OUTRIDER_SOAK=1 (`make soak` sets it).
- The tests of a file run one after the other in one process (`--dist loadfile`), so that what they share is started once;
  files that take long come first, so that none of them is the last that runs, alone.
- Tests that use a real server are marked `peers`. Where real servers are required (CI=true or OUTRIDER_REQUIRE_PEERS=1) such
  a test must not skip.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PEERS = ("exim", "postfix", "nsd", "unbound")
FIRST = ("interop", "durability", "simulate", "unit/zoo")  # folders whose files take long

settings.register_profile(
    "dev", max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("dev"))
settings.register_profile(
    "soak", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)


def soaking(environment: Mapping[str, str]) -> bool:
    """Whether the long forms run."""
    return environment.get("OUTRIDER_SOAK") == "1"


def profile(environment: Mapping[str, str]) -> str:
    """The name of the hypothesis profile."""
    if chosen := environment.get("HYPOTHESIS_PROFILE"):
        return chosen
    if soaking(environment):
        return "soak"
    return "ci" if environment.get("CI") == "true" else "dev"


def peers_required(environment: Mapping[str, str]) -> bool:
    """Whether a test of a real server may not skip; OUTRIDER_REQUIRE_PEERS decides where it is set."""
    if said := environment.get("OUTRIDER_REQUIRE_PEERS"):
        return said == "1"
    return environment.get("CI") == "true"


settings.load_profile(profile(os.environ))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A verb that runs inside the test process sets the log up; the next test must not notice."""
    logger = logging.getLogger("outrider")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def turn(item: pytest.Item) -> int:
    """When the file of this test is given to a process, among the others."""
    path = item.path.relative_to(Path(__file__).parent)
    return next((number for number, folder in enumerate(FIRST) if path.is_relative_to(folder)), len(FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of real servers, leave out the long ones, and begin with what takes long to wait for."""
    for item in items:
        if any(peer in getattr(item, "fixturenames", ()) for peer in PEERS):
            item.add_marker(pytest.mark.peers)
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=turn)
    if not soaking(os.environ):
        long = [item for item in items if item.get_closest_marker("soak")]
        if long:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a required real server into a failure, with the reason of the skip."""
    report = yield
    of_a_peer = report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("peers")
    if of_a_peer and peers_required(os.environ):
        reason = call.excinfo.value if call.excinfo else "no reason given"
        report.outcome = "failed"
        report.longrepr = f"required, but skipped: {reason}"
    return report
