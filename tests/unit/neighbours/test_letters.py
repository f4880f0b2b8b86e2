"""Frames between workers: what is written can be read, in any pieces; anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.neighbours.letters import MAX_FRAME, BadFrame, Fate, Frames, Letter, Receipt, encoded
from deliver.relay.intake import Origin

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
MAILBOXES = st.builds(Mailbox, TEXT, TEXT)
ORIGINALS = st.builds(OriginalRecipient, st.just("rfc822"), st.from_regex(r"\A[a-z]{1,9}@[a-z]{1,9}\Z"))
RECIPIENTS = st.builds(
    Recipient,
    st.integers(0, 1000),
    MAILBOXES,
    st.none() | st.frozensets(st.sampled_from(Notify)),
    st.none() | ORIGINALS,
)
ENVELOPES = st.builds(
    Envelope,
    TEXT.map(MessageId),
    st.none() | MAILBOXES,
    st.lists(RECIPIENTS, max_size=3).map(tuple),
    st.integers(0, 1 << 40),
    st.booleans(),
    st.floats(0, 4e9),
    st.booleans(),
    st.none() | st.sampled_from(Ret),
    st.none() | TEXT,
    st.none() | TEXT,
    st.booleans(),
)
ORIGINS = st.builds(Origin, TEXT.map(MessageId), TEXT, TEXT, TEXT, st.floats(0, 4e9), TEXT, TEXT)
LETTERS = st.builds(
    Letter,
    st.integers(0, 1 << 60),
    st.floats(0, 4e9),
    ENVELOPES,
    ORIGINS,
    st.binary(max_size=99),
    st.booleans(),
)
RECEIPTS = st.builds(Receipt, st.integers(0, 1 << 60), st.sampled_from(Fate), TEXT)


def read(frames: Frames[Letter] | Frames[Receipt], octets: bytes, at_a_time: int) -> list[Letter | Receipt]:
    found: list[Letter | Receipt] = []
    for start in range(0, len(octets), at_a_time):
        found += frames.feed(octets[start : start + at_a_time])
    return found


@given(st.lists(LETTERS, max_size=3), st.integers(1, 200))
def test_letters_arrive_as_they_were_written(letters: list[Letter], at_a_time: int) -> None:
    assert read(Frames(Letter), b"".join(map(encoded, letters)), at_a_time) == letters


@given(st.lists(RECEIPTS, max_size=3), st.integers(1, 50))
def test_receipts_arrive_as_they_were_written(receipts: list[Receipt], at_a_time: int) -> None:
    assert read(Frames(Receipt), b"".join(map(encoded, receipts)), at_a_time) == receipts


@given(st.binary(max_size=300), st.sampled_from([Letter, Receipt]))
def test_octets_are_frames_or_refused(octets: bytes, kind: type[Letter] | type[Receipt]) -> None:
    framed = len(octets).to_bytes(4, "big") + octets
    for said in (octets, framed):
        try:
            found = list(Frames(kind).feed(said))
        except BadFrame:
            continue
        assert all(isinstance(each, kind) for each in found)


def test_nobody_has_to_keep_a_frame_that_is_too_large() -> None:
    with pytest.raises(BadFrame, match="1048577 octets"):
        list(Frames(Letter).feed((MAX_FRAME + 1).to_bytes(4, "big")))


def test_an_original_recipient_that_cannot_be_is_refused() -> None:
    said = encoded(Receipt(1, Fate.TAKEN)).replace(b"taken", b"token")
    with pytest.raises(BadFrame):
        list(Frames(Receipt).feed(said))
