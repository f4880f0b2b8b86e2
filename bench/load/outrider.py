"""Outrider as a contender: its defaults, with the limits that the others have too."""

from __future__ import annotations

import os
import sys

from bench.load import place
from bench.load.contender import Contender, Order
from tests.interop.peers.process import Process, spawn

CONCURRENCY = 20  # to one destination, as in Postfix


def start(order: Order, workers: int = 0) -> Process:
    """`outrider relay` with settings in a file; `workers` 0 is the default, one for each core."""
    route = f'[[route]]\ndomains = ["*"]\nvia = "smarthost"\nhosts = ["[{place.HOP}]:{place.SMTP}"]\n'
    settings = order.directory / "outrider.toml"
    settings.write_text(f"""\
state_dir = "{order.directory}/state"
[dns]
resolvers = ["{place.RESOLVER}:53"]
trust_anchors = "{order.place.anchor}"
[delivery]
port = {place.SMTP}
helo = "relay.sender.test"
[relay]
listen = ["{place.RELAY}:{place.RELAY_PORT}"]
workers = {workers}
[queue]
per_domain = {CONCURRENCY}
retry = ["{place.RETRY}s"]
{route if order.scenario.hop else ""}""")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": os.getcwd()}
    process = spawn(
        "outrider",
        order.account.wrap([sys.executable, "-m", "deliver", "--config", settings, "relay"]),
        order.account.environment(environment),
        address=place.RELAY,
        port=place.RELAY_PORT,
        directory=order.directory,
    )
    order.account.follow(process.child.pid)
    return process


CONTENDER = Contender(
    "Outrider",
    start,
    validating_resolver=False,
    settings={
        "queue.per_domain = 20": "as many deliveries to one destination as Postfix makes",
        "queue.retry": "what was put off comes back within the measurement",
        "everything else": "defaults: DNSSEC validated in process, events into SQLite, log at info",
    },
)
