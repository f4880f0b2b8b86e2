"""8-bit messages made into 7-bit ones: every part decodes to what it was, or there is no conversion."""

from __future__ import annotations

from base64 import b64decode
from email import message_from_bytes
from email.message import Message
from zlib import crc32

import pytest
from hypothesis import given, settings, strategies as st

from deliver.smtp.dot import MAX_LINE, MessageText
from deliver.smtp.downgrade import MAX_DEPTH, MAX_HEADER, MAX_PARTS, Unconvertible, has_ascii_headers, to_7bit

QUICK = settings(max_examples=150, deadline=None, derandomize=True)
UMLAUTS = "Viele Grüße aus Köln, auch von den anderen\r\n".encode()


def mime(kind: str, body: bytes, *fields: str, version: bool = True) -> bytes:
    lines = [*(["MIME-Version: 1.0"] if version else []), f"Content-Type: {kind}", *fields]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def multipart(
    kind: str, *parts: bytes, boundary: str = "b", preamble: bytes = b"", epilogue: bytes = b""
) -> bytes:
    mark = f"--{boundary}".encode()
    body = (
        preamble + b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n" + epilogue
    )
    return mime(f'multipart/{kind}; boundary="{boundary}"', body, "Content-Transfer-Encoding: 8bit")


def leaves(message: Message) -> list[tuple[str, bytes]]:
    """Type and decoded octets of everything that is not a container."""
    return [
        (part.get_content_type(), part.get_payload(decode=True))  # type: ignore[misc]
        for part in message.walk()
        if not part.is_multipart()
    ]


def check_lossless(content: bytes) -> bytes:
    converted = to_7bit(content)
    assert converted.isascii()
    before, after = message_from_bytes(content), message_from_bytes(converted)
    assert leaves(after) == leaves(before)
    text = MessageText()  # what every server has to take
    assert text.feed(converted) + text.finish() in (converted, converted + b"\r\n")
    assert not text.eight_bit
    for part in after.walk():
        declared = (part.get("Content-Transfer-Encoding") or "7bit").lower()
        if part.is_multipart() and part.get_content_type() != "multipart/signed":
            assert declared not in ("quoted-printable", "base64")
    return converted


def test_text_becomes_quoted_printable() -> None:
    content = b"From: a@b.test\r\n" + mime(
        "text/plain; charset=utf-8",
        UMLAUTS + b"plain line\r\n.dot\r\nspace \r\n=\r\n",
        "Content-Transfer-Encoding: 8bit",
    )
    converted = check_lossless(content)
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in converted
    assert b"Viele Gr=C3=BC=C3=9Fe aus K=C3=B6ln, auch von den anderen\r\nplain line\r\n" in converted
    assert b"charset=utf-8" in converted


def test_text_that_is_mostly_8_bit_becomes_base64() -> None:
    converted = check_lossless(mime("text/plain; charset=koi8-r", "Привет, мир\r\n".encode("koi8-r") * 20))
    assert b"Content-Transfer-Encoding: base64\r\n" in converted


def test_other_leaves_become_base64_and_ascii_parts_stay_octet_by_octet() -> None:
    ascii_part = mime("text/html", b"<p>  odd   spacing </p>\t\r\n", version=False)
    binary = mime(
        "application/octet-stream",
        b"\xff\xfe line\r\n\x80",
        "Content-Transfer-Encoding: binary",
        version=False,
    )
    content = multipart("mixed", ascii_part, binary, mime("text/plain", UMLAUTS, version=False))
    converted = check_lossless(content)
    assert ascii_part in converted
    assert converted.count(b"Content-Transfer-Encoding: base64") == 1
    assert b"Content-Transfer-Encoding: 7bit\r\n\r\n--b" in converted


def test_an_internationalised_message_inside_may_be_encoded_as_a_whole() -> None:
    inner = "Subject: Grüße\r\n\r\n".encode() + UMLAUTS
    converted = to_7bit(mime("message/global", inner))
    header, _, body = converted.partition(b"\r\n\r\n")
    assert b"Content-Transfer-Encoding: base64" in header  # RFC 6532 3.7
    assert b64decode(body) == inner


def test_multiparts_and_messages_inside_each_other() -> None:
    inner = b"Subject: inner\r\n" + multipart(
        "alternative", mime("text/plain", UMLAUTS, version=False), boundary="bb"
    )
    forwarded = mime("message/rfc822", inner, "Content-Transfer-Encoding: 8bit", version=False)
    digest = multipart("digest", b"\r\nSubject: d\r\n\r\n" + UMLAUTS, boundary="dig")
    content = b"Subject: outer\r\n" + multipart(
        "mixed", forwarded, digest, preamble=b"not MIME\r\n", epilogue=b"end\r\n"
    )
    converted = check_lossless(content)
    assert b"Subject: inner\r\n" in converted
    assert converted.startswith(b"Subject: outer\r\n")
    assert b"not MIME\r\n--b\r\n" in converted
    assert converted.endswith(b"--b--\r\nend\r\n")
    assert b"message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n" in converted


def test_a_message_without_mime_says_that_nobody_knows_its_characters() -> None:
    converted = to_7bit(b"From: a@b.test\r\nSubject: x\r\n\r\n" + UMLAUTS)
    message = message_from_bytes(converted)
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_charset() == "unknown-8bit"
    assert message.get_payload(decode=True) == UMLAUTS


def test_a_folded_encoding_field_is_replaced_where_it_stands() -> None:
    content = b"A: 1\r\nContent-transfer-ENCODING:\r\n 8bit\r\nMIME-Version: 1.0\r\nB: 2\r\n\r\n" + UMLAUTS
    converted = to_7bit(content)
    assert converted.startswith(
        b"A: 1\r\nContent-Transfer-Encoding: quoted-printable\r\nMIME-Version: 1.0\r\nB: 2\r\n\r\n"
    )


def test_ascii_is_left_alone() -> None:
    content = b"DKIM-Signature: v=1\r\n\r\nplain\r\n"
    assert to_7bit(content) is content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"DKIM-Signature: v=1;\r\n a=rsa\r\nSubject: x\r\n\r\n" + UMLAUTS, "signature"),
        (b"dkim-SIGNATURE : v=1\r\n\r\n" + UMLAUTS, "signature"),
        (b"ARC-Seal: i=1\r\n\r\n" + UMLAUTS, "signature"),
        (multipart("signed", mime("text/plain", UMLAUTS), b"\r\nsig"), "signature"),
        (multipart("mixed", multipart("signed", mime("text/plain", UMLAUTS), boundary="in")), "signature"),
        (mime("message/rfc822", b"DKIM-Signature: v=1\r\n\r\n" + UMLAUTS), "signature"),
        (mime("text/plain", b"\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n" + UMLAUTS), "signature"),
        ("Subject: Grüße\r\n\r\n".encode() + UMLAUTS, "header"),
        (multipart("mixed", "Content-Type: text/plain; name=ü\r\n\r\n".encode() + UMLAUTS), "header"),
        (multipart("mixed", b"\r\nx", preamble=UMLAUTS), "between"),
        (multipart("mixed", b"\r\nx", epilogue=UMLAUTS), "between"),
        (mime("multipart/mixed; boundary=none", UMLAUTS), "never comes"),
        (mime("multipart/mixed", UMLAUTS), "without a boundary"),
        (mime("text/plain", UMLAUTS, "Content-Transfer-Encoding: base64"), "encoding"),
        (mime("text/plain", UMLAUTS, "Content-Transfer-Encoding: x-uuencode"), "encoding"),
        (mime("text/plain", UMLAUTS, "Content-Transfer-Encoding: 8bit", "Content-Transfer-Encoding: 7bit"), "twice"),
        (mime("text/plain", UMLAUTS, "Content-Type: text/html"), "twice"),
        (mime("message/partial; id=x; number=1", UMLAUTS), "message/partial"),
        (b"Subject: x\r\n\r\n" + UMLAUTS + b"bare\nline\r\n", "CRLF"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_without_loss_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(Unconvertible, match=why):
        to_7bit(content)


def nested(depth: int) -> bytes:
    content = b"Subject: x\r\n\r\n" + UMLAUTS
    for _ in range(depth):
        content = mime("message/rfc822", content)
    return content


def test_nesting_is_bounded() -> None:
    check_lossless(nested(MAX_DEPTH - 1))
    with pytest.raises(Unconvertible, match="deep"):
        to_7bit(nested(5 * MAX_DEPTH))
    assert not has_ascii_headers(nested(5 * MAX_DEPTH))


def test_what_is_looked_into_is_bounded() -> None:
    header = b"X: y\r\n" * (MAX_HEADER // 6 + 1)
    with pytest.raises(Unconvertible, match="too long"):
        to_7bit(header + b"\r\n" + UMLAUTS)
    assert not has_ascii_headers(header + b"\r\n" + UMLAUTS)
    with pytest.raises(Unconvertible, match="too many"):
        to_7bit(mime("multipart/mixed; boundary=b", b"--b\r\n\r\n\xff\r\n" * (MAX_PARTS + 2)))


def test_headers_of_parts_count_too() -> None:
    assert has_ascii_headers(b"Subject: x\r\n\r\n" + UMLAUTS)
    assert not has_ascii_headers("Subject: ü\r\n\r\nx\r\n".encode())
    assert has_ascii_headers(multipart("mixed", mime("text/plain", UMLAUTS)))
    assert not has_ascii_headers(multipart("mixed", "Content-Type: text/plain; name=ü\r\n\r\nx".encode()))
    assert not has_ascii_headers(mime("message/rfc822", "Subject: ü\r\n\r\nx\r\n".encode()))
    assert not has_ascii_headers(mime("multipart/mixed", UMLAUTS))  # unsure


text = st.lists(st.one_of(st.sampled_from([b"", b".", b"=", b"a b \t", b"-- ", b"From x", UMLAUTS[:-2]]),
                          st.binary(max_size=120).map(lambda b: b.translate(None, b"\r\n\0"))), max_size=6).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)  # fmt: skip
leaf = st.builds(
    lambda kind, body, encoding: mime(
        kind, body, *([f"Content-Transfer-Encoding: {encoding}"] if encoding else [])
    ),
    st.sampled_from(["text/plain", "text/html; charset=utf-8", "image/png", "application/pdf"]),
    text,
    st.sampled_from(["", "8bit", "BINARY", "7bit"]),
)
tree = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: multipart("mixed", *parts, boundary=f"b{crc32(b''.join(parts))}-{len(parts[0])}")
        ),
        inner.map(lambda part: mime("message/rfc822", part)),
    ),
    max_leaves=5,
)


@QUICK
@given(tree)
def test_any_tree_survives(content: bytes) -> None:
    check_lossless(content)


@QUICK
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n"]),
)
def test_garbage_is_converted_or_refused(octets: bytes, header: bytes) -> None:
    content = header + octets
    has_ascii_headers(content)
    try:
        converted = to_7bit(content)
    except Unconvertible:
        return
    assert converted.isascii()


@QUICK
@given(
    st.lists(
        st.sampled_from(
            [b"--x", b"--x--", b"--xy", b"", b"\xc3\xbc", b"Content-Type: text/plain", b"--x \t"]
        ),
        max_size=12,
    )
)
def test_boundaries_wherever_they_are(lines: list[bytes]) -> None:
    content = mime("multipart/mixed; boundary=x", b"".join(line + b"\r\n" for line in lines))
    try:
        converted = to_7bit(content)
    except Unconvertible:
        return
    assert leaves(message_from_bytes(converted)) == leaves(message_from_bytes(content))


def test_long_lines_become_short_ones() -> None:
    converted = to_7bit(mime("text/plain", b"\xe4" + b"x" * (MAX_LINE - 1) + b"\r\n"))
    assert max(map(len, converted.split(b"\r\n"))) <= 76
