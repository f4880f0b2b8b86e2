"""Notes within the limits enter the hints as they are, all others cut and cleaned."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hints.check import MAX_HOST, MAX_KEYWORD, MAX_KEYWORDS, accept, clean
from hints.records import EhloAnswer, EhloPhase

LINE = st.one_of(
    st.sampled_from(["SIZE 10", "STARTTLS", "", "x" * MAX_KEYWORD, "x" * (MAX_KEYWORD + 1), "a\x1bb", "é"]),
    st.text(max_size=8),
)


@given(st.lists(LINE, max_size=MAX_KEYWORDS + 2), st.one_of(LINE, st.just("h" * (MAX_HOST + 1))))
def test_an_answer_to_ehlo(lines: list[str], name: str) -> None:
    note = EhloAnswer("192.0.2.1", 25, EhloPhase.CLEAR, name, tuple(lines))
    kept = accept(note)
    assert isinstance(kept, EhloAnswer)
    assert kept.keywords == tuple(clean(line, MAX_KEYWORD) for line in lines[:MAX_KEYWORDS])
    assert kept.greeted_as == clean(name, MAX_HOST)
