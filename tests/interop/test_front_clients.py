"""Exim, Postfix, swaks and HAProxy talk to the relay's listener: its extensions as others use them."""

from __future__ import annotations

import contextlib
import logging
import select
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.settings import RecipientLimit, RelayListener, RelayTls, Size
from tests.interop.callers import start_exim
from tests.interop.frontdoor import HOST, FrontDoor, Papers
from tests.interop.peers import haproxy
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.peers.process import Process
from tests.interop.peers.programs import PeerMissing, Programs
from tests.interop.waiting import until

pytestmark = pytest.mark.peers

PATIENCE = 20.0  # seconds for a mail server to deliver, or to say why not
NO_TLS = RelayTls()
OURS = ("127.0.0.0/8",)
LARGE = "Subject: large\r\n\r\n" + "x" * 70 + "\r\n.\r\n" + ("y" * 70 + "\r\n") * 40
SMALL = RecipientLimit(recipients=("*@pager.test",), max_message_size=Size(1000))

EXIM = """\
primary_hostname = client.exim.test
log_selector = +all
acl_smtp_rcpt = accept
dsn_advertise_hosts = *
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
  hosts_pipe_connect = *
  hosts_try_prdr = *
{more}\
begin retry
* * F,1h,1s
"""


@pytest.fixture
def papers(scratch: Path, tmp_path: Path) -> Iterator[Papers]:
    directory = scratch / tmp_path.name
    directory.mkdir()
    directory.chmod(0o755)
    yield Papers(directory)
    shutil.rmtree(directory)


@contextlib.contextmanager
def exim_to(programs: Programs, papers: Papers, door: FrontDoor, more: str = "") -> Iterator[Process]:
    """An Exim that sends everything to the door."""
    directory = papers.directory / "exim"
    directory.mkdir()
    directory.chmod(0o755)
    try:
        process = start_exim(programs, directory, EXIM.format(host=HOST, port=door.port, more=more))
    except PeerMissing as missing:
        pytest.skip(str(missing))
    try:
        yield process
    finally:
        process.stop()


def inject(
    process: Process | Postfix,
    *recipients: str,
    text: str | bytes = LARGE,
    mail: tuple[str, ...] = (),
    rcpt: tuple[str, ...] = (),
) -> None:
    with smtplib.SMTP(process.address, process.port, "injector.test", timeout=10) as client:
        assert client.sendmail("a@sender.test", recipients, text, mail, rcpt) == {}


# Exim


def test_exim_with_prdr_chunking_dsn_and_early_pipelining(programs: Programs, papers: Papers) -> None:
    with (
        FrontDoor(papers, tls=NO_TLS, networks=OURS, recipient_limit=(SMALL,)) as door,
        exim_to(programs, papers, door) as exim,
    ):
        inject(
            exim, "b@example.net", "c@example.net",
            mail=("RET=HDRS", "ENVID=Q+2B1"), rcpt=("NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;old@example.net"),
        )  # fmt: skip
        until(lambda: exim.log().count("=>") + exim.log().count("->") == 2, exim.log)
        ((envelope, content),) = door.memory.accepted
        assert (envelope.ret, envelope.envid) == (Ret.HDRS, "Q+1")
        for recipient in envelope.recipients:
            assert recipient.notify == {Notify.FAILURE, Notify.DELAY}
            assert recipient.original == OriginalRecipient("rfc822", "old@example.net")
        assert content.endswith(LARGE[18:].encode())
        (sent,) = (line for line in exim.log().splitlines() if "=> b@example.net" in line)
        assert " PRDR " in sent
        assert " K " in sent
        assert "2.1.5 Recipient ok" in sent

        # What it has learned of us: now it talks before our greeting. It declares the size with MAIL.
        inject(exim, "d@example.net", "e@pager.test")
        until(lambda: "** e@pager.test" in exim.log() and "=> d@example.net" in exim.log(), exim.log)
        (sent,) = (line for line in exim.log().splitlines() if "=> d@example.net" in line)
        assert " L* " in sent
        assert "550 5.2.3 <e@pager.test> takes no message larger than 1000 octets" in exim.log()
        assert [str(each.mailbox) for each in door.memory.accepted[1][0].recipients] == ["d@example.net"]


def test_exim_hears_by_prdr_who_does_not_take_the_content(programs: Programs, papers: Papers) -> None:
    pager = RecipientLimit(recipients=("*@pager.test",), refuse_headers=("Content-Type: multipart/*",))
    ascii_only = RecipientLimit(recipients=("*@ascii.test",), eight_bit=False)
    text = "Subject: both\r\nContent-Type: multipart/mixed;\r\n boundary=b\r\n\r\n--b\r\n\r\nGr\xfc\xdfe\r\n--b--\r\n"
    with (
        FrontDoor(papers, tls=NO_TLS, networks=OURS, recipient_limit=(pager, ascii_only)) as door,
        exim_to(programs, papers, door) as exim,
    ):
        inject(
            exim, "a@ascii.test", "b@example.net", "c@pager.test",
            text=text.encode("latin-1"), mail=("BODY=8BITMIME",),
        )  # fmt: skip
        until(lambda: exim.log().count("** ") == 2 and "=> b@example.net" in exim.log(), exim.log)
        refusals = {
            line.split(" ** ")[1].split()[0]: line for line in exim.log().splitlines() if " ** " in line
        }
        assert "PRDR error after" in refusals["a@ascii.test"]
        assert "554 5.6.1 <a@ascii.test> takes no message with 8-bit content" in refusals["a@ascii.test"]
        assert (
            "554 5.7.1 <c@pager.test> takes no message with this content-type field"
            in refusals["c@pager.test"]
        )
        assert [str(each.mailbox) for each in door.memory.accepted[0][0].recipients] == ["b@example.net"]


def test_exim_early_inside_tls(programs: Programs, papers: Papers) -> None:
    papers.issue("mail", "relay.test")
    trust = f"  hosts_require_tls = *\n  tls_verify_certificates = {papers.directory}/ca.pem\n"
    with (
        FrontDoor(papers, networks=OURS) as door,
        exim_to(
            programs, papers, door, trust + "  tls_sni = relay.test\n  tls_try_verify_hosts = *\n"
        ) as exim,
    ):
        for number in range(3):
            inject(exim, f"b{number}@example.net", f"c{number}@example.net")
            until(lambda wanted=number: len(door.memory.accepted) > wanted, exim.log)  # type: ignore[misc]
        assert all(b"with ESMTPS " in content for _, content in door.memory.accepted)
        assert any(" L* " in line for line in exim.log().splitlines() if "=>" in line), exim.log()
        assert " K " in exim.log()


# Postfix


def test_postfix_with_dsn_and_smtputf8(postfix: Factory[PostfixConfig, Postfix], papers: Papers) -> None:
    with FrontDoor(papers, tls=NO_TLS, networks=OURS) as door:
        peer = postfix(
            hostname="plain.postfix.test",
            main="\n".join(
                (
                    f"relayhost = [{HOST}]:{door.port}",
                    "virtual_mailbox_domains =",
                    "smtp_tls_security_level = none",
                )
            ),
            master="smtp unix - - n - - smtp",
        )
        inject(
            peer, "b@example.net", "c@example.net", mail=("ENVID=x1", "RET=FULL"), rcpt=("NOTIFY=SUCCESS",)
        )
        until(lambda: door.memory.accepted, peer.log)
        ((envelope, content),) = door.memory.accepted
        assert (envelope.envid, envelope.ret, len(envelope.recipients)) == ("x1", Ret.FULL, 2)
        assert all(each.notify == {Notify.SUCCESS} for each in envelope.recipients)
        assert content.endswith(LARGE[18:].encode())
        with smtplib.SMTP(peer.address, peer.port, "injector.test", timeout=10) as client:
            client.ehlo()
            if not client.has_extn("smtputf8"):
                pytest.skip("this Postfix knows no SMTPUTF8")
            client.command_encoding = "utf-8"
            client.sendmail(
                "ä@sender.test",
                ["ü@example.net"],
                "Subject: ß\r\n\r\nx\r\n".encode(),
                ("SMTPUTF8", "BODY=8BITMIME"),
            )
        until(lambda: len(door.memory.accepted) > 1, peer.log)
        envelope, content = door.memory.accepted[1]
        assert envelope.smtputf8
        assert str(envelope.recipients[0].mailbox) == "ü@example.net"
        assert b"with UTF8SMTP id" in content


# swaks


def swaks(programs: Programs, door: FrontDoor, *words: str, port: int = 0) -> str:
    try:
        program = programs.path("swaks")
    except PeerMissing as missing:
        pytest.skip(str(missing))
    command = [
        "perl",
        str(program),
        "--server",
        HOST,
        "--port",
        str(port or door.port),
        "--helo",
        "swaks.test",
    ]
    ran = subprocess.run([*command, *words], capture_output=True, text=True, timeout=30, check=False)
    return ran.stdout + ran.stderr


def test_swaks_with_prdr(programs: Programs, papers: Papers) -> None:
    body = "--body=" + "x" * 900 + "\\n" + "y" * 300
    with FrontDoor(papers, tls=NO_TLS, networks=OURS, recipient_limit=(SMALL,)) as door:
        said = swaks(
            programs, door, "--from", "a@sender.test", "--to", "b@example.net,c@pager.test", "--prdr", body
        )
    assert "353 " in said
    assert "552 5.2.3" in said
    assert [str(each.mailbox) for each in door.memory.accepted[0][0].recipients] == ["b@example.net"]


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(("source", "relays"), [("127.0.0.9", True), ("192.0.2.9", False)])
def test_swaks_behind_a_proxy_header(
    programs: Programs, papers: Papers, version: str, source: str, relays: bool
) -> None:
    family = {"1": "TCP4", "2": "AF_INET"}[version]
    words = ["--proxy-version", version, "--proxy-family", family, "--proxy-source", source]
    words += ["--proxy-source-port", "5000", "--proxy-dest", "192.0.2.25", "--proxy-dest-port", "25"]
    if version == "2":
        words += ["--proxy-command", "PROXY", "--proxy-protocol", "STREAM"]
    with FrontDoor(papers, tls=NO_TLS, networks=OURS, proxy=("127.0.0.1",)) as door:
        said = swaks(programs, door, "--from", "a@sender.test", "--to", "b@example.net", *words)
    assert ("queued as" in said) == relays, said
    assert ("550 5.7.1" in said) != relays
    if relays:
        assert [origin.client for origin in door.memory.origins] == [source]


# HAProxy


def through(process: Process, source: str) -> tuple[int, bytes]:
    """What RCPT gets over a connection from the address."""
    with smtplib.SMTP(
        process.address, process.port, "c.test", timeout=10, source_address=(source, 0)
    ) as client:
        client.ehlo()
        client.mail("a@sender.test")
        return client.rcpt("b@example.net")


@pytest.mark.parametrize(
    "options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]
)
def test_behind_haproxy_the_client_counts(
    programs: Programs, papers: Papers, caplog: pytest.LogCaptureFixture, options: str
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    directory = papers.directory / "haproxy"
    directory.mkdir()
    with FrontDoor(papers, tls=NO_TLS, networks=("127.0.0.77/32",), proxy=(HOST,)) as door:
        try:
            balancer = haproxy.start(
                programs, directory, f"{HOST}:{door.port}", f"{options} check inter 200ms check-send-proxy",
                "option smtpchk EHLO balancer.test",
            )  # fmt: skip
        except PeerMissing as missing:
            pytest.skip(str(missing))
        try:
            assert through(balancer, "127.0.0.77")[0] == 250
            assert through(balancer, "127.0.0.78")[0] == 550
            checked = (
                HOST if options == "send-proxy" else "unknown"
            )  # version 1 has no word for a health check
            until(lambda: checked in clients(caplog), balancer.log)
            assert "DOWN" not in balancer.log()
        finally:
            balancer.stop()
    assert {"127.0.0.77", "127.0.0.78"} <= set(clients(caplog))


def clients(caplog: pytest.LogCaptureFixture) -> list[str]:
    facts = [
        getattr(record, "facts", {}) for record in caplog.records if record.message == "connection closed"
    ]
    return [str(each["client"]) for each in facts if each.get("proxy") == HOST]


def test_tls_on_connect_behind_haproxy(programs: Programs, papers: Papers) -> None:
    """The header comes before TLS."""
    papers.issue("mail", "relay.test")
    directory = papers.directory / "haproxy"
    directory.mkdir()
    listener = RelayListener(
        listen=(f"{HOST}:0",), tls_on_connect=True, networks=("127.0.0.77/32",), proxy=(HOST,)
    )
    with FrontDoor(papers, listener=(listener,)) as door:
        try:
            balancer = haproxy.start(programs, directory, f"{HOST}:{door.ports[-1]}", "send-proxy-v2")
        except PeerMissing as missing:
            pytest.skip(str(missing))
        try:
            context = ssl.create_default_context(cafile=str(papers.directory / "ca.pem"))
            context.check_hostname = False
            with smtplib.SMTP_SSL(
                balancer.address, balancer.port, "c.test", timeout=10, context=context,
                source_address=("127.0.0.77", 0),
            ) as client:  # fmt: skip
                assert client.sendmail("a@sender.test", ["b@example.net"], LARGE) == {}
        finally:
            balancer.stop()
    assert [origin.client for origin in door.memory.origins] == ["127.0.0.77"]
    assert door.memory.origins[0].protocol == "ESMTPS"


def test_the_handshake_ends_with_an_answer(papers: Papers) -> None:
    """Tickets come without waiting for EHLO: it may be held back by Nagle until our answer to Finished."""
    papers.issue("mail", "relay.test")
    context = ssl.create_default_context(cafile=str(papers.directory / "ca.pem"))
    with FrontDoor(papers, networks=OURS) as door, socket.create_connection((HOST, door.port), 10) as plain:
        plain.recv(1000)
        plain.sendall(b"STARTTLS\r\n")
        assert plain.recv(1000).startswith(b"220 ")
        with context.wrap_socket(plain, server_hostname="relay.test") as stream:
            assert stream.version() == "TLSv1.3"
            assert select.select([stream], [], [], PATIENCE)[0]
