"""Address lists and messages against anything."""

from __future__ import annotations

import contextlib
import re

from hypothesis import given, strategies as st

from deliver.submission.addresses import BadAddress, addresses
from deliver.submission.letter import BadMessage, Maker, compose

MAKER = Maker("me@sender.test", "Name", "Sat, 21 Nov 2026 08:00:00 +0000", "<1@sender.test>")
ADDRESS = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,3})?@[a-z]{1,8}\.test", fullmatch=True)
NAME = st.sampled_from(["", "A B ", '"C, <D>" ', "(comment, one) "])
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
JUNK = st.text('ab.@<>,;:()"\\[] \t\n\0é', max_size=40)


@given(JUNK)
def test_any_list_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadAddress):
        for address in addresses(text):
            assert address
            _, at, domain = QUOTED.sub("", address).rpartition("@")
            assert not (at and set(domain) & set("<>,;() \t\n\0"))


@given(st.lists(st.tuples(NAME, ADDRESS), max_size=6))
def test_every_address_of_a_list_is_found(people: list[tuple[str, str]]) -> None:
    text = ", ".join(f"{name}<{address}>" for name, address in people)
    assert addresses(text) == [address for _, address in people]


@given(st.binary(max_size=200))
def test_any_text_becomes_a_message_or_is_refused(text: bytes) -> None:
    try:
        content = compose(text, MAKER, from_header=True).content
    except BadMessage:
        return
    header, separator, _ = content.partition(b"\r\n\r\n")
    assert separator or content.endswith(b"\r\n\r\n") or content.startswith(b"\r\n")
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    for name in (b"date:", b"message-id:", b"from:"):
        assert name in header.lower().replace(b" ", b"").replace(b"\t", b"") or b"resent-" in header.lower()
