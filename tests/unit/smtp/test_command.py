"""Commands: their octets, and that nothing can hide in them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.message import Mailbox
from deliver.smtp.command import (
    _PLAIN_PATH,
    Command,
    CommandTooLong,
    Data,
    Ehlo,
    EndOfContent,
    Helo,
    LocalMisuse,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
)

ANN = Mailbox.parse("ann@example.org")


@pytest.mark.parametrize(
    ("command", "octets"),
    [
        (Ehlo("mail.example.org"), b"EHLO mail.example.org\r\n"),
        (Ehlo("[IPv6:2001:db8::1]"), b"EHLO [IPv6:2001:db8::1]\r\n"),
        (Helo("mail"), b"HELO mail\r\n"),
        (StartTls(), b"STARTTLS\r\n"),
        (Mail(None), b"MAIL FROM:<>\r\n"),
        (Mail(ANN), b"MAIL FROM:<ann@example.org>\r\n"),
        (Mail(ANN, 0), b"MAIL FROM:<ann@example.org> SIZE=0\r\n"),
        (Mail(None, 77, True), b"MAIL FROM:<> SIZE=77 BODY=8BITMIME\r\n"),
        (Rcpt(Mailbox.parse('"a b> SIZE=1"@[192.0.2.1]')), b'RCPT TO:<"a b> SIZE=1"@[192.0.2.1]>\r\n'),
        (Data(), b"DATA\r\n"),
        (EndOfContent(b".\r\n"), b".\r\n"),
        (Rset(), b"RSET\r\n"),
        (Noop(), b"NOOP\r\n"),
        (Quit(), b"QUIT\r\n"),
    ],
)
def test_octets(command: Command, octets: bytes) -> None:
    assert command.octets == octets


@pytest.mark.parametrize(
    "name", ["", "a b", "a\r\nQUIT", "a\n", "a\0", "ä.example", "x" * 256, "[192.0.2.1] x", "[1]\r"]
)
def test_no_name_hides_a_command(name: str) -> None:
    for kind in (Ehlo, Helo):
        with pytest.raises(LocalMisuse):
            kind(name)


@pytest.mark.parametrize(
    "mailbox",
    [
        Mailbox("a\r\nDATA", "example.org"),
        Mailbox("a> SIZE=1 <b", "example.org"),
        Mailbox("a", "example.org> BODY=8BITMIME"),
        Mailbox("a", "example.org\n"),
        Mailbox('"a\r\n"', "example.org"),
        Mailbox("a\0", "example.org"),
        Mailbox("ä", "example.org"),
        Mailbox("a", "EXAMPLE.org"),
        Mailbox("a@b", "example.org"),
        Mailbox("", "example.org"),
    ],
)
def test_no_mailbox_made_by_hand_hides_anything(mailbox: Mailbox) -> None:
    with pytest.raises(LocalMisuse):
        Rcpt(mailbox)
    with pytest.raises(LocalMisuse):
        Mail(mailbox)


@pytest.mark.parametrize("size", [-1, 10**20])
def test_size_has_twenty_digits(size: int) -> None:
    with pytest.raises(LocalMisuse):
        Mail(None, size)


@pytest.mark.parametrize("tail", [b"", b"\r\n", b".", b".\n", b"x\r\n.\r\n"])
def test_only_the_end_of_content_ends_content(tail: bytes) -> None:
    with pytest.raises(LocalMisuse):
        EndOfContent(tail)


def test_a_command_line_has_at_most_512_octets() -> None:
    domain = ".".join(["x" * 62] * 4)[:247]
    room = 512 - len(f"RCPT TO:<@{domain}>\r\n")
    assert len(Rcpt(Mailbox.parse(f"{'a' * room}@{domain}")).octets) == 512
    with pytest.raises(CommandTooLong, match="513 octets"):
        Rcpt(Mailbox.parse(f"{'a' * (room + 1)}@{domain}"))


def test_parameters_extend_the_line_of_mail() -> None:
    domain = ".".join(["x" * 62] * 4)[:247]
    sender = Mailbox.parse(f"{'a' * (512 - len(f'MAIL FROM:<@{domain}>') - 2)}@{domain}")
    assert len(Mail(sender, 10**19, True).octets) == 512 + len(" SIZE=10000000000000000000 BODY=8BITMIME")


@given(
    st.from_regex(_PLAIN_PATH) | st.from_regex(r"[a-zA-Z0-9.!_-]{1,9}@[a-zA-Z0-9._-]{1,70}", fullmatch=True)
)
def test_what_counts_as_plain_is_a_mailbox_as_it_is(text: str) -> None:
    local_part, _, domain = text.partition("@")
    if _PLAIN_PATH.match(text):
        assert Mailbox.parse(text) == Mailbox(local_part, domain)
        assert Rcpt(Mailbox(local_part, domain)).octets == f"RCPT TO:<{text}>\r\n".encode()


@pytest.mark.parametrize(
    "text", ["a@b\n", "a@b.", "a@B", "a@b@c", "a..b@c", "ä@b", "a@" + "b" * 64, " a@b", "a@b "]
)
def test_what_is_not_plain_is_looked_at_closely(text: str) -> None:
    assert not _PLAIN_PATH.match(text)


@pytest.mark.parametrize("made", [Mail(ANN, octets=b"QUIT\r\n"), Rcpt(ANN, octets=b"QUIT\r\n")])
def test_nobody_else_says_what_a_command_is(made: Mail | Rcpt) -> None:
    assert made == type(made)(ANN)
    assert b"QUIT" not in made.octets
    with pytest.raises(AttributeError):
        made.octets = b"QUIT\r\n"  # type: ignore[misc]
