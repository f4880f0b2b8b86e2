"""The sendmail command line as programs write it."""

from __future__ import annotations

import pytest

from deliver.submission.options import BadOption, Options, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a@b.test c@d.test", Options(recipients=("a@b.test", "c@d.test"))),
        ("-t -i", Options(from_header=True, ignore_dots=True)),
        ("-ti", Options(from_header=True, ignore_dots=True)),
        ("-t -oi -oem -fme@b.test", Options(from_header=True, ignore_dots=True, sender="me@b.test")),
        ("-f me@b.test a@b.test", Options(sender="me@b.test", recipients=("a@b.test",))),
        ("-r me@b.test a@b.test", Options(sender="me@b.test", recipients=("a@b.test",))),
        ("-f <> a@b.test", Options(sender="", recipients=("a@b.test",))),
        ("-f <me@b.test> a@b.test", Options(sender="me@b.test", recipients=("a@b.test",))),
        ("-FName a@b.test", Options(full_name="Name", recipients=("a@b.test",))),
        ("-bs", Options(mode="smtp")),
        ("-bm a@b.test", Options(recipients=("a@b.test",))),
        ("-bp", Options(mode="queue")),
        ("-bi", Options(mode="aliases")),
        ("-N success,failure -R hdrs -V id a@b.test",
         Options(notify="SUCCESS,FAILURE", ret="HDRS", envid="id", recipients=("a@b.test",))),
        ("-O DeliveryMode=b -oQ/tmp -odb -oee -ep -v -n -U -m -B8BITMIME -h 5 -L tag -X log -C cf -G a@b.test",
         Options(recipients=("a@b.test",))),
        ("-oi -- -a@b.test", Options(ignore_dots=True, recipients=("-a@b.test",))),
        ("-i -f me@b.test -- a@b.test -f", Options(ignore_dots=True, sender="me@b.test", recipients=("a@b.test", "-f"))),
    ],
)  # fmt: skip
def test_what_is_asked_for(line: str, expected: Options) -> None:
    assert parse(line.split()) == expected


def test_an_empty_word_is_the_null_sender() -> None:
    assert parse(["-f", "", "a@b.test"]).sender == ""


@pytest.mark.parametrize(
    "words",
    [["-f"], ["-k"], ["--strange"], ["-bd"], ["-bx"], ["-b"], ["-q"], ["-q15m"], ["-N", "sometimes"], ["-N", "never,delay"],
     ["-R", "body"], ["-F", "two\nlines"], ["-f", "me@b.test>\r\nRCPT TO:<x@y.test"]],
)  # fmt: skip
def test_what_cannot_be_obeyed(words: list[str]) -> None:
    with pytest.raises(BadOption):
        parse(words)
