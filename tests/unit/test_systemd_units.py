"""The units in conf/systemd, as systemd itself judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from deliver.settings import Settings
from deliver.supervisor import LINGER

UNITS = Path(__file__).parents[2] / "conf" / "systemd"

analyzes = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Copies whose program exists."""
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/outrider", "/bin/true"))
    return sorted(str(each) for each in tmp_path.iterdir())


def analyze(*words: str) -> str:
    ran = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=50)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@analyzes
def test_they_are_correct(units: list[str]) -> None:
    assert "outrider" not in analyze("verify", *units)


@analyzes
def test_the_service_is_hardened(units: list[str]) -> None:
    (service,) = (unit for unit in units if unit.endswith(".service"))
    found = re.search(
        r"exposure level for outrider.service: ([0-9.]+)", analyze("security", "--offline=true", service)
    )
    assert found is not None
    assert float(found[1]) < 2.0


def service() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / "outrider.service")
    return parser


def test_systemd_waits_longer_than_the_relay_takes_to_stop() -> None:
    seconds = int(service()["Service"]["TimeoutStopSec"].removesuffix("s"))
    assert seconds > Settings().queue.shutdown_grace + LINGER


def test_the_callbacks_of_tls_are_possible() -> None:
    assert service()["Service"].get("MemoryDenyWriteExecute", "no") == "no"
