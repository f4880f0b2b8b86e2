"""The relay as a process with TLS and AUTH: our own client logs in by SCRAM, SIGHUP and renewed files count, events tell."""

from __future__ import annotations

import smtplib
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.frontdoor import Papers
from tests.interop.relayprocess import CONTENT
from tests.interop.service import START, send, settings_for
from tests.interop.test_reload import Configured
from tests.interop.test_tls_server import named, trusting
from tests.interop.waiting import until

PASSWORD = "correct horse"
# Of that password, by `outrider password alice` with few iterations.
SECURE = """\
networks = []
[[relay.tls.certificate]]
chain_file = "{directory}/mail.pem"
key_file = "{directory}/mail.key"
[relay.auth]
password_file = "{directory}/passwords"
failure_delay = "0s"
"""


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Papers:
    from deliver.relay import passwords

    monkeypatch.setattr(passwords, "ITERATIONS", 4096)
    directory = tmp_path / "papers"
    directory.mkdir()
    made = Papers(directory)
    made.issue("mail", "relay.test")
    made.write("passwords", passwords.line_for("alice", PASSWORD).encode()).chmod(0o640)
    return made


@pytest.fixture
def relay(tmp_path: Path, papers: Papers) -> Iterator[tuple[Configured, LiveInternet]]:
    with LiveInternet() as live:
        relay = Configured(live, tmp_path / "state")
        relay.write(relay.first, more=SECURE.format(directory=papers.directory))
        relay.start()
        yield relay, live
        if relay.process is not None and relay.process.poll() is None:
            relay.kill()


def test_our_own_client_logs_in_and_its_mail_goes_on(
    relay: tuple[Configured, LiveInternet], papers: Papers, tmp_path: Path
) -> None:
    server, live = relay
    secret = papers.write("secret", f"{PASSWORD}\n".encode())
    secret.chmod(0o600)
    client = tmp_path / "client"
    client.mkdir()
    more = f"""
[tls]
level = "verify"
trust_store = "{papers.directory}/ca.pem"
verify_names = ["relay.test"]
[[route]]
domains = ["*"]
via = "smarthost"
hosts = ["127.0.0.1:{server.first}"]
username = "alice"
password_file = "{secret}"
auth = ["scram-sha-256-plus"]
"""
    sent = send(settings_for(live.world, client, more), "-f", "me@sender.test", "a@dane-ee.test")
    assert sent.returncode == 0, sent.stderr
    server.wait_for("delivered")
    (logged_in,) = [line for line in server.lines if line["message"] == "logged in"]
    assert (logged_in["user"], logged_in["mechanism"]) == ("alice", "SCRAM-SHA-256-PLUS")
    (accepted,) = [line for line in server.lines if line["message"] == "message accepted"]
    assert accepted["user"] == "alice"
    secret.write_text("wrong\n")
    sent = send(settings_for(live.world, client, more), "-f", "me@sender.test", "a@dane-ee.test")
    assert sent.returncode == 75, "a wrong password is ours to correct, and no reason to lose mail"
    assert server.wait_for("login failed")["why"] == "wrong user name or password"
    database = tmp_path / "state" / "events.db"
    until(lambda: found(database, "select fields from event_log where name = 'auth:fail'"))
    assert server.terminate() == 0


def found(database: Path, query: str) -> list[tuple[object, ...]]:
    """The rows, as far as there is a database and its table."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.OperationalError):
        return connection.execute(query).fetchall()
    return []


def test_hanging_up_changes_tls_and_auth(relay: tuple[Configured, LiveInternet], papers: Papers) -> None:
    server, _ = relay
    assert presented(server, papers) == ["relay.test"]
    papers.issue("mail", "renewed.test")
    assert presented(server, papers) == ["renewed.test"], "without a signal"
    papers.issue("other", "other.test")
    server.write(server.first, more=SECURE.format(directory=papers.directory).replace("mail.", "other."))
    server.hang_up("reloaded")
    assert presented(server, papers) == ["other.test"]
    server.write(server.first, more=SECURE.format(directory=papers.directory).replace("mail.", "none."))
    server.hang_up("new settings refused")
    assert presented(server, papers) == ["other.test"]
    server.write(server.first, more='networks = ["127.0.0.0/8"]\n')
    server.hang_up("reloaded")
    with smtplib.SMTP("127.0.0.1", server.first, "client.test", timeout=START) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.sendmail("me@sender.test", ["a@dane-ee.test"], CONTENT) == {}
    assert server.terminate() == 0


def presented(server: Configured, papers: Papers) -> list[str]:
    """The names in the certificate that a client gets, who then has to log in to relay."""
    with smtplib.SMTP("127.0.0.1", server.first, "client.test", timeout=START) as client:
        client.starttls(context=named(trusting(papers)))
        client.ehlo()
        assert client.docmd("MAIL FROM:<me@sender.test>")[0] == 250
        assert client.docmd("RCPT TO:<a@dane-ee.test>")[0] == 550
        assert isinstance(client.sock, ssl.SSLSocket)
        certificate = client.sock.getpeercert()
        client.rset()
        assert client.login("alice", PASSWORD)[0] == 235
        assert client.sendmail("me@sender.test", ["a@dane-ee.test"], CONTENT) == {}
    assert certificate is not None
    return [str(value) for kind, value in certificate["subjectAltName"] if kind == "DNS"]
