"""Postfix as a contender: a relay host configured for throughput, every write as durable as it makes them."""

from __future__ import annotations

import os

from bench.load import place
from bench.load.contender import Contender, Order
from tests.interop.peers.postfix import _DROP, _QUEUE
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
    programs, directory = order.programs, order.directory
    root = programs.root("postfix")
    user = programs.account("postfix", "postfix")
    drop = programs.group("postfix", "postdrop")
    settings, queue, data = directory / "etc", directory / "queue", directory / "data"
    for path in (settings, queue, queue / "pid", data):
        path.mkdir()
    for name, mode in _QUEUE:
        (queue / name).mkdir()
        os.chown(queue / name, user.uid, drop if name in _DROP else 0)
        (queue / name).chmod(mode)
    os.chown(data, user.uid, user.gid)
    data.chmod(0o700)
    environment = order.account.environment(programs.environment("postfix"))
    (settings / "main.cf").write_text(_main(order, tuple(environment)) + more)
    (settings / "master.cf").write_text(_MASTER + services)
    (settings / "dynamicmaps.cf").touch()  # table types that come as plug-ins: none
    for path in settings.iterdir():
        os.utime(path, (0, 0))  # Postfix waits until its configuration has been left alone for two seconds
    process = spawn(
        "postfix",
        order.account.wrap([root / "usr/lib/postfix/sbin/master", "-c", settings, "-d"]),
        environment | {"MAIL_CONFIG": str(settings), "MAIL_LOGTAG": "postfix"},
        address=place.RELAY,
        port=place.RELAY_PORT,
        directory=directory,
        logs=("mail.log",),
    )
    order.account.follow(process.child.pid)
    return process


def _main(order: Order, environment: tuple[str, ...]) -> str:
    root = str(order.programs.root("postfix")).rstrip("/")
    directory = order.directory
    kept = " ".join(environment)
    tuned = "\n".join(TUNED)
    return f"""\
compatibility_level = 3.6
myhostname = relay.sender.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = {place.RELAY}
inet_protocols = ipv4
queue_directory = {directory}/queue
data_directory = {directory}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {directory}/etc
import_environment = MAIL_CONFIG MAIL_LOGTAG LC_ALL {kept}
export_environment = MAIL_CONFIG MAIL_LOGTAG LC_ALL {kept}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
alias_maps =
alias_database =
local_recipient_maps =
default_database_type = texthash
local_header_rewrite_clients =
default_privs = nobody
message_size_limit = 104857600
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
relayhost = {f"[{place.HOP}]:{place.SMTP}" if order.scenario.hop else ""}
{tuned}
"""


_MASTER = f"""\
{place.RELAY}:{place.RELAY_PORT} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
scache unix - - n - 1 scache
tlsproxy unix - - n - 0 tlsproxy
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

CONTENDER = Contender("Postfix", start, validating_resolver=True, settings=TUNED)
