"""What counts as a header in UTF-8."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.smtp.utf8header import Utf8Header, header_in_utf8


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Subject: Grüße\r\n\r\nhi\r\n".encode(), True),
        ("From: a@b.test\r\nTo: x\r\n grüße@b.test\r\n\r\n".encode(), True),
        ("Subject: Grüße\r\n".encode(), True),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n", False),
        ("Subject: hi\r\n\r\nGrüße\r\n".encode(), False),
        ("Subject: Grüße\r\n\r\nhi\r\n".encode("latin-1"), False),
        (b"Subject: Gr\xfc\xdfe\r\nTo: " + "jürg@b.test\r\n\r\n".encode(), True),
        ("\r\nGrüße: in the body\r\n".encode(), False),
        ("Subject: a\r\n\r\n--b\r\nContent-Type: text/plain; name=ü\r\n".encode(), False),
        (b"", False),
    ],
)
def test_only_the_messages_own_header_counts_and_only_in_utf8(content: bytes, expected: bool) -> None:
    assert header_in_utf8(content) is expected


@given(st.lists(st.sampled_from(["a", "ü", "\r\n", "\r\n\r\n", "x: ", "\xe9"]), max_size=12), st.data())
def test_portions_do_not_matter(words: list[str], data: st.DataObject) -> None:
    pieces = [word.encode("latin-1" if word == "\xe9" else "utf-8") for word in words]
    content = b"".join(pieces)
    scan = Utf8Header()
    while pieces:
        several = data.draw(st.integers(1, len(pieces)))
        scan.feed(b"".join(pieces[:several]))
        pieces = pieces[several:]
    scan.feed(b"\r\n")
    assert scan.found is header_in_utf8(content)
