"""Files that are read again when they change."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from deliver.errors import ConfigurationError
from deliver.relay.watched import Watched


class Reading:
    """A number in a file; counts how often it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = 0

    def __call__(self) -> int:
        self.times += 1
        try:
            return int(self.path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError("reading", str(error), "correct it") from None

    def write(self, text: str) -> None:
        """By a rename, as programs do it."""
        draft = self.path.with_suffix(".new")
        draft.write_text(text)
        os.replace(draft, self.path)


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    reading = Reading(tmp_path / "number")
    reading.write("1")
    return reading


def test_a_file_is_read_once_until_it_changes(reading: Reading) -> None:
    watched = Watched((reading.path,), reading)
    assert [watched.current(), watched.current(), watched.refreshed()] == [1, 1, 1]
    assert reading.times == 1
    reading.write("2")
    assert [watched.current(), watched.current()] == [2, 2]
    assert reading.times == 2
    watched.renew()
    assert reading.times == 3


def test_the_same_size_in_the_same_moment_is_a_change_too(reading: Reading) -> None:
    watched = Watched((reading.path,), reading)
    before = reading.path.stat()
    reading.write("7")
    os.utime(reading.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.current() == 7


def test_what_cannot_be_used_is_said_once_and_tried_again_when_it_changes(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    watched = Watched((reading.path,), reading)
    reading.write("one")
    for _ in range(3):
        with pytest.raises(ConfigurationError):
            watched.current()
        assert watched.refreshed() == watched.last_good == 1
    assert len(caplog.records) == 1
    reading.path.unlink()
    assert watched.refreshed() == 1
    assert len(caplog.records) == 2
    reading.write("3")
    assert watched.current() == 3


def test_the_first_time_it_has_to_be_there(tmp_path: Path) -> None:
    reading = Reading(tmp_path / "none")
    with pytest.raises(ConfigurationError):
        Watched((reading.path,), reading)
