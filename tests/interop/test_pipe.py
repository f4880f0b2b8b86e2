"""`outrider send` as a caller's pipe: handed over to a service or not, killed at any moment, and no second copy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.internet import Behaviour, Delay, LiveInternet, Silence
from tests.interop.callers import NOBODY, example, outrider_script, start_exim
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.peers.programs import PeerMissing, Programs
from tests.interop.service import PYTHON, ROOT, START, Service, environment, send, settings_for
from tests.interop.waiting import until

TEXT = b"Subject: through a pipe\n\n.a dot\nlast"
SENT = TEXT.replace(b"\n", b"\r\n") + b"\r\n"
READY = "taking over from outrider send"
LMTP = '[lmtp]\nlisten = ["127.0.0.1:0"]\n'


@pytest.fixture
def config(live: LiveInternet, tmp_path: Path) -> Path:
    return settings_for(live.world, tmp_path, LMTP)


@pytest.fixture
def service(config: Path) -> Iterator[Service]:
    with Service("lmtp", config, READY) as service:
        yield service


def call(config: Path, *words: str) -> subprocess.Popen[bytes]:
    """A call whose standard input is still open."""
    return subprocess.Popen(
        [*PYTHON, "--config", str(config), "send", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )


def taken_over(service: Service) -> bool:
    """Whether the service delivered anything."""
    return any(line["message"] == "delivered" for line in service.lines)


SOME = (  # recipients and the status of all together
    (["a@dane-ee.test"], 0),
    (["b@null.test", "b@dane-ee.test"], 69),
    (["c@null.test", "c@dane-mismatch.test", "c@dane-ee.test"], 75),
)


def test_a_service_answers_as_the_process_itself_would(live: LiveInternet, config: Path) -> None:
    def send_all() -> list[subprocess.CompletedProcess[bytes]]:
        return [send(config, "--json", "-f", "me@sender.test", *to, text=TEXT) for to, _ in SOME]

    with Service("lmtp", config, READY) as service:
        theirs = send_all()
        assert service.terminate() == 0
    for (recipients, status), they, we in zip(SOME, theirs, send_all(), strict=True):
        assert any(line.get("to") == recipients[0] for line in service.lines)
        assert they.returncode == we.returncode == status
        told = [
            [(one["recipient"], one["outcome"], one["enhanced_code"]) for one in map(json.loads, ran)]
            for ran in (they.stdout.splitlines(), we.stdout.splitlines())
        ]
        assert told[0] == told[1]
        assert [recipient for recipient, _, _ in told[0]] == recipients
    contents = {message.content for message in live.world.messages}
    assert contents == {SENT}


def test_the_sender_is_the_calling_user_unless_given(
    live: LiveInternet, config: Path, service: Service
) -> None:
    assert send(config, "a@plain.test").returncode == 0
    assert send(config, "-f", "", "b@plain.test").returncode == 0
    named, null = (message.sender for message in live.world.messages)
    assert named.endswith("@out.sender.test")
    assert null == ""
    assert service.wait_for("delivered")


def test_what_nobody_could_send_is_65(live: LiveInternet, config: Path, service: Service) -> None:
    for text in (
        b"Subject: x\n\na\0b\n",
        b"Subject: x\n\na\rb\n",
        b"Received: by x\n" * 101 + b"\nhello\n",
    ):
        ran = send(config, "-f", "me@sender.test", "a@plain.test", text=text)
        assert ran.returncode == 65, text
        assert ran.stderr.startswith(b"outrider: ")
    assert live.copies() == {}


def test_a_large_message_passes_unchanged(live: LiveInternet, config: Path, service: Service) -> None:
    body = b"".join(b"%06d" % number * 12 + b"\n" for number in range(40_000))
    assert send(config, "a@plain.test", text=b"Subject: big\n\n" + body).returncode == 0
    (message,) = live.world.messages
    assert message.content == b"Subject: big\r\n\r\n" + body.replace(b"\n", b"\r\n")
    assert service.wait_for("delivered")


@pytest.mark.parametrize("options", [("-o", "dns.timeout=4s"), ()])
def test_other_settings_are_not_handed_over(
    live: LiveInternet, config: Path, service: Service, options: tuple[str, ...]
) -> None:
    if not options:
        config.write_text(config.read_text() + "\n# changed since the service has read it\n")
    command = [*PYTHON, "--config", str(config), *options, "send", "a@plain.test"]
    ran = subprocess.run(command, input=TEXT, capture_output=True, timeout=START, cwd=ROOT, env=environment())
    assert ran.returncode == 0
    assert live.copies() == {"a@plain.test": 1}
    assert service.terminate() == 0
    assert not taken_over(service)


def test_a_repeated_call_is_answered_and_nothing_is_sent(live: LiveInternet, config: Path) -> None:
    words = ("--queue-id", "4XyZ", "-f", "me@sender.test", "a@plain.test", "b@null.test")
    first = send(config, *words)
    with Service("lmtp", config, READY) as service:
        again = send(config, *words)
        other_id = send(config, "--queue-id", "4XyZ-2", "-f", "me@sender.test", "a@plain.test")
        other_text = send(config, *words[:-1], text=b"Subject: the id was used again\n\n")
        assert service.terminate() == 0
    assert (first.returncode, again.returncode) == (69, 69)
    assert first.stdout.splitlines()[0] == again.stdout.splitlines()[0]
    assert (other_id.returncode, other_text.returncode) == (0, 0)
    assert live.copies() == {"a@plain.test": 3}


def test_only_who_is_not_settled_is_delivered_to_again(live: LiveInternet, config: Path) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    words = ("--queue-id", "4XyZ", "-f", "me@sender.test", "a@plain.test", "b@signed.test")
    assert send(config, *words).returncode == 75
    live.behave("mx.signed.test", Behaviour())
    assert send(config, *words).returncode == 0
    assert live.copies() == {"a@plain.test": 1, "b@signed.test": 1}


def test_mistakes_of_a_calling_mta_never_bounce(live: LiveInternet, config: Path) -> None:
    broken = config.with_name("broken.toml")
    broken.write_text("nonsense")
    assert send(broken, "--queue-id", "1", "a@plain.test").returncode == 75
    assert send(config, "--queue-id", "1", "--no-such-option", "a@plain.test").returncode == 75
    assert send(config, "--queue-id", "1", "-f", "me@sender.test", "not an address").returncode == 69
    assert live.copies() == {}


@pytest.mark.parametrize("output", ["full", "closed"])
def test_a_calling_mta_that_cannot_take_our_output_goes_by_the_status(
    live: LiveInternet, config: Path, output: str
) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    for recipient, status in (("a@signed.test", 75), ("b@null.test", 69), ("c@plain.test", 0)):
        with unusable(output) as stdout:
            ran = subprocess.run(
                [*PYTHON, "--config", str(config), "send", "--queue-id", "1", "-f", "me@sender.test", recipient],
                input=TEXT, stdout=stdout, stderr=subprocess.PIPE, timeout=START, cwd=ROOT, env=environment(),
            )  # fmt: skip
        assert ran.returncode == status, (recipient, ran.stderr)


@contextmanager
def unusable(output: str) -> Iterator[int]:
    """A descriptor that cannot be written to."""
    if output == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    yield descriptor
    os.close(descriptor)


def test_a_caller_that_ends_before_its_message_did_has_sent_nothing(
    live: LiveInternet, config: Path, service: Service
) -> None:
    with call(config, "--queue-id", "1", "-f", "me@sender.test", "a@plain.test") as caller:
        assert caller.stdin is not None
        caller.stdin.write(
            TEXT + b"\n" * 100_000
        )  # more than a pipe holds: the caller has begun to hand over
        caller.stdin.flush()
        caller.kill()
    service.wait_for("hand-over ended")
    assert send(config, "--queue-id", "1", "-f", "me@sender.test", "a@plain.test", text=TEXT).returncode == 0
    assert live.copies() == {"a@plain.test": 1}


def test_a_caller_killed_while_it_waits_comes_again_and_gets_the_answer(
    live: LiveInternet, config: Path, service: Service
) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Delay(2)}))
    words = ("--queue-id", "1", "-f", "me@sender.test", "a@plain.test")
    with call(config, *words) as caller:
        assert caller.stdin is not None
        caller.stdin.write(TEXT)
        caller.stdin.close()
        live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
        caller.kill()
    assert send(config, *words, text=TEXT).returncode == 75
    service.wait_for("delivered")
    again = send(config, *words, text=TEXT)
    assert again.returncode == 0, again
    assert live.copies() == {"a@plain.test": 1}


def test_a_service_killed_while_a_caller_waits_is_75_and_costs_no_second_copy(
    live: LiveInternet, config: Path, service: Service
) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"MAIL": Silence()}))
    words = ("--queue-id", "1", "-f", "me@sender.test", "a@plain.test", "b@signed.test")
    with call(config, *words) as caller:
        assert caller.stdin is not None
        caller.stdin.write(TEXT)
        caller.stdin.close()
        service.wait_for("delivered")
        service.kill()
        assert caller.wait(START) == 75
        assert caller.stderr is not None
        assert b"gave no answer" in caller.stderr.read()
    live.behave("mx.signed.test", Behaviour())
    assert send(config, *words, text=TEXT).returncode == 0
    assert live.copies() == {"a@plain.test": 1, "b@signed.test": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_delivery_in_the_calling_process_ends_in_good_order(
    live: LiveInternet, config: Path, number: signal.Signals
) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"MAIL": Silence()}))
    words = ("--queue-id", "1", "-f", "me@sender.test", "a@plain.test", "b@signed.test")
    with call(config, *words) as caller:
        assert caller.stdin is not None
        caller.stdin.write(TEXT)
        caller.stdin.close()
        until(lambda: list((config.parent / "state").glob("settled-*.journal")))  # the reply was read
        caller.send_signal(number)
        assert caller.wait(START) == 75
        assert caller.stdout is not None
        first, second = caller.stdout.read().decode().splitlines()
    assert first.startswith("a@plain.test: delivered")
    assert second.startswith("b@signed.test: deferred 4.")
    live.behave("mx.signed.test", Behaviour())
    assert send(config, *words, text=TEXT).returncode == 0
    assert live.copies() == {"a@plain.test": 1, "b@signed.test": 1}


def test_a_delivery_killed_after_the_reply_is_proven_by_its_journal(live: LiveInternet, config: Path) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"MAIL": Silence()}))
    words = ("--queue-id", "1", "-f", "me@sender.test", "a@plain.test", "b@signed.test")
    with call(config, *words) as caller:
        assert caller.stdin is not None
        caller.stdin.write(TEXT)
        caller.stdin.close()
        until(lambda: list((config.parent / "state").glob("settled-*.journal")))
        caller.kill()
    live.behave("mx.signed.test", Behaviour())
    assert send(config, *words, text=TEXT).returncode == 0
    assert live.copies() == {"a@plain.test": 1, "b@signed.test": 1}


def test_many_calls_at_a_time(live: LiveInternet, config: Path, service: Service) -> None:
    def one(number: int) -> int:
        return send(
            config, "--queue-id", f"{number}", "-f", "me@sender.test", f"r{number}@plain.test"
        ).returncode

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(one, range(80))) == {0}
    assert live.copies() == {f"r{number}@plain.test": 1 for number in range(80)}


# --- called by real MTAs, with the examples of conf/examples


@contextmanager
def installed(live: LiveInternet, directory: Path, user: int) -> Iterator[tuple[Path, Service]]:
    """The command as an MTA's unprivileged user runs it, and a service of that user."""
    directory.mkdir()
    directory.chmod(0o755)
    config = settings_for(live.world, directory, LMTP)
    (directory / "state").mkdir()
    for path in (directory, *directory.iterdir()):
        os.chown(path, user, user)
        path.chmod(0o755 if path.is_dir() else 0o644)
    (directory / "state").chmod(0o700)
    try:
        script = outrider_script(directory, config)
    except PeerMissing as missing:
        pytest.skip(str(missing))
    with Service("lmtp", config, READY, command=("/bin/sh", str(script)), user=user) as service:
        yield script, service
    shutil.rmtree(directory)


@pytest.fixture
def outrider(live: LiveInternet, scratch: Path, tmp_path: Path) -> Iterator[tuple[Path, Service]]:
    with installed(live, scratch / f"caller-{tmp_path.name}", NOBODY) as there:
        yield there


@pytest.fixture
def pipe_postfix(
    outrider: tuple[Path, Service], postfix: Factory[PostfixConfig, Postfix], tmp_path: Path
) -> Postfix:
    places = {"/usr/bin/outrider": str(outrider[0]), "user=outrider": "user=nobody"}
    return postfix(
        hostname=f"{tmp_path.name.replace('_', '-')[:50]}.postfix.test",
        main="minimal_backoff_time = 1s\nmaximal_backoff_time = 1s\nqueue_run_delay = 1s\nvirtual_mailbox_domains =\n"
        + example("postfix-pipe.main.cf", {}),
        master=example("postfix-pipe.master.cf", places),
    )


def inject(address: str, port: int, *recipients: str, sender: str = "me@dane-ta.test") -> None:
    with smtplib.SMTP(address, port, "client.test", timeout=START) as client:
        assert client.sendmail(sender, recipients, SENT) == {}


def test_postfix_by_pipe(live: LiveInternet, outrider: tuple[Path, Service], pipe_postfix: Postfix) -> None:
    live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    inject(
        pipe_postfix.address, pipe_postfix.port,
        "a@dane-ee.test", "b@null.test", "c@signed.test", '"odd(one)"@plain.test',
    )  # fmt: skip
    live.wait_until(lambda world: len(live.copies()) >= 3, START)  # two of them, and Postfix's bounce of b
    live.behave("mx.signed.test", Behaviour())
    live.wait_until(lambda world: live.copies()["c@signed.test"] == 1, START)
    assert live.copies() == {
        "a@dane-ee.test": 1, "c@signed.test": 1, '"odd(one)"@plain.test': 1, "me@dane-ta.test": 1,
    }  # fmt: skip
    (bounce,) = [message for message in live.world.messages if message.recipients == ("me@dane-ta.test",)]
    assert bounce.sender == ""
    assert b"null.test accepts no mail" in bounce.content
    (message,) = [message for message in live.world.messages if message.recipients == ("a@dane-ee.test",)]
    assert message.content.endswith(SENT)
    assert outrider[1].wait_for("delivered")


def test_a_pipe_that_postfix_tries_again_makes_no_second_copy(
    live: LiveInternet, outrider: tuple[Path, Service], pipe_postfix: Postfix
) -> None:
    script, service = outrider
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Delay(3)}))
    inject(pipe_postfix.address, pipe_postfix.port, "a@plain.test")
    live.wait_until(lambda world: bool(world.server("mx.plain.test").received), START)
    pids = [pid for pid in _calls_of(script) if pid != service.process.pid]  # type: ignore[union-attr]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: "status=sent" in pipe_postfix.log(), pipe_postfix.log)
    assert "status=deferred" in pipe_postfix.log()
    assert live.copies() == {"a@plain.test": 1}


def test_exim_by_pipe(live: LiveInternet, programs: Programs, scratch: Path, tmp_path: Path) -> None:
    try:
        user = programs.account("exim", "Debian-exim").uid
    except PeerMissing as missing:
        pytest.skip(str(missing))
    with installed(live, scratch / f"caller-{tmp_path.name}", user) as (script, service):
        directory = scratch / f"exim-{tmp_path.name}"
        directory.mkdir()
        directory.chmod(0o755)
        places = {
            "/usr/bin/outrider": str(script),
            "user = outrider": "user = Debian-exim",
            "127.0.0.1 : ::1": "127.0.0.0/8",
            "F,1h,5m": "F,1h,1s",
        }
        exim = start_exim(programs, directory, example("exim-pipe.conf", places))
        live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
        names = ["a@dane-ee.test", "b@null.test", "c@signed.test", '"odd(one)"@plain.test']
        try:
            inject(exim.address, exim.port, *names)
            live.wait_until(lambda world: len(live.copies()) >= 3, START)
            live.behave("mx.signed.test", Behaviour())
            live.wait_until(lambda world: live.copies()["c@signed.test"] == 1, START)
        except TimeoutError:
            raise AssertionError(exim.log()) from None
        finally:
            exim.stop()
        assert live.copies() == {
            "a@dane-ee.test": 1, "c@signed.test": 1, '"odd(one)"@plain.test': 1, "me@dane-ta.test": 1,
        }, exim.log()  # fmt: skip
        (bounce,) = [message for message in live.world.messages if message.recipients == ("me@dane-ta.test",)]
        assert bounce.sender == ""
        assert b"null.test accepts no mail" in bounce.content
        assert service.wait_for("delivered")


def _calls_of(script: Path) -> list[int]:
    """The processes that run `outrider send` with this script's settings."""
    found = []
    wanted = str(script.with_name("outrider.toml")).encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in words and b"send" in words:
                found.append(int(process.name))
    return found
