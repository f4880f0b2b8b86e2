"""Which process owns work that a database row describes, and whether it is still there.

An owner is `BOOT-NAMESPACE-PID-START` as text that is safe in file names: the boot, the PID namespace, the
process number, and when it started in clock ticks, since numbers are used again (proc(5)).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_PROC = Path("/proc")
_OWNER = re.compile(r"([0-9a-f]{8})-(\d{1,20})-(\d{1,10})-(\d{1,20})\Z")


def own_name() -> str:
    """This process."""
    pid = os.getpid()
    return f"{_boot()}-{_namespace()}-{pid}-{_started(pid)}"


def is_alive(owner: str) -> bool | None:
    """Whether that process still runs; None if that cannot be told from here (another container)."""
    found = _OWNER.match(owner)
    if found is None:
        return None
    if found[1] != _boot():
        return False
    if found[2] != _namespace():
        return None
    return _started(int(found[3])) == found[4]


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "00000000"


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _started(pid: int) -> str:
    """Field 22 of /proc/PID/stat; "0" where there is no such process, or none that runs."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return "0"
    fields = text.rpartition(b")")[2].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return "0"
    return fields[19].decode()
