"""The relay with one, two … worker processes on the same work. `python -m bench workers [OPTIONS]`

Injector and sink need a processor too: on a machine with few of them they are what limits the rate. So each
worker gets a share of a processor only (`--share`), as if processors were slower; the ratio is what two are
worth. Interleaved rounds; the best of each counts. Needs root, for a network of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.load import outrider, place
from bench.load.bridle import Bridle, bridled, possible, working
from bench.load.contender import Order
from bench.load.place import Place
from bench.load.report import machine, row, title
from bench.load.run import Result, measure
from bench.load.scenario import SCENARIOS
from tests.interop.peers.process import Process
from tests.interop.peers.programs import PeerMissing, locate


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when something was lost."""
    parser = argparse.ArgumentParser("bench workers")
    parser.add_argument(
        "--scenario", choices=tuple(SCENARIOS), default="starttls", help="(default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--messages", type=int, default=1000, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--share",
        type=float,
        default=0.25,
        help="of a processor for a worker; 0: no limit (default: %(default)s)",
    )
    parser.add_argument("--clients", type=int, default=20, help="that inject (default: %(default)s)")
    options = parser.parse_known_args(arguments)[0]
    code = place.enter(arguments, "workers")
    if code is not None:
        return code
    if not place.inside():
        print("bench workers needs root, to make a network of its own")
        return 0
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        return _run(options, directory)


def _run(options: argparse.Namespace, directory: Path) -> int:
    scenario = SCENARIOS[options.scenario]
    shared = Place.make(directory)
    place.point_resolv_conf(directory)
    programs = locate(directory)
    results: list[Result] = []
    share = options.share if possible() else 0.0
    print(f"{machine()}\n{scenario.what}; {options.messages} messages, {options.clients} clients")
    print(f"each worker has {share:g} of a processor" if share else "no limit for workers")
    print(title())
    try:
        with shared.name_server(programs):
            for turn in range(options.rounds):
                for workers in options.workers:
                    where = directory / f"{turn}-{workers}"
                    with bridled(share) as bridle:
                        contender = replace(
                            outrider.CONTENDER,
                            name=f"{workers} proc.",
                            start=partial(_start, bridle if share else None, workers),
                        )
                        one = measure(
                            contender, scenario, options.messages, options.clients, programs, shared, where
                        )
                    results.append(one)
                    print(row(results[-1]), flush=True)
    except PeerMissing as missing:
        print(missing)
        return 0
    _compare(results)
    return 1 if any(one.lost for one in results) else 0


def _start(bridle: Bridle | None, workers: int, order: Order) -> Process:
    """The relay, its working processes bridled."""
    process = outrider.start(order, workers)
    if bridle is not None:
        for each in working(process.child.pid, workers, ("deliver", "relay")):
            bridle.take(each)
    return process


def _compare(results: Sequence[Result]) -> None:
    best: dict[str, float] = {}
    for one in results:
        best[one.contender] = max(best.get(one.contender, 0.0), one.rate)
    first = next(iter(best.values()))
    for name, rate in best.items():
        print(f"{name} {rate:,.0f} /s, {rate / first:.2f} times the first")
