"""The calling side: what it hands over, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from deliver.handover.client import BadFrame, parse, place_in

ROOT = Path(__file__).parents[3]
HEAVY = {"click", "trio", "msgspec", "sqlalchemy", "OpenSSL", "cryptography", "dns", "rich", "asyncio", "ssl"}
SLOW = {"typing", "re", "enum", "socket", "hashlib", "tomllib", "collections", "functools", "contextlib"}
LINES = (
    'state_dir = "/srv/a"', "state_dir='/srv/b' # here", 'state_dir = "/srv/\\u0061"', "[send]", "[ send ]",
    "[send] # calls", '["send"]', "[sendmail]", "[relay]", 'socket = "s.sock"', "socket = 'it''", "handover = false",
    "handover = true # yes", "handover = 0", "send.handover = false", "send = {handover = false}", "# send",
    'text = """', '"""', "send.socket = 'x'", '"state_dir" = "/srv/c"', "list = [", ' "[send]",', "]", "x = 1",
    'relay = "127.0.0.1:25"',
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "config", "sender", "queue_id", "as_json", "recipients"),
    [
        ("send a@b", None, None, "", False, ["a@b"]),
        ("send -f me@x a@b c@d", None, "me@x", "", False, ["a@b", "c@d"]),
        ("send -fme@x --json -- -odd@b", None, "me@x", "", True, ["-odd@b"]),
        ("--config /e/o.toml send --queue-id Q a@b", "/e/o.toml", None, "Q", False, ["a@b"]),
        ("--config=/e/o.toml send a@b --queue-id=Q", "/e/o.toml", None, "Q", False, ["a@b"]),
    ],
)
def test_a_plain_call_is_handed_over(
    line: str, config: str | None, sender: str | None, queue_id: str, as_json: bool, recipients: list[str]
) -> None:
    call = parse(line.split())
    assert call is not None
    found = (call.config, call.sender, call.queue_id, call.as_json, call.recipients)
    assert found == (config, sender, queue_id, as_json, recipients)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("send --require-tls -f me@x a@b", True),
        ("send a@b --queue-id Q --require-tls", True),
        ("send a@b", False),
        ("send -f --require-tls a@b", False),
    ],
)
def test_requiretls_is_heard(line: str, asked: bool) -> None:
    call = parse(line.split())
    assert call is not None
    assert call.requires_tls is asked
    assert call.recipients == ["a@b"]


def test_the_null_sender_is_a_sender() -> None:
    call = parse(["send", "-f", "", "a@b"])
    assert call is not None
    assert call.sender == ""


@pytest.mark.parametrize(
    "line",
    ["", "send", "relay", "-o tls.level=may send a@b", "send -v a@b", "send --help", "send -f me@x", "send a@b -f",
     "send --unknown a@b", "send --require-tls", "send --require-tls=yes a@b", "--config", "--config x", "queue list send"],
)  # fmt: skip
def test_everything_else_is_not(line: str) -> None:
    assert parse(line.split()) is None


def test_nothing_of_weight_is_loaded() -> None:
    """With no service the attempt is the same, up to the connection."""
    code = (
        "import sys; from deliver.handover.client import hand_over\n"
        "assert hand_over(['--config', sys.argv[1], 'send', '-f', 'a@b', 'c@d']) is None\n"
        "print(' '.join(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "conf/outrider.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert loaded & HEAVY == set()
    assert {name for name in ran.stdout.split() if name.startswith("deliver")} == {
        "deliver", "deliver.handover", "deliver.handover.client", "deliver.handover.frames",
    }  # fmt: skip


def _place_by_toml(text: str) -> str | None:
    read = tomllib.loads(text)
    send = read.get("send", {})
    if send.get("handover") is False:
        return None
    return os.path.join(str(read.get("state_dir", "/var/lib/outrider")), str(send.get("socket", "send.sock")))


@settings(max_examples=500)
@given(st.lists(st.sampled_from(LINES), max_size=7))
def test_the_socket_is_found_as_in_toml(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        expected = _place_by_toml(text)
    except (tomllib.TOMLDecodeError, AttributeError):
        return  # no service has such a file
    try:
        found: str | None = place_in(text)
    except BadFrame:
        found = None
    assert found == expected


def test_the_example_needs_no_toml() -> None:
    text = (ROOT / "conf/outrider.toml").read_text()
    code = (
        "import sys; from deliver.handover.client import place_in\n"
        "print(place_in(sys.stdin.read()), *sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        input=text.encode(),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    place, *loaded = ran.stdout.decode().split()
    assert place == _place_by_toml(text)
    assert not SLOW.intersection(loaded)


def test_a_call_loads_nothing_that_takes_time() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--config', 'conf/outrider.toml', 'send', '-f', 'a@b', 'c@d']\n"
        "import deliver.cli; from deliver.handover.client import hand_over\n"
        "assert hand_over(sys.argv[1:]) is None; print(*sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert not SLOW.intersection(ran.stdout.decode().split())
