"""What a service asks of the system, in a process of its own: limits are a process's for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """\
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from deliver.tuning import tune
tune()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], sys.getswitchinterval())
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(256, 300, 300), (300, 300, 300), (256, "hard", None)],
)
def test_files_up_to_the_hard_limit_and_short_turns(soft: int, hard: int | str, expected: int | None) -> None:
    code = CODE.format(soft=soft, hard=hard)
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    files, turn = ran.stdout.split()
    assert int(files) == expected if expected else int(files) > soft
    assert float(turn) == pytest.approx(0.0005)
