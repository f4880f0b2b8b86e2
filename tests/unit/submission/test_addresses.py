"""Address lists as they stand in header fields."""

from __future__ import annotations

import pytest

from deliver.submission.addresses import BadAddress, addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b.test", ["a@b.test"]),
        (" a@b.test ,\n\tc@b.test,, ", ["a@b.test", "c@b.test"]),
        ("root", ["root"]),
        ('A B <a@b.test>, "C, D" <c@b.test>', ["a@b.test", "c@b.test"]),
        ("a@b.test (a (nested) comment, with comma), (x) c (y) @ b . test", ["a@b.test", "c@b.test"]),
        ("friends: a@b.test, C <c@b.test>; , d@b.test", ["a@b.test", "c@b.test", "d@b.test"]),
        ("undisclosed-recipients:;", []),
        ("", []),
        ('"odd name"@b.test, "a\\"b,c"@b.test', ['"odd name"@b.test', '"a\\"b,c"@b.test']),
        ("a@[192.0.2.1], <a@[IPv6:2001:db8::1]>", ["a@[192.0.2.1]", "a@[IPv6:2001:db8::1]"]),
        ("<@relay.test,@other.test:a@b.test>", ["a@b.test"]),
        ("J. Doe <j@b.test>", ["j@b.test"]),
        ("jürgen@bücher.test", ["jürgen@bücher.test"]),
    ],
)
def test_lists(text: str, expected: list[str]) -> None:
    assert addresses(text) == expected


@pytest.mark.parametrize(
    "text",
    ["a b@c.test", "a@b.test c@d.test", "<a@b.test", "a@b.test>", "<>", "A <a@b.test> c@d.test", "a@b@c.test", '"open@b.test',
     "(open", "a;", "g: a@b.test", "g: h: a@b.test;;", "a@", "@b.test", "<a@b.test><c@d.test>", "a\0@b.test", "(" * 100 + ")" * 100,
     "a@b.test <c@d.test>"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(BadAddress):
        addresses(f"good@b.test, {text}")
