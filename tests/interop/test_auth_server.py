"""Logging in at the relay: by a file and by a real Dovecot, from clients of others and from our own."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from deliver.net.clock import WallClock
from deliver.relay import passwords
from deliver.relay.guard import Guard
from deliver.relay.passwords import line_for
from deliver.relay.security import LoggedIn, LoginRefused
from deliver.settings import Duration, Relay, RelayAuth, RelayTls, Settings
from deliver.smtp.sasl import Credentials, Scram
from tests.interop.frontdoor import HOST, FrontDoor, Papers, auth, certificate
from tests.interop.peers.dovecot import Dovecot, DovecotConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.programs import Programs
from tests.interop.test_tls_server import MESSAGE, exim_to, inject, named, papers, trusting
from tests.interop.waiting import until
from tests.unit.relay.test_guard import log_in, met

__all__ = ["papers"]

PASSWORD = "open sésame"
DOVECOT_ENTRY = (  # of the password "secret", by doveadm pw
    "alice:{SCRAM-SHA-256}4096,alh8eUY9+e2+Rxa3ByJMPQ==,N7ZfLAol7zh3J7nAHDra5fcRmZ6Cq9zy0Scj8j1nUOU=,"
    "gDk4HzCnAjL9wf5zVvV4vM4UX0MqJ+0iIUOcssI4LPA="
)


@pytest.fixture(autouse=True)
def certified(papers: Papers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "ITERATIONS", 4096)
    papers.issue("mail", "relay.test")


def with_file(papers: Papers, *lines: str) -> RelayAuth:
    papers.write("passwords", "\n".join(lines).encode())
    return auth(password_file="passwords")


def logs_in(papers: Papers, door: FrontDoor, how: str, name: str = "alice", password: str = PASSWORD) -> int:
    """The code of the reply to a login by the standard library's mechanism `how`; with 235 a message follows."""
    with smtplib.SMTP(HOST, door.port, "client.test", timeout=20) as client:
        client.starttls(context=named(trusting(papers)))
        client.ehlo()
        client.user, client.password = name, password
        try:
            code, _ = client.auth(how.upper(), getattr(client, f"auth_{how}"))
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code
        assert client.sendmail("a@sender.test", ["b@example.net"], MESSAGE) == {}
        return code


# --- by a file


@pytest.mark.parametrize("how", ["plain", "login"])
@pytest.mark.parametrize("scheme", ["SCRAM-SHA-256", "ARGON2ID"])
def test_the_standard_library_logs_in_and_relays(papers: Papers, how: str, scheme: str) -> None:
    ascii_password = "open sesame"  # all that smtplib can say
    with FrontDoor(papers, auth=with_file(papers, line_for("alice", ascii_password, scheme))) as door:
        assert logs_in(papers, door, how, password=ascii_password) == 235
        assert logs_in(papers, door, how, password="wrong") == 535
    ((envelope, content),) = door.memory.accepted
    assert envelope.authenticated == "alice"
    assert b"with ESMTPSA " in content
    assert [event.name for event in door.events] == ["auth:fail"]


def test_auth_is_neither_offered_nor_possible_in_clear_text(papers: Papers) -> None:
    with FrontDoor(papers, auth=with_file(papers, line_for("alice", PASSWORD))) as door:
        with smtplib.SMTP(HOST, door.port, "client.test", timeout=20) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            assert client.docmd("AUTH PLAIN AGFsaWNlAHNlY3JldA==")[0] in (502, 503, 538)
            assert client.docmd("MAIL FROM:<a@sender.test>")[0] == 250
            assert client.docmd("RCPT TO:<b@example.net>")[0] == 550


def test_who_fails_too_often_is_hung_up_on(papers: Papers) -> None:
    papers.write("passwords", line_for("alice", PASSWORD).encode())
    settings = RelayAuth(password_file="passwords", failure_delay=Duration(0), client_failures=4)
    with FrontDoor(papers, auth=settings) as door:
        with smtplib.SMTP(HOST, door.port, "client.test", timeout=20) as client:
            client.starttls(context=named(trusting(papers)))
            client.ehlo()
            replies = [client.docmd("AUTH PLAIN AGFsaWNlAHdyb25n")[0] for _ in range(3)]
            assert replies == [535, 535, 421]
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.noop()
        assert logs_in(papers, door, "plain", password="wrong") == 421
        assert logs_in(papers, door, "plain", password="right or wrong") == 421


def test_a_new_password_counts_at_once(papers: Papers) -> None:
    with FrontDoor(papers, auth=with_file(papers, line_for("alice", "first"))) as door:
        assert logs_in(papers, door, "plain", password="first") == 235
        papers.write("passwords", line_for("alice", "second").encode())
        assert logs_in(papers, door, "plain", password="first") == 535
        assert logs_in(papers, door, "plain", password="second") == 235


# --- by Dovecot


@pytest.fixture
def oracle(dovecot: Factory[DovecotConfig, Dovecot]) -> Dovecot:
    return dovecot(entries=(DOVECOT_ENTRY,))


@pytest.mark.peers
@pytest.mark.parametrize("how", ["plain", "login"])
@pytest.mark.parametrize("over", ["unix", "inet"])
def test_dovecot_decides(papers: Papers, oracle: Dovecot, how: str, over: str) -> None:
    place = f"unix:{oracle.socket}" if over == "unix" else f"{oracle.address}:{oracle.port}"
    with FrontDoor(papers, auth=auth(dovecot=place)) as door:
        assert logs_in(papers, door, how, password="secret") == 235
        assert logs_in(papers, door, how, password="wrong") == 535
        assert logs_in(papers, door, how, "nobody", "secret") == 535
    assert [envelope.authenticated for envelope, _ in door.memory.accepted] == ["alice"]
    assert HOST in oracle.log()


@pytest.mark.peers
def test_dovecot_behind_tls(papers: Papers, oracle: Dovecot) -> None:
    papers.issue("oracle", "localhost")
    with terminator(papers, "oracle", oracle) as port:
        settings = auth(dovecot=f"localhost:{port}", dovecot_tls=True, dovecot_ca="ca.pem")
        with FrontDoor(papers, auth=settings) as door:
            assert logs_in(papers, door, "plain", password="secret") == 235
            assert logs_in(papers, door, "plain", password="wrong") == 535


@pytest.mark.peers
def test_dovecot_behind_tls_that_does_not_prove_who_it_is(papers: Papers, oracle: Dovecot) -> None:
    papers.issue("oracle", "elsewhere.test")
    with terminator(papers, "oracle", oracle) as port:
        settings = auth(dovecot=f"localhost:{port}", dovecot_tls=True, dovecot_ca="ca.pem")
        with FrontDoor(papers, auth=settings) as door:
            assert logs_in(papers, door, "plain", password="secret") == 454


def test_without_dovecot_clients_are_told_to_come_again(papers: Papers) -> None:
    with FrontDoor(papers, auth=auth(dovecot="unix:nowhere")) as door:
        assert logs_in(papers, door, "plain", password="secret") == 454
    assert door.events == []


@contextlib.contextmanager
def terminator(papers: Papers, prefix: str, oracle: Dovecot) -> Iterator[int]:
    """TLS in front of Dovecot's TCP socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers.directory / f"{prefix}.pem", papers.directory / f"{prefix}.key")

    def serve(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(peer, server_side=True) as inside:
            with socket.create_connection((oracle.address, oracle.port), 10) as behind:
                back = threading.Thread(target=copy, args=(behind, inside), daemon=True)
                back.start()
                copy(inside, behind)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("localhost", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


# --- from Exim


@pytest.mark.peers
@pytest.mark.parametrize("how", ["plain", "login"])
def test_exim_logs_in(
    programs: Programs,
    scratch: Path,
    papers: Papers,
    how: str,
) -> None:
    papers.staple("mail", papers.issue("mail", "relay.test"))
    send = "^alice^open sesame" if how == "plain" else ": alice : open sesame"
    authenticator = f"begin authenticators\nours:\n  driver = plaintext\n  public_name = {how.upper()}\n  client_send = {send}\n"
    with FrontDoor(papers, auth=with_file(papers, line_for("alice", "open sesame"))) as door:
        with exim_to(programs, scratch, door, papers, "  hosts_require_auth = *\n", authenticator) as exim:
            inject(exim)
            until(lambda: door.memory.accepted, exim.log)
    assert door.memory.accepted[0][0].authenticated == "alice"


# --- SCRAM through us to Dovecot


@pytest.mark.peers
@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_dovecot_and_our_own_client_speak_scram_through_us(
    papers: Papers,
    oracle: Dovecot,
    password: str,
) -> None:
    client = Scram(Credentials("alice", password), "theirs")

    async def told(_: object) -> None:
        """A failure is an event."""

    async def through() -> object:
        settings = Settings(
            state_dir=str(papers.directory),
            relay=Relay(
                tls=RelayTls(certificate=(certificate(papers, "mail"),)),
                auth=auth(dovecot=f"unix:{oracle.socket}"),
            ),
        )
        guard = Guard(settings, WallClock(), told)
        async with met(guard) as (known, _):
            return await log_in(guard, known, client)

    answer = trio.run(through)
    if password == "secret":
        assert answer == LoggedIn("alice")
        assert client.proven
    else:
        assert isinstance(answer, LoginRefused)
        assert answer.reply.code == 535
