"""The configuration examples for callers, with their places filled in, and an Exim that runs one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.interop.peers.address import own_address
from tests.interop.peers.process import Process, spawn
from tests.interop.peers.programs import PeerMissing, Programs

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "conf" / "examples"
NOBODY = 65534
SITE_PACKAGES = (
    Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
)


def example(name: str, places: Mapping[str, str]) -> str:
    """The text of an example; every key of `places` must be in it."""
    text = (EXAMPLES / name).read_text()
    for placeholder, place in places.items():
        assert placeholder in text, f"{name} does not say {placeholder!r}"
        text = text.replace(placeholder, place)
    return text


def public_python() -> str:
    """A Python of our version that a user without rights can run. Raises PeerMissing."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (
        Path(sys.executable).resolve(),
        Path("/usr/bin") / version,
        Path("/usr/local/bin") / version,
    ):
        if candidate.exists() and all(
            _open(path) for path in (candidate, *candidate.parents, ROOT, *ROOT.parents)
        ):
            return str(candidate)
    raise PeerMissing(f"no {version} that a user without rights can run")


def outrider_script(directory: Path, config: Path) -> Path:
    """An executable `outrider` that reads `config`, for callers that clean the environment."""
    script = directory / "outrider"
    script.write_text(
        "#!/bin/sh\n"
        "unset LD_LIBRARY_PATH LD_PRELOAD\n"
        f'PYTHONPATH={ROOT}:{SITE_PACKAGES} exec {public_python()} -m deliver --config {config} "$@"\n'
    )
    script.chmod(0o755)
    return script


def start_exim(programs: Programs, directory: Path, configuration: str) -> Process:
    """An Exim that runs this configuration, with everything private in `directory`; queue runs every second."""
    program = programs.path("exim")
    user = programs.account("exim", "Debian-exim")
    environment = programs.environment("exim")
    for name in ("spool", "log"):
        (directory / name).mkdir()
    for path in (directory, *directory.iterdir()):
        os.chown(path, user.uid, user.gid)
    address = own_address(2525)
    private = f"""\
exim_path = {program}
keep_environment = {" : ".join(environment)}
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/exim.pid
local_interfaces = {address}
daemon_smtp_ports = 2525
disable_ipv6 = true
deliver_drop_privilege = true
rfc1413_hosts =
tls_advertise_hosts =
chunking_advertise_hosts =
"""
    file = directory / "exim.conf"
    file.write_text(private + configuration)
    return spawn(
        "exim",
        [program, "-C", file, "-bdf", "-q1s"],
        environment,
        address=address,
        port=2525,
        directory=directory,
        logs=("log/mainlog", "log/rejectlog", "log/paniclog"),
    )


def _open(path: Path) -> bool:
    return path.stat().st_mode & 0o005 == 0o005
