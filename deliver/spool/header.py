"""What Exim writes into a `-H` spool file: the envelope, how the message came, and its header. Pure.

    <id>-H
    <login> <uid> <gid>
    <sender>
    <seconds since the epoch> <warnings sent>
    -name value …                 any number, any order; `--name`: the value is tainted
    XX, or the tree of non-recipients, one node a line
    <number of recipients>
    one line per recipient
    (empty line)
    <length><type> <header field>  repeated; type * was replaced and is not sent

Source: the chapter on spool files in Exim's specification, and what Exim itself reads and writes. Whatever
does not fit is refused as a whole: half of a file must never pass for a message. Variables with an unknown
name are kept by name (`unknown`); Exim ignores them too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

MAX_RECIPIENTS: Final = 16_384  # Exim's own limit when it reads
MAX_FILE: Final = 32 * 1024 * 1024  # octets
MAX_VARIABLES: Final = 10_000

ID: Final = r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{2}|[0-9A-Za-z]{11}-[0-9A-Za-z]{4})"

KNOWN: Final = frozenset(
    {
        "received_time_usec",
        "received_time_complete",
        "helo_name",
        "host_address",
        "host_name",
        "host_auth",
        "host_auth_pubname",
        "interface_address",
        "active_hostname",
        "ident",
        "received_protocol",
        "debug_selector",
        "debuglog_name",
        "spool_file_wireformat",
        "body_linecount",
        "max_received_linelength",
        "body_zerocount",
        "auth_id",
        "auth_sender",
        "allow_unqualified_recipient",
        "allow_unqualified_sender",
        "deliver_firsttime",
        "frozen",
        "N",
        "host_lookup_deferred",
        "host_lookup_failed",
        "local",
        "localerror",
        "local_scan",
        "spam_bar",
        "spam_score",
        "spam_score_int",
        "manual_thaw",
        "sender_set_untrusted",
        "tls_certificate_verified",
        "tls_cipher",
        "tls_peercert",
        "tls_ourcert",
        "tls_peerdn",
        "tls_sni",
        "tls_ocsp",
        "tls_resumption",
        "tls_ver",
        "smtputf8",
        "utf8_downcvt",
        "utf8_optdowncvt",
        "dsn_envid",
        "dsn_ret",
        "bmi_verdicts",
    }
)

_VARIABLE = re.compile(rb"--?(?:\([^)\n]*\))?([A-Za-z][A-Za-z0-9_]*)(?: (.*))?\Z", re.DOTALL)
_ACL = re.compile(rb"--?(?:\([^)\n]*\))?acl([cm]) (\S{1,200}) (\d{1,9})\Z")
_OLD_ACL = re.compile(rb"--?acl (\d{1,2}) (\d{1,9})\Z")
_BAD_ACL = re.compile(rb"--?(?:\([^)\n]*\))?acl[cm]? ")
_ORIGINATOR = re.compile(rb"(.{0,255}) (-?\d{1,12}) (-?\d{1,12})\Z")
_TIME = re.compile(rb"(\d{1,12}) (\d{1,9})\s*\Z")
_NODE = re.compile(rb"([YN])([YN]) (.+)\Z")
_FLAGS = re.compile(rb"#(\d{1,3})\Z")
_PAIR = re.compile(rb" (\d{1,6}),(-?\d{1,9})\Z")
_OLD_TAIL = re.compile(rb" (?:\d{1,9},\d{1,9},-?\d{1,9}|-?\d{1,9})\Z")
_FIELD_START = re.compile(rb"(\d{3,9})([\x20-\x7e]) ")
_FIELD = re.compile(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:[^\n\0]*\n(?:[ \t][^\n\0]*\n)*\Z")

ERRORS_TO: Final = 1
DSN: Final = 2


class Malformed(Exception):
    """The file is no -H file, or not all of one; the text says where it went wrong."""


@dataclass(frozen=True, slots=True)
class SpoolRecipient:
    """One recipient line. `dsn`: Exim's bits (2 NEVER, 4 SUCCESS, 8 FAILURE, 16 DELAY); `original`: ORCPT."""

    address: str
    original: str = ""
    dsn: int = 0
    errors_to: str = ""
    parent: int = -1


@dataclass(frozen=True, slots=True)
class SpoolHeader:
    """A `-H` file. `sender` is empty for the null reverse path; `received_at` in seconds since the epoch.

    `variables` are the lines with a name that Exim 4 is known to write, flags with an empty value; `acl` the
    ACL variables by name (`c0`, `m_mine`). `header` is the header as it is sent, LF line ends.
    """

    id: str
    login: str
    uid: int
    gid: int
    sender: str
    received_at: int
    warnings: int
    variables: dict[str, str] = field(default_factory=dict)
    acl: dict[str, bytes] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    non_recipients: frozenset[str] = frozenset()
    recipients: tuple[SpoolRecipient, ...] = ()
    header: bytes = b""

    @property
    def wire_format(self) -> bool:
        """Whether the -D file has CRLF line ends."""
        return "spool_file_wireformat" in self.variables

    @property
    def body_lines(self) -> int | None:
        """Lines of the body, as far as Exim counted them."""
        text = self.variables.get("body_linecount", "")
        return None if self.wire_format or not text.isdecimal() else int(text)

    @property
    def waiting(self) -> tuple[SpoolRecipient, ...]:
        """The recipients that nobody has delivered to yet, each once."""
        kept = (one for one in self.recipients if one.address not in self.non_recipients)
        return tuple({one.address: one for one in kept}.values())


def parse(content: bytes) -> SpoolHeader:
    """Read a whole `-H` file. Raises Malformed."""
    if len(content) > MAX_FILE:
        raise Malformed(f"it has more than {MAX_FILE} octets")
    return _Reader(content).read()


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._variables: dict[str, str] = {}
        self._acl: dict[str, bytes] = {}
        self._unknown: list[str] = []

    def read(self) -> SpoolHeader:
        first = re.match(rb"(%s)-H\Z" % ID.encode(), self._line("the first line"))
        if first is None:
            raise Malformed("its first line is no message id with -H")
        originator = _ORIGINATOR.match(self._line("the originator"))
        if originator is None:
            raise Malformed("its second line is no login, uid and gid")
        sender = self._line("the sender")
        if len(sender) < 2 or sender[:1] != b"<" or sender[-1:] != b">":
            raise Malformed("its third line is no sender in angle brackets")
        time = _TIME.match(self._line("the time"))
        if time is None:
            raise Malformed("its fourth line is no time and count of warnings")
        line = self._read_variables()
        non_recipients = self._read_tree(line)
        recipients = tuple(self._read_recipients())
        if self._line("the empty line before the header"):
            raise Malformed("no empty line comes after the recipients")
        return SpoolHeader(
            id=first[1].decode(),
            login=_shown(originator[1]),
            uid=int(originator[2]),
            gid=int(originator[3]),
            sender=_address(sender[1:-1], "the sender"),
            received_at=int(time[1]),
            warnings=int(time[2]),
            variables=self._variables,
            acl=self._acl,
            unknown=tuple(self._unknown),
            non_recipients=non_recipients,
            recipients=recipients,
            header=b"".join(self._read_fields()),
        )

    def _line(self, what: str) -> bytes:
        end = self._content.find(b"\n", self._at)
        if end < 0:
            raise Malformed(f"it ends before the end of {what}")
        line = self._content[self._at : end]
        if b"\0" in line:
            raise Malformed(f"a NUL is in {what}")
        self._at = end + 1
        return line

    def _take(self, count: int, what: str) -> bytes:
        if self._at + count > len(self._content):
            raise Malformed(f"it ends before the end of {what}")
        piece = self._content[self._at : self._at + count]
        self._at += count
        return piece

    def _read_variables(self) -> bytes:
        """Everything that begins with `-`; returns the first line after it."""
        for _ in range(MAX_VARIABLES):
            line = self._line("the variables")
            if not line.startswith(b"-"):
                return line
            if acl := _ACL.match(line):
                self._read_acl(_shown(acl[1] + acl[2]), int(acl[3]))
            elif old := _OLD_ACL.match(line):
                number = int(old[1])
                self._read_acl(f"c{number}" if number < 10 else f"m{number - 10}", int(old[2]))
            elif _BAD_ACL.match(line):
                raise Malformed("an ACL variable has no name and length")
            elif (variable := _VARIABLE.match(line)) and (name := variable[1].decode()) in KNOWN:
                self._variables[name] = _shown(variable[2] or b"")
            else:
                self._unknown.append(_shown(line.lstrip(b"-").split(b" ")[0][:100]))
        raise Malformed(f"it has more than {MAX_VARIABLES} variables")

    def _read_acl(self, name: str, length: int) -> None:
        value = self._take(length + 1, f"the ACL variable {name}")
        if not value.endswith(b"\n"):
            raise Malformed(f"the ACL variable {name} is longer than it says")
        self._acl[name] = value[:-1]

    def _read_tree(self, line: bytes) -> frozenset[str]:
        if line == b"XX":
            return frozenset()
        found = []
        open_branches = 1
        while True:
            node = _NODE.match(line)
            if node is None:
                raise Malformed("the tree of non-recipients has a line that is no node")
            found.append(_address(node[3], "the tree of non-recipients"))
            open_branches += [node[1], node[2]].count(b"Y") - 1
            if open_branches == 0:
                return frozenset(found)
            if len(found) > 2 * MAX_RECIPIENTS:
                raise Malformed("the tree of non-recipients does not end")
            line = self._line("the tree of non-recipients")

    def _read_recipients(self) -> Iterator[SpoolRecipient]:
        number = self._line("the number of recipients")
        if not re.fullmatch(rb"\d{1,5}", number) or int(number) > MAX_RECIPIENTS:
            raise Malformed("the number of recipients is none, or too large")
        for _ in range(int(number)):
            yield parse_recipient(self._line("the recipients"))

    def _read_fields(self) -> Iterator[bytes]:
        while self._at < len(self._content):
            start = _FIELD_START.match(self._content, self._at)
            if start is None:
                raise Malformed("a header field has no length and type before it")
            self._at = start.end()
            text = self._take(int(start[1]), "a header field")
            if _FIELD.match(text) is None:
                raise Malformed("a header field is not one field")
            if start[2] != b"*":
                yield text


def parse_recipient(line: bytes) -> SpoolRecipient:
    """Read one recipient line, from its right end, in any form that Exim 3 and 4 ever wrote.

    Raises Malformed.
    """
    flags = _FLAGS.search(line)
    if flags is None:
        return SpoolRecipient(_address(_OLD_TAIL.sub(b"", line), "a recipient"))
    bits, rest = int(flags[1]), line[: flags.start()]
    if bits & ~(ERRORS_TO | DSN):
        raise Malformed(f"a recipient line is of the unknown kind {bits}")
    errors_to, parent, original, dsn = b"", -1, b"", 0
    if bits & ERRORS_TO:
        rest, errors_to, parent = _item(rest)
    if bits & DSN:
        rest, original, dsn = _item(rest)
    if dsn < 0:
        raise Malformed("the DSN flags of a recipient are negative")
    return SpoolRecipient(
        _address(rest, "a recipient"),
        _address(original, "an original recipient"),
        dsn,
        _address(errors_to, "errors_to"),
        parent,
    )


def _item(line: bytes) -> tuple[bytes, bytes, int]:
    """Split `rest text length,number`: what comes before, the text and the number."""
    pair = _PAIR.search(line)
    if pair is None:
        raise Malformed("a recipient line has no length and number where they should be")
    length, rest = int(pair[1]), line[: pair.start()]
    before = len(rest) - length
    if before < 1 or rest[before - 1 : before] != b" ":
        raise Malformed("a recipient line has a length that does not fit")
    return rest[: before - 1], rest[before:], int(pair[2])


def _address(text: bytes, what: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"{what} is no UTF-8") from None


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
