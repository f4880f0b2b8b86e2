"""Attempts at servers and resolvers that fail, fall silent, lie or leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from deliver.errors import Blame
from deliver.level import Level
from deliver.outcome import Deferred, Delivered, Phase
from deliver.queue.retry import error_words
from deliver.session import Session
from deliver.settings import Delivery, Dns, Duration, Route, Rule, Tls
from deliver.smtp.command import LocalMisuse
from tests.internet import World
from tests.internet.behaviour import Behaviour, Drop, Silence
from tests.unit.attempts import BODY, agent, attempt, codes, deliver, events


async def test_a_connection_lost_after_the_dot_is_in_doubt_and_no_other_host_is_tried(
    world: World, tmp_path: Path
) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(replies={"DOT": Drop()})
    result = await deliver(agent(world, tmp_path), "a@busy.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.in_doubt
    assert world.server("mx2.busy.test").connections == []


async def test_a_connection_lost_in_the_body_goes_on_to_the_next_host(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(replies={"CONTENT": Drop(reset=True)})
    long = BODY + b"x" * 76 + b"\r\n"
    long += (b"x" * 76 + b"\r\n") * 120_000  # more than any socket buffer holds
    result = await deliver(agent(world, tmp_path), "a@busy.test", body=long)
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx2.busy.test"
    assert len(world.messages) == 1


async def test_a_cancelled_attempt_says_what_it_knows(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={"DOT": Silence()})
    story = attempt(agent(world, tmp_path), "a@plain.test")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.run)
            await world.server("mx.plain.test").wait_for(lambda server: bool(server.received))
            scope.cancel()
    ((_, outcome),) = story.result().outcomes
    assert isinstance(outcome, Deferred)
    assert outcome.in_doubt

    asked = trio.Event()

    def silent(argument: str) -> Silence:
        asked.set()
        return Silence()

    world.server("mx.plain.test").behaviour = Behaviour(replies={"MAIL": silent})
    story = attempt(agent(world, tmp_path), "a@plain.test")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.run)
            await asked.wait()
            scope.cancel()
    ((_, outcome),) = story.result().outcomes
    assert isinstance(outcome, Deferred)
    assert not outcome.in_doubt


async def test_the_deadline_of_an_attempt(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={"CONNECT": Silence()})
    quick = Delivery(port=world.port, helo="relay.example.org", deadline=Duration(0.3))
    result = await deliver(agent(world, tmp_path, delivery=quick), "a@plain.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Deferred)
    assert "delivery.deadline" in outcome.why


async def test_a_failing_handshake_falls_back_to_clear_text_only_where_allowed(
    world: World, tmp_path: Path
) -> None:
    broken = Behaviour(replies={"HANDSHAKE": Drop()})
    world.server("mx.insecure.test").behaviour = broken
    world.server("mx.dane-ee.test").behaviour = broken
    result = await deliver(agent(world, tmp_path), "a@insecure.test")
    ((_, outcome),) = result.outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.tls is None
    assert {"tls-failed", "clear-text-fallback"} <= set(codes(result))
    assert "tls:fallback" in events(result)

    store = str(tmp_path / "root.pem")
    strict = agent(world, tmp_path, tls=Tls(trust_store=store, clear_text_fallback=False))
    ((_, outcome),) = (await deliver(strict, "a@insecure.test")).outcomes
    assert isinstance(outcome, Deferred)

    ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@dane-ee.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert len(world.messages) == 1


async def test_bytes_behind_the_starttls_reply_are_an_attack(world: World, tmp_path: Path) -> None:
    for domain in ("dane-ee.test", "insecure.test"):
        world.server(f"mx.{domain}").behaviour = Behaviour(
            replies={"STARTTLS": b"220 2.0.0 Go ahead\r\n250 2.0.0 injected\r\n"}
        )
        result = await deliver(agent(world, tmp_path), f"a@{domain}")
        ((_, outcome),) = result.outcomes
        assert isinstance(outcome, Deferred)
    assert world.messages == ()


@pytest.mark.parametrize(
    ("point", "said", "phase", "why"),
    [
        ("CONNECT", b"hello there\r\n", Phase.BANNER, "not a reply line: 'hello there'"),
        ("EHLO", b"250-mx\r\n251 PIPELINING\r\n", Phase.EHLO, "lines with the codes 250 and 251"),
        ("EHLO", b"250-" + b"x" * 100_000 + b"\r\n", Phase.EHLO, "a line of more than 4096 octets"),
        ("MAIL", b"999 what\r\n", Phase.MAIL, "not a reply line: '999 what'"),
        ("RCPT", b"\x00\x01\x02\r\n", Phase.RCPT, r"not a reply line: '\x00\x01\x02'"),
        ("DATA", b"250 not what was asked for\r\n", Phase.DATA, "a reply that makes no sense"),
    ],
)
async def test_a_malformed_reply_defers_and_is_said(
    world: World, tmp_path: Path, point: Any, said: bytes, phase: Phase, why: str
) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={point: said})
    ((_, outcome),) = (await deliver(agent(world, tmp_path), "a@plain.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.phase, outcome.in_doubt) == (Blame.HOST, phase, False)
    assert why in outcome.why
    assert world.messages == ()


async def test_a_dead_resolver_defers(world: World, tmp_path: Path) -> None:
    dead = Dns(resolvers=("127.0.0.1:9",), timeout=Duration(0.2), attempts=1)
    ((_, outcome),) = (await deliver(agent(world, tmp_path, dns=dead), "a@dane-ee.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert "127.0.0.1:9" in outcome.why


async def test_timeouts_per_phase_defer_and_go_on(world: World, tmp_path: Path) -> None:
    world.server("mx1.busy.test").behaviour = Behaviour(replies={"EHLO": Silence()})
    rule = Rule(domains=("busy.test",), smtp={"timeouts": {"ehlo": "0.2s"}})
    ours = agent(world, tmp_path, rule=(rule,))
    ((_, outcome),) = (await deliver(ours, "a@busy.test")).outcomes
    assert isinstance(outcome, Delivered)
    assert outcome.contact.host == "mx2.busy.test"


async def test_silence_is_told_apart_for_retry_rules(world: World, tmp_path: Path) -> None:
    world.server("mx.plain.test").behaviour = Behaviour(replies={"EHLO": Silence()})
    rule = Rule(domains=("plain.test",), smtp={"timeouts": {"ehlo": "0.2s"}})
    ((_, outcome),) = (await deliver(agent(world, tmp_path, rule=(rule,)), "a@plain.test")).outcomes
    assert isinstance(outcome, Deferred)
    assert error_words(outcome) == {"greeting", "timeout"}


async def test_a_server_that_broke_on_bdat_gets_data_from_then_on(world: World, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def close_on_bdat(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 brittle ESMTP\r\n")
        async for data in stream:
            seen.append(bytes(data))
            if b"BDAT" in data:
                return
            if data.startswith(b"EHLO"):
                await stream.send_all(b"250-brittle\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            elif data.startswith(b"MAIL"):
                await stream.send_all(b"250 ok\r\n250 ok\r\n354 go on\r\n")
            elif data.startswith(b"QUIT"):
                return
            elif data.endswith(b"\r\n.\r\n"):
                await stream.send_all(b"250 taken\r\n")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place = f"[127.0.0.1]:{listener.socket.getsockname()[1]}"
    routes = (Route(domains=("*",), via="smarthost", hosts=(place,)),)
    ours = agent(world, tmp_path, route=routes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, close_on_bdat, [listener])
        ((_, first),) = (await deliver(ours, "a@x.test")).outcomes
        assert isinstance(first, Deferred)
        assert any(b"BDAT" in data for data in seen)
        seen.clear()
        ((_, second),) = (await deliver(ours, "a@x.test")).outcomes
        assert isinstance(second, Delivered)
        assert not any(b"BDAT" in data for data in seen)
        seen.clear()
        without_hints = agent(world, tmp_path, route=routes)
        ((_, third),) = (await deliver(without_hints, "a@x.test", number=3)).outcomes
        assert isinstance(third, Delivered)
        assert not any(b"BDAT" in data for data in seen)
        nursery.cancel_scope.cancel()


async def test_a_drop_of_security_is_told_and_mail_goes_on(world: World, tmp_path: Path) -> None:
    strict = agent(world, tmp_path)
    await deliver(strict, "a@dane-ee.test")
    lax = replace(strict, settings=msgspec.structs.replace(strict.settings, tls=Tls(level=Level.NONE)))
    result = await deliver(lax, "a@dane-ee.test")
    assert isinstance(result.outcomes[0][1], Delivered)
    assert "level-dropped" in codes(result)
    (level,) = (event for event in result.trace.events if event.name == "tls:level")
    assert (level.fields["event_data"], level.fields["reason"]) == ("none", "dropped from dane-ee")
    again = await deliver(strict, "a@dane-ee.test")
    assert "level-dropped" not in codes(again)


async def test_no_transaction_begins_in_clear_text_where_tls_is_required(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(session: Session) -> bool:
        return False  # as if a later change had lost the requirement on the way

    monkeypatch.setattr(Session, "_ask_for_tls", forgetful)
    with pytest.raises(LocalMisuse, match="where TLS is required"):
        await deliver(agent(world, tmp_path), "a@dane-ee.test")
    assert world.messages == ()
