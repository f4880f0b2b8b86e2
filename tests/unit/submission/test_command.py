"""The limits of what is read from standard input."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from deliver.submission import command
from deliver.submission.local import Local


@pytest.mark.parametrize(
    ("words", "text"), [(["-i"], b"x" * 101), ([], b"x" * 101), ([], b"0123456789\n" * 20)]
)
def test_a_text_without_end_is_refused(
    words: list[str], text: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "MAX_TEXT", 100)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    here = Local(("127.0.0.1", 1), "me.test", "b.test", False)
    assert command.run([*words, "a@b.test"], known=here) == 65
    assert "more than 100 octets" in capsys.readouterr().err
