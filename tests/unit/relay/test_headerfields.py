"""The header fields that limits look at: folded, encoded, in pieces, hostile."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.relay.headerfields import MAX_FIELDS, MAX_HEADER, Fields, HeaderFields


def found(*pieces: bytes, names: tuple[str, ...] = ("subject", "x-spam")) -> Fields | None:
    fields = HeaderFields(names)
    for piece in pieces:
        fields.feed(piece)
    return fields.found()


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"Subject: hello\r\n\r\nX-Spam: in the body\r\n", (("subject", "hello"),)),
        (b"SUBJECT :\r\n\thello\r\n you \r\nTo: b\r\nx-spam:yes\r\n\r\n", (("subject", "hello you"), ("x-spam", "yes"))),
        (b"Subject: only a header", (("subject", "only a header"),)),
        (b"\r\nSubject: in the body\r\n\r\n", ()),
        (b"", ()),
        (b"To: x\r\n Subject: folded into To\r\n\r\n", ()),
        ("Subject: Größe\r\n\r\n".encode(), (("subject", "Größe"),)),
        (b"Subject: Gr\xf6\xdfe\r\n\r\n", (("subject", "Gr\ufffd\ufffde"),)),
        (
            b"Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n\r\n",
            (("subject", "=?utf-8?q?Gr=C3=B6=C3=9Fe?="), ("subject", "Größe")),
        ),
        (b"Subject: =?x-unknown?q?a?=\r\n\r\n", (("subject", "=?x-unknown?q?a?="),)),
        (b"Subject: a\r\nSubject: b\r\n\r\n", (("subject", "a"), ("subject", "b"))),
    ],
)  # fmt: skip
def test_what_is_found(content: bytes, fields: Fields) -> None:
    assert found(content) == fields


def test_too_much_is_said() -> None:
    field = b"Subject: x\r\n"
    assert found(field * MAX_FIELDS + b"\r\n") == (("subject", "x"),)
    assert found(field * (MAX_FIELDS + 1) + b"\r\n") is None
    line = b"X: " + b"x" * 500 + b"\r\n"
    assert found(*([line] * (MAX_HEADER // len(line))), field, b"\r\n") == (("subject", "x"),)
    assert found(*([line] * (MAX_HEADER // len(line) + 1)), field, b"\r\n") is None
    assert found(line * (MAX_HEADER // len(line) + 1) + field + b"\r\n") is None


def test_a_long_body_is_not_looked_at() -> None:
    fields = HeaderFields(("subject",))
    fields.feed(b"Subject: x\r\n\r\n")
    for _ in range(3):
        fields.feed(b"Subject: y\r\n" * MAX_HEADER)
    assert fields.found() == (("subject", "x"),)


lines = st.lists(
    st.one_of(
        st.sampled_from([b"Subject: a", b"X-Spam : =?utf-8?b?eWVz?=", b" folded", b"\tSubject: b", b"", b"To: c"]),
        st.sampled_from([b"Subject: =?utf-8?b?!!!?=", b"Subject: =?a?q?=?a?q?", b"X-Spam: =?utf-16?b?AA==?="]),
        st.binary(max_size=20).filter(lambda octets: b"\n" not in octets and b"\r" not in octets),
    ),
    max_size=10,
)  # fmt: skip


@given(lines=lines, data=st.data())
def test_pieces_change_nothing(lines: list[bytes], data: st.DataObject) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert found(*pieces) == found(content)


@given(value=st.text(st.sampled_from("=?utf-8bqQB_ \t*XA+é"), max_size=600))
def test_no_value_is_too_much(value: str) -> None:
    shown = found(f"Subject: {value}\r\n\r\n".encode())
    assert shown is not None
    assert shown[0] == ("subject", value.strip(" \t"))
