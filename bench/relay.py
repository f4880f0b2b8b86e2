"""Outrider's relay beside Postfix and Exim on the same work. `python -m bench relay [OPTIONS]`

Each round starts every relay anew, in turn, on every scenario, so that a busy machine meets all of them.
Prints messages per second, CPU seconds per 1000 messages (the relay's whole process tree and its resolver),
memory, fsyncs per message, latency, losses and copies, then how Outrider's middle and best rounds compare.
Needs root, for a network of its own, and what `make peers` fetches. See docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from bench.load import exim, outrider, place, postfix
from bench.load.contender import Contender
from bench.load.place import Place
from bench.load.report import machine, ratios, row, title
from bench.load.run import RelayFailed, Result, ceiling, measure
from bench.load.scenario import SCENARIOS
from tests.interop.peers.process import ServerFailed
from tests.interop.peers.programs import PeerMissing, Programs, locate

CONTENDERS = {one.name.lower(): one for one in (outrider.CONTENDER, postfix.CONTENDER, exim.CONTENDER)}
MESSAGES = 3000
CEILING = 3000
MET = 4  # times that every destination has had mail before: each process of a relay is to know it


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when something was lost, or a relay did not get through."""
    options = _parser().parse_known_args(arguments)[0]
    code = place.enter(arguments)
    if code is not None:
        return code
    if not place.inside():
        print("bench relay needs root, to make a network of its own")
        return 0
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        return _run(options, directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench relay")
    parser.add_argument("--scenario", action="append", choices=tuple(SCENARIOS), help="all by default")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=20, help="that inject (default: %(default)s)")
    parser.add_argument(
        "--peers", default="postfix,exim", help="comma separated, or none (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes of Outrider's relay (default: one for each core)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--settings", action="store_true", help="print the relays' settings and reasons only")
    return parser


def _run(options: argparse.Namespace, directory: Path) -> int:
    asked = {"outrider", *options.peers.split(",")}
    contenders = [one for name, one in CONTENDERS.items() if name in asked]
    if options.workers:
        ours = replace(outrider.CONTENDER, start=partial(outrider.start, workers=options.workers))
        contenders[contenders.index(outrider.CONTENDER)] = ours
    if options.settings:
        for one in contenders:
            print(one.name)
            for setting, why in one.settings.items():
                print(f"    {setting}    ({why})")
        return 0
    shared = Place.make(directory)
    place.point_resolv_conf(directory)
    programs = locate(directory)
    print(machine())
    limits = {
        kind: ceiling(
            tls=kind == "tls",
            count=CEILING,
            clients=options.clients,
            shared=shared,
            directory=directory / kind,
        )
        for kind in ("clear", "tls")
    }
    clear, tls = (f"{limits[kind]:,.0f}" for kind in ("clear", "tls"))
    print(f"injector and sink alone: {clear} /s, with a TLS handshake for each message {tls} /s\n")
    results: list[Result] = []
    failed = 0
    try:
        with shared.name_server(programs):
            for name in options.scenario or SCENARIOS:
                found, failures = _scenario(name, contenders, options, programs, shared, directory)
                results += found
                failed += failures
    except PeerMissing as missing:
        print(missing)
        return 0
    if options.json:
        told = {"machine": machine(), "ceiling": limits, "results": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if failed or any(one.lost for one in results) else 0


def _scenario(
    name: str,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    programs: Programs,
    shared: Place,
    directory: Path,
) -> tuple[list[Result], int]:
    """The results, and how many rounds a relay did not get through."""
    scenario = SCENARIOS[name]
    count = max(place.DOMAINS, round(options.messages * scenario.share))
    print(f"{name}: {scenario.what}; {count} messages, {options.clients} clients")
    print(title())
    results: list[Result] = []
    failures = 0
    for turn in range(options.rounds):
        for contender in contenders:
            try:
                where = directory / f"{name}-{turn}-{contender.name}"
                result = measure(
                    contender, scenario, count, options.clients, programs, shared, where, rounds=MET
                )
            except PeerMissing as missing:
                print(f"  {contender.name:9} {missing}")
                continue
            except (ServerFailed, RelayFailed) as failed:
                print(f"  {contender.name:9} failed: {failed}", file=sys.stderr)
                failures += 1
                continue
            results.append(result)
            print(row(result), flush=True)
    for line in ratios(results):
        print(line)
    print()
    return results, failures
