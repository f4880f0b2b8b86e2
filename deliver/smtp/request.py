"""Reading the commands that a client sends (RFC 5321 4.1.1, RFC 1870, RFC 6152): pure.

A line that cannot be understood gives the Reply that says so; nothing raises. Whatever comes out holds no
control character and, apart from the `Mailbox` rules, nothing that is not printable ASCII.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from deliver.errors import UsageError
from deliver.message import Mailbox
from deliver.smtp.reply import Reply

MAX_HELO = 255  # octets kept of the name in EHLO and HELO


class Verb(Enum):
    """The commands that we know; the value is what HELP says."""

    EHLO = "EHLO"
    HELO = "HELO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    HELP = "HELP"
    QUIT = "QUIT"


_NOT_OFFERED = frozenset({"STARTTLS", "AUTH", "EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML"})
_WITHOUT_ARGUMENT = frozenset({Verb.DATA, Verb.RSET, Verb.QUIT})
# What follows these is content of another protocol, never to be read as commands: a browser or a server-side
# request forgery that talks HTTP to us, or chunks that were never offered.
_FOREIGN = frozenset(
    {"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI", "BDAT", "LHLO"}
)

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# A quoted string may hold '>' and spaces; the two kinds of element share no octet, so matching is linear.
_PATH = re.compile(r' *<((?:[^"<>\\ ]|"(?:[^"\\]|\\.)*")*)>(?: +(\S.*))?\Z')
_SOURCE_ROUTE = re.compile(r"@[^,:]+(?:,@[^,:]+)*:")
_KEYWORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?\Z")
_DIGITS = re.compile(r"\d{1,20}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """One well-formed command line."""

    verb: Verb
    argument: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """The client speaks another protocol; nothing that follows is a command."""


@dataclass(frozen=True, slots=True)
class MailRequest:
    """MAIL FROM: `sender` is None for the null reverse path, `size` in octets as declared or None."""

    sender: Mailbox | None
    size: int | None


def parse_line(line: bytes) -> Request | Foreign | Reply:
    """Read one line, given without its CRLF."""
    word, _, argument = line.decode("latin-1").partition(" ")
    name = word.upper()
    if name in _FOREIGN:
        return Foreign()
    if _CONTROL.search(line):
        return Reply(501, ("5.5.2 Control characters are not allowed in commands",))
    if name in _NOT_OFFERED:
        return Reply(502, ("5.5.1 Command not implemented",))
    if name not in Verb.__members__:
        return Reply(500, ("5.5.2 Command not recognised",))
    verb, argument = Verb[name], argument.strip(" ")
    if not argument.isascii() and verb not in (Verb.MAIL, Verb.RCPT):
        return Reply(501, ("5.5.2 Only ASCII is allowed in commands",))
    if argument and verb in _WITHOUT_ARGUMENT:
        return Reply(501, (f"5.5.4 {verb.value} takes no argument",))
    if not argument and verb in (Verb.EHLO, Verb.HELO):
        return Reply(501, (f"5.5.4 {verb.value} needs your host name",))
    return Request(verb, argument)


def parse_mail(argument: str, *, extended: bool, max_size: int) -> MailRequest | Reply:
    """Read what follows MAIL (RFC 5321 4.1.1.2). `extended`: EHLO was used; `max_size` 0 is no limit."""
    found = _path_after(argument, "FROM:")
    if isinstance(found, Reply):
        return found
    path, text = found
    parameters = _parameters(text)
    if isinstance(parameters, Reply):
        return parameters
    size: int | None = None
    for keyword, value in parameters.items():
        if not extended or keyword not in ("SIZE", "BODY"):
            return Reply(555, (f"5.5.4 Parameter {keyword} is not recognised",))
        if keyword == "BODY" and value.upper() not in ("7BIT", "8BITMIME"):
            return Reply(501, ("5.5.4 BODY is 7BIT or 8BITMIME",))
        if keyword == "SIZE":
            if not _DIGITS.match(value):
                return Reply(501, ("5.5.4 SIZE is a number of octets",))
            size = int(value)
    if size is not None and max_size and size > max_size:
        return Reply(552, (f"5.3.4 The message is larger than {max_size} octets",))
    if not path:
        return MailRequest(None, size)
    sender = _mailbox(path, Reply(553, ("5.1.7 The sender address is not valid: ",)))
    return sender if isinstance(sender, Reply) else MailRequest(sender, size)


def parse_rcpt(argument: str, *, hostname: str) -> Mailbox | Reply:
    """Read what follows RCPT (RFC 5321 4.1.1.3); `<postmaster>` alone is the postmaster of `hostname`."""
    found = _path_after(argument, "TO:")
    if isinstance(found, Reply):
        return found
    path, text = found
    parameters = _parameters(text)
    if isinstance(parameters, Reply):
        return parameters
    for keyword in parameters:
        return Reply(555, (f"5.5.4 Parameter {keyword} is not recognised",))
    if path.lower() == "postmaster":  # RFC 5321 4.5.1
        path = f"{path}@{hostname}"
    return _mailbox(path, Reply(553, ("5.1.3 The recipient address is not valid: ",)))


def _path_after(argument: str, keyword: str) -> tuple[str, str] | Reply:
    """The text between the angle brackets without its source route, and the parameters after them."""
    if argument[: len(keyword)].upper() != keyword:
        return Reply(501, (f"5.5.4 Expected {keyword}<address>",))
    found = _PATH.match(argument[len(keyword) :])
    if not found:
        return Reply(501, (f"5.5.4 Expected {keyword}<address>, the address in angle brackets",))
    # RFC 5321 appendix C: a source route is accepted and ignored.
    return _SOURCE_ROUTE.sub("", found[1], count=1) if found[1].startswith("@") else found[1], found[2] or ""


def _parameters(text: str) -> dict[str, str] | Reply:
    """`KEYWORD=value` in upper-case keywords (RFC 5321 4.1.2)."""
    parameters: dict[str, str] = {}
    for word in text.split():
        found = _KEYWORD.match(word)
        if not found:
            return Reply(501, ("5.5.4 A parameter is KEYWORD or KEYWORD=value",))
        keyword = found[1].upper()
        if keyword in parameters:
            return Reply(501, (f"5.5.4 Parameter {keyword} is given twice",))
        parameters[keyword] = found[2] or ""
    return parameters


def _mailbox(path: str, refusal: Reply) -> Mailbox | Reply:
    """The address, or `refusal` with the reason put after its text."""
    if not path.isascii():
        return Reply(553, ("5.6.7 Addresses outside ASCII need SMTPUTF8, which is not offered here",))
    try:
        return Mailbox.parse(path)
    except UsageError as error:
        return Reply(refusal.code, (refusal.lines[0] + error.happened,))
