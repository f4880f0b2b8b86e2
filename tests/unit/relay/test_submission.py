"""Date and Message-ID of submitted messages, whatever the pieces in which the content comes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings, strategies as st

from deliver.relay.submission import MAX_HEADER, Completion

NOW = 1_700_000_000.0
DATE = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
ID = b"Message-ID: <x1@relay.test>\r\n"


def complete(content: bytes, step: int = 1000) -> bytes:
    completion = Completion(NOW, "x1@relay.test")
    kept = b"".join(completion.feed(content[at : at + step]) for at in range(0, len(content), step))
    kept += completion.finish()
    assert completion.added == len(kept) - len(content)
    return kept


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"Subject: x\r\n\r\nbody\r\n\r\n", b"Subject: x\r\n" + DATE + ID + b"\r\nbody\r\n\r\n"),
        (b"DATE: today\r\nA: b\r\n\r\nx\r\n", b"DATE: today\r\nA: b\r\n" + ID + b"\r\nx\r\n"),
        (b"Message-Id : <y>\r\n\r\n", b"Message-Id : <y>\r\n" + DATE + b"\r\n"),
        (b"Date: x\r\nMessage-ID:\r\n <y>\r\n\r\nx\r\n", b"Date: x\r\nMessage-ID:\r\n <y>\r\n\r\nx\r\n"),
        (b"A: b\r\n Date: folded\r\n\r\n", b"A: b\r\n Date: folded\r\n" + DATE + ID + b"\r\n"),
        (b"Resent-Date: x\r\n\r\n", b"Resent-Date: x\r\n" + DATE + ID + b"\r\n"),
        (b"A: b\r\n", b"A: b\r\n" + DATE + ID),
        (b"", DATE + ID),
        (b"\r\nbody\r\n", DATE + ID + b"\r\nbody\r\n"),
        (b"no header here\r\n\r\nbody\r\n", b"no header here\r\n\r\nbody\r\n"),
        (b"A: b\r\nand then not\r\n\r\nbody\r\n", b"A: b\r\nand then not\r\n\r\nbody\r\n"),
        (b" folded first\r\n\r\n", b" folded first\r\n\r\n"),
    ],
)
def test_what_is_added(content: bytes, kept: bytes, step: int) -> None:
    assert complete(content, step) == kept


def test_a_header_section_without_end_is_left_alone() -> None:
    content = b"A: " + b"x" * 900 + b"\r\n"
    content = content * (2 * MAX_HEADER // len(content)) + b"\r\n"
    assert complete(content, 65536) == content


LINES = st.sampled_from(
    [b"Date: x\r\n", b"Message-ID: <y>\r\n", b"A: b\r\n", b" c\r\n", b"\r\n", b"body\r\n", b"Da", b"\r"]
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(LINES, max_size=8).map(b"".join), st.integers(1, 12))
@example(b"A: b\r\n\r\n", 7)
def test_pieces_change_nothing_and_nothing_is_lost(content: bytes, step: int) -> None:
    kept = complete(content, step)
    assert kept == complete(content)
    assert kept.replace(DATE, b"").replace(ID, b"") == content
