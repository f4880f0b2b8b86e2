"""What a judged TLS handshake costs: the client's CPU, beside a bare pyOpenSSL handshake with the same chain.

Client and server shake hands through memory BIOs in this process, TLS 1.3, P-256 certificates; only the time
spent in the client's calls counts. `bare` is pyOpenSSL alone: context, connection, handshake, nothing judged.

    dane-ee    the server's key is in a TLSA record
    dane-ta    its issuer's certificate is; path and name are checked
    pkix       path to a root among those of the system, and name
    pkix+ocsp  the same, with a staple that the issuer signed
    resumed    a session is judged again as pkix+ocsp, offered and taken

The server is one that was seen before, which is the ordinary case; `at first sight` shows the judgement with
nothing remembered of it. Exit code 1 when a way costs more than TARGET times the bare handshake, first sights
aside (a busy machine can do that).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from OpenSSL import SSL
from rich.console import Console
from rich.table import Table

from deliver.errors import ConfigurationError
from deliver.tls import certificate, chain, names, ocsp
from deliver.tls.context import context_for
from deliver.tls.engine import PIECE, TlsEngine
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Level, TlsPolicy
from deliver.tls.resumption import Offer, judge_again, key_of, to_keep
from deliver.tls.verdict import TlsVerdict
from hints.records import SessionKey, TlsSession
from tests.unit.tls.certificates import DAY, Issued, Wish, issue
from tests.unit.tls.peers import MAY, NAME, server_context
from tests.unit.tls.responder import Answer, respond

ROUNDS = 300
TARGET = 1.5


class _Server:
    """The other side; its time does not count."""

    def __init__(self, context: SSL.Context) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_accept_state()

    def take(self, data: bytes) -> bytes:
        self._connection.bio_write(data)
        with suppress(SSL.WantReadError):
            self._connection.do_handshake()
        try:
            return self._connection.bio_read(PIECE)
        except SSL.WantReadError:
            return b""

    def reply(self, data: bytes) -> bytes:
        """The tickets, and an answer to EHLO behind them."""
        tickets = self.take(data)
        self._connection.send(b"250 ok\r\n")
        return tickets + self._connection.bio_read(PIECE)


def _bare(context: SSL.Context, server: _Server) -> float:
    begin = time.thread_time()
    client = SSL.Connection(context, None)
    client.set_connect_state()
    client.set_tlsext_host_name(NAME.encode())
    spent = 0.0
    while True:
        try:
            client.do_handshake()
            client.bio_read(PIECE)
            return spent + time.thread_time() - begin
        except SSL.WantReadError:
            out = client.bio_read(PIECE)
            spent += time.thread_time() - begin
            answer = server.take(out)
            begin = time.thread_time()
            client.bio_write(answer)


def _forget() -> None:
    """Nothing is known of any server."""
    chain.forget()
    ocsp.forget()
    for remembering in (certificate.load, certificate.parse, names.presented_names):
        remembering.cache_clear()


def _shake(engine: TlsEngine, server: _Server) -> float:
    """Seconds of CPU in the client's calls."""
    spent, begin = 0.0, time.thread_time()
    while not engine.handshake():
        out = engine.outgoing()
        spent += time.thread_time() - begin
        answer = server.take(out)
        begin = time.thread_time()
        engine.feed(answer)
    engine.outgoing()
    return spent + time.thread_time() - begin


def _judged(policy: TlsPolicy, server: _Server, roots: TrustStore, now: float) -> tuple[float, TlsVerdict]:
    begin = time.thread_time()
    engine = TlsEngine(context_for(policy), policy.sni, request_staple=policy.request_ocsp)
    spent = time.thread_time() - begin + _shake(engine, server)
    begin = time.thread_time()
    verdict = judge(policy, engine.facts(), now, roots)
    return spent + time.thread_time() - begin, verdict


def _resumed(policy: TlsPolicy, world: _World, context: SSL.Context) -> float:
    """With a session that the server gave before: judged again, offered, taken."""
    key = key_of(policy, NAME, 25, "", "1.2", NAME)
    session = world.session(policy, key, context)
    begin = time.thread_time()
    offer = judge_again(policy, key, session, world.now, world.roots)
    assert isinstance(offer, Offer), offer
    engine = TlsEngine(context_for(policy), policy.sni, request_staple=True, resume=session.session)
    spent = time.thread_time() - begin + _shake(engine, _Server(context))
    begin = time.thread_time()
    assert engine.facts().resumed
    assert engine.leaf() == offer.session.chain[0]
    return spent + time.thread_time() - begin


class _World:
    """A chain valid today, its staple, and the roots of the system with ours."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()
        self.root = self._issue("Root", None, authority=True)
        self.intermediate = self._issue("Intermediate", self.root, authority=True)
        self.server = self._issue("server", self.intermediate, dns_names=(NAME,))
        self.staple = respond(Answer(self.server, this_update=self.now - 60, next_update=self.now + DAY))
        ours = TrustStore.from_pem(self.root.pem, "ours")
        try:
            together = (*TrustStore.load().anchors.certificates, *ours.anchors.certificates)
            ours = TrustStore(chain.Anchors(together), "the system and ours")
        except ConfigurationError:
            print("the system has no roots: pkix is measured with one", file=sys.stderr)
        self.roots = ours

    def session(self, policy: TlsPolicy, key: SessionKey, context: SSL.Context) -> TlsSession:
        """A new one, from a full handshake."""
        server = _Server(context)
        engine = TlsEngine(context_for(policy), policy.sni, request_staple=True)
        while not engine.handshake():
            engine.feed(server.take(engine.outgoing()))
        engine.feed(server.reply(engine.outgoing()))
        engine.read()
        facts, made = engine.facts(), engine.session()
        assert made is not None
        kept = to_keep(key, made, facts, judge(policy, facts, self.now, self.roots), self.now, None)
        assert kept is not None
        return kept

    def _issue(self, name: str, issuer: Issued | None, **wishes: object) -> Issued:
        around = {"not_before": self.now - DAY, "not_after": self.now + DAY}
        return issue(Wish(name, **{**around, **wishes}), issuer)  # type: ignore[arg-type]

    def context(self, *, stapling: bool) -> SSL.Context:
        context = server_context(self)  # type: ignore[arg-type]
        if stapling:
            context.set_ocsp_server_callback(lambda connection, data: self.staple)
        return context


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments and arguments[0].isdigit() else ROUNDS
    world = _World()
    ways = {
        "dane-ee": TlsPolicy(
            Level.DANE, True, True, Authentication.DANE, NAME, (NAME,), (world.server.tlsa(3, 1, 1),)
        ),
        "dane-ta": TlsPolicy(
            Level.DANE, True, True, Authentication.DANE, NAME, (NAME,), (world.intermediate.tlsa(2, 0, 1),)
        ),
        "pkix": TlsPolicy(Level.VERIFY, True, True, Authentication.PKIX, NAME, (NAME,)),
    }
    runs: dict[str, Callable[[], float]] = {"bare": lambda: _bare(context_for(MAY), _Server(plain))}
    plain, stapling = world.context(stapling=False), world.context(stapling=True)

    def run(policy: TlsPolicy, context: SSL.Context) -> float:
        spent, verdict = _judged(policy, _Server(context), world.roots, world.now)
        assert verdict.ok, verdict.findings
        return spent

    for name, policy in ways.items():
        runs[name] = lambda policy=policy: run(policy, plain)  # type: ignore[misc]
    runs["pkix+ocsp"] = lambda: run(ways["pkix"], stapling)
    runs["resumed"] = lambda: _resumed(ways["pkix"], world, stapling)

    def at_first_sight(context: SSL.Context) -> float:
        _forget()
        return run(ways["pkix"], context)

    strangers = {
        "pkix at first sight": lambda: at_first_sight(plain),
        "pkix+ocsp at first sight": lambda: at_first_sight(stapling),
    }
    spent: dict[str, list[float]] = {name: [] for name in (*runs, *strangers)}
    for ways_of_a_kind in (runs, strangers):
        for _ in range(rounds):  # in turn, so that a busy moment hits all alike
            for name, once in ways_of_a_kind.items():
                spent[name].append(once())
    return _report(spent)


def _report(spent: dict[str, list[float]]) -> int:
    median = {name: statistics.median(times) for name, times in spent.items()}
    table = Table("way", "client CPU, µs", "times bare", "handshakes/s of one core")
    for name, seconds in median.items():
        ratio = seconds / median["bare"]
        table.add_row(name, f"{seconds * 1e6:.0f}", f"{ratio:.2f}", f"{1 / seconds:.0f}")
    Console().print(table)
    limit = TARGET * median["bare"]
    missed = [name for name, seconds in median.items() if seconds > limit and "first sight" not in name]
    if missed:
        print(f"more than {TARGET} times the bare handshake: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
