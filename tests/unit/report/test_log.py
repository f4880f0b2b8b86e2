from __future__ import annotations

import io
import json
import logging

from deliver.report.log import MAX_VALUE, configure, say


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
