"""Responses without any server: what is asked, what is bounded, and any octets at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from deliver.sts.fetch import MAX_HEAD, READ, Response
from deliver.sts.source import MAX_BODY, MAX_WHY, NotFetched
from tests.unit.sts.policyhost import CHUNKED, GOOD, HOST, POLICY, head, well_put


def test_at_the_port_of_https_the_host_stands_alone() -> None:
    response = Response(HOST)
    assert b"\r\nHost: mta-sts.example.org\r\n" in response.request
    assert response.url == "https://mta-sts.example.org/.well-known/mta-sts.txt"


@pytest.mark.parametrize("digits", [30, 5000])
def test_a_length_that_no_machine_counts(digits: int) -> None:
    with pytest.raises(NotFetched, match=r"did not answer in proper HTTP/1\.1|more than the 65536"):
        Response(HOST).feed(head(f"Content-Length: {'9' * digits}"))


def test_the_head_is_bounded_as_it_comes() -> None:
    response = Response(HOST)
    beginning = b"HTTP/1.1 200 OK\r\nX: "
    for _ in range(MAX_HEAD // READ):
        assert response.feed(beginning.ljust(READ, b"x")) is None
        beginning = b""
    with pytest.raises(NotFetched, match="Receive buffer too long"):
        response.feed(b"x" * READ)


def test_what_peers_say_is_bounded_and_printable() -> None:
    with pytest.raises(NotFetched) as refused:
        Response(HOST).feed(b"HTTP/1.1 200 OK\r\nContent-Type: a\xff\xc2\x85" + b"x" * 9000 + b"\r\n\r\n")
    assert "a\\xff\\x85xxx" in well_put(refused.value)
    assert well_put(NotFetched("line\r\nline\x1b[31m\udc80 " + "é\0" * MAX_WHY)).startswith(
        r"line\r\nline\x1b[31m\udc80 é\x00é"
    )


# --- any octets


def outcome(octets: bytes, cuts: Sequence[int]) -> bytes | str:
    """What a response that comes in pieces leads to."""
    response, begin = Response(HOST), 0
    try:
        for end in (*sorted(cut for cut in cuts if 0 < cut < len(octets)), len(octets)):
            piece, begin = octets[begin:end], end
            if piece and (text := response.feed(piece)) is not None:
                return text
        text = response.feed(b"")
    except NotFetched as refused:
        return well_put(refused)
    assert text is not None, "neither complete nor refused at the end"
    return text


PIECES = st.one_of(
    st.sampled_from(
        [
            *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 101 x\r\n"),
            *(b"HTTP/1.1 304 x\r\n", b"Content-Type: text/plain\r\n", b"Content-Type: ;\r\n"),
            *(
                b"Content-Length: 3\r\n",
                b"Content-Length: -1\r\n",
                b"Content-Length: 99999999999999999999\r\n",
            ),
            *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n", b"Content-Encoding: \r\n"),
            *(b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b" folded\r\n", b"\r\n", b"\n", b"\r", b"\0"),
            *(b"3\r\n", b"abc", b"0\r\n", b"FFFFFFFFFFFFFFFFFFFF\r\n", b"3;x=y\r\n", b"x" * 5000),
        ]
    ),
    st.binary(max_size=8),
)
CUTS = st.lists(st.integers(0, 400), max_size=8)


@given(st.one_of(st.binary(), st.lists(PIECES, max_size=24).map(b"".join)), CUTS)
def test_any_octets_are_a_text_or_refused(octets: bytes, cuts: list[int]) -> None:
    found = outcome(octets, cuts)
    assert isinstance(found, str) or len(found) <= MAX_BODY


@given(st.lists(PIECES, max_size=16).map(b"".join), CUTS)
def test_any_octets_behind_a_good_head(octets: bytes, cuts: list[int]) -> None:
    found = outcome(head() + octets, cuts)
    assert found == octets or (len(octets) > MAX_BODY and isinstance(found, str))
    outcome(head(CHUNKED) + octets, cuts)


@given(st.sampled_from(list(GOOD.values())), CUTS)
def test_where_a_response_is_cut_into_pieces_does_not_matter(octets: bytes, cuts: list[int]) -> None:
    assert outcome(octets, cuts) == POLICY
