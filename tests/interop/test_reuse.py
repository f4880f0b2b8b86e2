"""Many messages over one connection to real servers, by the relay as a process of its own."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.internet.pki import authority
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.relayprocess import Relay

MESSAGES = 20
FAREWELL = r"smtpd\[\d+\]: disconnect from .* mail="  # of those who brought mail


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(live, tmp_path / "state")
    relay.options += ["queue.workers=1", "pool.idle=30s"]
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


def through(relay: Relay, server: Exim | Postfix) -> None:
    """All mail by way of that server, TLS where it offers it."""
    place = f"[{server.address}]:{server.port}"
    relay.options.append(f"route=[{{domains=['*'], via='smarthost', hosts=['{place}']}}]")
    relay.options.append("tls.level=may")


def lines(server: Exim | Postfix, pattern: str, *, at_least: int = 0) -> list[str]:
    """Lines of a server's logs; waits a moment for `at_least` of them, since servers log late."""
    until = time.monotonic() + 10
    while True:
        logs = [path.read_text(errors="replace") for path in server.process.logs if path.exists()]
        found = [line for log in logs for line in log.splitlines() if re.search(pattern, line)]
        if len(found) >= at_least or time.monotonic() > until:
            return found
        time.sleep(0.05)


@pytest.fixture(params=["clear", "tls"])
def secured(request: pytest.FixtureRequest) -> bool:
    return request.param == "tls"


def test_postfix_gets_twenty_messages_over_one_connection(
    relay: Relay, postfix: Factory[PostfixConfig, Postfix], secured: bool
) -> None:
    name = f"reuse-{secured}.postfix.test".lower()
    own = authority().issue(name)
    files = {"certificate": own.chain_pem, "key": own.private_key_pem} if secured else {}
    server = postfix(hostname=name, **files)
    through(relay, server)
    relay.start()
    for number in range(MESSAGES):
        relay.submit(f"r{number}@{name}")
    for number in range(MESSAGES):
        server.mailbox.to(f"r{number}@{name}")
    assert relay.terminate() == 0
    (farewell,) = lines(server, FAREWELL, at_least=1)
    assert f"mail={MESSAGES}" in farewell
    assert "quit=1" in farewell
    assert "rset" not in farewell
    assert ("starttls=1" in farewell) is secured
    delivered = [line for line in relay.lines if line["message"] == "delivered"]
    assert len([line for line in delivered if line.get("reused") == "yes"]) == MESSAGES - 1
    (connection,) = [line for line in relay.lines if line["message"] == "connection"]
    assert connection["messages"] == MESSAGES
    closed = [event for event in relay.ask("events", "tail") if event["name"] == "tcp:close"]
    assert len(closed) == 1, "told once, when the session really ended"


def test_exim_gets_twenty_messages_over_one_connection(
    relay: Relay, exim: Factory[EximConfig, Exim], secured: bool
) -> None:
    name = f"reuse-{secured}.exim.test".lower()
    own = authority().issue(name)
    files = {"certificate": own.chain_pem, "key": own.private_key_pem} if secured else {}
    server = exim(hostname=name, main="smtp_accept_queue_per_connection = 0", **files)
    through(relay, server)
    relay.start()
    for number in range(MESSAGES):
        relay.submit(f"r{number}@{name}")
    for number in range(MESSAGES):
        server.mailbox.to(f"r{number}@{name}")
    assert relay.terminate() == 0
    taken = lines(server, " <= me@sender.test ", at_least=MESSAGES)
    assert len(taken) == MESSAGES
    assert len({re.search(r"\[127[.0-9]*\]:(\d+)", line)[1] for line in taken}) == 1  # type: ignore[index]
    assert lines(server, "closed by QUIT", at_least=1)


def test_a_server_that_takes_three_per_connection_gets_all(
    relay: Relay, exim: Factory[EximConfig, Exim]
) -> None:
    """Exim answers 421 to the fourth MAIL; that is neither a deferral nor a delay."""
    name = "three.exim.test"
    server = exim(hostname=name, main="smtp_accept_max_per_connection = 3")
    through(relay, server)
    relay.start()
    for number in range(8):
        relay.submit(f"r{number}@{name}")
    for number in range(8):
        server.mailbox.to(f"r{number}@{name}")
    assert relay.terminate() == 0
    assert [line for line in relay.lines if line["message"] == "deferred"] == []
    taken = lines(server, " <= me@sender.test ", at_least=8)
    ports = [re.search(r"\[127[.0-9]*\]:(\d+)", line)[1] for line in taken]  # type: ignore[index]
    assert sorted(Counter(ports).values()) == [2, 3, 3]


def test_a_server_that_hangs_up_while_idle_costs_nothing(
    relay: Relay, postfix: Factory[PostfixConfig, Postfix]
) -> None:
    """Postfix says 421 after a second of silence; the next message has a new connection."""
    name = "impatient.postfix.test"
    server = postfix(hostname=name, main="smtpd_timeout = 1s")
    through(relay, server)
    relay.start()
    relay.submit(f"first@{name}")
    server.mailbox.to(f"first@{name}")
    assert relay.wait_for("connection")["why"] == "the server ended the session"
    relay.submit(f"second@{name}")
    server.mailbox.to(f"second@{name}")
    assert relay.terminate() == 0
    assert [line for line in relay.lines if line["message"] == "deferred"] == []


def test_another_level_wants_another_connection(
    relay: Relay, postfix: Factory[PostfixConfig, Postfix]
) -> None:
    name = "levels.postfix.test"
    own = authority().issue(name)
    server = postfix(hostname=name, certificate=own.chain_pem, key=own.private_key_pem)
    through(relay, server)
    relay.options.append(
        f"rule=[{{domains=['strict.{name}'], tls={{level='encrypt'}}}}, {{domains=['clear.{name}'], tls={{level='none'}}}}]"
    )
    relay.start()
    for who in (f"a@{name}", f"a@strict.{name}", f"a@clear.{name}", f"b@{name}", f"b@strict.{name}"):
        relay.submit(who)
        server.mailbox.to(who)
    assert relay.terminate() == 0
    farewells = lines(server, FAREWELL, at_least=3)
    assert sorted("starttls=1" in line for line in farewells) == [False, True, True]
    assert sorted(re.findall(r"mail=(\d)", "".join(farewells))) == ["1", "2", "2"]
