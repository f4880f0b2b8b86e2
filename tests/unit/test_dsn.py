"""NOTIFY, ORCPT and xtext: RFC 3461."""

import pytest
from hypothesis import given, strategies as st

from deliver.dsn import Notify, OriginalRecipient, from_xtext, notify_text, parse_notify, xtext
from deliver.errors import UsageError

printable = st.text().filter(str.isprintable)


@given(printable)
def test_xtext_returns_what_went_in_and_holds_nothing_that_ends_a_parameter(text: str) -> None:
    encoded = xtext(text)
    assert encoded.isascii()
    assert not set(encoded) & set(" \r\n=")
    assert from_xtext(encoded) == text


@pytest.mark.parametrize("text", ["a b", "a=b", "+4", "+zz", "+0a", "\r\n", "+0D+0A", "+00"])
def test_what_is_not_xtext_or_hides_controls_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        from_xtext(text)


def test_notify_reads_any_case_and_prints_one_order() -> None:
    assert notify_text(parse_notify("delay,Failure")) == "FAILURE,DELAY"
    assert parse_notify("never") == {Notify.NEVER}


@pytest.mark.parametrize("text", ["", "NEVER,DELAY", "SOMETIMES", "FAILURE,"])
def test_a_wrong_notify_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_notify(text)


@pytest.mark.parametrize(
    ("kind", "address"), [("", "a@b"), ("rfc822", ""), ("rfc;822", "a"), ("rfc822", "a\nb")]
)
def test_an_original_recipient_is_one_line_of_text(kind: str, address: str) -> None:
    with pytest.raises(UsageError):
        OriginalRecipient(kind, address)


@pytest.mark.parametrize("char", ["\U0001fae9", "\u0378"])
def test_an_address_may_have_a_character_that_this_python_does_not_know(char):
    """Otherwise a row written by a newer version cannot be read by an older one."""
    assert OriginalRecipient("utf-8", f"{char}@example.org").address.startswith(char)


@pytest.mark.parametrize(
    "char", ["\0", "\n", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\ufeff", "\ud800"]
)
def test_an_address_has_no_character_that_does_harm(char):
    with pytest.raises(UsageError):
        OriginalRecipient("utf-8", f"a{char}@example.org")
