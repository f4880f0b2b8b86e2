"""The ways that most mail takes through the server give the same as the general ways beside them."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import example, given, settings, strategies as st

from deliver.relay.received import HopCounter
from deliver.smtp.action import MailRequest
from deliver.smtp.inspection import MAX_LINE, Defect, Inspection
from deliver.smtp.offer import Offer
from deliver.smtp.request import parse_any_mail, parse_any_rcpt, parse_mail, parse_rcpt

LOCAL_PARTS = st.sampled_from(
    ["a", "a.b", "A+b=c", ".a", "a.", "a..b", '"a b"', "postmaster", "", "x" * 256, "x" * 257, "ü", "ſ"]
)
DOMAINS = st.sampled_from(
    [
        "example.org",
        "EXAMPLE.org.",
        "a_b.test",
        "-a.test",
        "a-.test",
        "a..b",
        ".",
        "",
        "[192.0.2.1]",
        "münchen.de",
    ]
) | st.text("aZ0.-_", max_size=8)
PATHS = st.one_of(
    st.builds("<{}@{}>".format, LOCAL_PARTS, DOMAINS),
    st.sampled_from(
        ["<>", "<postmaster>", "<@r.test:a@example.org>", "a@example.org", "<a@b.test", "<a@b@c.test>"]
    ),
    st.text('<>@aZ." \\', max_size=10),
)
SPACES = st.sampled_from(["", " ", "  "])
MAIL_PARAMETERS = st.lists(
    st.sampled_from(
        ["SIZE=1", "size=5000", "SIZE=0", "SIZE=", "SIZE=9999999999999999999999", "BODY=8BITMIME", "body=7bit",
         "BODY=BINARYMIME", "ſIZE=1", "SMTPUTF8", "RET=HDRS", "X=1", "SIZE=١",
         "REQUIRETLS", "requiretls", "REQUIRETLS=1"]
    ), max_size=3,
)  # fmt: skip
RCPT_PARAMETERS = st.lists(st.sampled_from(["NOTIFY=NEVER", "ORCPT=rfc822;a@b", "X", "SIZE=1"]), max_size=2)


def argument(keyword: str, spaces: str, path: str, parameters: list[str]) -> str:
    return " ".join([f"{keyword}{spaces}{path}", *parameters])


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    st.builds(argument, st.sampled_from(["FROM:", "from:", "FROM", "TO:"]), SPACES, PATHS, MAIL_PARAMETERS),
    st.builds(Offer, starttls=st.booleans(), requiretls=st.booleans()),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 4000]),
)
@example("FROM:<a@example.org> SIZE=4000 BODY=8BITMIME", Offer(), True, False, 4000)
@example("FROM:<a@example.org> SIZE=4001", Offer(), True, False, 4000)
@example("FROM:<a@example.org> SIZE=1", Offer(), False, False, 0)
@example("FROM:<a@example.org> SIZE=1 BODY=7BIT REQUIRETLS", Offer(), True, True, 0)
@example("FROM:<a@example.org> requiretls SIZE=1", Offer(), True, True, 0)
def test_mail_reads_the_same_the_short_way(
    text: str, offer: Offer, extended: bool, secured: bool, max_size: int
) -> None:
    read = parse_mail(text, offer, extended=extended, secured=secured, max_size=max_size)
    assert read == parse_any_mail(text, offer, extended=extended, secured=secured, max_size=max_size)
    asked = "REQUIRETLS" in text.upper().split(" ")
    if isinstance(read, MailRequest):
        assert read.requires_tls == asked
        assert not asked or (offer.requiretls and extended and secured)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    st.builds(argument, st.sampled_from(["TO:", "to:", "FROM:"]), SPACES, PATHS, RCPT_PARAMETERS),
    st.booleans(),
    st.booleans(),
)
@example("TO:<a@example.org>", True, False)
def test_rcpt_reads_the_same_the_short_way(text: str, extended: bool, utf8: bool) -> None:
    read = parse_rcpt(text, Offer(), extended=extended, utf8=utf8, hostname="relay.test")
    assert read == parse_any_rcpt(text, Offer(), extended=extended, utf8=utf8, hostname="relay.test")


def in_pieces(content: bytes, places: list[int]) -> list[bytes]:
    """Cut at the places, but never in the middle of a CRLF."""
    pieces, start = [], 0
    for place in sorted(place % (len(content) + 1) for place in places):
        if content[place - 1 : place + 1] != b"\r\n":
            pieces.append(content[start:place])
            start = place
    return [*pieces, content[start:]]


LINES = st.lists(
    st.sampled_from([0, 1, 3, 70, 500, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE + 5]), max_size=8
)
PLACES = st.lists(st.integers(0, 10_000), max_size=6)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(LINES, PLACES, st.booleans())
@example([MAX_LINE], [MAX_LINE], True)
@example([MAX_LINE + 1], [MAX_LINE], True)
def test_a_long_line_is_found_however_it_is_cut(lengths: list[int], places: list[int], ended: bool) -> None:
    content = b"\r\n".join(b"x" * length for length in lengths) + (b"\r\n" if ended else b"")
    inspection = Inspection(0)
    for piece in in_pieces(content, places):
        inspection.look_at(piece)
    lines = content.split(b"\r\n")
    assert inspection.defect == (Defect.LONG_LINE if max(map(len, lines)) > MAX_LINE else None)
    assert inspection.line_open == bool(lines[-1])


FIELDS = st.lists(
    st.sampled_from(
        [b"Received: x", b"received \t:", b"Subject: Received: y", b" Received: folded", b"RECEIVED:", b"",
         b"Received-SPF: no", b"Received", b"x" * 100 + b"Received: z"]
    ), max_size=8,
)  # fmt: skip


@settings(max_examples=300, derandomize=True, deadline=None)
@given(FIELDS, PLACES)
@example([b"", b"Received: behind the header section"], [])
def test_hops_are_counted_the_same_in_one_piece_and_in_many(fields: list[bytes], places: list[int]) -> None:
    content = b"".join(field + b"\r\n" for field in fields) + b"\r\nReceived: in the body\r\n"
    header = content.partition(b"\r\n\r\n")[0] if not content.startswith(b"\r\n") else b""
    expected = sum(bool(re.match(rb"received[ \t]*:", line, re.I)) for line in header.split(b"\r\n"))
    counter = HopCounter()
    starts = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    for start, end in pairwise(starts):
        counter.feed(content[start:end])
    assert counter.hops == expected


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"\x85", b"\x0b\x0c\x1c", b"\xe2\x80\xa8"])).map(
        b"".join
    )
)
@example(b"\r")
@example(b"a\r\n\r")
def test_bare_line_ends_are_those_outside_of_pairs(content: bytes) -> None:
    inspection = Inspection(0)
    inspection.look_at(content)
    rest = content.replace(b"\r\n", b"")
    assert (inspection.defect is Defect.BARE) == (b"\r" in rest or b"\n" in rest)
