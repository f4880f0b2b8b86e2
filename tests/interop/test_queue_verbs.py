"""Every verb of `outrider queue` beside a running relay, which notices within a second; and with 10,000 messages."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deliver.queue import schema
from deliver.sqlrun import Database
from tests.internet import Behaviour, LiveInternet, Silence
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.relayprocess import CONTENT, Relay
from tests.interop.service import ROOT, START, environment
from tests.interop.waiting import until

LATER = Behaviour(replies={"RCPT": "450 4.2.1 Not now, please"})
MANY = 10_000
QUICK = 15.0  # seconds for a look at 10,000 messages, on a busy machine, interpreter start included


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(live, tmp_path / "state")
    relay.options[relay.options.index('queue.retry=["1s"]')] = 'queue.retry=["1h"]'
    relay.options.append("pool.max_messages=1")  # a server that has changed its mind is met anew
    relay.options.append("route=[{domains=['sender.test'], via='smarthost', hosts=['mx.dane-ee.test']}]")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        relay.kill()


def queue(relay: Relay, *verb: str, status: int = 0) -> str:
    """Run a verb and return what it prints."""
    return relay.run("queue", *verb, status=status).output


def process(relay: Relay, *verb: str) -> str:
    """The same in a process of its own."""
    command = relay.command("queue", *verb)
    ran = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=ROOT, env=environment())
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode() + ran.stderr.decode()


def waiting(relay: Relay) -> list[dict[str, Any]]:
    return list(relay.ask("queue", "list"))


def deferred(live: LiveInternet, relay: Relay) -> str:
    """A message that waits for an hour although its server is well again; its id."""
    live.behave("mx.plain.test", LATER)
    relay.start()
    relay.submit("a@plain.test")
    relay.wait_for("deferred")
    live.behave("mx.plain.test", Behaviour())
    (row,) = waiting(relay)
    return str(row["id"])


def test_retry_delivers_now(live: LiveInternet, relay: Relay) -> None:
    name = deferred(live, relay)
    assert "450 4.2.1 Not now, please" in queue(relay, "show", name)
    assert "1 recipient due now" in queue(relay, "retry", "--text", "4.2.1")
    relay.wait_for("completed")
    assert live.recipients() == ["a@plain.test"]
    assert relay.terminate() == 0


def test_bounce_tells_the_sender_now(live: LiveInternet, relay: Relay) -> None:
    name = deferred(live, relay)
    queue(relay, "bounce", name, "--reason", "we have given up")
    live.wait_for_messages(1, START)
    (message,) = live.world.messages
    assert (message.sender, message.recipients) == ("", ("me@sender.test",))
    assert b"we have given up" in message.content
    assert b"450 4.2.1 Not now, please" in message.content
    assert b"X-Remote-MTA-smtp-greeting: X-str; 220 " in message.content
    assert relay.terminate() == 0
    names = [event["name"] for event in relay.ask("events", "tail")]
    assert [name for name in names if name in ("msg:fail:internal", "msg:bounce")] == [
        "msg:fail:internal",
        "msg:bounce",
    ]


def test_remove_and_hold_and_release(live: LiveInternet, relay: Relay) -> None:
    name = deferred(live, relay)
    queue(relay, "hold", name, "--reason", "a look", "--until", "1d")
    queue(relay, "retry", name, status=75)
    assert "held: a look" in queue(relay, "list")
    queue(relay, "release", name)
    relay.wait_for("completed")
    assert live.recipients() == ["a@plain.test"]
    live.behave("mx.plain.test", LATER)
    relay.submit("b@plain.test")
    relay.wait_for("deferred")
    (row,) = waiting(relay)
    exported = queue(relay, "export", row["id"])
    assert "X-Outrider-Recipient: <b@plain.test>; queued" in exported
    queue(relay, "remove", row["id"])
    assert waiting(relay) == []
    assert relay.terminate() == 0
    names = {event["name"] for event in relay.ask("events", "tail", "-n", "100")}
    assert {"msg:hold", "msg:release", "msg:fail:internal"} <= names


def test_a_hold_ends_by_itself(live: LiveInternet, relay: Relay) -> None:
    name = deferred(live, relay)
    queue(relay, "hold", name, "--until", "2s")
    relay.wait_for("completed")
    assert live.recipients() == ["a@plain.test"]
    assert relay.terminate() == 0


def test_frozen_mail_is_held_on_arrival_and_thawed(live: LiveInternet, relay: Relay) -> None:
    relay.start()
    queue(relay, "freeze", "domain", "plain.test", "--reason", "they asked")
    relay.submit("a@plain.test", "b@dane-ee.test")
    relay.wait_for("delivered")
    assert live.recipients() == ["b@dane-ee.test"]
    (row,) = waiting(relay)
    assert (row["recipient"], row["state"], row["held_reason"]) == ("a@plain.test", "held", "they asked")
    (rule,) = relay.ask("queue", "freeze", "list")
    assert "1 recipients released" in queue(relay, "thaw", str(rule["id"]))
    relay.wait_for("completed")
    assert sorted(live.recipients()) == ["a@plain.test", "b@dane-ee.test"]
    assert relay.terminate() == 0


def test_a_frozen_host_is_not_contacted(live: LiveInternet, relay: Relay) -> None:
    server = live.world.server("mx.plain.test")
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": "451 4.3.0 later"}))
    relay.options.append('queue.retry=["1s"]')
    relay.start()
    relay.submit("a@plain.test")
    relay.wait_for("deferred")
    assert server.connections
    queue(relay, "freeze", "host", "mx.plain.test", "--reason", "maintenance")
    until(lambda: "maintenance" in waiting(relay)[0]["why"], lambda: waiting(relay))
    before, (row,) = len(server.connections), waiting(relay)
    until(lambda: waiting(relay)[0]["attempts"] > row["attempts"], lambda: waiting(relay))
    assert len(server.connections) == before
    assert relay.terminate() == 0


def test_an_attempt_under_way_cannot_be_removed(live: LiveInternet, relay: Relay) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Silence()}))
    relay.start()
    relay.submit("a@plain.test")
    (row,) = until(lambda: [row for row in waiting(relay) if row["state"] == "leased"])
    assert "an attempt is under way" in queue(relay, "remove", row["id"], status=75)
    assert len(waiting(relay)) == 1


def fill(directory: Path, count: int) -> None:
    """A queue of so many messages that wait for a day."""
    database = Database(directory / "queue" / "shard-0.db")
    now = time.time_ns() / 1e9
    mails, recipients = [], []
    for number in range(count):
        name = f"bulk{number:05}"
        mails.append(
            {
                "id": name,
                "sender_local_part": "list",
                "sender_domain": f"s{number % 7}.test",
                "size": len(CONTENT),
                "eight_bit": False,
                "received_at": now - number,
                "content": CONTENT,
            }
        )
        recipients.append(
            {
                "message_id": name,
                "ordinal": 0,
                "local_part": f"r{number}",
                "domain": f"d{number % 100}.bulk.test",
                "state": "queued",
                "next_attempt": now + 3000,  # as queue.retry allows
            }
        )
    with database._writer.begin() as conn:
        schema.migrate(conn)
        conn.execute(schema.message.insert(), mails)
        conn.execute(schema.recipient.insert(), recipients)
    database.close()


@pytest.mark.timeout(180)
def test_ten_thousand_messages_beside_a_running_relay(live: LiveInternet, relay: Relay) -> None:
    fill(relay.directory, MANY)
    relay.options.append("events.schema=none")  # the shipping of 30,000 events is another subject
    relay.start()
    took = {}

    def timed(*verb: str) -> str:
        began = time.monotonic()
        said = process(relay, *verb)
        took[" ".join(verb)] = time.monotonic() - began
        return said

    assert "only the first 100 are shown" in timed("list")
    assert len(json.loads(timed("summary", "--limit", "1", "--json"))["ages"]) == 10
    assert "bulk00007" in timed("list", "--sender", "s0.test", "--sort", "age", "--limit", "2000")
    assert f"{MANY} recipients held" in timed("hold", "--all", "--yes")
    relay.submit("a@plain.test")  # mail goes on meanwhile
    relay.wait_for("completed")
    assert f"{MANY} recipients removed" in timed("remove", "--state", "held", "--yes")
    assert waiting(relay) == []
    looking = [seconds for verb, seconds in took.items() if verb.startswith(("list", "summary"))]
    assert max(looking) < QUICK, took
    assert max(took.values()) < 60, took
    assert relay.terminate() == 0


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["exim", "postfix"])
def test_a_bounce_reaches_a_mailbox_through_a_real_server(
    live: LiveInternet,
    relay: Relay,
    exim: Factory[EximConfig, Exim],
    postfix: Factory[PostfixConfig, Postfix],
    kind: str,
) -> None:
    server = exim() if kind == "exim" else postfix()
    relay.options[-1] = (
        f"route=[{{domains=['sender.test'], via='smarthost', hosts=['[{server.address}]:{server.port}']}}]"
    )
    relay.start()
    relay.submit("a@null.test", "b@null.test")
    (received,) = server.mailbox.to("me@sender.test")
    assert received.sender == ""
    assert b"Final-Recipient: rfc822; a@null.test" in received.content
    assert b"Final-Recipient: rfc822; b@null.test" in received.content
    assert b"\r\nSubject: keep me\r\n" in received.content
    assert relay.terminate() == 0
