"""A pair becomes messages of the queue, once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from sqlalchemy import select

from deliver.errors import StorageError
from deliver.message import MessageId
from deliver.net.clock import WallClock
from deliver.queue import schema
from deliver.queue.content import ContentWriter
from deliver.relay.identity import MessageIds
from deliver.settings import Settings, Spool
from deliver.spool import directory as spool_directory, door as spool_door, ledger
from deliver.spool.directory import OVERDUE, SET_ASIDE, SpoolDirectory
from deliver.spool.door import SpoolDoor
from deliver.spool.opening import open_spool
from deliver.spool.taking import Aside, Intake, Later, Taken, client_of, take
from deliver.sqlrun import InlineRunner
from events import outbox
from tests.unit.spool.pairs import BODY, FIELDS, NEW_ID, OLD_ID, body_file, header_file, put


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    clock = WallClock()

    def writer(message_id: MessageId) -> ContentWriter:
        return ContentWriter(tmp_path / "large", message_id, inline_limit=10_000, max_size=1_000_000)

    async def space(size: int) -> bool:
        return size < 500_000

    return Intake(
        sql=InlineRunner(tmp_path / "queue.db", schema.migrate),
        writer=writer,
        space=space,
        append=outbox.append,
        accepted=lambda: None,
        new_id=MessageIds(clock.now, Random(1)),
        clock=clock,
        hostname="relay.test",
        max_size=800_000,
        max_hops=5,
    )


@pytest.fixture
def spool(tmp_path: Path) -> SpoolDirectory:
    return SpoolDirectory(tmp_path / "in")


async def rows(intake: Intake, *columns: Any) -> list[Any]:
    return await intake.sql.read(lambda conn: conn.execute(select(*columns).order_by(*columns)).all())


async def queued(intake: Intake) -> list[str]:
    found = await rows(intake, schema.recipient.c.local_part, schema.recipient.c.domain)
    return [f"{row.local_part}@{row.domain}" for row in found]


async def why_aside(spool: SpoolDirectory, intake: Intake) -> str:
    found = await take(spool, OLD_ID, intake)
    assert isinstance(found, Aside), found
    assert await queued(intake) == []
    kept = spool.path / SET_ASIDE
    assert (kept / f"{OLD_ID}.reason").read_text() == f"{found.why}\n"
    assert (kept / f"{OLD_ID}-H").exists()
    assert (kept / f"{OLD_ID}-D").exists()
    return found.why


async def test_a_message_is_queued_as_it_was_sent_and_its_pair_removed(
    spool: SpoolDirectory, intake: Intake
) -> None:
    put(spool.path)
    found = await take(spool, OLD_ID, intake)
    assert isinstance(found, Taken)
    assert list(spool.path.iterdir()) == []
    (message,) = await intake.sql.read(lambda conn: conn.execute(select(schema.message)).all())
    assert (message.sender_local_part, message.sender_domain) == ("me", "sender.test")
    ours, _, rest = message.content.partition(b"Received: from client.test")
    assert ours.startswith(b"Received: by relay.test (Outrider) id " + found.messages[0].encode())
    header = "".join(text for _, text in FIELDS).encode() + b"\n"
    assert b"Received: from client.test" + rest == (header + BODY).replace(b"\n", b"\r\n")
    assert message.size == len(message.content)
    assert await queued(intake) == ["a@plain.test"]
    assert await intake.sql.read(lambda conn: conn.execute(select(schema.counter.c.value)).scalar_one()) == 1


async def test_what_the_sender_asked_for_goes_along(spool: SpoolDirectory, intake: Intake) -> None:
    variables = (
        "--auth_id someone", "--host_address [192.0.2.1]:25", "-dsn_ret 2", "--dsn_envid a+2Bb", "-smtputf8",
    )  # fmt: skip
    recipients = (
        "a@plain.test rfc822;x+2By@b.test 19,12  0,-1#3",
        "b@plain.test  0,2  0,-1#3",
        "c@plain.test",
    )
    put(spool.path, header=header_file(variables=variables, recipients=recipients))
    await take(spool, OLD_ID, intake)
    message = schema.message.c
    assert await rows(intake, message.authenticated, message.ret, message.envid, message.smtputf8) == [
        ("someone", "HDRS", "a+b", True)
    ]
    to = schema.recipient.c
    assert await rows(intake, to.local_part, to.notify, to.original_type, to.original_address) == [
        ("a", "SUCCESS,FAILURE", "rfc822", "x+y@b.test"),
        ("b", "NEVER", None, None),
        ("c", None, None, None),
    ]


async def test_recipients_with_a_sender_of_their_own(spool: SpoolDirectory, intake: Intake) -> None:
    lists = "owner@lists.test 16,0#1"
    put(
        spool.path,
        header=header_file(recipients=("a@plain.test", f"b@plain.test {lists}", f"c@plain.test {lists}")),
    )
    found = await take(spool, OLD_ID, intake)
    assert isinstance(found, Taken)
    assert (len(found.messages), found.recipients) == (2, 3)
    columns = (schema.message.c.sender_domain, schema.recipient.c.local_part)
    joined = select(*columns).join(schema.recipient).order_by(schema.recipient.c.local_part)
    senders = await intake.sql.read(lambda conn: [tuple(row) for row in conn.execute(joined)])
    assert senders == [("sender.test", "a"), ("lists.test", "b"), ("lists.test", "c")]


async def test_only_who_has_not_got_it_gets_it(spool: SpoolDirectory, intake: Intake) -> None:
    tree = "NN a@plain.test\n"
    put(spool.path, header=header_file(tree=tree, recipients=("a@plain.test", "b@plain.test")))
    await take(spool, OLD_ID, intake)
    assert await queued(intake) == ["b@plain.test"]
    put(spool.path, NEW_ID, header=header_file(NEW_ID, tree=tree))
    assert await take(spool, NEW_ID, intake) == Taken((), 0)
    assert list(spool.path.iterdir()) == []


async def test_recipients_that_are_exims_own_are_left_out(spool: SpoolDirectory, intake: Intake) -> None:
    put(spool.path, header=header_file(recipients=("a@plain.test", "b@Local.test", "c@sub.local.test")))
    ours = replace(intake, skip_domains=("local.test", "*.local.test"))
    assert isinstance(await take(spool, OLD_ID, ours), Taken)
    assert await queued(intake) == ["a@plain.test"]


async def test_a_pair_that_could_not_be_removed_is_not_queued_twice(
    spool: SpoolDirectory, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: SpoolDirectory, spool_id: str) -> None:
        raise StorageError("removing it", "the disk is read-only")

    put(spool.path)
    with monkeypatch.context() as patch:
        patch.setattr(SpoolDirectory, "remove", failing)
        with pytest.raises(StorageError):
            await take(spool, OLD_ID, intake)
    assert await queued(intake) == ["a@plain.test"]
    assert await take(spool, OLD_ID, intake) == Taken((), 0)
    assert await queued(intake) == ["a@plain.test"]
    assert list(spool.path.iterdir()) == []


async def test_what_exim_makes_a_second_time_is_no_second_message_but_new_recipients_count(
    spool: SpoolDirectory, intake: Intake
) -> None:
    put(spool.path)
    await take(spool, OLD_ID, intake)
    again = header_file(variables=("-deliver_firsttime",), recipients=("a@plain.test", "b@plain.test"))
    put(spool.path, header=again)
    found = await take(spool, OLD_ID, intake)
    assert isinstance(found, Taken)
    assert found.recipients == 1
    assert await queued(intake) == ["a@plain.test", "b@plain.test"]


async def test_the_same_id_with_other_content_is_another_message(
    spool: SpoolDirectory, intake: Intake
) -> None:
    put(spool.path)
    await take(spool, OLD_ID, intake)
    put(spool.path, body=body_file(body=b"something else\n"))
    await take(spool, OLD_ID, intake)
    assert await queued(intake) == ["a@plain.test", "a@plain.test"]


async def test_a_commit_that_fails_leaves_the_pair_and_no_file(
    spool: SpoolDirectory, intake: Intake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(*_: object) -> None:
        raise StorageError("writing", "disk full")

    put(spool.path, body=body_file(body=b"a line of it\n" * 2000))
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "note", failing)
        with pytest.raises(StorageError):
            await take(spool, OLD_ID, intake)
    assert await queued(intake) == []
    assert list((tmp_path / "large").iterdir()) == []
    assert isinstance(await take(spool, OLD_ID, intake), Taken)
    (kept,) = (tmp_path / "large").iterdir()
    assert kept.read_bytes().endswith(b"a line of it\r\n" * 2000)


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        (header_file(variables=("-N",)), None, "-N"),
        (header_file(variables=("-frozen 1763704800",)), None, "frozen"),
        (header_file(recipients=()), None, "no recipients"),
        (header_file(recipients=("a@plain.test", "b@pla in.test")), None, "recipient 'b@pla in.test'"),
        (header_file(recipients=("unqualified",)), None, "recipient 'unqualified'"),
        (header_file(sender="x@y z"), None, "sender"),
        (header_file(fields=[("P", "Received: by x\n")] * 6), None, "looping"),
        (None, body_file(body=b"a NUL \0\n"), "NUL"),
        (None, body_file(body=b"a lone \r CR\n"), "CR"),
        (None, body_file(body=b"x" * 999 + b"\n"), "998"),
        (None, body_file(body=b"0123456789\n" * 75_000), "max_message_size"),
    ],
)  # fmt: skip
async def test_what_nobody_could_send_is_set_aside(
    spool: SpoolDirectory, intake: Intake, header: bytes | None, body: bytes | None, why: str
) -> None:
    put(spool.path, header=header, body=body)
    assert why in await why_aside(spool, intake)


async def test_a_body_that_was_cut_off_is_waited_for_and_then_set_aside(
    spool: SpoolDirectory, intake: Intake
) -> None:
    header = header_file(variables=("-body_linecount 3",))
    put(spool.path, header=header)
    assert await take(spool, OLD_ID, intake) == Later("-D has 2 lines of 3")
    put(spool.path, header=header, age=OVERDUE + 1)
    assert await why_aside(spool, intake) == "-D has 2 lines of 3"


async def test_a_body_in_wire_format(spool: SpoolDirectory, intake: Intake) -> None:
    header = header_file(variables=("-spool_file_wireformat", "-body_linecount 0"))
    put(spool.path, header=header, body=body_file(body=b"one\r\n.two\r\n"))
    await take(spool, OLD_ID, intake)
    ((content,),) = await rows(intake, schema.message.c.content)
    assert content.endswith(b"\r\n\r\none\r\n.two\r\n")


async def test_without_room_it_waits(spool: SpoolDirectory, intake: Intake) -> None:
    put(spool.path, body=body_file(body=b"0123456789\n" * 45_000))
    assert await take(spool, OLD_ID, intake) == Later("there is no room in the queue")
    assert (spool.path / f"{OLD_ID}-D").exists()


async def test_the_door_takes_what_it_can_and_tells_the_rest(
    spool: SpoolDirectory, intake: Intake, tmp_path: Path
) -> None:
    names = [f"1vMGWt-00014q-{n:02}" for n in range(50)]
    for name in names:
        put(spool.path, name)
    put(spool.path, OLD_ID, header=b"half")
    put(spool.path, NEW_ID, header=header_file(NEW_ID, variables=("-N",)))
    put(spool.path, "1vMGWt-00014q-zz", age=OVERDUE + 1)
    (spool.path / "1vMGWt-00014q-zz-H").unlink()
    door = SpoolDoor([tmp_path / "gone", spool.path], intake, interval=0.01, remember=3600.0, once=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.run)
        with trio.fail_after(30):
            await door.drained.wait()
        door.stop()
    assert (door.taken, door.aside) == (50, 2)
    assert {(path.name, spool_id) for path, spool_id in door.waiting} == {("gone", ""), ("in", OLD_ID)}
    assert len(await queued(intake)) == 50


async def test_an_unexpected_error_keeps_none_of_the_others(
    spool: SpoolDirectory, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[bytes], object] = spool_directory.parse

    def failing(content: bytes) -> object:
        if content.startswith(OLD_ID.encode()):
            raise RuntimeError("a bug")
        return real(content)

    put(spool.path)
    put(spool.path, NEW_ID)
    monkeypatch.setattr(spool_directory, "parse", failing)
    door = SpoolDoor([spool.path], intake, interval=0.01, remember=3600.0)
    assert await door.look() == 1
    assert door.waiting == {(spool.path, OLD_ID): "an unexpected error"}
    assert (spool.path / f"{OLD_ID}-H").exists()


async def test_a_look_that_fails_unexpectedly_is_followed_by_another(
    spool: SpoolDirectory, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool.path)
    real, calls = SpoolDirectory.find, []

    def failing_at_first(self: SpoolDirectory) -> object:
        calls.append(self)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return real(self)

    monkeypatch.setattr(SpoolDirectory, "find", failing_at_first)
    door = SpoolDoor(
        [spool.path], replace(intake, accepted=lambda: door.stop()), interval=0.01, remember=60.0
    )
    with trio.fail_after(30):
        await door.run()
    assert await queued(intake) == ["a@plain.test"]


async def test_the_ledger_forgets_what_was_taken_long_ago(spool: SpoolDirectory, intake: Intake) -> None:
    put(spool.path)
    await take(spool, OLD_ID, intake)
    door = SpoolDoor([spool.path], intake, interval=0.01, remember=3600.0)
    await door.look()
    assert len(await rows(intake, schema.taken.c.spool_id)) == 1
    await SpoolDoor([spool.path], intake, interval=0.01, remember=-1.0).look()
    assert await rows(intake, schema.taken.c.spool_id) == []


async def test_a_pair_that_cannot_be_removed_is_never_forgotten(
    spool: SpoolDirectory, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: SpoolDirectory, spool_id: str) -> None:
        raise StorageError("removing", "Permission denied", "")

    put(spool.path)
    monkeypatch.setattr(SpoolDirectory, "remove", failing)
    for _ in range(3):
        await SpoolDoor([spool.path], intake, interval=0.01, remember=-1.0).look()
    assert await queued(intake) == ["a@plain.test"]


async def test_nothing_is_forgotten_while_a_directory_cannot_be_looked_into(
    spool: SpoolDirectory, intake: Intake, tmp_path: Path
) -> None:
    put(spool.path)
    await take(spool, OLD_ID, intake)
    await SpoolDoor([spool.path, tmp_path / "gone"], intake, interval=0.01, remember=-1.0).look()
    assert len(await rows(intake, schema.taken.c.spool_id)) == 1


async def test_many_that_cannot_be_taken_keep_no_newer_one_waiting(
    spool: SpoolDirectory, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_door, "MOST", 3)
    names = [f"1vMGWt-00014q-{n:02}" for n in range(7)]
    for name in names:
        put(spool.path, name, header=b"half")
    put(spool.path, NEW_ID)
    door = SpoolDoor([spool.path], intake, interval=0.01, remember=3600.0, once=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.run)
        with trio.fail_after(30):
            await door.drained.wait()
        door.stop()
    assert door.taken == 1
    assert {spool_id for _, spool_id in door.waiting} == set(names)
    put(spool.path, NEW_ID, body=body_file(NEW_ID, b"another\n"))
    door = SpoolDoor([spool.path], intake, interval=0.01, remember=3600.0)
    assert sum([await door.look() for _ in range(3)]) == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[192.0.2.1]:4711", "192.0.2.1"),
        ("[2001:db8::1]:0", "2001:db8::1"),
        ("192.0.2.1.4711", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("a\nb", ""),
    ],
)
def test_the_clients_address_in_every_form(text: str, address: str) -> None:
    assert client_of(text) == address


def test_of_several_processes_on_one_queue_only_the_first_looks_into_directories(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path), spool=Spool(directories=("in",)))
    queue: Any = SimpleNamespace(
        inline_limit=1, check_space=None, append=outbox.append, accepted=lambda: None
    )
    shard: Any = SimpleNamespace(sql=None, writer=None)
    new_id = MessageIds(WallClock().now, Random(1))
    doors = [
        open_spool(settings, queue, shard, new_id, WallClock(), "relay.test", part=part) for part in (0, 1)
    ]
    assert [each.directories for each in doors] == [(tmp_path / "in",), ()]
