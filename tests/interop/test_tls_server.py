"""The relay as a TLS server towards openssl, Exim, Postfix and our own client: certificates, staples, names of clients."""

from __future__ import annotations

import contextlib
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.x509.ocsp import OCSPCertStatus

from deliver.settings import RelayListener, RelayTls
from tests.interop.callers import start_exim
from tests.interop.frontdoor import HOST, FrontDoor, Papers, certificate
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.peers.process import Process
from tests.interop.peers.programs import PeerMissing, Programs
from tests.interop.waiting import until
from tests.unit.tls.certificates import CLIENT_ONLY

PATIENCE = 20.0  # seconds for a mail server to deliver, or to say why not
MESSAGE = "Subject: through the front door\r\n\r\nhello\r\n"


@pytest.fixture
def papers(scratch: Path, tmp_path: Path) -> Iterator[Papers]:
    directory = scratch / tmp_path.name
    directory.mkdir()
    directory.chmod(0o755)
    yield Papers(directory)
    shutil.rmtree(directory)


def trusting(papers: Papers) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(papers.directory / "ca.pem"))


def s_client(door: FrontDoor, *words: str, text: str = "QUIT\n") -> str:
    """What `openssl s_client -starttls smtp` says."""
    command = ["openssl", "s_client", "-connect", f"{HOST}:{door.port}", "-crlf", *words]
    ran = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    return ran.stdout + ran.stderr


# --- openssl s_client


def test_openssl_sees_certificate_and_staple(papers: Papers) -> None:
    papers.staple("mail", papers.issue("mail", "relay.test"))
    with FrontDoor(papers) as door:
        said = s_client(
            door, "-starttls", "smtp", "-status", "-servername", "relay.test", "-CAfile", f"{papers.directory}/ca.pem",
            "-verify_hostname", "relay.test",
        )  # fmt: skip
    assert "OCSP Response Status: successful" in said
    assert "Cert Status: good" in said
    assert "Verify return code: 0 (ok)" in said


def test_openssl_sees_no_staple_that_is_out_of_date_and_the_new_one_at_once(papers: Papers) -> None:
    issued = papers.issue("mail", "relay.test")
    papers.staple("mail", issued, hours=-1)
    with FrontDoor(papers) as door:
        words = ("-starttls", "smtp", "-status", "-servername", "relay.test")
        assert "OCSP response: no response sent" in s_client(door, *words)
        papers.staple("mail", issued)
        assert "Cert Status: good" in s_client(door, *words)
        papers.staple("mail", issued, OCSPCertStatus.REVOKED)
        assert "OCSP response: no response sent" in s_client(door, *words)


def test_openssl_gets_the_certificate_of_the_name_and_the_renewed_one(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    papers.issue("other", "other.test")
    tls = RelayTls(certificate=(certificate(papers, "mail"), certificate(papers, "other")))
    with FrontDoor(papers, tls=tls) as door:
        words = ("-starttls", "smtp", "-CAfile", f"{papers.directory}/ca.pem")
        for name in ("relay.test", "other.test"):
            assert "return code: 0 (ok)" in s_client(
                door, *words, "-servername", name, "-verify_hostname", name
            )
        papers.issue("other", "other.test", "third.test")
        third = ("-servername", "third.test", "-verify_hostname", "third.test")
        assert "return code: 0 (ok)" in s_client(door, *words, *third)


def test_openssl_resumes_a_session(papers: Papers, tmp_path: Path) -> None:
    papers.issue("mail", "relay.test")
    kept = str(tmp_path / "session")
    with FrontDoor(papers) as door:
        words = ("-starttls", "smtp", "-servername", "relay.test", "-ign_eof")
        assert "New, TLSv1.3" in s_client(door, *words, "-sess_out", kept)
        assert "Reused, TLSv1.3" in s_client(door, *words, "-sess_in", kept)


def test_openssl_finds_no_old_protocol(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    with FrontDoor(papers) as door:
        assert "Protocol  : TLSv1.2" in s_client(door, "-starttls", "smtp", "-tls1_2")
        said = s_client(door, "-starttls", "smtp", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        assert "Cipher is (NONE)" in said


def test_tls_on_connect(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    listener = RelayListener(listen=(f"{HOST}:0",), tls_on_connect=True, networks=("127.0.0.0/8",))
    with FrontDoor(papers, listener=(listener,)) as door:
        port = door.ports[-1]
        with smtplib.SMTP_SSL(
            HOST, port, "client.test", timeout=10, context=named(trusting(papers))
        ) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            assert client.sendmail("a@sender.test", ["b@example.net"], MESSAGE) == {}
    ((_, content),) = door.memory.accepted
    assert b"with ESMTPS " in content


def named(context: ssl.SSLContext) -> ssl.SSLContext:
    """For a server at an address that its certificate does not carry."""
    context.check_hostname = False
    return context


# --- the line between clear text and TLS


def test_octets_behind_starttls_are_never_commands(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    with (
        FrontDoor(papers, networks=("127.0.0.0/8",)) as door,
        socket.create_connection((HOST, door.port), 10) as peer,
    ):
        peer.sendall(b"EHLO client.test\r\nSTARTTLS\r\nMAIL FROM:<injected@sender.test>\r\n")
        said = everything(peer)
    assert b"421" in said
    assert b"2.1.0 Sender ok" not in said


def test_commands_that_come_instead_of_a_handshake_end_the_connection(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    with (
        FrontDoor(papers, networks=("127.0.0.0/8",)) as door,
        socket.create_connection((HOST, door.port), 10) as peer,
    ):
        peer.sendall(b"EHLO client.test\r\nSTARTTLS\r\n")
        said = b""
        while b"220 2.0.0" not in said:
            said += peer.recv(4096)
        peer.sendall(b"MAIL FROM:<injected@sender.test>\r\n")
        rest = everything(peer)
    assert b"250" not in rest
    assert b"503" not in rest


def test_what_was_said_before_tls_counts_no_more(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    with FrontDoor(papers, networks=("127.0.0.0/8",)) as door:
        with smtplib.SMTP(HOST, door.port, "client.test", timeout=10) as client:
            client.ehlo()
            assert client.has_extn("starttls")
            client.starttls(context=named(trusting(papers)))
            assert client.docmd("MAIL FROM:<a@sender.test>")[0] == 503, "EHLO comes first"
            client.ehlo()
            assert not client.has_extn("starttls")
            assert client.docmd("STARTTLS")[0] == 503


def everything(peer: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := peer.recv(4096):
            said += piece
    return said


# --- certificates of clients


def test_a_client_relays_by_its_certificate(papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    papers.issue("app", "app.example.org", purpose=CLIENT_ONLY)
    papers.issue("stranger", "stranger.example.net", purpose=CLIENT_ONLY)
    tls = RelayTls(
        certificate=(certificate(papers, "mail"),), client_ca="ca.pem", client_names=("*.example.org",)
    )
    with FrontDoor(papers, tls=tls) as door:
        assert relays(papers, door, "app")
        assert not relays(papers, door, "stranger")
        assert not relays(papers, door, None)
    assert len(door.memory.accepted) == 1


def relays(papers: Papers, door: FrontDoor, prefix: str | None) -> bool:
    context = named(trusting(papers))
    if prefix is not None:
        context.load_cert_chain(papers.directory / f"{prefix}.pem", papers.directory / f"{prefix}.key")
    with smtplib.SMTP(HOST, door.port, "client.test", timeout=10) as client:
        client.starttls(context=context)
        try:
            return client.sendmail("a@sender.test", ["b@example.net"], MESSAGE) == {}
        except smtplib.SMTPRecipientsRefused as refused:
            return next(iter(refused.recipients.values()))[0] != 550


# --- Exim and Postfix send through us


EXIM = """\
primary_hostname = client.exim.test
log_selector = +all
acl_smtp_rcpt = accept
begin routers
all:
  driver = manualroute
  route_list = * {host}
  host_find_failed = defer
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {port}
  hosts_require_tls = *
  hosts_require_ocsp = *
  tls_verify_certificates = {ca}
  tls_verify_hosts = *
  tls_verify_cert_hostnames =
  tls_sni = relay.test
{more}\
begin retry
* * F,1h,1s
"""


@contextlib.contextmanager
def exim_to(
    programs: Programs, scratch: Path, door: FrontDoor, papers: Papers, transport: str = "", end: str = ""
) -> Iterator[Process]:
    """An Exim that sends everything to the door over verified TLS with a staple, and more as the texts say."""
    directory = scratch / f"exim-client-{papers.directory.name}"
    directory.mkdir()
    directory.chmod(0o755)
    text = EXIM.format(host=HOST, port=door.port, ca=papers.directory / "ca.pem", more=transport) + end
    try:
        process = start_exim(programs, directory, text)
    except PeerMissing as missing:
        pytest.skip(str(missing))
    try:
        yield process
    finally:
        process.stop()


def inject(process: Process | Postfix) -> None:
    with smtplib.SMTP(process.address, process.port, "injector.test", timeout=10) as client:
        assert client.sendmail("a@sender.test", ["b@example.net"], MESSAGE) == {}


@pytest.mark.peers
def test_exim_that_demands_a_staple_delivers(programs: Programs, scratch: Path, papers: Papers) -> None:
    papers.staple("mail", papers.issue("mail", "relay.test"))
    with (
        FrontDoor(papers, networks=("127.0.0.0/8",)) as door,
        exim_to(programs, scratch, door, papers) as exim,
    ):
        inject(exim)
        until(lambda: door.memory.accepted, exim.log)
        assert b"with ESMTPS " in door.memory.accepted[0][1]
        assert "TLS1.3" in exim.log()


@pytest.mark.peers
def test_exim_that_demands_a_staple_waits_until_there_is_a_good_one(
    programs: Programs, scratch: Path, papers: Papers
) -> None:
    issued = papers.issue("mail", "relay.test")
    papers.staple("mail", issued, hours=-1)
    with (
        FrontDoor(papers, networks=("127.0.0.0/8",)) as door,
        exim_to(programs, scratch, door, papers) as exim,
    ):
        inject(exim)
        until(lambda: "== b@example.net" in exim.log(), exim.log)
        assert door.memory.accepted == []
        papers.staple("mail", issued)
        until(lambda: door.memory.accepted, exim.log)


@pytest.mark.peers
def test_postfix_verifies_us_and_delivers(postfix: Factory[PostfixConfig, Postfix], papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    with FrontDoor(papers, networks=("127.0.0.0/8",)) as door:
        peer = postfix(
            hostname="client.postfix.test",
            main="\n".join(
                (
                    f"relayhost = [{HOST}]:{door.port}",
                    "virtual_mailbox_domains =",
                    "smtp_tls_security_level = secure",
                    f"smtp_tls_CAfile = {papers.directory}/ca.pem",
                    "smtp_tls_secure_cert_match = relay.test",
                    "smtp_tls_servername = relay.test",
                    "smtp_tls_loglevel = 1",
                )
            ),
            master="smtp unix - - n - - smtp",
        )
        inject(peer)
        until(lambda: door.memory.accepted, peer.log)
        assert "Verified TLS connection established to 127.0.0.1" in peer.log()
