"""The measurement of the queue runs, and what it fills is a queue."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from bench import queue


def test_a_filled_shard_can_be_opened_and_claimed_from(tmp_path: Path) -> None:
    queue.fill(tmp_path / "queue", queue.CLAIMS + 10)
    opened, claims = trio.run(queue._open_and_claim, tmp_path / "queue")
    assert opened > 0
    assert claims > 0


def test_the_report_of_the_child_has_three_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.fill(tmp_path / "queue", queue.CLAIMS + 10)
    queue.report(str(tmp_path / "queue"))
    opened, claims, memory = (float(each) for each in capsys.readouterr().out.split())
    assert min(opened, claims, memory) > 0


@pytest.mark.parametrize(
    ("line", "in_data", "reply", "then"),
    [
        (b"EHLO x", False, b"250-sink.test", False),
        (b"DATA", False, b"354", True),
        (b"body", True, b"250 2.6.0", False),
        (b"QUIT", False, b"221", False),
    ],
)
def test_the_sink_answers(line: bytes, in_data: bool, reply: bytes, then: bool) -> None:
    said, state = queue.Sink._reply(line, in_data)
    assert said.startswith(reply)
    assert state is then
