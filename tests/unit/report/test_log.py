from __future__ import annotations

import io
import json
import logging

import pytest
import trio

from deliver.message import Mailbox
from deliver.report.log import AT_ONCE, MAX_VALUE, configure, say
from deliver.report.turn import IN_A_ROW, LinesByTurn


def logged(form: str, **facts: object) -> str:
    stream = io.StringIO()
    configure("info", form, stream)
    say(logging.getLogger("outrider.delivery"), logging.INFO, "deferred", **facts)
    return stream.getvalue()


def test_a_text_line_holds_the_facts() -> None:
    line = logged("text", to="a@example.org", host="mx.example.org", address=None, reply="250 2.0.0 Ok")
    assert line.endswith(
        ' INFO outrider.delivery: deferred to=a@example.org host=mx.example.org reply="250 2.0.0 Ok"\n'
    )


def test_numbers_and_texts_are_told_as_they_are() -> None:
    told = logged("text", port=25, seconds=0.125, code="25", yes=True, why="x=1", cut="y" * 600, none=0)
    assert told.endswith(f' port=25 seconds=0.125 code=25 yes=True why="x=1" cut={"y" * MAX_VALUE} none=0\n')


def test_a_peer_cannot_forge_a_line() -> None:
    line = logged("text", reply="451 x\r\n2026 INFO outrider.delivery: delivered \x1b[31m\x00")
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "\x00" not in line


def test_a_json_line_is_one_object() -> None:
    line = logged("json", to="a@example.org", port=25, reply="4\n" + "x" * 10000)
    read = json.loads(line)
    assert line.count("\n") == 1
    assert (read["message"], read["to"], read["port"], read["level"]) == (
        "deferred",
        "a@example.org",
        25,
        "info",
    )
    assert len(read["reply"]) == MAX_VALUE


def test_a_traceback_stays_on_the_line() -> None:
    stream = io.StringIO()
    configure("info", "text", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("outrider.queue").exception("unexpected")
    assert stream.getvalue().count("\n") == 1
    assert "boom" in stream.getvalue()


def test_a_fact_never_hides_what_the_line_is_about() -> None:
    read = json.loads(logged("json", message="m1"))
    assert (read["message"], read["message_"]) == ("deferred", "m1")


def test_a_record_and_a_direct_line_read_alike() -> None:
    """`say` takes a short cut only where nobody else listens."""
    facts = {"to": Mailbox("a", "example.org"), "why": 'he said "no"\r\n', "port": 25, "none": None, "no": ""}
    for form in ("text", "json"):
        streams = io.StringIO(), io.StringIO()
        for stream, others in zip(streams, ([], [logging.NullHandler()]), strict=True):
            configure("info", form, stream)
            logging.getLogger("outrider").handlers += others
            say(logging.getLogger("outrider.delivery"), logging.INFO, "deferred", **facts)
        direct, recorded = (stream.getvalue() for stream in streams)
        assert direct[-60:] == recorded[-60:]
        assert "no=" not in direct.replace("none=", "")
        assert direct.count("\n") == recorded.count("\n") == 1


def test_what_cannot_be_printed_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("not printable")

    assert logged("text", broken=Broken()) == ""
    assert "not printable" in capsys.readouterr().err


def test_a_stream_that_is_gone_stops_nobody() -> None:
    stream = io.StringIO()
    configure("info", "text", stream)
    stream.close()
    say(logging.getLogger("outrider.delivery"), logging.INFO, "delivered")


@pytest.mark.parametrize("level", ["info", "warning"])
def test_a_quiet_level_is_kept_to(level: str) -> None:
    stream = io.StringIO()
    configure(level, "text", stream)
    say(logging.getLogger("outrider.delivery"), logging.INFO, "delivered")
    assert bool(stream.getvalue()) is (level == "info")


class Written(io.StringIO):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def test_the_lines_of_a_turn_are_written_together() -> None:
    stream = Written()
    configure("info", "text", stream)
    log = logging.getLogger("outrider.delivery")

    async def main() -> None:
        say(log, logging.INFO, "first")
        log.info("second")
        assert stream.writes == []
        await trio.to_thread.run_sync(int)  # the loop waits
        assert [text.count("\n") for text in stream.writes] == [2]
        say(log, logging.INFO, "third")
        say(log, logging.WARNING, "at once")
        assert [text.count("\n") for text in stream.writes] == [2, 2]
        say(log, logging.INFO, "fourth")
        await trio.to_thread.run_sync(lambda: say(log, logging.INFO, "from a thread"))
        say(log, logging.INFO, "last")

    trio.run(main, instruments=[LinesByTurn()])
    told = [line.split("delivery: ")[1] for line in stream.getvalue().splitlines()]
    assert told == ["first", "second", "third", "at once", "fourth", "from a thread", "last"]
    say(log, logging.INFO, "after it")
    assert stream.writes[-1].endswith("after it\n")


def test_lines_of_turns_without_a_wait_are_written_together_but_not_too_late() -> None:
    stream = Written()
    configure("info", "text", stream)
    log = logging.getLogger("outrider.delivery")

    async def main() -> None:
        for _ in range(2 * IN_A_ROW):
            say(log, logging.INFO, "busy")
            await trio.lowlevel.checkpoint()
        assert max(text.count("\n") for text in stream.writes) == IN_A_ROW
        assert stream.getvalue().count("\n") > IN_A_ROW

    trio.run(main, instruments=[LinesByTurn()])
    assert stream.getvalue().count("\n") == 2 * IN_A_ROW


def test_other_settings_lose_no_line() -> None:
    before, after = Written(), Written()
    configure("info", "text", before)
    log = logging.getLogger("outrider.delivery")

    async def main() -> None:
        say(log, logging.INFO, "before")
        configure("info", "json", after)
        assert "before" in before.getvalue()
        say(log, logging.INFO, "after")
        assert after.writes == []

    trio.run(main, instruments=[LinesByTurn()])
    assert "after" in after.getvalue()


def test_a_long_turn_is_written_in_whole_lines() -> None:
    """So that what several processes write to one pipe is not mixed up."""
    stream = Written()
    configure("info", "text", stream)
    log = logging.getLogger("outrider.delivery")

    async def main() -> None:
        for number in range(100):
            say(log, logging.INFO, "delivered", number=number, padding="x" * 100)

    trio.run(main, instruments=[LinesByTurn()])
    assert 1 < len(stream.writes) < 100
    assert all(text.endswith("\n") and len(text) <= AT_ONCE for text in stream.writes)
    assert stream.getvalue().count("\n") == 100
