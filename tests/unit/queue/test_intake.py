"""The queue behind the listener, on a real shard in a temporary directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from deliver.errors import MessageError, StorageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.queue import intake as door
from deliver.queue.intake import QueueIntake
from deliver.queue.schema import message, recipient
from deliver.queue.shard import Shard, open_shard
from deliver.relay.intake import Origin
from deliver.sqlrun import FEW
from events import outbox

NOW = 1_700_000_000.0
ORIGIN = Origin(MessageId("m1"), "192.0.2.1", "client.test", "ESMTP", NOW)


def envelope(size: int) -> Envelope:
    people = (Recipient(0, Mailbox("a", "x.test")), Recipient(1, Mailbox("b", "y.test")))
    return Envelope(MessageId("m1"), Mailbox("me", "s.test"), people, size, False, NOW)


def intake(shard: Shard, **changes: int) -> tuple[QueueIntake, list[str]]:
    calls: list[str] = []
    values = {"inline_limit": 100, "max_size": 10_000, "min_free": 0, **changes}
    return QueueIntake(shard, outbox.append, lambda: calls.append("accepted"), **values), calls


@pytest.mark.parametrize("content", [b"small\r\n", b"x" * 98 + b"\r\n" + b"y" * 900 + b"\r\n"])
async def test_a_commit_leaves_message_recipients_and_event(tmp_path: Path, content: bytes) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        to, calls = intake(shard)
        sink = await to.begin(ORIGIN)
        await sink.write(content[:3])
        await sink.write(content[3:])
        await sink.commit(envelope(len(content)))
        assert calls == ["accepted"]
        (row,) = await shard.sql.read(lambda conn: conn.execute(select(message)).all())
        if row.spool_name is None:
            assert bytes(row.content) == content
        else:
            assert (shard.spool / row.spool_name).read_bytes() == content
        people = await shard.sql.read(lambda conn: conn.execute(select(recipient)).all())
        assert {(one.local_part, one.domain, one.state) for one in people} == {
            ("a", "x.test", "queued"),
            ("b", "y.test", "queued"),
        }
        (event,) = await shard.sql.read(lambda conn: outbox.pending(conn, "event_log", 10, now=NOW))
        assert event.event.name == "msg:accept"
        assert event.event.fields["sender_host_address"] == "192.0.2.1"


@pytest.mark.parametrize(("recipients", "brief"), [(FEW, True), (FEW + 1, False)])
async def test_many_rows_are_not_written_on_the_thread_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipients: int, brief: bool
) -> None:
    people = tuple(Recipient(number, Mailbox(f"a{number}", "x.test")) for number in range(recipients))
    said: list[bool] = []
    async with open_shard(tmp_path, 0, NOW) as shard:
        write = shard.sql.write

        async def noted(fn: Any, **how: Any) -> Any:
            said.append(how["brief"])
            return await write(fn, **how)

        monkeypatch.setattr(shard.sql, "write", noted)
        sink = await intake(shard)[0].begin(ORIGIN)
        await sink.write(b"small\r\n")
        await sink.commit(replace(envelope(7), recipients=people))
    assert said == [brief]


async def test_an_abandoned_message_leaves_nothing(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        to, calls = intake(shard)
        sink = await to.begin(ORIGIN)
        await sink.write(b"x" * 1000)
        await sink.abandon()
        assert calls == []
        assert list(shard.spool.iterdir()) == []


async def test_a_failing_commit_leaves_no_file(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        to, calls = intake(shard)
        for _ in range(2):  # the second has the id of the first
            sink = await to.begin(ORIGIN)
            await sink.write(b"y" * 1000 + b"\r\n")
            if calls:
                with pytest.raises(Exception, match="UNIQUE"):
                    await sink.commit(envelope(1002))
            else:
                await sink.commit(envelope(1002))
        assert calls == ["accepted"]


async def test_too_large_and_no_limit(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        sink = await intake(shard)[0].begin(ORIGIN)
        with pytest.raises(MessageError):
            await sink.write(b"x" * (10_000 + door.OUR_HEADER + 1))
        sink = await intake(shard, max_size=0)[0].begin(ORIGIN)
        await sink.write(b"x" * 20_000)
        await sink.abandon()


async def test_space_is_kept_free(tmp_path: Path) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        assert await intake(shard)[0].check_space(1000)
        assert not await intake(shard, min_free=1 << 60)[0].check_space(0)
        assert not await intake(shard)[0].check_space(1 << 60)
        assert not await intake(shard, room=lambda: False)[0].check_space(0)


async def test_a_look_at_the_disk_counts_for_a_moment_less_what_has_begun_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    free = [1000, 500]

    def look(directory: Path) -> int:
        looks.append(directory)
        return free[len(looks) - 1]

    monkeypatch.setattr("deliver.queue.intake.free_octets", look)
    async with open_shard(tmp_path, 0, NOW) as shard:
        to, _ = intake(shard, min_free=300, inline_limit=100)
        assert [await to.check_space(size) for size in (200, 0, 300)] == [True] * 3
        assert len(looks) == 1
        assert not await to.check_space(201)  # 400 are left by our count: looked at again, there are 500
        assert len(looks) == 2
        assert await to.check_space(200)
        assert len(looks) == 2


async def test_a_shard_in_an_impossible_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="make the directory exist"):
        async with open_shard(tmp_path / "file" / "queue", 0, NOW):
            pytest.fail("it cannot be opened")


async def test_messages_that_arrive_side_by_side_share_commits_and_a_single_one_does_not_wait(
    tmp_path: Path,
) -> None:
    async with open_shard(tmp_path, 0, NOW) as shard:
        to, _ = intake(shard)
        asked: list[float] = []
        write = shard.sql.write

        async def noting(fn, *, durable=True, patience=0.0, brief=False):
            asked.append(patience)
            return await write(fn, durable=durable, patience=patience, brief=brief)

        object.__setattr__(shard, "sql", type("Noting", (), {"write": staticmethod(noting)}))
        for number in range(2):
            sink = await to.begin(replace(ORIGIN, message_id=MessageId(f"alone{number}")))
            await sink.write(b"x\r\n")
            await sink.commit(replace(envelope(3), id=MessageId(f"alone{number}")))
        first = await to.begin(replace(ORIGIN, message_id=MessageId("first")))
        second = await to.begin(replace(ORIGIN, message_id=MessageId("second")))
        await first.commit(replace(envelope(0), id=MessageId("first")))
        await second.abandon()
        third = await to.begin(replace(ORIGIN, message_id=MessageId("third")))
        await third.commit(replace(envelope(0), id=MessageId("third")))
        assert asked == [0.0, 0.0, door.COMPANY, 0.0]
        object.__setattr__(shard, "sql", None)
