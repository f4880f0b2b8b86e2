"""The calling side: what it hands over, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deliver.handover.client import parse

ROOT = Path(__file__).parents[3]
HEAVY = {"click", "trio", "msgspec", "sqlalchemy", "OpenSSL", "cryptography", "dns", "rich", "asyncio", "ssl"}


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


def test_the_null_sender_is_a_sender() -> None:
    call = parse(["send", "-f", "", "a@b"])
    assert call is not None
    assert call.sender == ""


@pytest.mark.parametrize(
    "line",
    ["", "send", "relay", "-o tls.level=may send a@b", "send -v a@b", "send --help", "send -f me@x", "send a@b -f",
     "send --unknown a@b", "--config", "--config x", "queue list send"],
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
