"""The frames of a hand-over: whatever the other side sends is a frame, a wait, or BadFrame."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.handover import frames
from deliver.handover.frames import (
    ANSWER,
    CONTENT,
    END,
    GO,
    MAX_OFFER,
    MAX_PIECE,
    NO,
    OFFER,
    VERSION,
    BadFrame,
    FrameReader,
    Offer,
)

text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


@given(
    text,
    text,
    st.none() | text,
    text,
    st.booleans(),
    st.lists(text.filter(bool), min_size=1, max_size=5),
    st.booleans(),
)
def test_an_offer_is_read_as_it_was_written(
    digest: str,
    user: str,
    sender: str | None,
    queue_id: str,
    as_json: bool,
    recipients: list[str],
    requires_tls: bool,
) -> None:
    offer = Offer(digest, user, sender, queue_id, as_json, tuple(recipients), requires_tls=requires_tls)
    read = Offer.decode(offer.encode())
    for name in Offer.__slots__:
        assert getattr(read, name) == getattr(offer, name)


@given(st.binary(max_size=300))
def test_any_octets_are_an_offer_or_refused(payload: bytes) -> None:
    try:
        read = Offer.decode(payload)
    except BadFrame:
        return
    assert read.recipients
    assert payload.startswith(VERSION.encode())


@given(
    st.lists(st.tuples(st.sampled_from([CONTENT, END, GO, NO]), st.binary(max_size=40))), st.integers(1, 50)
)
def test_frames_survive_any_portions(sent: list[tuple[int, bytes]], size: int) -> None:
    sent = [(kind, payload if frames.LIMITS[kind] else b"") for kind, payload in sent]
    octets = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    reader = FrameReader(CONTENT, END, GO, NO)
    read = []
    for start in range(0, len(octets), size):
        reader.feed(octets[start : start + size])
        while (frame := reader.next_frame()) is not None:
            read.append(frame)
    assert read == sent


@given(st.binary(max_size=200))
def test_any_octets_are_frames_or_refused(octets: bytes) -> None:
    reader = FrameReader(CONTENT, END)
    reader.feed(octets)
    try:
        while (frame := reader.next_frame()) is not None:
            assert frame[0] in (CONTENT, END)
    except BadFrame:
        pass


@pytest.mark.parametrize(
    ("kind", "length"), [(CONTENT, MAX_PIECE + 1), (END, 1), (OFFER, MAX_OFFER + 1), (CONTENT, 0xFFFF_FFFF)]
)
def test_a_length_beyond_the_limit_is_refused_before_it_is_read(kind: int, length: int) -> None:
    reader = FrameReader(CONTENT, END, OFFER)
    reader.feed(bytes((kind,)) + length.to_bytes(4, "big"))
    with pytest.raises(BadFrame, match=str(length)):
        reader.next_frame()


@pytest.mark.parametrize(
    "offer",
    [
        Offer("d", "u", "a\0b", "", False, ("x@y",)),
        Offer("d", "u", None, "", False, ("x\ud800@y",)),
        Offer("d", "u", None, "", False, ("x@y",) * MAX_OFFER),
    ],
)
def test_what_cannot_be_offered_is_said(offer: Offer) -> None:
    with pytest.raises(BadFrame):
        offer.encode()


def test_another_version_is_refused() -> None:
    payload = Offer("d", "u", None, "", False, ("x@y",)).encode()
    with pytest.raises(BadFrame, match="version '9'"):
        Offer.decode(b"9" + payload[1:])


@pytest.mark.parametrize("recipients", [b"x@y\0", b"x@y\0z@y\0"])
def test_an_offer_from_before_requiretls_is_refused_by_its_version(recipients: bytes) -> None:
    with pytest.raises(BadFrame, match="version '1'"):
        Offer.decode(b"1\0d\0u\0given\0a@b\0\0json\0" + recipients)


def test_an_offer_to_nobody_is_refused() -> None:
    with pytest.raises(BadFrame, match="too few"):
        Offer.decode(Offer("d", "u", None, "", False, (), requires_tls=True).encode())


def test_an_answer_is_read_as_it_was_written() -> None:
    reader = FrameReader(ANSWER)
    reader.feed(frames.answer(69, b"output\n", b"errors\n"))
    frame = reader.next_frame()
    assert frame is not None
    assert frames.parse_answer(frame[1]) == (69, b"output\n", b"errors\n")


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0\0\0\5abc"])
def test_a_broken_answer_is_refused(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        frames.parse_answer(payload)


def test_the_digest_tells_files_and_overrides_apart() -> None:
    made = {
        frames.digest_of(None), frames.digest_of(b""), frames.digest_of(b"none"), frames.digest_of(b"a"),
        frames.digest_of(b"a", ("b",)), frames.digest_of(b"a", ("b", "c")), frames.digest_of(b"a", ("bc",)),
    }  # fmt: skip
    assert len(made) == 7
