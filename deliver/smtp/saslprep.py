"""SASLprep (RFC 4013): names and passwords in the one form in which a server compares them."""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable

_FORBIDDEN: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,  # unassigned in Unicode 3.2: this is a stored string, not a query
)


def saslprep(text: str) -> str:
    """The prepared text (RFC 4013 2). Raises ValueError, its text a phrase that does not show the text."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for char in prepared:
        if any(forbidden(char) for forbidden in _FORBIDDEN):
            raise ValueError("it has a character that SASLprep does not allow")
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    if any(right_to_left) and not (
        right_to_left[0] and right_to_left[-1] and not any(map(stringprep.in_table_d2, prepared))
    ):
        raise ValueError("it mixes directions of writing")  # RFC 3454 6
    return prepared
