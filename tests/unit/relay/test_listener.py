"""The listener in conversations: over memory streams with a simulated clock, and once over real sockets."""

from __future__ import annotations

import logging
import smtplib
import socket

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from deliver.errors import ConfigurationError, MessageError, StorageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.relay.binding import bind
from deliver.relay.connection import COMMIT_DEADLINE, CONTENT_DEADLINE
from deliver.relay.intake import Origin
from deliver.relay.listener import Listener, listeners_on
from deliver.settings import Relay, Route
from tests.doorstep import (
    EPOCH,
    FULL,
    OPENED,
    Client,
    Memory,
    connect,
    fail_at,
    listener,
)


async def test_a_message_arrives_with_our_received_header(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "Subject: hello\r\n\r\n..body secret\r\n.\r\nQUIT\r\n")
        assert await client.replies(4) == [250, 250, 250, 354]
        assert await client.reply() == "250 2.0.0 Ok: queued as id1"
        assert await client.reply() == "221 2.0.0 relay.test closing connection"
        assert await client.reply() == ""
        await client.stream.aclose()
    ((envelope, content),) = memory.accepted
    assert content == (
        b"Received: from client.test ([127.0.0.1])\r\n"
        b" by relay.test (Outrider) with ESMTP id id1\r\n"
        b" for <b@example.net>;\r\n"
        b" Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Subject: hello\r\n\r\n.body secret\r\n"
    )
    assert envelope == Envelope(
        MessageId("id1"),
        Mailbox("a", "example.org"),
        (Recipient(0, Mailbox("b", "example.net")),),
        len(content),
        False,
        EPOCH,
    )
    assert memory.origins == [Origin(MessageId("id1"), "127.0.0.1", "client.test", "ESMTP", EPOCH)]
    facts = [(record.getMessage(), vars(record)["facts"]) for record in caplog.records]
    assert [said for said, _ in facts] == ["message accepted", "connection closed"]
    assert facts[0][1]["id"] == "id1"
    assert facts[1][1] == {
        "client": "127.0.0.1",
        "helo": "client.test",
        "accepted": 1,
        "seconds": 0.0,
        "why": "QUIT",
    }
    assert "secret" not in caplog.text


async def test_the_250_waits_for_the_commit(autojump_clock: MockClock) -> None:
    durable = trio.Event()

    async def hook(step: str) -> None:
        if step == "commit":
            await durable.wait()

    memory = Memory(hook)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "x\r\n.\r\n")
        assert await client.replies(4) == [250, 250, 250, 354]
        with trio.move_on_after(1) as early:
            await client.reply()
        assert early.cancelled_caught
        durable.set()
        assert (await client.reply()).startswith("250 ")
        assert len(memory.accepted) == 1
        await client.stream.aclose()


@pytest.mark.parametrize("step", ["space", "begin", "write", "commit"])
@pytest.mark.parametrize("skip", [0, 1])
async def test_a_failing_queue_is_451_and_never_250(autojump_clock: MockClock, step: str, skip: int) -> None:
    """skip = 1 lets the step succeed once: the header is written and the content fails, or the second message."""
    memory = Memory(fail_at(step, FULL, skip))
    replies = []
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send("EHLO client.test\r\n")
        await client.reply()
        for _ in range(2):
            await client.send("RSET\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
            replies += [await client.reply() for _ in range(4)]
            if replies[-1].startswith("354"):
                await client.send("x\r\n.\r\n")
                replies.append(await client.reply())
        await client.send("QUIT\r\n")
        assert (await client.reply()).startswith("221")
    refused = [reply for reply in replies if reply.startswith("451")]
    assert refused
    assert all(reply == "451 4.3.0 The message cannot be queued now, try again later" for reply in refused)
    assert len(memory.accepted) == sum("queued as" in reply for reply in replies)
    assert memory.open == 0


async def test_a_message_that_the_intake_cannot_take_is_554(autojump_clock: MockClock) -> None:
    memory = Memory(fail_at("write", MessageError("taking it", "it is larger than 5 octets"), skip=1))
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "x\r\n.\r\nQUIT\r\n")
        assert await client.replies(4) == [250, 250, 250, 354]
        assert await client.reply() == "554 5.6.0 The message cannot be accepted: it is larger than 5 octets"
    assert (memory.open, memory.abandoned) == (0, 1)


async def test_an_error_nobody_foresaw_ends_only_its_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(fail_at("write", RuntimeError("a bug"), skip=1))
    async with trio.open_nursery() as nursery:
        door = listener(memory)
        client, other = await connect(nursery, door), await connect(nursery, door)
        await client.send(OPENED + "x\r\n")
        await other.send("NOOP\r\nQUIT\r\n")
        assert await other.replies(2) == [250, 221]
        while await client.line():
            pass
    assert "a bug" in caplog.text
    assert (memory.open, memory.abandoned, memory.accepted) == (0, 1, [])


async def test_an_intake_that_cannot_even_abandon(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(fail_at("abandon", RuntimeError("a bug")))
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "half")
        await client.stream.aclose()
    assert "a bug" in caplog.text
    assert memory.accepted == []


async def test_a_commit_without_end_is_not_waited_for(autojump_clock: MockClock) -> None:
    async def hook(step: str) -> None:
        if step == "commit":
            await trio.sleep_forever()

    memory = Memory(hook)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        began = trio.current_time()
        await client.send(OPENED + "x\r\n.\r\nQUIT\r\n")
        assert await client.replies(6) == [250, 250, 250, 354, 451, 221]
        assert trio.current_time() - began == pytest.approx(COMMIT_DEADLINE)
    assert memory.abandoned == 0  # it may be in the queue


@pytest.mark.parametrize("error", [None, FULL], ids=["committed", "failed"])
async def test_a_commit_that_is_under_way_at_its_deadline_is_answered_by_its_result(
    autojump_clock: MockClock, error: StorageError | None
) -> None:
    async def hook(step: str) -> None:
        if step == "commit":  # as the database's writes: once begun they are not taken back
            with trio.CancelScope(shield=True):
                await trio.sleep(COMMIT_DEADLINE + 5)
            if error is not None:
                raise error

    memory = Memory(hook)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "x\r\n.\r\nQUIT\r\n")
        assert await client.replies(6) == [250, 250, 250, 354, 250 if error is None else 451, 221]
    assert len(memory.accepted) == (1 if error is None else 0)


async def test_no_space_is_452_at_mail(autojump_clock: MockClock) -> None:
    memory = Memory(space=False)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send("EHLO x\r\nMAIL FROM:<a@example.org> SIZE=100\r\nQUIT\r\n")
        assert (await client.reply()).startswith("250")
        assert await client.reply() == "452 4.3.1 Not enough space, try again later"
        assert (await client.reply()).startswith("221")


@pytest.mark.parametrize("recipient", ["b@example.net", "postmaster", "postmaster@relay.test"])
async def test_strangers_may_not_relay(autojump_clock: MockClock, recipient: str) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory), "192.0.2.9")
        await client.send(f"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<{recipient}>\r\nDATA\r\nQUIT\r\n")
        assert await client.replies(2) == [250, 250]
        assert await client.reply() == "550 5.7.1 Relaying denied: 192.0.2.9 is not in relay.networks here"
        assert await client.replies(2) == [554, 221]
    assert memory.origins == []


async def test_a_route_that_rejects_does_so_at_rcpt(autojump_clock: MockClock) -> None:
    routes = (Route(domains=("*.invalid",), via="reject", reason="No mail there"),)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory(), routes=routes))
        await client.send("EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@x.invalid>\r\nQUIT\r\n")
        assert await client.replies(2) == [250, 250]
        assert await client.reply() == "550 5.7.1 No mail there"
        assert await client.replies(1) == [221]


async def test_an_ipv4_client_of_an_ipv6_socket(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory), "::ffff:127.0.0.1")
        await client.send(OPENED + ".\r\nQUIT\r\n")
        assert await client.replies(6) == [250, 250, 250, 354, 250, 221]
    assert memory.origins[0].client == "127.0.0.1"


async def test_a_loop_is_broken(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        for hops, answer in ((3, "250 2.0.0"), (4, "554 5.4.6 Too many hops, this message loops")):
            await client.send(OPENED + "Received: x\r\n" * hops + "\r\nReceived: x\r\n.\r\n")
            assert await client.replies(4) == [250, 250, 250, 354]
            assert (await client.reply()).startswith(answer)
        await client.send("QUIT\r\n")
        assert (await client.reply()).startswith("221")
    assert (len(memory.accepted), memory.abandoned, memory.open) == (1, 1, 0)


async def test_defective_content_is_abandoned(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "good\r\n")
        assert await client.replies(4) == [250, 250, 250, 354]
        await client.send("bare\nfeed\r\n" + "x" * 5000)
        await wait_all_tasks_blocked()
        assert memory.abandoned == 1  # at once, not when the end has come
        await client.send("\r\n.\r\nQUIT\r\n")
        assert await client.replies(2) == [550, 221]
    assert memory.accepted == []


# Silence, loss and too many


async def test_a_silent_client_is_told_and_left(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory()))
        began = trio.current_time()
        assert await client.reply() == "421 4.4.2 Timeout, closing connection"
        assert trio.current_time() - began == pytest.approx(300)


async def test_patience_begins_anew_with_every_command(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory()))
        for _ in range(10):
            await trio.sleep(250)
            await client.send("NOOP\r\n")
            assert (await client.reply()).startswith("250")
        began = trio.current_time()
        assert await client.reply() == "421 4.4.2 Timeout, closing connection"
        assert trio.current_time() - began == pytest.approx(300)


async def test_what_takes_us_long_does_not_count_as_the_clients_silence(autojump_clock: MockClock) -> None:
    async def slow(step: str) -> None:
        if step in ("space", "begin", "write"):
            await trio.sleep(200)

    memory = Memory(slow)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "x\r\n.\r\nQUIT\r\n")
        assert await client.replies(6) == [250, 250, 250, 354, 250, 221]
    assert len(memory.accepted) == 1


async def test_octets_without_a_command_do_not_extend_the_patience(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory()))
        began = trio.current_time()
        for _ in range(3):
            await client.send("N")
            await trio.sleep(99)
        assert await client.reply() == "421 4.4.2 Timeout, closing connection"
        assert trio.current_time() - began == pytest.approx(300)


async def test_content_that_drips_for_ever_is_given_up(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED)
        assert await client.replies(4) == [250, 250, 250, 354]
        for _ in range(int(CONTENT_DEADLINE // 250)):
            await client.send("x\r\n")
            await trio.sleep(250)
        assert await client.reply() == "421 4.4.2 Timeout, closing connection"
    assert (memory.abandoned, memory.open) == (1, 0)


async def test_a_client_that_never_reads_is_left(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.lockstep_stream_pair()
        nursery.start_soon(listener(Memory()).handle, theirs, "127.0.0.1")
        began = trio.current_time()
        await wait_all_tasks_blocked()
        await trio.sleep(301)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"NOOP\r\n")
        assert trio.current_time() - began == pytest.approx(301)


TEXT = "text\r\n.\r\n"


@pytest.mark.parametrize("cut", range(len(OPENED + TEXT)))
async def test_a_lost_connection_leaves_nothing(autojump_clock: MockClock, cut: int) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send((OPENED + TEXT)[:cut])
        await client.stream.aclose()
    assert memory.open == 0
    assert memory.accepted == []


async def test_a_client_that_does_not_wait_for_our_250(autojump_clock: MockClock) -> None:
    """The final dot was read, so the message is taken: the client may well believe that it was."""
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED)
        assert await client.replies(4) == [250, 250, 250, 354]
        await client.send(TEXT)
        await client.stream.aclose()
    assert len(memory.accepted) == 1


async def test_one_connection_too_many(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        door = listener(Memory(), Relay(max_connections=2))
        first = await connect(nursery, door)
        second = await connect(nursery, door)
        third = await connect(nursery, door, expect="421 4.7.0 Too many connections, try again later")
        assert await third.line() == ""
        await first.send("QUIT\r\n")
        assert await first.replies(1) == [221]
        assert await first.line() == ""
        await first.stream.aclose()
        await wait_all_tasks_blocked()
        fourth = await connect(nursery, door)
        for client in (second, fourth):
            await client.stream.aclose()


# Stopping


async def test_stop_lets_content_finish_and_sends_idle_clients_away(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        door = listener(memory)
        idle, envelope, content = [await connect(nursery, door) for _ in range(3)]
        await envelope.send("EHLO x\r\nMAIL FROM:<a@example.org>\r\n")
        await content.send(OPENED + "text\r\n")
        assert await envelope.replies(2) == [250, 250]
        assert await content.replies(4) == [250, 250, 250, 354]
        await wait_all_tasks_blocked()
        door.stop(20)
        for client in (idle, envelope):
            assert await client.reply() == "421 4.3.2 The relay is stopping"
            assert await client.line() == ""
        await connect(nursery, door, expect="421 4.3.2 The relay is stopping")
        await content.send(".\r\n")
        assert await content.reply() == "250 2.0.0 Ok: queued as id1"
        assert await content.reply() == "421 4.3.2 The relay is stopping"
    assert len(memory.accepted) == 1


async def test_cancelled_in_content_leaves_nothing(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(OPENED + "text\r\n")
        await wait_all_tasks_blocked()
        assert memory.open == 1
        nursery.cancel_scope.cancel()
    assert (memory.open, memory.abandoned) == (0, 1)


async def test_cancelled_during_the_commit_the_client_still_gets_its_250(autojump_clock: MockClock) -> None:
    committing, durable = trio.Event(), trio.Event()

    async def hook(step: str) -> None:
        if step == "commit":
            committing.set()
            await durable.wait()

    memory = Memory(hook)
    ours, theirs = memory_stream_pair()
    client = Client(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener(memory).handle, theirs, "127.0.0.1")
        await client.send(OPENED + "text\r\n.\r\n")
        await committing.wait()
        nursery.cancel_scope.cancel()
        durable.set()
    assert len(memory.accepted) == 1
    assert await client.replies(6) == [220, 250, 250, 250, 354, 250]


async def test_cancelled_before_the_commit_the_message_stays_with_the_client(
    autojump_clock: MockClock,
) -> None:
    service, steps = trio.CancelScope(), list[str]()

    async def hook(step: str) -> None:
        steps.append(step)
        if steps == ["space", "begin", "write", "write"]:  # our field, and now all the content with its end
            service.cancel()

    memory = Memory(hook)
    ours, theirs = memory_stream_pair()
    client = Client(ours)
    with service:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener(memory).handle, theirs, "127.0.0.1")
            await client.send(OPENED)
            assert await client.replies(5) == [220, 250, 250, 250, 354]
            await client.send("text\r\n.\r\n")
    assert steps == ["space", "begin", "write", "write", "abandon"]
    assert (memory.accepted, memory.open, memory.abandoned) == ([], 0, 1)
    assert await client.line() == ""


# Real sockets


@pytest.fixture
async def serving(nursery: trio.Nursery) -> tuple[Listener, Memory, int]:
    memory = Memory()
    door = listener(memory)
    (opened,) = listeners_on(bind(("127.0.0.1:0",)))
    await nursery.start(door.serve, [opened])
    port: int = opened.socket.getsockname()[1]
    return door, memory, port


async def test_smtplib_delivers(serving: tuple[Listener, Memory, int]) -> None:
    _, memory, port = serving

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=10) as client:
            client.sendmail("a@example.org", ["b@example.net", "c@example.net"], "Subject: x\n\n.dot\nend\n")
            client.sendmail("", ["b@example.net"], "Subject: y\n\n" + "line\n" * 1000)
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                client.sendmail("a@example.org", ["b@example.net"], "x\n" * 10_000)
            assert refused.value.smtp_code == 552

    await trio.to_thread.run_sync(send)
    (first, content), (second, _) = memory.accepted
    assert content.endswith(b"\r\nSubject: x\r\n\r\n.dot\r\nend\r\n")
    assert [str(each.mailbox) for each in first.recipients] == ["b@example.net", "c@example.net"]
    assert second.sender is None


async def test_serve_ends_after_stop_when_the_grace_is_over(nursery: trio.Nursery) -> None:
    memory = Memory()
    door = listener(memory)
    (opened,) = listeners_on(bind(("127.0.0.1:0",)))
    port = opened.socket.getsockname()[1]
    async with trio.open_nursery() as serving:
        await serving.start(door.serve, [opened])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        client = Client(stream)  # type: ignore[arg-type]
        await client.send(OPENED + "never finished\r\n")
        assert await client.replies(5) == [220, 250, 250, 250, 354]
        door.stop(60)
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", port)
        door.stop(0)
    assert (memory.open, memory.abandoned, memory.accepted) == (0, 1, [])
    await stream.aclose()


async def test_last_words_reach_a_client_that_goes_on_talking(serving: tuple[Listener, Memory, int]) -> None:
    _, _, port = serving
    client = Client(await trio.open_tcp_stream("127.0.0.1", port))  # type: ignore[arg-type]
    await client.send("GET / HTTP/1.1\r\n" + "Header: x\r\n" * 20_000)
    assert await client.replies(2) == [220, 421]
    await client.stream.aclose()


async def test_an_address_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: Address already in use") as error:
            bind(("127.0.0.1:0", f"127.0.0.1:{port}"))
    assert "relay.listen" in error.value.remedy


@pytest.mark.parametrize("text", ["nonsense:x:y", "192.0.2.1:0", "127.0.0.1:99999"])
async def test_addresses_that_cannot_be_listened_on(text: str) -> None:
    with pytest.raises(ConfigurationError, match="listening on"):
        bind((text,))


async def test_a_commit_without_end_is_not_waited_for_after_the_relay_was_told_to_end(
    autojump_clock: MockClock,
) -> None:
    committing = trio.Event()

    async def hook(step: str) -> None:
        if step == "commit":
            committing.set()
            await trio.sleep_forever()

    began = trio.current_time()
    with trio.CancelScope() as service:
        async with trio.open_nursery() as nursery:
            client = await connect(nursery, listener(Memory(hook)))
            await client.send(OPENED + "x\r\n.\r\n")
            assert await client.replies(4) == [250, 250, 250, 354]
            await committing.wait()
            await trio.sleep(1)
            service.cancel()
    assert trio.current_time() - began == pytest.approx(COMMIT_DEADLINE)


async def test_a_commit_is_finished_after_the_relay_was_told_to_end(autojump_clock: MockClock) -> None:
    committing = trio.Event()

    async def hook(step: str) -> None:
        if step == "commit":
            committing.set()
            await trio.sleep(5)

    memory = Memory(hook)
    with trio.CancelScope() as service:
        async with trio.open_nursery() as nursery:
            client = await connect(nursery, listener(memory))
            await client.send(OPENED + "x\r\n.\r\n")
            assert await client.replies(4) == [250, 250, 250, 354]
            await committing.wait()
            service.cancel()
    assert len(memory.accepted) == 1
    assert "250 2.0.0 Ok: queued as" in (await client.reply())


async def test_a_connection_that_is_cut_by_the_relays_end_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    with trio.CancelScope() as service:
        async with trio.open_nursery() as nursery:
            client = await connect(nursery, listener(Memory()))
            await client.send("EHLO x\r\n")
            assert await client.replies(1) == [250]
            service.cancel()
    (closed,) = [record for record in caplog.records if record.message == "connection closed"]
    assert closed.facts["why"] == "the relay is stopping"  # type: ignore[attr-defined]
