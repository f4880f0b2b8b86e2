"""Reading the commands that a client sends (RFC 5321 4.1.1; the parameters of `deliver.smtp.offer`): pure.

A line that cannot be understood gives the Reply that says so; nothing raises. Whatever comes out holds no
control character and, apart from the `Mailbox` rules, nothing that is not printable ASCII.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from deliver.dsn import MAX_ENVID, Ret, from_xtext, parse_notify, parse_orcpt
from deliver.errors import UsageError
from deliver.message import MAX_LOCAL_PART, Mailbox, domain_name, literal_address
from deliver.smtp.action import MailRequest, RcptRequest
from deliver.smtp.offer import Hello, Offer
from deliver.smtp.reply import Reply

MAX_HELO = 255  # octets kept of the name in EHLO and HELO
MAX_PATH = 600  # octets of an address as xtext
MAX_CHUNK_DIGITS = 18  # a longer number is no length


class Verb(Enum):
    """The commands that we know; the value is what HELP says."""

    EHLO = "EHLO"
    HELO = "HELO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BDAT = "BDAT"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    HELP = "HELP"
    QUIT = "QUIT"

    __hash__ = object.__hash__  # members are single objects; Enum would hash their names, again and again


_NOT_OFFERED = frozenset({"EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML"})
_WITHOUT_ARGUMENT = frozenset({Verb.DATA, Verb.STARTTLS, Verb.RSET, Verb.QUIT})
# What follows these is content of another protocol, never to be read as commands: a browser or a server-side
# request forgery that talks HTTP to us, or a load balancer that is not on our list.
_FOREIGN = frozenset(
    {"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI", "LHLO", "PROXY"}
)

_VERBS: Mapping[bytes, Verb] = {verb.value.encode(): verb for verb in Verb}

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# A quoted string may hold '>' and spaces; the two kinds of element share no octet, so matching is linear.
_PATH = re.compile(r' *<((?:[^"<>\\ ]|"(?:[^"\\]|\\.)*")*)>(?: +(\S.*))?\Z')
_SOURCE_ROUTE = re.compile(r"@[^,:]+(?:,@[^,:]+)*:")
_KEYWORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\U0010ffff]+))?\Z")
_CHUNK = re.compile(rf"(\d{{1,{MAX_CHUNK_DIGITS}}})(?: +(LAST))?\Z", re.ASCII | re.IGNORECASE)
_MECHANISM = re.compile(r"([A-Za-z0-9_-]{1,20})(?: +([A-Za-z0-9+/=]+))?\Z")
_HOST_NAME = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?\Z"
)
# What most clients send; everything else takes the longer way, with the same result for these.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN_PATH = rf" *<({_ATOM}(?:\.{_ATOM})*)@([A-Za-z0-9._-]+)>"
_PLAIN_MAIL = re.compile(
    rf"(?i:FROM:){_PLAIN_PATH}(?: +(?i:SIZE)=([0-9]{{1,20}}))?( +(?i:BODY=(?:7BIT|8BITMIME)))?\Z", re.ASCII
)
_PLAIN_RCPT = re.compile(rf"(?i:TO:){_PLAIN_PATH}\Z", re.ASCII)
_DIGITS = re.compile(r"\d{1,20}\Z", re.ASCII)


_CONTROL_CHARACTERS = Reply(501, ("5.5.2 Control characters are not allowed in commands",))


class Request(Struct, frozen=True):
    """One well-formed command line."""

    verb: Verb
    argument: str


class Foreign(Struct, frozen=True):
    """The client speaks another protocol; nothing that follows is a command."""


class Chunk(Struct, frozen=True):
    """BDAT (RFC 3030 2): `length` in octets."""

    length: int
    last: bool


def parse_line(line: bytes) -> Request | Foreign | Reply:
    """Read one line, given without its CRLF."""
    word, _, argument = line.partition(b" ")
    verb = _VERBS.get(word.upper())
    if verb is not None:
        return _request(verb, argument)
    name = word.upper().decode("latin-1")
    if name in _FOREIGN:
        return Foreign()
    if _CONTROL.search(line):
        return _CONTROL_CHARACTERS
    if name in _NOT_OFFERED:
        return Reply(502, ("5.5.1 Command not implemented",))
    return Reply(500, ("5.5.2 Command not recognised",))


def _request(verb: Verb, octets: bytes) -> Request | Reply:
    argument = octets.decode("utf-8", "replace").strip(" ")
    if not argument.isascii() or not argument.isprintable():
        if _CONTROL.search(octets):
            return _CONTROL_CHARACTERS
        try:
            octets.decode("utf-8")
        except UnicodeDecodeError:
            return Reply(501, ("5.5.2 Only ASCII is allowed in commands, and UTF-8 in addresses",))
    if not argument.isascii() and verb not in (Verb.MAIL, Verb.RCPT):
        return Reply(501, ("5.5.2 Only ASCII is allowed in commands",))
    if argument and verb in _WITHOUT_ARGUMENT:
        return Reply(501, (f"5.5.4 {verb.value} takes no argument",))
    if not argument and verb in (Verb.EHLO, Verb.HELO):
        return Reply(501, (f"5.5.4 {verb.value} needs your host name",))
    return Request(verb, argument)


def hello_refusal(name: str, demanded: Hello) -> Reply | None:
    """The reply to EHLO or HELO with a `name` that is not as demanded, else None (RFC 5321 4.1.1.1)."""
    if demanded is Hello.ANYTHING or (name.startswith("[") and literal_address(name) is not None):
        return None
    if not _HOST_NAME.match(name):
        return Reply(501, ("5.5.4 That is neither a host name nor an address literal",))
    if demanded is Hello.QUALIFIED and "." not in name.removesuffix("."):
        return Reply(504, ("5.5.2 That is no fully qualified host name",))
    return None


def parse_mail(
    argument: str, offer: Offer, *, extended: bool, secured: bool, max_size: int
) -> MailRequest | Reply:
    """Read what follows MAIL (RFC 5321 4.1.1.2). `extended`: EHLO was used; `max_size` 0 is no limit.

    `secured`: TLS is there.
    """
    if plain := _PLAIN_MAIL.match(argument):
        local_part, domain, octets, body = plain.groups()
        size = None if octets is None else int(octets)
        allowed = extended or (size is None and body is None)
        if allowed and not (max_size and size and size > max_size):
            mailbox = _plain_mailbox(local_part, domain)
            if mailbox is not None:
                return MailRequest(mailbox, size)
    return parse_any_mail(argument, offer, extended=extended, secured=secured, max_size=max_size)


def parse_any_mail(
    argument: str, offer: Offer, *, extended: bool, secured: bool, max_size: int
) -> MailRequest | Reply:
    """The same, whatever it is."""
    found = _path_after(argument, "FROM:")
    if isinstance(found, Reply):
        return found
    path, text = found
    parameters = _parameters(text)
    if isinstance(parameters, Reply):
        return parameters
    allowed = offer.mail_parameters(secured=secured) if extended else frozenset[str]()
    later = offer.after_starttls(secured=secured) if extended else frozenset[str]()
    for keyword, value in parameters.items():
        refused = _early(keyword, later) or _unknown(keyword, allowed) or _value_refusal(keyword, value)
        if refused:
            return refused
    size = int(parameters["SIZE"]) if "SIZE" in parameters else None
    if size is not None and max_size and size > max_size:
        return Reply(552, (f"5.3.4 The message is larger than {max_size} octets",))
    utf8 = "SMTPUTF8" in parameters
    refusal = Reply(553, ("5.1.7 The sender address is not valid: ",))
    sender = _mailbox(path, refusal, utf8=utf8, offer=offer) if path else None
    if isinstance(sender, Reply):
        return sender
    ret = Ret(parameters["RET"].upper()) if "RET" in parameters else None
    envid = from_xtext(parameters["ENVID"]) if "ENVID" in parameters else None
    return MailRequest(sender, size, utf8, ret, envid, "PRDR" in parameters, "REQUIRETLS" in parameters)


def _value_refusal(keyword: str, value: str) -> Reply | None:
    """The reply to a parameter of MAIL whose value cannot be used."""
    match keyword:
        case "BODY" if value.upper() not in ("7BIT", "8BITMIME"):
            return Reply(501, ("5.5.4 BODY is 7BIT or 8BITMIME",))
        case "SIZE" if not _DIGITS.match(value):
            return Reply(501, ("5.5.4 SIZE is a number of octets",))
        case "SMTPUTF8" | "PRDR" | "REQUIRETLS" if value:
            return Reply(501, (f"5.5.4 {keyword} has no value",))
        case "RET" if value.upper() not in Ret.__members__:
            return Reply(501, ("5.5.4 RET is FULL or HDRS",))
        case "ENVID":
            return _xtext_refusal(keyword, value, MAX_ENVID)
        case "AUTH":  # who submitted it first is nothing we act on (RFC 4954 5)
            return _xtext_refusal(keyword, value, MAX_PATH) if value != "<>" else None
    return None


def _xtext_refusal(keyword: str, value: str, longest: int) -> Reply | None:
    if not value or len(value) > longest:
        return Reply(501, (f"5.5.4 {keyword} has between 1 and {longest} octets",))
    try:
        from_xtext(value)
    except UsageError:
        return Reply(501, (f"5.5.4 {keyword} is not xtext (RFC 3461 4)",))
    return None


def parse_rcpt(
    argument: str, offer: Offer, *, extended: bool, utf8: bool, hostname: str
) -> RcptRequest | Reply:
    """Read what follows RCPT (RFC 5321 4.1.1.3); `<postmaster>` alone is the postmaster of `hostname`.

    `utf8`: MAIL had SMTPUTF8.
    """
    if plain := _PLAIN_RCPT.match(argument):
        mailbox = _plain_mailbox(plain[1], plain[2])
        if mailbox is not None:
            return RcptRequest(mailbox)
    return parse_any_rcpt(argument, offer, extended=extended, utf8=utf8, hostname=hostname)


def parse_any_rcpt(
    argument: str, offer: Offer, *, extended: bool, utf8: bool, hostname: str
) -> RcptRequest | Reply:
    """The same, whatever it is."""
    found = _path_after(argument, "TO:")
    if isinstance(found, Reply):
        return found
    path, text = found
    parameters = _parameters(text)
    if isinstance(parameters, Reply):
        return parameters
    for keyword in parameters:
        refused = _unknown(keyword, offer.rcpt_parameters if extended else frozenset())
        if refused:
            return refused
    if path.lower() == "postmaster":  # RFC 5321 4.5.1
        path = f"{path}@{hostname}"
    refusal = Reply(553, ("5.1.3 The recipient address is not valid: ",))
    mailbox = _mailbox(path, refusal, utf8=utf8, offer=offer)
    if isinstance(mailbox, Reply):
        return mailbox
    notify, original = parameters.get("NOTIFY"), parameters.get("ORCPT")
    if original is not None and not original.isascii() and not utf8:
        return Reply(501, ("5.5.4 ORCPT outside ASCII needs SMTPUTF8",))
    try:
        return RcptRequest(
            mailbox,
            None if notify is None else parse_notify(notify),
            None if original is None else parse_orcpt(original),
        )
    except UsageError as error:
        return Reply(501, (f"5.5.4 {error.attempted}: {error.happened}",))


def parse_bdat(argument: str) -> Chunk | None:
    """Read what follows BDAT (RFC 3030 2); None: nobody knows where the next command begins."""
    found = _CHUNK.match(argument)
    return Chunk(int(found[1]), found[2] is not None) if found else None


def parse_auth(argument: str) -> tuple[str, bytes | None] | Reply:
    """Read what follows AUTH (RFC 4954 4): the mechanism in upper case, the decoded initial response."""
    found = _MECHANISM.match(argument)
    if not found:
        return Reply(501, ("5.5.4 Expected AUTH mechanism [initial-response]",))
    if found[2] is None:
        return found[1].upper(), None
    decoded = b"" if found[2] == "=" else decode_response(found[2].encode())
    if decoded is None:
        return Reply(501, ("5.5.2 The response is not base64",))
    return found[1].upper(), decoded


def decode_response(line: bytes) -> bytes | None:
    """The octets behind a line of an exchange; None when it is not base64 (RFC 4954 4)."""
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        return None


def _early(keyword: str, later: frozenset[str]) -> Reply | None:
    if keyword not in later:
        return None
    return Reply(530, (f"5.7.10 Parameter {keyword} needs TLS: send STARTTLS first",))


def _unknown(keyword: str, allowed: frozenset[str]) -> Reply | None:
    return None if keyword in allowed else Reply(555, (f"5.5.4 Parameter {keyword} is not recognised",))


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
    for word in filter(None, text.split(" ")):
        found = _KEYWORD.match(word)
        if not found:
            return Reply(501, ("5.5.4 A parameter is KEYWORD or KEYWORD=value",))
        keyword = found[1].upper()
        if keyword in parameters:
            return Reply(501, (f"5.5.4 Parameter {keyword} is given twice",))
        parameters[keyword] = found[2] or ""
    return parameters


def _plain_mailbox(local_part: str, domain: str) -> Mailbox | None:
    """The address of a dot-atom in ASCII and a name; None: there is more to be said of it."""
    if len(local_part) > MAX_LOCAL_PART:
        return None
    try:
        return Mailbox(local_part, domain_name(domain))
    except UsageError:
        return None


def _mailbox(path: str, refusal: Reply, *, utf8: bool, offer: Offer) -> Mailbox | Reply:
    """The address, or `refusal` with the reason put after its text."""
    if not path.isascii() and not utf8:
        remedy = "say SMTPUTF8 with MAIL" if offer.smtputf8 else "which is not offered here"
        return Reply(553, (f"5.6.7 Addresses outside ASCII need SMTPUTF8: {remedy}",))
    try:
        return Mailbox.parse(path, utf8=utf8)
    except UsageError as error:
        return Reply(refusal.code, (refusal.lines[0] + error.happened,))
