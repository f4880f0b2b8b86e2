"""Content that lives as long as its delivery: in memory, then in a file without a name."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from deliver.errors import MessageError, StorageError
from deliver.transient import TransientContent


@pytest.mark.parametrize("size", [0, 10, 11, 100_000])
async def test_what_goes_in_comes_out(tmp_path: Path, size: int) -> None:
    content = TransientContent(tmp_path / "state", inline_limit=10, max_size=0)
    octets = os.urandom(size)
    for start in range(0, size, 7001):
        await content.write(octets[start : start + 7001])
    await content.finish()
    assert content.size == size
    assert await content.read(0, size + 5) == octets
    assert await content.read(3, 4) == octets[3:7]
    assert await content.read(size, 10) == b""


async def test_no_file_is_left_not_even_while_it_is_read(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # what other tests have left is not ours to count
    before = open_files()
    content = TransientContent(tmp_path, inline_limit=10, max_size=0)
    await content.write(b"x" * 1000)
    assert os.listdir(tmp_path) == []
    assert open_files() == before + 1
    del content
    gc.collect()
    assert open_files() == before


async def test_too_much_is_refused(tmp_path: Path) -> None:
    content = TransientContent(tmp_path, inline_limit=10, max_size=20)
    await content.write(b"x" * 20)
    with pytest.raises(MessageError, match="larger than 20"):
        await content.write(b"x")


async def test_a_directory_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    content = TransientContent(tmp_path / "file" / "state", inline_limit=10, max_size=0)
    with pytest.raises(StorageError):
        await content.write(b"x" * 11)
