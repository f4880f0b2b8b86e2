"""Where real servers are required, a test that skips for lack of one fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

@pytest.mark.peers
def test_of_a_peer():
    pytest.skip("the server is on holiday")

def test_of_something_else():
    pytest.skip("not today")

@pytest.mark.soak
def test_that_takes_long():
    pass
"""
CONFIGURATION = "[pytest]\nmarkers =\n    peers: x\n    soak: x\n"


@pytest.mark.parametrize(
    ("environment", "summary"),
    [
        ({}, "2 skipped, 1 deselected"),
        ({"CI": "true"}, "1 failed, 1 skipped, 1 deselected"),
        ({"OUTRIDER_REQUIRE_PEERS": "1"}, "1 failed, 1 skipped, 1 deselected"),
        ({"CI": "true", "OUTRIDER_REQUIRE_PEERS": "0"}, "2 skipped, 1 deselected"),
        ({"OUTRIDER_SOAK": "1"}, "1 passed, 2 skipped"),
    ],
)
def test_skips_of_required_peers_are_failures(
    tmp_path: Path, environment: dict[str, str], summary: str
) -> None:
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    (tmp_path / "test_sample.py").write_text(TESTS)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "CI" and not name.startswith(("OUTRIDER_", "PYTEST_", "HYPOTHESIS_", "COV_"))
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert summary in run.stdout, run.stdout + run.stderr
    assert ("required, but skipped: the server is on holiday" in run.stdout) == ("failed" in summary)
