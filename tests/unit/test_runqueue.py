"""What the kernel says about how long a thread waited for a processor."""

from __future__ import annotations

import os
import time

import pytest

from deliver.runqueue import RunQueue


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("17 2500000000 3\n", 2.5), ("0 0 0\n", 0.0), ("", 0.0), ("17\n", 0.0), ("17 many 3\n", 0.0)],
)
def test_it_is_the_second_number_in_nanoseconds(tmp_path, said, seconds):
    (tmp_path / "schedstat").write_text(said)
    queue = RunQueue(tmp_path / "schedstat")
    assert queue.waited() == seconds
    queue.close()


def test_it_is_read_anew_each_time(tmp_path):
    statistics = tmp_path / "schedstat"
    statistics.write_text("1 1000000000 1\n")
    queue = RunQueue(statistics)
    before = queue.waited()
    statistics.write_text("1 3000000000 1\n")
    assert queue.waited() - before == 2.0
    queue.close()


def test_where_the_kernel_does_not_say_nothing_was_waited(tmp_path):
    queue = RunQueue(tmp_path / "none")
    assert queue.waited() == 0.0
    queue.close()


def test_closed_it_says_nothing_and_keeps_no_file(tmp_path):
    (tmp_path / "schedstat").write_text("1 1000000000 1\n")
    before = len(os.listdir("/proc/self/fd"))
    queue = RunQueue(tmp_path / "schedstat")
    queue.close()
    queue.close()
    assert queue.waited() == 0.0
    assert len(os.listdir("/proc/self/fd")) == before


def test_our_own_kernel_says_no_more_than_has_passed():
    began, queue = time.perf_counter(), RunQueue()
    before = queue.waited()
    sum(range(100_000))
    assert 0.0 <= queue.waited() - before <= time.perf_counter() - began + 0.1
    queue.close()
