"""What a command loads before it does something: a cold `outrider send` is called for every message."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deliver.queue import schema, store
from deliver.queue.content import InlineContent
from deliver.sqlrun import Database
from tests.unit.queue.values import CONTENT, NOW, Recorder, envelope

ROOT = Path(__file__).parents[3]
NEVER = ("deliver.service", "deliver.relay.listener", "deliver.queue.runner", "deliver.queue.store", "rich",
         "sqlalchemy.orm")  # fmt: skip
LATER = ("sqlalchemy", "hints", "OpenSSL", "cryptography.x509", "deliver.attempt", "deliver.session")

# Ends the process when its first packet would leave, with what was loaded by then.
WATCHED = """\
import os, sys
def watch(event, arguments):
    if event == "socket.sendto":
        os.write(1, " ".join(sys.modules).encode())
        os._exit(0)
sys.addaudithook(watch)
from deliver.cli import main
main()
"""


def run(code: str, *words: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        input="Subject: hello\n\nhello\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stdout.split())


def test_what_a_cold_send_loads_before_its_first_packet(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 0))
        loaded = run(
            WATCHED,
            *(
                "-o",
                f'dns.resolvers=["127.0.0.1:{resolver.getsockname()[1]}"]',
                "-o",
                f"state_dir={tmp_path}",
            ),
            *("send", "--queue-id", "4XyZ", "-f", "me@sender.test", "a@plain.test"),
        )
    assert "deliver.sending" in loaded
    assert not loaded & set(NEVER)


def test_the_whole_of_a_delivery_needs_nothing_of_the_relay() -> None:
    loaded = run("import deliver.cli.send, deliver.sending, deliver.dispatch, sys; print(*sys.modules)")
    assert "deliver.attempt" in loaded
    assert not loaded & set(NEVER)


def test_the_first_question_needs_no_database_and_no_tls() -> None:
    loaded = run("import deliver.cli.send, deliver.sending, sys; print(*sys.modules)")
    assert "deliver.dnssec.validator" in loaded
    assert not loaded & set(LATER)


@pytest.mark.parametrize(
    "verb",
    [
        ("queue", "list", "--sort", "size"),
        ("queue", "summary"),
        ("queue", "show", "m1"),
        ("queue", "freeze", "list"),
        ("queue", "remove", "--domain", "example.org", "--dry-run"),
        ("queue", "retry", "--domain", "other.example"),
        ("hints", "list"),
        ("events", "list"),
        ("config", "show"),
    ],
)
def test_looking_loads_neither_sqlalchemy_nor_trio(tmp_path: Path, verb: tuple[str, ...]) -> None:
    shard = Database(tmp_path / "queue" / "shard-0.db")
    with shard._writer.begin() as conn:
        schema.migrate(conn)
        store.accept(conn, envelope("m1"), InlineContent(CONTENT), (), NOW, Recorder())
    shard.close()
    said = run(
        "import atexit, sys; from deliver.cli import main; "
        "atexit.register(lambda: print('LOADED', *sys.modules)); main()",
        *("-o", f"state_dir={tmp_path}", *verb),
    )
    assert "deliver.cli.frame" in said
    assert not said & {"sqlalchemy", "trio", "asyncio", "OpenSSL", "dns", "rich"}
    assert ("m1" in said) == (verb[:2] in {("queue", "list"), ("queue", "show"), ("queue", "remove")})


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise KeyboardInterrupt", 75),
        ("raise ImportError('half installed')", 75),
        ("sys.exit(141)", 75),
        ("sys.exit('mistaken')", 75),
        ("sys.exit(70)", 75),
        ("sys.exit(69)", 69),
        ("sys.exit(65)", 65),
        ("sys.exit(0)", 0),
    ],
)
def test_a_queue_that_asks_never_hears_a_status_that_says_nothing_of_its_message(
    program: str, status: int
) -> None:
    code = f"""
import sys, types
from deliver import cli
frame = types.ModuleType("deliver.cli.frame")
frame.outrider = types.SimpleNamespace(main=lambda **_: end())
def end():
    {program}
sys.modules["deliver.cli.frame"] = frame
sys.argv = ["outrider", "-o", "x=y", "send", "--queue-id=1", "a@plain.test"]
cli.main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=50, check=False)
    assert ran.returncode == status, ran.stderr
