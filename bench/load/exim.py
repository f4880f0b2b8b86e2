"""Exim as a contender: a relay host that delivers each message at once, with DANE."""

from __future__ import annotations

import os

from bench.load import place
from bench.load.contender import Contender, Order
from tests.interop.peers.process import Process, spawn

TUNED = {
    "smtp_accept_queue_per_connection = 0": "every message of a connection goes out at once, not only ten",
    "smtp_accept_max = 200": "no client is turned away",
    "split_spool_directory = true": "the spool stays quick when it is full",
    "deliver_drop_privilege = true": "no second exec for each delivery",
    "hosts_try_dane = *, dnssec_request_domains = *": "as Outrider's default; unbound validates",
    f"retry F,1h,{place.RETRY}s and -q": "what was put off comes back within the measurement",
    "host_lookup =, rfc1413_hosts =": "no lookups about clients, as in Outrider",
}


def start(order: Order) -> Process:
    """The daemon in the foreground, on a private configuration and spool."""
    programs, directory = order.programs, order.directory
    user = programs.account("exim", "Debian-exim")
    environment = order.account.environment(programs.environment("exim"))
    for name in ("spool", "log"):
        (directory / name).mkdir()
        os.chown(directory / name, user.uid, user.gid)
    os.chown(directory, user.uid, user.gid)
    configuration = directory / "exim.conf"
    configuration.write_text(_configuration(order, tuple(environment)))
    process = spawn(
        "exim",
        order.account.wrap([programs.path("exim"), "-C", configuration, "-bdf", f"-q{place.RETRY}s"]),
        environment,
        address=place.RELAY,
        port=place.RELAY_PORT,
        directory=directory,
        logs=("log/mainlog", "log/rejectlog", "log/paniclog"),
    )
    order.account.follow(process.child.pid)
    return process


def _configuration(order: Order, environment: tuple[str, ...]) -> str:
    directory = order.directory
    router = "driver = dnslookup\n  dnssec_request_domains = *"
    if order.scenario.hop:
        router = f"driver = manualroute\n  route_list = * {place.HOP}"
    return f"""\
primary_hostname = relay.sender.test
exim_path = {order.programs.path("exim")}
keep_environment = {" : ".join(environment)}
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/exim.pid
local_interfaces = {place.RELAY}
daemon_smtp_ports = {place.RELAY_PORT}
disable_ipv6 = true
deliver_drop_privilege = true
host_lookup =
rfc1413_hosts =
message_size_limit = 100M
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
split_spool_directory = true
tls_advertise_hosts =
acl_smtp_rcpt = at_rcpt
begin acl
at_rcpt:
  accept hosts = 127.0.0.0/8
begin routers
out:
  {router}
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {place.SMTP}
  allow_localhost
  hosts_try_dane = *
begin retry
* * F,1h,{place.RETRY}s
"""


CONTENDER = Contender("Exim", start, validating_resolver=True, settings=TUNED)
