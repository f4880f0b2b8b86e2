"""Whether the process behind a name still runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deliver.owner import is_alive, own_name

ROOT = Path(__file__).parents[2]


def test_we_are_alive() -> None:
    assert is_alive(own_name()) is True
    assert own_name() == own_name()


def test_a_process_that_ended_is_not() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from deliver.owner import own_name; print(own_name())"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert is_alive(ran.stdout.strip()) is False


def test_a_number_that_is_used_again_is_another_process() -> None:
    boot, namespace, pid, started = own_name().split("-")
    assert is_alive(f"{boot}-{namespace}-{pid}-{int(started) + 1}") is False
    assert is_alive(f"00000000-{namespace}-{pid}-{started}") is False


def test_another_container_cannot_be_told() -> None:
    boot, namespace, pid, started = own_name().split("-")
    assert is_alive(f"{boot}-{int(namespace) + 1}-{pid}-{started}") is None
    assert is_alive("nonsense") is None
