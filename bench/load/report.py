"""How results read."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.load.run import Result


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    build = "the system's" if sys.base_prefix == "/usr" else "not the system's"
    python = f"Python {platform.python_version()} ({build})"
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, {python}"


def title() -> str:
    """The head of the table."""
    return (
        f"  {'relay':9} {'msg/s':>8} {'CPU s/1000':>11} {'MB':>6} {'fsync/msg':>10} "
        f"{'median ms':>10} {'99 % ms':>9} {'lost':>5} {'copies':>6} {'refused':>7}"
    )


def row(one: Result) -> str:
    """One line of it."""
    fsyncs = "-" if one.fsyncs is None else f"{one.fsyncs / max(1, one.messages):.2f}"
    return (
        f"  {one.contender:9} {one.rate:8.0f} {one.cpu_per_thousand:11.2f} {one.memory / 1e6:6.0f} "
        f"{fsyncs:>10} {1000 * one.median:10.0f} {1000 * one.late:9.0f} "
        f"{one.lost:5} {one.copies:6} {one.refused:7}"
    )


def ratios(results: Sequence[Result]) -> Iterator[str]:
    """Outrider against each other one, of the middle rounds, and of the best: noise only ever slows."""
    names = list(dict.fromkeys(one.contender for one in results))
    rates = {name: [one.rate for one in results if one.contender == name] for name in names}
    costs = {name: [one.cpu_per_thousand for one in results if one.contender == name] for name in names}
    for name in names:
        if name != "Outrider" and "Outrider" in names:
            rate = [middle(rates["Outrider"]) / middle(rates[name]) for middle in (median, max)]
            cost = [middle(costs["Outrider"]) / middle(costs[name]) for middle in (median, min)]
            yield (
                f"  Outrider / {name}: {rate[0]:.2f} × messages per second (best rounds {rate[1]:.2f}), "
                f"{cost[0]:.2f} × CPU (best {cost[1]:.2f})"
            )
