"""What verbs print: safe tables, JSON, times in words."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from deliver.cli import output


@dataclass(frozen=True)
class Thing:
    name: str
    at: Path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_piped_table_is_aligned_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("host", "port"), [("mx.example.org", 25), ("a", None)])
    assert capsys.readouterr().out == "HOST            PORT\nmx.example.org  25\na               -\n"


def test_an_empty_table_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("host",), [], empty="no hints yet")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no hints yet\n")


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_terminal_sequences_and_markup_of_peers_are_harmless(
    make: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    stdout = make()
    monkeypatch.setattr(sys, "stdout", stdout)
    output.table(("reply",), [("\x1b[31mred\r\n\u202e[bold]x[/bold]",)])
    text = stdout.getvalue()
    assert "\x1b[31m" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred\\r\\n\\u202e[bold]x[/bold]" in text


def test_fields_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.fields([("id", "x"), ("attempts", 3)])
    assert capsys.readouterr().out == "id:       x\nattempts: 3\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.json_lines([Thing("ä\x1b", Path("/x")), {"b": {2, 1}, "c": b"\x01"}])
    first, second = capsys.readouterr().out.splitlines()
    assert first.isascii()
    assert json.loads(first) == {"name": "ä\x1b", "at": "/x"}
    assert json.loads(second) == {"b": [1, 2], "c": "01"}
    output.json_document([1])
    assert capsys.readouterr().out == "[\n  1\n]\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (0.5, "now"),
        (59, "59s ago"),
        (190, "3m ago"),
        (7200, "2h ago"),
        (200_000, "2d ago"),
        (-7200, "in 2h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert output.age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "0.2s"),
        (45, "45s"),
        (90, "1m30s"),
        (5400, "1h30m"),
        (86400, "1d"),
        (273_600, "3d4h"),
        (-60, "-1m"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_moments_and_sizes() -> None:
    assert output.moment(0) == "1970-01-01 00:00:00Z"
    assert [output.size(n) for n in (5, 64_000, 1_234_567, 5 * 10**12)] == [
        "5 B",
        "64.0 kB",
        "1.2 MB",
        "5000.0 GB",
    ]
