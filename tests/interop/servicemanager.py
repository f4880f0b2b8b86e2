"""A real systemd as the first process of namespaces of its own, that runs the units of conf/systemd.

    network            the machine's
    processes, mounts  its own: /run, /tmp and /var/lib are empty, /etc/outrider is a directory of the test
    control group      its own, below ours; its end is the end of every process in it

It knows no units of the machine but the targets that ours need. The units are the shipped ones; a test may add drop-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.interop.callers import ROOT, SITE_PACKAGES, public_python
from tests.interop.peers.programs import PeerMissing

MANAGER = Path("/lib/systemd/systemd")
MACHINES_UNITS = Path("/lib/systemd/system")
TREE = Path("/mnt/outrider")  # where the unit does not hide it
TARGETS = ("basic", "sysinit", "multi-user", "shutdown", "umount", "final", "sockets", "timers", "paths", "slices",
           "local-fs", "swap", "network", "network-online", "nss-lookup", "exit")  # fmt: skip
START = 30.0  # seconds

# $1 is the directory of the test. sysctls are the machine's: systemd must not raise any. What it mounts for a service
# (credentials) has to reach the others here, and nobody outside.
FIRST_STEPS = """\
set -e
mount --make-rprivate /
mount --bind -o ro /proc/sys /proc/sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
mkdir -p /etc/outrider /run/units
mount --bind "$1/etc" /etc/outrider
mount --bind "$1/bin" /usr/local/bin
mount --bind "$1/units" /run/units
mount -t tmpfs tmpfs /mnt
mkdir /mnt/outrider
mount --bind "$2" /mnt/outrider
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount --make-rshared /
exec env -i container=outrider-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \\
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"""


class ServiceManager:
    """Running within a `with` block. Raises PeerMissing where this machine cannot have it."""

    def __init__(self, directory: Path) -> None:
        """`directory`: empty, and open to users without rights; `etc` in it will be /etc/outrider."""
        self.directory = directory
        self.etc = directory / "etc"
        self.log = directory / "etc" / "relay.log"
        self._group = _group()
        self._first = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        demand()
        for name in ("etc", "bin", "units"):
            (self.directory / name).mkdir(mode=0o755)
        for target in TARGETS:
            shutil.copy(MACHINES_UNITS / f"{target}.target", self.directory / "units")
        for unit in (ROOT / "conf" / "systemd").iterdir():
            shutil.copy(unit, self.directory / "units")
        script = self.directory / "bin" / "outrider"
        packages = TREE / Path(SITE_PACKAGES).relative_to(ROOT)
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH={TREE}:{packages} exec {public_python()} -B -m deliver "$@"\n'
        )
        script.chmod(0o755)
        self.drop_in("outrider.service", "[Service]\nStandardError=append:/etc/outrider/relay.log\n", "log")
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def drop_in(self, unit: str, text: str, name: str = "test") -> None:
        """Settings beside those of the shipped unit."""
        place = self.directory / "units" / f"{unit}.d" / f"{name}.conf"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)

    def _start(self) -> None:
        self._group.mkdir()
        enter = f"echo 0 > {self._group}/cgroup.procs"
        namespaces = "unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --mount-proc"
        self._process = subprocess.Popen(
            ["/bin/sh", "-ec", f'{enter}; exec {namespaces} /bin/sh -c "$0" sh "$1" "$2"',
             FIRST_STEPS, self.directory, ROOT],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + START
        while self._ctl("is-active", "multi-user.target").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.end()
                raise PeerMissing(f"no systemd in namespaces here: {said[-500:]}")
            time.sleep(0.05)

    def systemctl(self, *words: str) -> str:
        """What it says; it has to succeed."""
        ran = self._ctl(*words)
        assert ran.returncode == 0, f"systemctl {words}: {ran.stdout}{ran.stderr}\n{self.said()}"
        return ran.stdout.strip()

    def fails(self, *words: str) -> str:
        """What it says; it has to fail."""
        ran = self._ctl(*words)
        assert ran.returncode != 0, f"systemctl {words} succeeded"
        return ran.stdout + ran.stderr

    def property(self, name: str, unit: str = "outrider.service") -> str:
        """What `systemctl show` knows of the unit."""
        return self.systemctl("show", "--value", "-p", name, unit)

    def main_pid(self) -> int:
        """The unit's main process, by the number that it has outside."""
        inside = self.property("MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = status.read_text().splitlines()
            except OSError:
                continue
            numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
            if numbers[1:] == [inside] and str(self._group.name) in (status.parent / "cgroup").read_text():
                return int(numbers[0])
        raise AssertionError(f"no process {inside}")

    def said(self) -> str:
        """The end of the relay's log."""
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def _ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        first = self._first_process()
        if not first:
            return subprocess.CompletedProcess(words, 1, "", "systemd has not begun")
        enter = ("nsenter", "-t", str(first), "-m", "-p", "-C")
        return subprocess.run(
            [*enter, "systemctl", "--no-pager", *words], capture_output=True, text=True, timeout=START, check=False
        )  # fmt: skip

    def _first_process(self) -> int:
        """systemd, by its number outside; 0 while the namespaces are being made."""
        if not self._first and self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            for pid in children.read_text().split() if children.exists() else ():
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    self._first = int(pid)
        return self._first

    def end(self) -> str:
        """End every process in the control group; what systemd said on its console."""
        if self._process is None:
            return ""
        (self._group / "cgroup.kill").write_text("1")
        said, _ = self._process.communicate(timeout=START)
        self._process = None
        deadline = time.monotonic() + START
        while "populated 1" in (self._group / "cgroup.events").read_text():
            assert time.monotonic() < deadline, "its processes do not end"
            time.sleep(0.02)
        for group, _, _ in os.walk(self._group, topdown=False):
            os.rmdir(group)
        return said.decode(errors="replace")


def demand() -> None:
    """Raise PeerMissing, with the reason, where no systemd of our own can run."""
    if os.geteuid():
        raise PeerMissing("namespaces for systemd need root")
    for program in ("unshare", "nsenter", "systemctl"):
        if shutil.which(program) is None:
            raise PeerMissing(f"there is no {program}")
    if not MANAGER.exists():
        raise PeerMissing("there is no systemd")
    if not Path(SITE_PACKAGES).is_relative_to(ROOT):
        raise PeerMissing(f"{SITE_PACKAGES} is hidden from the relay")
    if not os.access(_group().parent / "cgroup.kill", os.W_OK) and not os.access(_group().parent, os.W_OK):
        raise PeerMissing("there is no control group to make one below")


def _group() -> Path:
    """A control group (version 2) of our own, that is not made yet."""
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(words[1]) for words in mounted if words[2] == "cgroup2"]
    ours = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not roots or not ours:
        raise PeerMissing("there are no control groups of version 2")
    return roots[0] / ours[0].lstrip("/") / f"outrider-{os.getpid()}-{time.monotonic_ns()}"
