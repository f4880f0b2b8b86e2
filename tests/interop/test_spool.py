"""`outrider spool` and the relay's spool door as real processes; a real Exim makes the files.

Debian's Exim lacks the queuefile transport. So the example's transport is replaced by a pipe that does what that
transport does, linking -H and then -D, while Exim works at the message and has it locked.
"""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.internet import Behaviour, LiveInternet
from tests.interop.callers import example, start_exim
from tests.interop.peers.process import Process
from tests.interop.peers.programs import PeerMissing, Programs
from tests.interop.service import PYTHON, ROOT, START, Service, environment, settings_for
from tests.interop.waiting import until
from tests.unit.spool.pairs import BODY, NEW_ID, OLD_ID, header_file, put

READY = "taking messages from"
TEXT = b"Subject: by files\r\nBcc: kept@plain.test\r\nX-Folded: one\r\n two\r\n\r\n.a dot\r\n\xff\r\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def config(live: LiveInternet, tmp_path: Path, directory: Path) -> Path:
    """The settings of the example, for the miniature Internet."""
    shown = example("spool.toml", {"/var/spool/exim4/outrider": str(directory)})
    return settings_for(live.world, tmp_path, shown[shown.index("[relay]") :])


def spool(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTHON, "--config", str(config), "spool", *words],
        capture_output=True, text=True, timeout=START, check=False, cwd=ROOT, env=environment(),
    )  # fmt: skip


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_one_run_delivers_what_is_there_and_the_queue_keeps_what_has_to_wait(
    live: LiveInternet, config: Path, directory: Path
) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    put(directory, header=header_file(recipients=("a@plain.test", "b@signed.test")))
    put(directory, NEW_ID)
    ran = spool(config, str(directory))
    assert (ran.returncode, ran.stdout) == (0, "2 taken, 0 set aside, 0 not yet\n"), ran
    assert names(directory) == []
    assert live.copies() == {"a@plain.test": 2}, ran.stderr
    content = live.world.messages[0].content
    assert content.endswith(b"\r\n\r\n" + BODY.replace(b"\n", b"\r\n"))
    live.behave("mx.signed.test", Behaviour())
    retry = [*PYTHON, "--config", str(config), "queue", "retry", "--all"]
    assert subprocess.run(retry, timeout=START, check=False, cwd=ROOT, env=environment()).returncode == 0
    assert spool(config, str(directory)).returncode == 0
    assert live.copies() == {"a@plain.test": 2, "b@signed.test": 1}


def test_what_can_be_no_message_is_listed_and_set_aside(
    live: LiveInternet, config: Path, directory: Path
) -> None:
    put(directory, age=3600)
    put(directory, NEW_ID, header=b"hostile\n" * 10, age=3600)
    listed = spool(config, "--list", str(directory))
    assert listed.returncode == 0
    assert "<me@sender.test>" in listed.stdout
    assert "unusable" in listed.stdout
    assert len(names(directory)) == 4
    ran = spool(config, str(directory))
    assert (ran.returncode, ran.stdout) == (65, "1 taken, 1 set aside, 0 not yet\n"), ran
    assert names(directory) == ["set-aside"]
    assert names(directory / "set-aside") == [f"{NEW_ID}-D", f"{NEW_ID}-H", f"{NEW_ID}.reason"]
    assert live.copies() == {"a@plain.test": 1}


def test_what_is_not_complete_is_told_and_stays(config: Path, directory: Path) -> None:
    put(directory)
    (directory / f"{OLD_ID}-D").unlink()
    ran = spool(config, str(directory))
    assert ran.returncode == 75
    assert "-D is not there" in ran.stdout
    assert names(directory) == [f"{OLD_ID}-H"]


def test_no_such_directory(config: Path, tmp_path: Path) -> None:
    ran = spool(config, str(tmp_path / "nowhere"))
    assert ran.returncode == 75
    assert "nowhere" in ran.stderr


def test_watching_takes_what_comes_until_it_is_stopped(
    live: LiveInternet, config: Path, directory: Path
) -> None:
    with subprocess.Popen(
        [*PYTHON, "--config", str(config), "spool", "--watch", str(directory)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment(),
    ) as watching:  # fmt: skip
        try:
            for number in range(3):
                put(directory, f"1vMGWt-00014q-0{number}")
                live.wait_until(
                    lambda world, wanted=number + 1: live.copies()["a@plain.test"] == wanted, START
                )  # type: ignore[misc]
            watching.send_signal(signal.SIGTERM)
            output, _ = watching.communicate(timeout=START)
        finally:
            watching.kill()
    assert watching.returncode == 0
    assert output.startswith("3 taken, 0 set aside")
    assert names(directory) == []


def test_beside_a_relay_the_messages_go_into_its_queue(
    live: LiveInternet, config: Path, directory: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    put(other, header=header_file(recipients=("b@plain.test",)))
    with Service("relay", config, READY) as relay:
        ran = spool(config, str(other))
        assert (ran.returncode, ran.stdout) == (
            0,
            "1 taken into the queue of the running relay, 0 set aside, 0 not yet\n",
        )
        put(directory)
        live.wait_until(lambda world: len(live.copies()) == 2, START)
        assert relay.terminate() == 0
    assert live.copies() == {"a@plain.test": 1, "b@plain.test": 1}
    assert names(other) == names(directory) == []


def test_a_feeder_that_is_killed_again_and_again_loses_nothing_and_makes_no_second_copy(
    live: LiveInternet, config: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    wanted = {f"r{number}@plain.test": 1 for number in range(60)}
    for number, recipient in enumerate(wanted):
        put(
            other,
            f"1vMGWt-00014q-{number:02}",
            header=header_file(f"1vMGWt-00014q-{number:02}", recipients=(recipient,)),
        )
    with Service("relay", config, READY):
        for left in (55, 40, 20):
            with subprocess.Popen(
                [*PYTHON, "--config", str(config), "spool", str(other)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment(),
            ) as feeder:  # fmt: skip
                while len(names(other)) > 2 * left and feeder.poll() is None:
                    time.sleep(0.005)
                feeder.kill()
        assert spool(config, str(other)).returncode in (0, 65)
        live.wait_until(lambda world: len(live.copies()) == len(wanted), START)
    assert live.copies() == wanted
    assert not [name for name in names(other) if name.endswith("-H")]


# --- files of a real Exim


@contextmanager
def running_exim(programs: Programs, scratch: Path, target: Path, label: str) -> Iterator[Process]:
    """Exim with the example; its queuefile transport is a pipe that links the files as that transport does."""
    try:
        user = programs.account("exim", "Debian-exim")
    except PeerMissing as missing:
        pytest.skip(str(missing))
    base = scratch / f"exim-{label}"
    base.mkdir()
    base.chmod(0o755)
    linking = base / "link"
    linking.write_text(
        f"#!/bin/sh\ncd {base}/spool/input && ln $1-H {target}/$1-H && ln $1-D {target}/$1-D\n"
    )
    linking.chmod(0o755)
    os.chown(target, user.uid, user.gid)
    places = {
        "driver = queuefile": f"driver = pipe\n  command = {linking} $message_exim_id\n  user = Debian-exim\n  log_output",
        "  directory = /var/spool/exim4/outrider\n": "",
        "127.0.0.1 : ::1": "127.0.0.0/8",
        "begin acl": "dsn_advertise_hosts = *\nsmtputf8_advertise_hosts = *\nbegin acl",
        "accept hosts": "warn set acl_m_mine = two\\nlines\n       set acl_c0 = -N\n  accept hosts",
        "F,1h,1m": "F,1h,1s",
    }
    exim = start_exim(programs, base, example("exim-queuefile.conf", places))
    try:
        yield exim
    finally:
        exim.stop()


@pytest.fixture
def target(scratch: Path, tmp_path: Path) -> Path:
    """A directory that Exim's user may write to, on the file system of its spool."""
    path = scratch / f"queuefile-{tmp_path.name}"
    path.mkdir()
    return path


def test_what_exim_passes_on_is_delivered(
    live: LiveInternet, programs: Programs, scratch: Path, tmp_path: Path, target: Path
) -> None:
    shown = example("spool.toml", {"/var/spool/exim4/outrider": str(target)})
    config = settings_for(live.world, tmp_path, shown[shown.index("[relay]") :])
    recipients = ["a@dane-ee.test", "c@signed.test", '"odd(one)"@plain.test']
    with (
        running_exim(programs, scratch, target, tmp_path.name) as exim,
        Service("relay", config, READY) as relay,
    ):
        with smtplib.SMTP(exim.address, exim.port, "client.test", timeout=START) as client:
            client.ehlo()
            assert client.mail("me@sender.test", ["BODY=8BITMIME", "RET=HDRS", "ENVID=a+2Bb"])[0] == 250
            for recipient in recipients:
                assert (
                    client.docmd(f"RCPT TO:<{recipient}> NOTIFY=FAILURE ORCPT=rfc822;{'x'}@y.test")[0] == 250
                )
            assert client.data(TEXT)[0] == 250
        try:
            live.wait_until(lambda world: len(live.copies()) == 3, START)
        except TimeoutError:
            raise AssertionError((exim.log(), relay.lines)) from None
        until(lambda: "Completed" in exim.log(), exim.log)
        until(lambda: names(target) == [], lambda: names(target))
    assert live.copies() == dict.fromkeys(recipients, 1), exim.log()
    for message in live.world.messages:
        assert message.sender == "me@sender.test"
        assert message.content.endswith(TEXT.partition(b"\r\n\r\n")[2])
        assert b"\r\nX-Folded: one\r\n two\r\n" in message.content
        ours, exims = message.content.split(b"Received: ")[1:3]
        assert b"(Outrider) id " in ours
        assert b"by mail.example.org" in exims
    (taken,) = [line for line in relay.lines if line["message"] == "message taken"]
    assert taken["recipients"] == 3
    assert "unknown" not in taken
    assert "=> everybody" in exim.log(), exim.log()


def test_a_message_that_exim_has_at_work_is_left_to_it(
    live: LiveInternet, programs: Programs, scratch: Path, tmp_path: Path, target: Path
) -> None:
    config = settings_for(live.world, tmp_path)
    with running_exim(programs, scratch, target, tmp_path.name) as exim:
        linking = next(scratch.glob(f"exim-{tmp_path.name}")) / "link"
        linking.write_text(linking.read_text() + "until [ -e $0.go ]; do sleep 0.05; done\n")
        with smtplib.SMTP(exim.address, exim.port, "client.test", timeout=START) as client:
            client.sendmail("me@sender.test", ["a@plain.test"], TEXT)
        until(lambda: len(names(target)) == 2, exim.log)
        ran = spool(config, str(target))
        assert ran.returncode == 75, ran
        assert "another process has" in ran.stdout
        assert len(names(target)) == 2
        linking.with_name("link.go").touch()
        until(lambda: "Completed" in exim.log(), exim.log)
        until(lambda: spool(config, str(target)).returncode == 0, lambda: names(target))
    assert live.copies() == {"a@plain.test": 1}
