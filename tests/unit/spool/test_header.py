"""What a -H file says, line by line, and what is refused."""

from __future__ import annotations

import pytest

from deliver.spool.header import Malformed, SpoolRecipient, parse, parse_recipient
from tests.unit.spool.pairs import FIELDS, NEW_ID, OLD_ID, header_file


@pytest.mark.parametrize("spool_id", [OLD_ID, NEW_ID])
def test_both_forms_of_the_id(spool_id: str) -> None:
    assert parse(header_file(spool_id)).id == spool_id


def test_the_envelope_and_the_header() -> None:
    found = parse(
        header_file(
            sender="", recipients=("a@plain.test", "b@plain.test"), fields=(*FIELDS, ("*", "X: old\n"))
        )
    )
    assert (found.login, found.uid, found.gid) == ("Debian-exim", 110, 118)
    assert (found.sender, found.received_at, found.warnings) == ("", 1763704800, 0)
    assert [one.address for one in found.recipients] == ["a@plain.test", "b@plain.test"]
    assert found.header == "".join(text for _, text in FIELDS).encode()


def test_variables_are_read_tainted_or_not_and_unknown_ones_are_kept_by_name() -> None:
    found = parse(
        header_file(
            variables=(
                "--helo_name client.test",
                "-host_address [192.0.2.1]:4711",
                "--(mysql)auth_id someone",
                "-body_linecount 3",
                "-spool_file_wireformat",
                "-N",
                "--invented_later with a value",
                "-another",
            )
        )
    )
    assert found.variables == {
        "helo_name": "client.test",
        "host_address": "[192.0.2.1]:4711",
        "auth_id": "someone",
        "body_linecount": "3",
        "spool_file_wireformat": "",
        "N": "",
    }
    assert found.unknown == ("invented_later", "another")
    assert found.wire_format
    assert found.body_lines is None


def test_acl_variables_may_hold_line_ends_and_lines_that_look_like_variables() -> None:
    found = parse(
        header_file(
            variables=("--aclm _mine 14", "one\n-N\n\n3 more", "-aclc 0 0", "", "-acl 12 2", "ab", "-local")
        )
    )
    assert found.acl == {"m_mine": b"one\n-N\n\n3 more", "c0": b"", "m2": b"ab"}
    assert "N" not in found.variables
    assert "local" in found.variables


def test_non_recipients_are_not_waiting() -> None:
    tree = "YY m@plain.test\nNN a@plain.test\nNY x@plain.test\nNN z@plain.test\n"
    found = parse(
        header_file(tree=tree, recipients=("a@plain.test", "b@plain.test", "b@plain.test", "z@plain.test"))
    )
    assert found.non_recipients == {"m@plain.test", "a@plain.test", "x@plain.test", "z@plain.test"}
    assert [one.address for one in found.waiting] == ["b@plain.test"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a@b.test", SpoolRecipient("a@b.test")),
        ('"a b"@b.test', SpoolRecipient('"a b"@b.test')),
        ("a@b.test -1", SpoolRecipient("a@b.test")),
        ("a@b.test 0,0,0", SpoolRecipient("a@b.test")),
        ("a@b.test owner@b.test 12,0#1", SpoolRecipient("a@b.test", errors_to="owner@b.test", parent=0)),
        ("a@b.test  0,-1#1", SpoolRecipient("a@b.test")),
        (
            "a@b.test rfc822;x@b.test 15,12  0,-1#3",
            SpoolRecipient("a@b.test", original="rfc822;x@b.test", dsn=12),
        ),
        (
            '"a b"@b.test rfc822;x 8,2 o@b.test 8,4#3',
            SpoolRecipient('"a b"@b.test', original="rfc822;x", dsn=2, errors_to="o@b.test", parent=4),
        ),
        ("ä@b.test", SpoolRecipient("ä@b.test")),
    ],
)
def test_recipient_lines(line: str, expected: SpoolRecipient) -> None:
    assert parse_recipient(line.encode()) == expected


@pytest.mark.parametrize(
    "line",
    [b"a@b.test x 9,0#1", b"a@b.test 0,0#4", b"a@b.test#1", b" 900,-1#1", b"\xff@b.test", b"a  0,-2  0,-1#3"],
)
def test_recipient_lines_that_do_not_fit(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_recipient(line)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "first line"),
        (header_file().replace(OLD_ID.encode(), b"../../etc/passwd", 1), "no message id"),
        (header_file().replace(b"<me@sender.test>", b"me@sender.test"), "angle brackets"),
        (header_file().replace(b"1763704800 0", b"soon"), "time"),
        (header_file(tree="NY a@b.test\n"), "non-recipients"),
        (header_file(tree="what\n"), "non-recipients"),
        (header_file().replace(b"\n1\na@plain", b"\n99999\na@plain"), "number of recipients"),
        (header_file().replace(b"\n1\na@plain", b"\n2\na@plain"), "empty line"),
        (header_file(fields=(("F", "From: a@b.test\n\nthe body begins\n"),)), "not one field"),
        (header_file(fields=(("F", "no field at all\n"),)), "not one field"),
        (header_file(fields=(("F", "From: a@b.test\nTo: c@d.test\n"),)), "not one field"),
        (header_file() + b"\0" * 512, "length and type"),
        (header_file(variables=("-aclm broken",)), "ACL variable"),
        (header_file(variables=("-aclm 1 999999", "x")), "ACL variable"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_as_a_whole(content: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse(content)


def test_every_beginning_of_a_file_up_to_its_last_field_is_refused_or_has_whole_fields() -> None:
    content = header_file(variables=("-aclm 1 3", "a\nb", "-local"), recipients=("a@b.test  0,4  0,-1#3",))
    complete = parse(content)
    ends = {content.index(b"\n\n") + 2}
    ends.add(content.index(b"017  Subject"))
    for length in range(len(content)):
        if length in ends:
            assert complete.header.startswith(parse(content[:length]).header)
        else:
            with pytest.raises(Malformed):
                parse(content[:length])
