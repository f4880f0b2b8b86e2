"""Postfix as a contender: a relay host configured for throughput, every write as durable as it makes them."""

from __future__ import annotations

from bench.load import place
from bench.load.contender import Contender, Order
from tests.interop.peers.postfixhome import PostfixHome
from tests.interop.peers.process import Process, spawn

TUNED = {
    "default_process_limit = 100": "the default; no process is waited for with 20 clients",
    "in_flow_delay = 0": "accepting is not slowed down on purpose",
    "initial_destination_concurrency = 20": "the one next hop is known to be good",
    "smtp_destination_concurrency_limit = 20": "the default",
    "smtp_tls_security_level = dane": "as Outrider's default: DANE where it is published, else opportunistic",
    "smtp_dns_support_level = dnssec": "needed for DANE; unbound validates",
    "smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache": "sessions are resumed",
    "smtp_tls_connection_reuse = yes": "connections with TLS are reused too",
    "smtpd_peername_lookup = no": "no lookups about clients, as in Outrider",
    "smtpd_client_connection_count_limit = 0": "all clients are one host here",
    f"minimal_backoff_time = {place.RETRY}s": "what was put off comes back within the measurement",
    f"maximal_backoff_time = {place.RETRY}s": "the same",
    f"queue_run_delay = {place.RETRY}s": "the same",
    "smtp_address_preference = ipv4": "there is no IPv6 here",
}


def start(order: Order, more: str = "", services: str = "") -> Process:
    """master(8) on private directories; `more` lines of main.cf, `services` of master.cf."""
    home = PostfixHome(order.programs, order.directory)
    home.lay_out()
    environment = order.account.environment(order.programs.environment("postfix"))
    home.configure(environment, _main(order) + more, _SERVICES + services)
    process = spawn(
        "postfix",
        order.account.wrap(home.command),
        environment | home.environment,
        address=place.RELAY,
        port=place.RELAY_PORT,
        directory=order.directory,
        logs=("mail.log",),
    )
    order.account.follow(process.child.pid)
    return process


def _main(order: Order) -> str:
    tuned = "\n".join(TUNED)
    return f"""\
myhostname = relay.sender.test
inet_interfaces = {place.RELAY}
relayhost = {f"[{place.HOP}]:{place.SMTP}" if order.scenario.hop else ""}
{tuned}
"""


_SERVICES = f"""\
{place.RELAY}:{place.RELAY_PORT} inet n - n - - smtpd
qmgr unix n - n 300 1 qmgr
smtp unix - - n - - smtp
relay unix - - n - - smtp
scache unix - - n - 1 scache
tlsproxy unix - - n - 0 tlsproxy
"""

CONTENDER = Contender("Postfix", start, validating_resolver=True, settings=TUNED)
