"""Logging in at a real Exim (PLAIN, LOGIN) and by SCRAM at a real PostgreSQL, which has its own implementation."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import create_engine, text

from deliver.smtp.sasl import Binding, Credentials, Mechanism, Scram
from tests.internet.pki import authority
from tests.interop.peers.database import Database
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postgres import PostgresConfig
from tests.interop.sending import Send, Sent, credentials, domain

USER, PASSWORD = "relay@client.test", "pencil-and-paper"


@pytest.fixture
def server(exim: Factory[EximConfig, Exim]) -> Exim:
    """An Exim that takes mail only from those who logged in."""
    own = credentials("login.test")
    return exim(
        certificate=own.chain_pem,
        key=own.private_key_pem,
        hostname="mx.login.test",
        passwords=((USER, PASSWORD),),
        mail="accept authenticated = *\n  deny message = 530 5.7.0 log in first",
    )


@pytest.fixture
def via(server: Exim, send: Send, tmp_path: Path) -> Any:
    """`via(password, *mechanisms)`: outrider by way of that Exim."""

    def sending(password: str, *mechanisms: str, recipient: str = "bob@elsewhere.test") -> Sent:
        secret = tmp_path / "password"
        secret.write_text(password + "\n")
        secret.chmod(0o600)
        auth = ", ".join(f'"{word}"' for word in mechanisms)
        route = (
            f'route=[{{domains = ["*"], via = "smarthost", hosts = ["mx.login.test"], username = "{USER}",'
            f' password_file = "{secret}", auth = [{auth}]}}]'
        )
        tlsa = credentials("login.test").tlsa(3, 1, 1)
        return send([domain("login.test", server, tlsa)], server.port, recipient, options=[route])

    return sending


@pytest.mark.parametrize(
    ("mechanisms", "used"),
    [(("scram-sha-256-plus", "scram-sha-256", "plain", "login"), "plain"), (("login",), "login")],
)
def test_exim_knows_us(server: Exim, via: Any, mechanisms: tuple[str, ...], used: str) -> None:
    who = f"{used}@elsewhere.test"
    sent = via(PASSWORD, *mechanisms, recipient=who)
    assert sent.status == 0, sent.stderr
    assert "login" in sent.codes
    assert sent.results[0]["tls"]["verified_by"] == "dane-ee"
    (received,) = server.mailbox.to(who)
    assert "esmtpsa" in received.trace
    assert f"A={used}:{USER}" in server.log()


def test_exim_does_not_know_a_wrong_password(server: Exim, via: Any) -> None:
    sent = via("wrong", "plain", "login", recipient="wrong@elsewhere.test")
    assert sent.status == 75
    assert "login-refused" in sent.codes
    assert " 535" in sent.results[0]["reasons"][-1]["text"]
    assert "wrong@elsewhere.test" not in server.log()


def test_without_a_login_exim_takes_nothing(server: Exim, send: Send) -> None:
    own = credentials("login.test")
    sent = send([domain("login.test", server, own.tlsa(3, 1, 1))], server.port, "nobody@login.test")
    assert sent.status != 0


# --- SCRAM with PostgreSQL's own server (its protocol: messages of type, length, body)


class PostgresLogin:
    """A connection to PostgreSQL, as far as authentication; with TLS if `context` is given."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        place = urlsplit(url)
        plain = socket.create_connection((place.hostname, place.port), 10)
        self.socket: socket.socket = plain
        if context is not None:
            plain.sendall(struct.pack("!II", 8, 80877103))
            if plain.recv(1) != b"S":
                plain.close()
                raise ConnectionError("no TLS yet")
            self.socket = context.wrap_socket(plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def start(self, user: str) -> list[str]:
        """The mechanisms that are offered."""
        words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", "postgres")) + b"\0"
        self.socket.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
        kind, body = self._receive()
        assert kind == 10
        return [word.decode() for word in body.split(b"\0") if word]

    def log_in(self, mechanism: Mechanism) -> bool:
        """The whole exchange; whether both sides are content."""
        first = mechanism.initial or b""
        mechanism.begun()
        self._say(mechanism.name.encode() + b"\0" + struct.pack("!I", len(first)) + first)
        kind, body = self._receive()
        if kind == 11:
            self._say(mechanism.answer(body))
            kind, body = self._receive()
        if kind != 12:
            return False
        mechanism.answer(body)
        return mechanism.proven and self._receive()[0] == 0

    def _say(self, body: bytes) -> None:
        self.socket.sendall(b"p" + struct.pack("!I", len(body) + 4) + body)

    def _receive(self) -> tuple[int, bytes]:
        """The kind of an authentication request, and what it carries; -1 for an error."""
        header = self._exactly(5)
        body = self._exactly(struct.unpack("!I", header[1:])[0] - 4)
        return (struct.unpack("!I", body[:4])[0], body[4:]) if header[:1] == b"R" else (-1, body)

    def _exactly(self, count: int) -> bytes:
        octets = b""
        while len(octets) < count:
            piece = self.socket.recv(count - len(octets))
            assert piece, "PostgreSQL closed the connection"
            octets += piece
        return octets


@pytest.fixture
def postgres_login(postgres: Factory[PostgresConfig, Database]) -> tuple[str, bytes]:
    """A PostgreSQL where ann logs in by SCRAM, and the DER of its certificate."""
    database = postgres(name="login")
    own = authority().issue("db.login.test")
    engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        directory = connection.execute(text("SHOW data_directory")).scalar_one()

        def store(name: str, content: str) -> None:
            lines = ", ".join(f"'{line}'" for line in content.strip().splitlines())
            program = f"umask 077; cat > {directory}/{name}"
            connection.exec_driver_sql(f"COPY (SELECT unnest(ARRAY[{lines}])) TO PROGRAM '{program}'")

        store("server.crt", own.chain_pem.decode())
        store("server.key", own.private_key_pem.decode())
        store("pg_hba.conf", "host all ann all scram-sha-256\nhost all all all trust")
        connection.exec_driver_sql("DROP ROLE IF EXISTS ann")
        connection.exec_driver_sql("CREATE ROLE ann LOGIN PASSWORD 'pencil, ½ sharp'")
        connection.exec_driver_sql("ALTER SYSTEM SET ssl = on")
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    leaf = x509.load_pem_x509_certificates(own.chain_pem)[0]
    return database.url, leaf.public_bytes(Encoding.DER)


def connected(url: str) -> PostgresLogin:
    """A connection with TLS, as soon as the server has read its configuration again."""
    for _ in range(50):
        try:
            return PostgresLogin(url, ssl._create_unverified_context())
        except ConnectionError:
            time.sleep(0.1)
    raise AssertionError("PostgreSQL does not speak TLS")


def scram(password: str, binding: Binding | None = None, *, could_bind: bool = False) -> Scram:
    return Scram(Credentials("ann", password), os.urandom(16).hex(), binding, could_bind=could_bind)


def test_postgres_understands_our_scram(postgres_login: tuple[str, bytes]) -> None:
    url, certificate = postgres_login
    bound = Binding("tls-server-end-point", sha256(certificate).digest())
    password = "pencil, \u00bd sharp"  # ½ becomes 1⁄2 by SASLprep, on both sides
    for mechanism, accepted in (
        (scram(password, bound), True),
        (scram(password), True),
        (scram("wrong"), False),
        (scram(password, Binding("tls-server-end-point", b"another certificate")), False),
        (scram(password, could_bind=True), False),  # the server offers to bind: somebody took that away
    ):
        with connected(url) as secured:
            assert secured.start("ann") == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
            assert secured.log_in(mechanism) is accepted
    with PostgresLogin(url) as plain:
        assert plain.start("ann") == ["SCRAM-SHA-256"]
        assert plain.log_in(scram(password))
