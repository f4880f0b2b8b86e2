"""What `outrider sendmail` takes from the settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deliver.submission.local import BadSettings, Local, endpoint, from_mapping, read


def test_the_first_listener_and_the_names() -> None:
    settings = {
        "relay": {"listen": ["[::]:25", "127.0.0.1:26"], "hostname": "relay.test"},
        "delivery": {"helo": "out.test"},
    }
    queue = "/var/lib/outrider/queue/shard-0.db"
    assert from_mapping(settings) == Local(("::1", 25), "relay.test", "relay.test", False, queue=queue)


def test_its_own_section_goes_first() -> None:
    settings = {
        "delivery": {"helo": "out.test"},
        "sendmail": {"relay": "127.0.0.1:587", "domain": "b.test", "via": "direct"},
    }
    assert from_mapping(settings) == Local(("127.0.0.1", 587), "out.test", "b.test", True)


@pytest.mark.parametrize(
    ("settings", "queue"),
    [
        ({"state_dir": "/srv/o"}, "/srv/o/queue/shard-0.db"),
        ({"state_dir": "/srv/o", "queue": {"directory": "/mail/q"}}, "/mail/q/shard-0.db"),
        ({"queue": {"url": "postgresql://h/d"}}, ""),
        ({"sendmail": {"relay": "192.0.2.1:25"}}, ""),
    ],
)
def test_the_queue_is_known_only_where_it_is_the_relays_file(settings: dict[str, Any], queue: str) -> None:
    assert from_mapping(settings).queue == queue


def test_a_header_in_utf8_is_looked_for_unless_switched_off() -> None:
    assert from_mapping({}).detect_utf8
    assert not from_mapping({"sendmail": {"detect_utf8": False}}).detect_utf8


def test_without_a_file_the_defaults_hold_unless_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_CONFIG", str(tmp_path / "none.toml"))
    assert read(None).relay == ("127.0.0.1", 2525)
    with pytest.raises(BadSettings):
        read(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("text", [b"[relay\n", b"[sendmail]\nrelay = 'nowhere'\n", b"\xff"])
def test_a_file_that_cannot_be_used(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(text)
    with pytest.raises(BadSettings):
        read(str(tmp_path / "x.toml"))


@pytest.mark.parametrize("text", ["", "host", "host:", ":25", "host:0", "host:99999", "host:x"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(BadSettings):
        endpoint(text)
