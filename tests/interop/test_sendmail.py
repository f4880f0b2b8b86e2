"""`outrider sendmail` as programs call it, with a running relay and the example's settings."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.internet import Behaviour, LiveInternet, ReceivedMessage
from tests.interop.callers import example
from tests.interop.service import PYTHON, ROOT, START, Service, environment, settings_for

TEXT = b"Subject: from a program\n\n.a dot\nlast\n"


@pytest.fixture
def config(live: LiveInternet, tmp_path: Path) -> Path:
    """The relay's settings; `client` makes those of its callers."""
    shown = example("sendmail.toml", {"127.0.0.1:25": "127.0.0.1:0"})
    return settings_for(live.world, tmp_path, shown[shown.index("[relay]") :])


@pytest.fixture
def relay(config: Path) -> Iterator[Service]:
    with Service("relay", config, "listening") as relay:
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{relay.port}"))
        yield relay


def sendmail(
    config: Path, *words: str, text: bytes = TEXT, command: tuple[str, ...] = (*PYTHON, "sendmail")
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*command, *words],
        input=text, capture_output=True, timeout=START, check=False, cwd=ROOT,
        env={**environment(), "OUTRIDER_CONFIG": str(config)},
    )  # fmt: skip


def arrived(live: LiveInternet, number: int) -> list[ReceivedMessage]:
    live.wait_until(lambda world: len(world.messages) >= number, START)
    return list(live.world.messages)


def test_a_message_with_recipients_on_the_command_line(
    live: LiveInternet, config: Path, relay: Service
) -> None:
    ran = sendmail(config, "-i", "-f", "me@sender.test", "a@plain.test", "b@dane-ee.test")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    messages = arrived(live, 2)
    assert sorted(message.recipients for message in messages) == [("a@plain.test",), ("b@dane-ee.test",)]
    for message in messages:
        assert message.sender == "me@sender.test"
        assert message.content.endswith(b"\r\n\r\n.a dot\r\nlast\r\n")
        for field in (
            b"\r\nDate: ",
            b"\r\nMessage-ID: <",
            b"\r\nFrom: me@sender.test\r\n",
            b"Subject: from a program",
        ):
            assert message.content.count(field) == 1


def test_recipients_from_the_header_as_php_calls_it(live: LiveInternet, config: Path, relay: Service) -> None:
    text = b"To: A <a@plain.test>,\r\n b@plain.test\r\nBcc: hidden@plain.test\r\nFrom: app@sender.test\r\n\r\nhi\r\n.\r\nmore\r\n"
    assert sendmail(config, "-t", "-i", "-fapp@sender.test", text=text).returncode == 0
    (message,) = arrived(live, 1)
    assert sorted(message.recipients) == ["a@plain.test", "b@plain.test", "hidden@plain.test"]
    assert b"hidden" not in message.content
    assert message.content.endswith(b"\r\n\r\nhi\r\n.\r\nmore\r\n")


def test_cron_gives_no_domain_and_a_dot_ends_the_text(
    live: LiveInternet, config: Path, relay: Service
) -> None:
    config.write_text(config.read_text().replace("example.org", "plain.test"))
    ran = sendmail(
        config,
        "-FCronDaemon",
        "-i",
        "-B8BITMIME",
        "-oem",
        "root",
        text=b"From: root (Cron)\nTo: root\n\nout\n",
    )
    assert ran.returncode == 0, ran
    arrived(live, 1)
    assert sendmail(config, "-f", "<>", "root", text=b"\nout\n.\nnot sent\n").returncode == 0
    first, second = arrived(live, 2)
    assert first.recipients == second.recipients == ("root@plain.test",)
    assert first.sender.endswith("@plain.test")
    assert second.sender == ""
    assert second.content.endswith(b"\r\n\r\nout\r\n")


def test_what_the_sender_wants_to_hear_goes_along(live: LiveInternet, config: Path, relay: Service) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    assert (
        sendmail(
            config, "-N", "never", "-R", "hdrs", "-V", "a+b", "-f", "me@sender.test", "a@plain.test"
        ).returncode
        == 0
    )
    relay.wait_for("attempt")
    with closing(sqlite3.connect(config.parent / "state/queue/shard-0.db")) as queue:
        (asked,) = queue.execute(
            "SELECT notify, ret, envid FROM recipient JOIN message ON message.id = message_id"
        )
    assert asked == ("NEVER", "HDRS", "a+b")


MISTAKES: tuple[tuple[tuple[str, ...], bytes, int], ...] = (
    ((), TEXT, 64),
    (("-t",), TEXT, 64),
    (("-t",), b"To: a b@plain.test\n\n", 65),
    (("a@plain.test",), b"a\0b", 65),
    (("a@plain.test\nRCPT TO:<b@plain.test>",), TEXT, 64),
    (("-q",), TEXT, 64),
    (("-bi",), b"", 0),
)


def test_what_comes_of_mistakes(live: LiveInternet, config: Path, relay: Service) -> None:
    for words, text, status in MISTAKES:
        ran = sendmail(config, *words, text=text)
        assert (ran.returncode, ran.stderr.startswith(b"sendmail: ")) == (status, bool(status)), (words, ran)
    assert live.world.messages == ()
    assert not [line for line in relay.lines if line["message"] == "message accepted"]


def test_without_a_relay_the_caller_keeps_it(live: LiveInternet, config: Path, relay: Service) -> None:
    relay.kill()
    named = f'[sendmail]\nrelay = "127.0.0.1:{relay.port}"'  # then its queue may be anywhere
    config.write_text(config.read_text().replace("[sendmail]", named))
    ran = sendmail(config, "a@plain.test")
    assert ran.returncode == 75
    assert b"cannot be reached" in ran.stderr
    spoken = sendmail(config, "-bs", text=b"QUIT\r\n")
    assert spoken.returncode == 75
    assert spoken.stdout.startswith(b"421 4.3.0 ")


def test_smtp_on_standard_input(live: LiveInternet, config: Path, relay: Service, tmp_path: Path) -> None:
    dialogue = b"EHLO me.test\r\nMAIL FROM:<me@sender.test>\r\nRCPT TO:<a@plain.test>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n"
    ran = sendmail(config, "-bs", text=dialogue)
    assert ran.returncode == 0
    codes = [line[:3] for line in ran.stdout.splitlines() if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    (tmp_path / "dialogue").write_bytes(dialogue)
    with (tmp_path / "dialogue").open("rb") as file:  # a file cannot be waited for as a pipe can
        again = subprocess.run(
            [*PYTHON, "sendmail", "-bs"], stdin=file, capture_output=True, timeout=START, check=False, cwd=ROOT,
            env={**environment(), "OUTRIDER_CONFIG": str(config)},
        )  # fmt: skip
    assert again.stdout.splitlines()[-1].startswith(b"221 ")
    assert len(arrived(live, 2)) == 2


def test_a_link_named_sendmail_or_mailq(
    live: LiveInternet, config: Path, relay: Service, tmp_path: Path
) -> None:
    script = tmp_path / "outrider"
    script.write_text(f"#!{sys.executable}\nfrom deliver.cli import main\nmain()\n")
    script.chmod(0o755)
    for name in ("sendmail", "mailq", "newaliases"):
        os.symlink(script, tmp_path / name)
    assert (
        sendmail(
            config, "-f", "me@sender.test", "a@plain.test", command=(str(tmp_path / "sendmail"),)
        ).returncode
        == 0
    )
    assert arrived(live, 1)[0].recipients == ("a@plain.test",)
    listed = sendmail(config, command=(str(tmp_path / "mailq"),))
    assert listed.returncode == 0, listed
    assert b"queue is empty" in listed.stderr
    assert sendmail(config, command=(str(tmp_path / "newaliases"),)).returncode == 0


def test_a_call_loads_nothing_of_weight(config: Path, relay: Service) -> None:
    program = (
        "import sys; sys.argv = ['outrider', 'sendmail', '-t']\n"
        "import deliver.cli\n"
        "try:\n    deliver.cli.main()\n"
        "finally:\n    print([n for n in ('click', 'trio', 'msgspec', 'sqlalchemy', 'dns', 'email', 'asyncio', 'dataclasses') if n in sys.modules])\n"
    )
    ran = sendmail(config, text=b"To: a@plain.test\n\nhi\n", command=(sys.executable, "-c", program))
    assert (ran.returncode, ran.stdout) == (0, b"[]\n")


def test_without_a_queue_the_caller_delivers(live: LiveInternet, config: Path) -> None:
    config.write_text(
        config.read_text().replace("[sendmail]", '[sendmail]\nvia = "direct"').replace(":0", ":2525")
    )
    assert sendmail(config, "-f", "me@sender.test", "a@plain.test").returncode == 0
    assert [message.recipients for message in live.world.messages] == [("a@plain.test",)]
    failed = sendmail(config, "-f", "me@sender.test", "a@plain.test", "b@null.test")
    assert failed.returncode == 69
    assert b"b@null.test: failed" in failed.stderr
    assert sendmail(config, "-f", "me@sender.test", "b@dane-mismatch.test").returncode == 75


def test_settings_from_the_command_line_hold_too(live: LiveInternet, config: Path, relay: Service) -> None:
    command = (
        *PYTHON,
        "-o",
        f"sendmail.relay=127.0.0.1:{relay.port}",
        "-o",
        "sendmail.domain=plain.test",
        "sendmail",
    )
    assert sendmail(config, "-i", "root", command=command).returncode == 0
    assert arrived(live, 1)[0].recipients == ("root@plain.test",)
    shown = sendmail(config, "--help")
    assert shown.returncode == 0
    assert b"Exit status" in shown.stdout
