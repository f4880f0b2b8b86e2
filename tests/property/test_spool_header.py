"""The -H parser against anything: it refuses or understands, and never fails otherwise."""

from __future__ import annotations

import contextlib

from hypothesis import given, strategies as st

from deliver.spool.header import Malformed, parse, parse_recipient
from tests.unit.spool.pairs import FIELDS, header_file

WHOLE = header_file(
    variables=("--helo_name x", "-aclm 1 4", "a\n-b", "-body_linecount 2"),
    tree="YN a@plain.test\nNN b@plain.test\n",
    recipients=("c@plain.test", "d@plain.test rfc822;e 8,12 f@plain.test 12,-1#3"),
)
ADDRESSES = st.from_regex(r"[a-z]{1,8}@[a-z]{1,8}\.test", fullmatch=True)


@given(st.binary(max_size=300))
def test_any_octets(content: bytes) -> None:
    with contextlib.suppress(Malformed):
        parse(content)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 30), st.binary(max_size=30))
def test_a_damaged_file_never_breaks_a_header_apart(at: int, length: int, octets: bytes) -> None:
    try:
        found = parse(WHOLE[:at] + octets + WHOLE[at + length :])
    except Malformed:
        return
    assert b"\n\n" not in found.header
    assert b"\0" not in found.header
    assert not found.header.startswith((b" ", b"\t", b"\n"))


@given(st.binary(max_size=100).filter(lambda line: b"\n" not in line))
def test_any_recipient_line(line: bytes) -> None:
    with contextlib.suppress(Malformed):
        parse_recipient(line)


@given(
    ADDRESSES,
    st.one_of(st.just(""), ADDRESSES),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20),
    st.integers(0, 31),
    st.integers(-1, 100),
)
def test_what_exim_writes_is_what_is_read(
    address: str, errors_to: str, orcpt: str, dsn: int, parent: int
) -> None:
    line = f"{address} {orcpt} {len(orcpt)},{dsn} {errors_to} {len(errors_to)},{parent}#3"
    found = parse_recipient(line.encode())
    assert (found.address, found.original, found.dsn) == (address, orcpt, dsn)
    assert (found.errors_to, found.parent) == (errors_to, parent)


@given(st.dictionaries(st.from_regex(r"[a-z_0-9]{1,10}", fullmatch=True), st.binary(max_size=50), max_size=5))
def test_acl_variables_hold_anything(values: dict[str, bytes]) -> None:
    lines = [f"--aclm {name} {len(value)}\n".encode() + value + b"\n" for name, value in values.items()]
    content = header_file(variables=("-local",)).replace(b"-local\n", b"".join(lines))
    found = parse(content)
    assert found.acl == {f"m{name}": value for name, value in values.items()}
    assert found.header == "".join(text for _, text in FIELDS).encode()
