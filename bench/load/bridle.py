"""Slow processors for processes under test: each gets a share of one, so that the harness is not the limit.

With control groups of version 1 (`cpu`); without them nothing is bridled.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup/cpu")
_PERIOD = 10_000  # microseconds
_WEIGHT = 4096  # a share is a share also where others are busy; 1024 is normal


def possible() -> bool:
    """Whether processes can be bridled here."""
    return (_GROUPS / "cpu.cfs_quota_us").exists()


@contextmanager
def bridled(share: float) -> Iterator[Bridle]:
    """Groups for one measurement, removed with the end of their processes."""
    bridle = Bridle(share)
    try:
        yield bridle
    finally:
        bridle.close()


class Bridle:
    """Each process that is taken may use `share` of a processor."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._made: list[Path] = []

    def take(self, process: int) -> None:
        """From now on, with all its threads."""
        group = _GROUPS / f"outrider-bench-{os.getpid()}-{process}"
        group.mkdir()
        self._made.append(group)
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(int(self._share * _PERIOD)))
        (group / "cpu.shares").write_text(str(_WEIGHT))
        (group / "cgroup.procs").write_text(str(process))

    def close(self) -> None:
        """Remove the groups; those whose processes live on stay."""
        for group in self._made:
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


def working(leader: int, wanted: int, command: Sequence[str]) -> tuple[int, ...]:
    """Wait for the `wanted` processes below `leader` that work: its last descendants that run `command`.

    Raises TimeoutError.
    """
    for _ in range(200):
        found = [each for each in _below(leader) if _runs(each, command)]
        parents = {_parent(each) for each in found}
        leaves = tuple(each for each in found if each not in parents)
        if len(leaves) == wanted:
            return leaves
        time.sleep(0.05)
    raise TimeoutError(f"{len(leaves)} of {wanted} processes")


def _below(leader: int) -> Iterator[int]:
    for child in Path(f"/proc/{leader}/task/{leader}/children").read_text().split():
        yield int(child)
        with contextlib.suppress(OSError):
            yield from _below(int(child))


def _runs(process: int, command: Sequence[str]) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        return all(word in words for word in command)
    return False


def _parent(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
