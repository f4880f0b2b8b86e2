"""Inline and spooled content, its limits, and the sweep."""

from __future__ import annotations

import logging
import os
import threading

import pytest
import trio
from hypothesis import given, strategies as st

from deliver.errors import MessageError, StorageError
from deliver.message import MessageId
from deliver.queue import content
from deliver.queue.content import ContentTooLarge, ContentWriter, InlineContent, SpoolContent, sweep

ID = MessageId("01abc")


def writer(spool, inline_limit=10, max_size=1000):
    return ContentWriter(spool, ID, inline_limit=inline_limit, max_size=max_size)


async def test_small_content_stays_in_memory_and_touches_no_disk(tmp_path):
    taken = writer(tmp_path / "spool")
    await taken.write(b"12345")
    await taken.write(b"67890")
    assert await taken.finish() == InlineContent(b"1234567890")
    assert not (tmp_path / "spool").exists()


async def test_large_content_becomes_a_private_spool_file(tmp_path):
    taken = writer(tmp_path / "spool")
    for chunk in (b"12345", b"67890", b"abc"):
        await taken.write(chunk)
    stored = await taken.finish()
    assert stored == SpoolContent(tmp_path / "spool", "01abc.eml", 13)
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["01abc.eml"]
    assert (tmp_path / "spool" / "01abc.eml").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert await stored.read(0, 100) == b"1234567890abc"


async def test_the_file_and_its_directory_are_fsynced_around_the_rename(tmp_path, monkeypatch):
    steps = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (steps.append("rename"), rename(a, b)))
    taken = writer(tmp_path)
    await taken.write(b"x" * 11)
    await taken.finish()
    assert steps == [str(tmp_path / "01abc.part"), "rename", str(tmp_path)]


@pytest.mark.parametrize("before", [0, 995])
async def test_too_large_content_is_refused_and_removed(tmp_path, before):
    taken = writer(tmp_path, max_size=1000)
    await taken.write(b"x" * before)
    with pytest.raises(ContentTooLarge, match="larger than 1000 octets") as caught:
        await taken.write(b"x" * (1001 - before))
    assert isinstance(caught.value, MessageError)
    assert list(tmp_path.iterdir()) == []


async def test_content_of_exactly_the_limit_is_taken(tmp_path):
    taken = writer(tmp_path, max_size=1000)
    await taken.write(b"x" * 1000)
    assert (await taken.finish()).size == 1000


async def test_abandoned_content_is_removed_also_under_cancellation(tmp_path):
    taken = writer(tmp_path)
    await taken.write(b"x" * 100)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await taken.abandon()
    assert list(tmp_path.iterdir()) == []


async def test_finished_content_can_still_be_abandoned(tmp_path):
    taken = writer(tmp_path)
    await taken.write(b"x" * 100)
    await taken.finish()
    await taken.abandon()
    assert list(tmp_path.iterdir()) == []


async def test_an_unusable_directory_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    taken = writer(tmp_path / "file" / "spool")
    with pytest.raises(StorageError, match=r"writing .*01abc\.part"):
        await taken.write(b"x" * 100)


async def test_a_full_disk_is_a_storage_error_with_its_remedy(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    taken = writer(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free disk space"):
        await taken.write(b"x" * 100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "", "a/b", "-x", ".hidden", "x" * 129, "x\n"])
def test_an_id_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="not a message id"):
        ContentWriter(tmp_path, MessageId(name), inline_limit=1, max_size=1)


async def test_a_lost_or_shortened_file_is_a_storage_error(tmp_path):
    stored = SpoolContent(tmp_path, "x.eml", 10)
    with pytest.raises(StorageError, match=r"reading .*x\.eml"):
        await stored.read(0, 1)
    (tmp_path / "x.eml").write_bytes(b"12345")
    with pytest.raises(StorageError, match="shorter than it was"):
        await stored.read(0, 10)


@given(
    chunks=st.lists(st.binary(max_size=40), max_size=8),
    offset=st.integers(0, 400),
    length=st.integers(0, 400),
    inline_limit=st.sampled_from([0, 16, 1000]),
)
def test_any_chunking_gives_the_same_content_and_any_slice_of_it(
    tmp_path_factory, chunks, offset, length, inline_limit
):
    async def main() -> None:
        spool = tmp_path_factory.mktemp("spool")
        taken = writer(spool, inline_limit=inline_limit)
        for chunk in chunks:
            await taken.write(chunk)
        stored = await taken.finish()
        whole = b"".join(chunks)
        assert stored.size == taken.size == len(whole)
        assert isinstance(stored, InlineContent) == (len(whole) <= inline_limit)
        assert await stored.read(offset, length) == whole[offset : offset + length]

    trio.run(main)


def test_the_sweep_removes_what_nobody_needs_keeps_the_unknown_apart_and_names_the_missing(tmp_path, caplog):
    for name in ("kept.eml", "over.eml", "unknown.eml", "torn.part", "notes.txt"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        found = sweep(tmp_path, frozenset({"kept.eml", "gone.eml"}), frozenset({"over"}))
    assert found == ("gone.eml",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.eml", "lost", "notes.txt"]
    assert [path.name for path in (tmp_path / "lost").iterdir()] == ["unknown.eml"]
    assert (tmp_path / "lost").stat().st_mode & 0o777 == 0o700
    assert "removed 2 spool files" in caplog.text
    assert f"1 messages in {tmp_path} are unknown to the queue's database" in caplog.text
    caplog.clear()
    assert sweep(tmp_path, frozenset({"kept.eml"})) == ()
    assert not caplog.records, "what is kept is not told again"


def test_a_directory_that_cannot_take_the_unknown_is_a_storage_error(tmp_path):
    (tmp_path / "unknown.eml").touch()
    (tmp_path / "lost").touch()
    with pytest.raises(StorageError, match="moving files to"):
        sweep(tmp_path, frozenset())
    assert (tmp_path / "unknown.eml").exists()


async def test_a_new_spool_directory_is_fsynced_in_its_parent(tmp_path, monkeypatch):
    steps = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    for name in ("01a", "01b"):
        taken = ContentWriter(tmp_path / "q" / "spool", MessageId(name), inline_limit=10, max_size=1000)
        await taken.write(b"x" * 11)
        await taken.finish()
    spool = str(tmp_path / "q" / "spool")
    first = [str(tmp_path), str(tmp_path / "q"), f"{spool}/01a.part", spool]
    assert steps == [*first, f"{spool}/01b.part", spool]


async def test_files_that_are_finished_together_share_the_fsync_of_their_directory(tmp_path, monkeypatch):
    """The first is held in its fsync until the others have been renamed; they share the next one."""
    others, renamed, directories = 3, threading.Semaphore(0), []
    fsync, rename = os.fsync, os.rename

    def slow(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path):
            directories.append(descriptor)
            if len(directories) == 1:
                for _ in range(1 + others):
                    assert renamed.acquire(timeout=10)
        fsync(descriptor)

    def told(before, after):
        rename(before, after)
        renamed.release()

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(os, "rename", told)

    async def take(name):
        taken = ContentWriter(tmp_path, MessageId(name), inline_limit=10, max_size=1000)
        await taken.write(b"x" * 11)
        await taken.finish()

    async with trio.open_nursery() as nursery:
        for number in range(1 + others):
            nursery.start_soon(take, f"01{number}")
    assert 2 <= len(directories) <= 1 + others
    assert len(list(tmp_path.iterdir())) == 1 + others


def test_an_fsync_that_began_before_is_not_shared(tmp_path, monkeypatch):
    shared, order = content._SharedSync(tmp_path), []
    begun, go_on = threading.Event(), threading.Event()

    def sync(_):
        order.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(content, "sync_directory", sync)
    threads = [threading.Thread(target=shared.run, name=name) for name in ("first", "second")]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_an_fsync_that_failed_is_not_shared(tmp_path, monkeypatch):
    shared, tries = content._SharedSync(tmp_path), []

    def sync(_):
        tries.append(None)
        if len(tries) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(content, "sync_directory", sync)
    with pytest.raises(OSError):
        shared.run()
    shared.run()
    assert len(tries) == 2


async def test_what_is_in_memory_is_read_without_a_thread(tmp_path, monkeypatch):
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("Linux only")
    taken = writer(tmp_path)
    await taken.write(b"x" * 100)
    stored = await taken.finish()
    try:
        with (tmp_path / stored.name).open("rb") as file:
            os.preadv(file.fileno(), [bytearray(10)], 0, os.RWF_NOWAIT)
    except OSError:
        pytest.skip("this file system cannot say what is in memory")
    monkeypatch.setattr(SpoolContent, "_read", None)
    assert await stored.read(90, 100) == b"x" * 10


@pytest.mark.parametrize("error", [11, 95])
async def test_what_may_not_be_in_memory_is_read_in_a_thread(tmp_path, monkeypatch, error):
    def refusing(*_):
        raise OSError(error, os.strerror(error))

    taken = writer(tmp_path)
    await taken.write(bytes(range(100)))
    stored = await taken.finish()
    monkeypatch.setattr(os, "preadv", refusing)
    assert await stored.read(90, 100) == bytes(range(90, 100))
    monkeypatch.setattr(os, "preadv", lambda *_: 3)
    assert await stored.read(90, 100) == bytes(range(90, 100))


def test_a_sweep_without_a_directory_finds_nothing(tmp_path):
    assert sweep(tmp_path / "none", frozenset()) == ()


def test_removing_what_is_gone_is_no_error(tmp_path):
    content.remove(tmp_path, ["gone.eml"])
