"""The relay as a process for demonstrations: it starts, answers verbs, ends, and says what went wrong."""

from __future__ import annotations

import json
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import LiveInternet, World
from tests.internet.relay import RelayFailed, RelayProcess, outrider_command
from tests.internet.sites import STANDARD


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with LiveInternet(STANDARD[:1]) as live:
        yield live.world


def listens(relay: RelayProcess) -> bool:
    try:
        socket.create_connection((relay.address, relay.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_takes_mail_and_ends_in_order(tmp_path: Path, world: World) -> None:
    with RelayProcess(tmp_path, world) as relay:
        with smtplib.SMTP(relay.address, relay.port, timeout=10) as client:
            assert client.noop()[0] == 250
        assert relay.documents("queue", "list") == ()
        relay.stop()
        assert not listens(relay)
        assert json.loads(relay.log.read_text().splitlines()[-1])["message"] == "stopped"


def test_verbs_give_documents_and_their_failures_are_told(tmp_path: Path, world: World) -> None:
    with RelayProcess(tmp_path, world) as relay:
        kinds = relay.documents("events", "list", "msg:*")
        assert "msg:delivery" in [kind["name"] for kind in kinds]
        with pytest.raises(RelayFailed, match=r"(?s)queue show nonsense .*status 64.*no shard knows it"):
            relay.documents("queue", "show", "nonsense")


def test_a_relay_that_cannot_start_says_why(tmp_path: Path, world: World) -> None:
    relay = RelayProcess(tmp_path, world, "[nonsense]\nkey = 1\n")
    with pytest.raises(RelayFailed, match=r"(?s)does not listen.*nonsense"), relay:
        pytest.fail("it started")


def test_an_error_in_the_block_ends_it_too(tmp_path: Path, world: World) -> None:
    relay = RelayProcess(tmp_path, world)

    def fail_while_it_runs() -> None:
        with relay:
            assert listens(relay)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_it_runs()
    assert not listens(relay)


def test_the_command_for_people_names_files_as_seen_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert outrider_command(tmp_path / "kept" / "outrider.toml").endswith(" --config kept/outrider.toml")
    assert outrider_command(Path("/elsewhere/outrider.toml")).endswith(" --config /elsewhere/outrider.toml")
