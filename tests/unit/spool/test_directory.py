"""Pairs that are ready, those that are not yet, and those that never will be."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deliver.errors import StorageError
from deliver.spool.directory import OVERDUE, QUIET, SET_ASIDE, NotYet, SpoolDirectory, Unusable
from tests.unit.spool.pairs import BODY, NEW_ID, OLD_ID, body_file, header_file, put


def now() -> float:
    return datetime.now(UTC).timestamp()


@contextmanager
def another_process(program: str, path: Path) -> Iterator[None]:
    """Runs `program` with `path` until the end of the block; it has said that it is ready."""
    text = f"import fcntl, os, sys\npath = sys.argv[1]\n{textwrap.dedent(program)}\nprint('ready', flush=True)\ninput()\n"
    with subprocess.Popen(
        [sys.executable, "-c", text, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.communicate("\n")


def why_not(directory: Path, spool_id: str = OLD_ID) -> Exception:
    with pytest.raises((NotYet, Unusable)) as caught, SpoolDirectory(directory).opened(spool_id, now()):
        pass
    return caught.value


@pytest.mark.parametrize("spool_id", [OLD_ID, NEW_ID])
def test_a_pair_that_is_ready(tmp_path: Path, spool_id: str) -> None:
    put(tmp_path, spool_id)
    directory = SpoolDirectory(tmp_path)
    assert directory.find().pairs == (spool_id,)
    with directory.opened(spool_id, now()) as pair:
        assert pair.header.sender == "me@sender.test"
        assert os.pread(pair.body, 1000, pair.offset) == BODY
    directory.remove(spool_id)
    assert list(tmp_path.iterdir()) == []


def test_what_is_found_is_sorted_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for spool_id in (NEW_ID, OLD_ID, "1vMGWs-00014q-2K"):
        put(tmp_path, spool_id)
    for name in ("README", f"{OLD_ID}-J", "1vMGWs-00014q-2K-H.tmp", "aaaaaa-bbbbbb-c-H"):
        (tmp_path / name).touch()
    (tmp_path / f"{OLD_ID}-H").unlink()
    found = SpoolDirectory(tmp_path).find()
    assert found.pairs == ("1vMGWs-00014q-2K", NEW_ID)
    assert found.bodies == (OLD_ID,)


def test_a_body_that_another_process_has_locked_as_exim_does(tmp_path: Path) -> None:
    put(tmp_path)
    program = f"file = open(path, 'r+b')\nfcntl.lockf(file, fcntl.LOCK_EX, {len(OLD_ID) + 3}, 0)\n"
    with another_process(program, tmp_path / f"{OLD_ID}-D"):
        assert isinstance(why_not(tmp_path), NotYet)
    with SpoolDirectory(tmp_path).opened(OLD_ID, now()):
        pass


def test_a_body_that_another_process_still_writes(tmp_path: Path) -> None:
    put(tmp_path, age=2 * OVERDUE)
    with another_process("file = open(path, 'ab')\n", tmp_path / f"{OLD_ID}-D"):
        assert "open for writing" in str(why_not(tmp_path))


def test_two_of_us_do_not_take_the_same_pair(tmp_path: Path) -> None:
    put(tmp_path)
    program = f"""
    sys.path.insert(0, {str(Path(__file__).parents[3])!r})
    from deliver.spool.directory import SpoolDirectory
    opened = SpoolDirectory(__import__('pathlib').Path(path)).opened({OLD_ID!r}, 0.0)
    opened.__enter__()
    """
    with another_process(program, tmp_path):
        assert isinstance(why_not(tmp_path), NotYet)


def test_without_a_lease_the_body_must_have_been_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def refusing(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETLEASE:
            raise PermissionError(13, "not the owner")
        return real(descriptor, command, argument)

    monkeypatch.setattr("deliver.spool.directory.fcntl.fcntl", refusing)
    put(tmp_path)
    assert isinstance(why_not(tmp_path), NotYet)
    put(tmp_path, age=QUIET + 1)
    with SpoolDirectory(tmp_path).opened(OLD_ID, now()) as pair:
        assert pair.id == OLD_ID


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (header_file()[:-1], None),
        (header_file()[:100], None),
        (b"", None),
        (b"\0" * 4096, None),
        (None, b""),
        (None, body_file()[:10]),
        (None, body_file(NEW_ID)),
    ],
)
def test_an_incomplete_pair_is_given_time_and_then_given_up(
    tmp_path: Path, header: bytes | None, body: bytes | None
) -> None:
    put(tmp_path, header=header, body=body)
    assert isinstance(why_not(tmp_path), NotYet)
    put(tmp_path, header=header, body=body, age=OVERDUE + 1)
    assert isinstance(why_not(tmp_path), Unusable)


def test_a_header_without_its_body(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / f"{OLD_ID}-D").unlink()
    assert "-D is not there" in str(why_not(tmp_path))
    put(tmp_path, age=OVERDUE + 1)
    (tmp_path / f"{OLD_ID}-D").unlink()
    assert isinstance(why_not(tmp_path), Unusable)


def test_the_header_of_another_message(tmp_path: Path) -> None:
    put(tmp_path, header=header_file(NEW_ID))
    assert isinstance(why_not(tmp_path), Unusable)


@pytest.mark.parametrize("letter", "HD")
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, letter: str, kind: str) -> None:
    directory = tmp_path / "in"
    put(directory)
    path = directory / f"{OLD_ID}-{letter}"
    path.rename(tmp_path / "secret")
    match kind:
        case "link":
            path.symlink_to(tmp_path / "secret")
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    assert isinstance(why_not(directory), Unusable)


def test_what_is_set_aside_is_kept_with_the_reason_and_overwrites_nothing(tmp_path: Path) -> None:
    directory = SpoolDirectory(tmp_path)
    for text in (b"first", b"second"):
        put(tmp_path, header=text)
        directory.set_aside(OLD_ID, "no message")
    kept = tmp_path / SET_ASIDE
    assert (kept / f"{OLD_ID}-H").read_bytes() == b"first"
    assert (kept / f"{OLD_ID}.1-H").read_bytes() == b"second"
    assert (kept / f"{OLD_ID}.1-D").read_bytes() == body_file()
    assert (kept / f"{OLD_ID}.reason").read_text() == "no message\n"
    assert [path.name for path in tmp_path.iterdir()] == [SET_ASIDE]
    assert kept.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    put(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match="anybody"):
        SpoolDirectory(tmp_path).find()
    tmp_path.chmod(0o770)
    assert SpoolDirectory(tmp_path).find().pairs == (OLD_ID,)
