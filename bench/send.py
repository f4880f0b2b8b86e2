"""What a call costs: `outrider send` handed over and in its own process, beside `exim -odf` and msmtp.

Wall and CPU of the calling process and its children, one call at a time; then CALLS calls, AT_A_TIME side by
side. All deliver one message to the same server on loopback, in clear text: what is compared is the call.
`python -m bench send [ROUNDS]`. Exit code 1 when a call handed over takes more than HANDED seconds, or the
first packet of a cold call leaves more than COLD seconds after its start (a busy machine can do that).
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.internet import LiveInternet
from tests.interop.peers.programs import PeerMissing, Programs, locate
from tests.interop.service import PYTHON, ROOT, Service, environment, settings_for

ROUNDS = 20
CALLS = 500
AT_A_TIME = 50
HANDED = 0.060
COLD = 0.400
MESSAGE = b"Subject: bench\n\nhello\n"
RECIPIENT = "a@plain.test"

Call = Callable[[], int]


def _ran(command: Sequence[str], **more: object) -> int:
    done = subprocess.run(
        command, input=MESSAGE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more
    )  # type: ignore[call-overload]
    return int(done.returncode)


def _outrider(config: Path) -> Call:
    words = [*PYTHON, "--config", str(config), "send", "-f", "me@sender.test", RECIPIENT]
    return lambda: _ran(words, cwd=ROOT, env=environment())


def _exim(programs: Programs, directory: Path, host: str, port: int) -> Call:
    """A private Exim whose only router sends to the server; delivered before the call returns."""
    program = programs.path("exim")
    user = programs.account("exim", "Debian-exim")
    kept = programs.environment("exim")
    for name in ("spool", "log"):
        (directory / name).mkdir()
    for path in (directory, *directory.iterdir()):
        os.chown(path, user.uid, user.gid)
    configuration = directory / "exim.conf"
    configuration.write_text(f"""\
exim_path = {program}
keep_environment = {" : ".join(kept)}
primary_hostname = out.sender.test
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
deliver_drop_privilege = true
disable_ipv6 = true
begin routers
all:
  driver = manualroute
  transport = out
  route_list = * {host} byname
  self = send
begin transports
out:
  driver = smtp
  port = {port}
  allow_localhost
  hosts_try_dane =
""")
    words = [str(program), "-C", str(configuration), "-odf", "-f", "me@sender.test", RECIPIENT]
    return lambda: _ran(words, env=kept)


def _msmtp(host: str, port: int) -> Call | None:
    program = shutil.which("msmtp")
    if program is None:
        return None
    words = [program, f"--host={host}", f"--port={port}", "--from=me@sender.test", "--auth=off", RECIPIENT]
    return lambda: _ran(words)


def _measure(call: Call, rounds: int) -> tuple[float, float]:
    """Median wall and mean CPU, seconds."""
    call()  # files are in memory from here on
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    walls = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert call() == 0, "a call failed"
        walls.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return statistics.median(walls), cpu / rounds


def _first_packet(config: Path, rounds: int) -> float:
    """Median seconds from the start of a cold call to its first question to the resolver."""
    waits = []
    for _ in range(rounds):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
            resolver.bind(("127.0.0.1", 0))
            resolver.settimeout(30)
            place = f'dns.resolvers=["127.0.0.1:{resolver.getsockname()[1]}"]'
            words = [*PYTHON, "--config", str(config), "-o", place, "send", "-f", "me@sender.test", RECIPIENT]
            began = time.perf_counter()
            with subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment()
            ) as process:
                assert process.stdin is not None
                process.stdin.write(MESSAGE)
                process.stdin.close()
                resolver.recvfrom(4096)
                waits.append(time.perf_counter() - began)
                process.kill()
    return statistics.median(waits)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments and arguments[0].isdigit() else ROUNDS
    found: dict[str, tuple[float, float]] = {}
    with LiveInternet() as live, tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        config = settings_for(live.world, directory, '[lmtp]\nlisten = ["127.0.0.1:0"]\n')
        host, port = live.world.addresses["mx.plain.test"][0], live.world.port
        call = _outrider(config)
        with Service("lmtp", config, "taking over from outrider send"):
            found["outrider send, handed over"] = _measure(call, rounds)
            many = _many(call)
        found["outrider send, cold"] = _measure(call, rounds)
        first = _first_packet(config, max(3, rounds // 2))
        try:
            (directory / "exim").mkdir()
            exim = _exim(locate(directory), directory / "exim", host, port)
            found["exim -odf"] = _measure(exim, rounds)
        except PeerMissing as missing:
            print(missing, file=sys.stderr)
        if (msmtp := _msmtp(host, port)) is not None:
            found["msmtp"] = _measure(msmtp, rounds)
    return _report(found, first, many)


def _many(call: Call) -> float:
    """Calls per second, AT_A_TIME of CALLS side by side; all must succeed."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        statuses = list(pool.map(lambda _: call(), range(CALLS)))
    assert set(statuses) == {0}, f"{sum(status != 0 for status in statuses)} of {CALLS} calls failed"
    return CALLS / (time.perf_counter() - began)


def _report(found: dict[str, tuple[float, float]], first: float, many: float) -> int:
    table = Table("a call of", "wall, ms", "CPU of the call, ms")
    for name, (wall, cpu) in found.items():
        table.add_row(name, f"{wall * 1000:.0f}", f"{cpu * 1000:.0f}")
    Console().print(table)
    print(f"{CALLS} calls handed over, {AT_A_TIME} at a time: {many:.0f} /s, none failed")
    print(f"first packet of a cold call after {first * 1000:.0f} ms")
    handed = found["outrider send, handed over"][0]
    missed = [f"handed over: {handed:.3f} s"] if handed > HANDED else []
    missed += [f"first packet: {first:.3f} s"] if first > COLD else []
    if missed:
        print(f"beyond the target: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
