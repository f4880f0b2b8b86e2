"""Programs that write header fields in UTF-8: a real Postfix with SMTPUTF8 gets them, one without is told nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.service import PYTHON, ROOT, START, Service, environment

TEXT = "From: me@sender.test\nTo: a@one.test\nSubject: Grüße aus Köln\n\nhi\n".encode()
DOOR = '[lmtp]\nlisten = ["unix:door.sock"]\n'


@pytest.fixture(params=[True, False], ids=["with SMTPUTF8", "without"])
def server(request: pytest.FixtureRequest, postfix: Factory[PostfixConfig, Postfix]) -> tuple[Postfix, bool]:
    with_it = bool(request.param)
    word = "yes" if with_it else "no"
    return postfix(hostname=f"mx.{word}.test", main=f"smtputf8_enable = {word}"), with_it


def settings(server: Postfix, directory: Path, more: str = "") -> Path:
    file = directory / "outrider.toml"
    file.write_text(f"""\
state_dir = "{directory}/state"
{more}
[delivery]
helo = "out.sender.test"
[dns]
dnssec = "off"
[tls]
level = "none"
[log]
format = "json"
[[route]]
domains = ["*"]
via = "smarthost"
hosts = ["[{server.address}]:{server.port}"]
""")
    return file


def call(config: Path, verb: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PYTHON, "--config", str(config), verb, *words],
        input=TEXT, capture_output=True, timeout=START, check=False, cwd=ROOT, env=environment(),
    )  # fmt: skip


def check(
    ran: subprocess.CompletedProcess[bytes], server: Postfix, to: str, *, taken: bool, asked: bool = True
) -> None:
    """`asked`: MAIL was to ask for SMTPUTF8."""
    if taken:
        assert ran.returncode == 0, ran
        (received,) = server.mailbox.to(to)
        assert "Subject: Grüße aus Köln\r\n".encode() in received.content
        assert (" with UTF8SMTP" in received.trace) == asked
    else:
        assert ran.returncode == 69, ran
        assert b"5.6.7" in ran.stdout + ran.stderr
        assert b"SMTPUTF8" in ran.stdout + ran.stderr


def test_send_by_itself(server: tuple[Postfix, bool], tmp_path: Path) -> None:
    peer, with_it = server
    config = settings(peer, tmp_path)
    check(call(config, "send", "alone@one.test"), peer, "alone@one.test", taken=with_it)
    config = settings(peer, tmp_path, "[send]\ndetect_utf8 = false")
    check(call(config, "send", "as-is@one.test"), peer, "as-is@one.test", taken=True, asked=False)
    config = settings(peer, tmp_path)
    ran = call(config, "send", "--queue-id", "4XyZ", "by-mta@one.test")
    check(ran, peer, "by-mta@one.test", taken=True, asked=False)


def test_send_handed_over(server: tuple[Postfix, bool], tmp_path: Path) -> None:
    peer, with_it = server
    config = settings(peer, tmp_path, DOOR)
    with Service("lmtp", config, "taking over from outrider send") as service:
        check(call(config, "send", "over@one.test"), peer, "over@one.test", taken=with_it)
        service.wait_for("delivered" if with_it else "failed")
        ran = call(config, "send", "--queue-id", "4XyZ", "over-by-mta@one.test")
        check(ran, peer, "over-by-mta@one.test", taken=True, asked=False)


def test_sendmail(server: tuple[Postfix, bool], tmp_path: Path) -> None:
    peer, with_it = server
    config = settings(peer, tmp_path, '[sendmail]\nvia = "direct"')
    check(call(config, "sendmail", "direct@one.test"), peer, "direct@one.test", taken=with_it)
    config = settings(peer, tmp_path, f'[sendmail]\nrelay = "{peer.address}:{peer.port}"')
    check_submitted(call(config, "sendmail", "-f", "me@sender.test", "to-relay@one.test"), peer, with_it)
    config = settings(
        peer, tmp_path, f'[sendmail]\nrelay = "{peer.address}:{peer.port}"\ndetect_utf8 = false'
    )
    ran = call(config, "sendmail", "-f", "me@sender.test", "relay-as-is@one.test")
    check(ran, peer, "relay-as-is@one.test", taken=True, asked=False)


def check_submitted(ran: subprocess.CompletedProcess[bytes], server: Postfix, taken: bool) -> None:
    assert ran.returncode == (0 if taken else 69), ran
    if taken:
        (received,) = server.mailbox.to("to-relay@one.test")
        assert "Subject: Grüße aus Köln\r\n".encode() in received.content
    else:
        assert b"takes no addresses and headers outside ASCII" in ran.stderr
