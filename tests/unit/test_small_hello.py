"""A handshake whose large first message is lost is tried once more with a small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deliver.level import Level
from deliver.outcome import Deferred, Delivered
from tests.unit.tls.certificates import DAY
from tests.unit.tls.scene import (
    LARGE,
    Server,
    codes,
    context,
    event,
    names,
    scene,
)


def _shrinks(hello: bytes, number: int) -> str:
    return "reset" if len(hello) > LARGE else ""


@pytest.mark.parametrize("how", ["reset", "silent"])
async def test_a_large_hello_that_is_lost_is_tried_small_and_remembered(tmp_path: Path, how: str) -> None:
    server = Server(context(), fault=lambda hello, number: how if len(hello) > LARGE else "")
    async with scene(tmp_path, server, resumption=False, patience=2.0 if how == "silent" else 30.0) as seen:
        result = await seen.deliver()
        assert isinstance(result.outcomes[0][1], Delivered)
        assert [len(hello) > LARGE for hello in server.hellos] == [True, False]
        assert "tls-retry" in codes(result)
        assert event(result, "tls:fail:connect").fields["reason"] == "once more with a small hello"
        facts = await seen.delivered()
        assert [len(hello) > LARGE for hello in server.hellos] == [True, False, False]
        assert facts.group is not None
        assert "MLKEM" not in facts.group
        seen.clock.shift = 8 * DAY  # the memory decays
        await seen.delivered()
    assert [len(hello) > LARGE for hello in server.hellos] == [True, False, False, True, False]
    assert server.in_clear == 0


@pytest.mark.parametrize(("level", "in_clear"), [("may", True), ("encrypt", False), ("verify", False)])
async def test_after_the_small_hello_clear_text_only_where_the_level_allows_it(
    tmp_path: Path, level: str, in_clear: bool
) -> None:
    server = Server(context(), fault=lambda hello, number: "reset")
    async with scene(tmp_path, server, level=Level(level)) as seen:
        result = await seen.deliver()
    assert len(server.hellos) == 2
    assert isinstance(result.outcomes[0][1], Delivered if in_clear else Deferred)
    assert server.in_clear == int(in_clear)
    assert names(result).count("tls:fail:connect") == 2
    assert [one.fields["reason"] for one in result.trace.events if one.name == "tls:fail:connect"] == [
        "once more with a small hello",
        None,
    ]


@pytest.mark.parametrize("tls", [{"retry_small_hello": False}, {"groups": "X25519MLKEM768:X25519"}])
async def test_no_small_hello_against_the_settings(tmp_path: Path, tls: dict[str, Any]) -> None:
    server = Server(context(), fault=_shrinks)
    async with scene(tmp_path, server, **tls) as seen:
        result = await seen.deliver()
    assert isinstance(result.outcomes[0][1], Deferred)
    assert len(server.hellos) == 1


async def test_an_alert_is_no_reason_for_a_small_hello(tmp_path: Path) -> None:
    server = Server(context(), fault=lambda hello, number: "alert")
    async with scene(tmp_path, server) as seen:
        result = await seen.deliver()
    assert isinstance(result.outcomes[0][1], Deferred)
    assert len(server.hellos) == 1
