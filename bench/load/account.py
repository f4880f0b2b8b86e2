"""What a relay costs: CPU seconds, memory and fsyncs of its whole process tree, resolver included.

CPU and memory come from control groups of its own where they can be made (version 1 or 2); else from /proc,
where a child that nobody waits for is lost. Fsyncs are counted by a preloaded library, where there is a C
compiler.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
_SHIM = Path(__file__).with_name("fsyncs.c")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and fsyncs since the tree began; `memory` is resident and private now, octets."""

    cpu: float
    memory: int
    fsyncs: int | None


@dataclass(slots=True)
class Account:
    """The account of one relay; `environment` is for its processes."""

    groups: tuple[Path, ...]
    counter: Path | None
    library: Path | None
    pids: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, directory: Path, name: str) -> Account:
        """Make the groups and, where it can be, the counter in `directory`."""
        label = f"outrider-bench-{os.getpid()}-{name}-{time.monotonic_ns()}"
        places: tuple[Path, ...] = (GROUPS / "cpuacct" / label, GROUPS / "memory" / label)
        if not (GROUPS / "cpuacct").is_dir():
            places = (GROUPS / label,)
        made = []
        for place in places:
            with contextlib.suppress(OSError):
                place.mkdir()
                made.append(place)
        library = _library(directory)
        counter = directory / f"{name}.fsyncs"
        counter.write_bytes(bytes(8))
        counter.chmod(0o666)
        return cls(tuple(made), counter if library else None, library)

    def environment(self, known: dict[str, str]) -> dict[str, str]:
        """`known` with what counts fsyncs."""
        if self.library is None or self.counter is None:
            return known
        preload = " ".join(filter(None, (known.get("LD_PRELOAD"), str(self.library))))
        return {**known, "LD_PRELOAD": preload, "OUTRIDER_BENCH_FSYNCS": str(self.counter)}

    def wrap(self, command: Sequence[str | Path]) -> list[str | Path]:
        """The command, run inside the groups."""
        enter = " ".join(f"echo $$ > {shlex.quote(str(group))}/cgroup.procs;" for group in self.groups)
        return ["/bin/sh", "-c", f'{enter} exec "$@"', "sh", *command]

    def follow(self, session: int) -> None:
        """Where there are no groups: count the processes of that session, given by its leader."""
        self.pids.append(session)

    def usage(self) -> Usage:
        """Now."""
        fsyncs = None if self.counter is None else int.from_bytes(self.counter.read_bytes(), "little")
        return Usage(self._cpu(), self._memory(), fsyncs)

    def close(self) -> None:
        """Remove the groups, whose processes have ended."""
        for group in self.groups:
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)

    def _cpu(self) -> float:
        for group in self.groups:
            if (group / "cpuacct.usage").exists():
                return int((group / "cpuacct.usage").read_text()) / 1e9
            if (group / "cpu.stat").exists():
                words = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
                return int(words["usage_usec"]) / 1e6
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(sum(_stat(pid)[11:15]) for leader in self.pids for pid in _session(leader)) / ticks

    def _memory(self) -> int:
        for group in self.groups:
            stat = group / "memory.stat"
            if stat.exists():
                words = dict(line.split() for line in stat.read_text().splitlines())
                return int(words.get("anon", words.get("total_rss", words.get("rss", "0"))))
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(_stat(pid)[21] for leader in self.pids for pid in _session(leader)) * page


def _session(leader: int) -> Iterator[int]:
    """The processes of a session; Exim and Postfix give their children none of their own."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                if _stat(int(entry))[3] == leader:
                    yield int(entry)


def _stat(pid: int) -> list[int]:
    """The numbers of /proc/PID/stat that follow the name, proc(5); 0 stands for the state."""
    text = (Path("/proc") / str(pid) / "stat").read_text()
    return [0, *(int(word) for word in text.rpartition(")")[2].split()[1:])]


def _library(directory: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    made = directory / "fsyncs.so"
    if not made.exists():
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(_SHIM), "-ldl"]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        made.chmod(0o755)
    return made
