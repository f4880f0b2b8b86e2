"""Postfix keeping the queue: its own smtp client beside Outrider behind it by LMTP, on the same work.

The same Postfix is in front, tuned as for `bench relay`; what differs is who delivers. Columns as there.
`python -m bench lmtp [--scenario NAME] [--messages N] [--rounds N] [--workers N]`. Exit code 1 when something
is lost or the best round by LMTP is slower than TARGET times the best of Postfix's own client.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.load import place, postfix
from bench.load.contender import Contender, Order
from bench.load.place import Place
from bench.load.report import machine, row, title
from bench.load.run import Result, measure
from bench.load.scenario import SCENARIOS
from tests.interop.peers.process import Process, spawn
from tests.interop.peers.programs import PeerMissing, locate

MESSAGES = 1000
ROUNDS = 3
TARGET = 1.0
PORT = 2424
HANDED = {
    f"default_transport = lmtp:inet:{place.RELAY}:{PORT}": "Outrider delivers",
    "lmtp_destination_concurrency_limit = 100": "as conf/examples/postfix-lmtp.main.cf",
    "relayhost =": "Outrider has the route",
}


@dataclass(frozen=True, slots=True)
class Both:
    """Postfix and the service behind it."""

    front: Process
    behind: Process

    def stop(self) -> None:
        """End both."""
        self.front.stop()
        self.behind.stop()

    @property
    def logs(self) -> tuple[Path, ...]:
        """The files of both."""
        return (*self.front.logs, *self.behind.logs)

    def log(self) -> str:
        """Of both."""
        return f"{self.front.log()}\n{self.behind.log()}"


def start(order: Order, workers: int = 1) -> Process:
    """`outrider lmtp`, then Postfix."""
    route = f'[[route]]\ndomains = ["*"]\nvia = "smarthost"\nhosts = ["[{place.HOP}]:{place.SMTP}"]\n'
    directory = order.directory / "outrider"
    directory.mkdir()
    settings = directory / "outrider.toml"
    settings.write_text(f"""\
state_dir = "{directory}/state"
[dns]
resolvers = ["{place.RESOLVER}:53"]
trust_anchors = "{order.place.anchor}"
[delivery]
port = {place.SMTP}
helo = "relay.sender.test"
[lmtp]
listen = ["{place.RELAY}:{PORT}"]
[relay]
networks = ["127.0.0.0/8", "{place.RELAY}/32"]
workers = {workers}
{route if order.scenario.hop else ""}""")
    behind = spawn(
        "outrider",
        order.account.wrap([sys.executable, "-m", "deliver", "--config", settings, "lmtp"]),
        order.account.environment({"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": os.getcwd()}),
        address=place.RELAY,
        port=PORT,
        directory=directory,
    )
    order.account.follow(behind.child.pid)
    try:
        front = postfix.start(order, "\n".join(HANDED) + "\n", "lmtp unix - - n - - lmtp\n")
    except BaseException:
        behind.stop()
        raise
    return Both(front, behind)  # type: ignore[return-value]  # what `measure` needs of a Process


def contenders(workers: int) -> tuple[Contender, Contender]:
    """Postfix's own client, and Outrider as so many processes."""
    theirs = Contender("Postfix", postfix.start, validating_resolver=True, settings=postfix.TUNED)
    handed = HANDED | {f"relay.workers = {workers}": "Postfix has as many processes as it likes"}
    ours = partial(start, workers=workers)
    return theirs, Contender("LMTP", ours, validating_resolver=False, settings=handed)


def processes() -> int:
    """One for each second core, see conf/examples/lmtp.toml: Postfix needs the others."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("bench lmtp")
    parser.add_argument("--scenario", default="domains", choices=tuple(SCENARIOS))
    parser.add_argument("--messages", type=int, default=MESSAGES, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=processes(), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    options = parser.parse_known_args(arguments)[0]
    code = place.enter(arguments, "lmtp") if not place.inside() else None
    if code is not None:
        return code
    if not place.inside():
        print("bench lmtp needs root, to make a network of its own")
        return 0
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        try:
            return _run(options, directory)
        except PeerMissing as missing:
            print(missing)
            return 0


def _run(options: argparse.Namespace, directory: Path) -> int:
    shared = Place.make(directory)
    place.point_resolv_conf(directory)
    programs = locate(directory)
    scenario = SCENARIOS[options.scenario]
    print(machine())
    print(f"{scenario.name}: {scenario.what}; {options.messages} messages, 20 clients")
    print(title())
    results: list[Result] = []
    with shared.name_server(programs):
        for turn in range(options.rounds):
            for contender in contenders(options.workers):
                where = directory / f"{turn}-{contender.name.replace(' ', '-')}"
                rounds = 1 if options.workers == 1 else 2 * options.workers
                found = measure(
                    contender, scenario, options.messages, 20, programs, shared, where, rounds=rounds
                )
                results.append(found)
                print(row(found), flush=True)
    best = {name: max(one.rate for one in results if one.contender == name) for name in ("Postfix", "LMTP")}
    ratio = best["LMTP"] / best["Postfix"]
    print(f"by LMTP, messages per second: {ratio:.2f} times Postfix's own client (target: {TARGET:g})")
    return 1 if ratio < TARGET or any(one.lost for one in results) else 0
