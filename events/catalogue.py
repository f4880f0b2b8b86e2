"""The published vocabulary of events: names, when each fires, which fields it carries.

Names and meaning follow Exim's `event_action`; what Exim does not have is marked "Outrider". Events carry
primitives only and are committed together with the fact that they report (see `events.outbox`).

Making an `Event` never fails, whatever a peer put into its values: text is bounded and cleaned. A name or a
field outside the catalogue is an error of the program; `Event.checked` and `problems` find it, in tests.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from events.fields import FIELDS, IMPLIED, MAX_FIELDS, MAX_INTEGER, MAX_JSON, MAX_NAME, Scalar, clean_all

__all__ = ["EVENTS", "FIELDS", "Event", "EventType", "Scalar", "match", "nearest", "parameters_of"]

MAX_TIME = 253_402_300_799  # seconds since the epoch, the end of the year 9999


@dataclass(frozen=True, slots=True)
class EventType:
    """One entry of the vocabulary.

    `when` says when it fires, `data` what `event_data` holds. `veto`: fired before the fact, so that an
    action may refuse it; if it is `late` too, the fact stands, and what the action returns is its reason.
    `exim`: Exim has an event of this name and meaning.
    """

    name: str
    when: str
    data: str
    fields: tuple[str, ...]
    veto: bool = False
    exim: bool = True
    late: bool = False


_COMMON = (
    "event_data",
    "verify_mode",
    "message_id",
    "sender_address",
    "attempt",
    "attempt_id",
    "reason",
    "seconds",
)
_ENVELOPE = ("message_size", "recipients_count")
_RECIPIENT = ("local_part", "domain")
_WAY = ("domain", "router", "transport")
_HOST = (
    *("host", "host_address", "host_port", "sending_ip_address", "sending_port"),
    *("lookup_dnssec_authenticated", "connection_reused"),
)
_TLS = (
    *(
        "tls_version",
        "tls_cipher",
        "tls_group",
        "tls_level",
        "tls_required",
        "tls_verified_by",
        "tls_out_sni",
    ),
    *("tls_out_peerdn", "tls_out_peercert_sha256", "tls_out_dane", "tls_out_tlsa_usage", "tls_out_ocsp"),
    *("tls_out_resumption", "tls_ocsp", "tls_resumption"),
)
_FAULT = ("event_defer_errno", "phase", "blame", "smtp_code", "enhanced_code", "in_doubt")
_CLIENT = ("sender_host_address", "sender_helo_name")
_LATER = ("next_attempt_at",)
_TRACE = ("trace",)


def _type(
    name: str,
    when: str,
    data: str,
    *fields: tuple[str, ...],
    veto: bool = False,
    exim: bool = True,
    late: bool = False,
) -> EventType:
    carried = tuple(dict.fromkeys((*_COMMON, *(one for group in fields for one in group))))
    return EventType(name, when, data, carried, veto, exim, late)


_TYPES: tuple[EventType, ...] = (
    _type(
        "msg:accept",
        "A message was accepted and is durable; committed with it.",
        "the envelope recipients, comma separated, cut at 1000 characters",
        *(_ENVELOPE, _CLIENT, ("received_protocol", "authenticated_id", "proxy_local_address")),
        exim=False,
    ),
    _type(
        "msg:delivery",
        "A server took responsibility for the message to one recipient; once per recipient.",
        "the server's final reply",
        *(_RECIPIENT, _WAY, _HOST, _TLS, _FAULT, _ENVELOPE, _TRACE),
    ),
    _type(
        "msg:defer",
        "An attempt ended and recipients remain; once per attempt.",
        "why",
        *(_WAY, _HOST, _TLS, _FAULT, _ENVELOPE, _LATER, _TRACE),
    ),
    _type(
        "msg:host:defer",
        "One host could not be used, or gave a temporary failure for the whole message; once per host.",
        "why",
        *(_WAY, _HOST, _TLS, _FAULT),
    ),
    _type(
        "msg:rcpt:defer",
        "A recipient was deferred and no host is left to try; once per recipient and attempt.",
        "why, or the server's reply",
        *(_RECIPIENT, _WAY, _HOST, _TLS, _FAULT, _LATER),
    ),
    _type(
        "msg:rcpt:host:defer",
        "One host deferred one recipient with a 4yz reply.",
        "the server's reply",
        *(_RECIPIENT, _WAY, _HOST, _TLS, _FAULT),
    ),
    _type(
        "msg:fail:delivery",
        "A recipient failed for good in or after the contact with a server; once per recipient.",
        "why, or the server's reply",
        *(_RECIPIENT, _WAY, _HOST, _TLS, _FAULT, _TRACE),
    ),
    _type(
        "msg:fail:internal",
        "A recipient failed for good without a server: routing, expiry, or removal by the administrator.",
        "why",
        *(_RECIPIENT, _WAY, _FAULT, _TRACE),
    ),
    _type(
        "msg:bounce",
        "A report to the sender was put into the queue; `reason` says failed, delayed or relayed.",
        "the recipients that it is about, comma separated, cut at 1000 characters",
        *(_ENVELOPE, ("bounce_id",)),
        exim=False,
    ),
    _type(
        "msg:hold",
        "Recipients of the message are held: by the administrator or a freeze rule; once per message.",
        "why",
        *(_ENVELOPE,),
        exim=False,
    ),
    _type(
        "msg:release",
        "Held recipients of the message are tried again; once per message.",
        "why: released, thawed, or its date has come",
        *(_ENVELOPE,),
        exim=False,
    ),
    _type(
        "msg:complete",
        "No recipient of the message is open any more.",
        "empty",
        *(_ENVELOPE,),
    ),
    _type(
        "dns:fail",
        "A DNS lookup failed or found nothing.",
        "result:name:type, such as DNS_AGAIN:example.org:MX; colons in the name are doubled",
        *(_WAY, ("dns_name", "dns_type", "host", "lookup_dnssec_authenticated")),
    ),
    _type(
        "tcp:connect",
        "Before a connection is opened, once per address; vetoes also for a message that reuses one.",
        "empty",
        *(_WAY, _HOST),
        veto=True,
    ),
    _type(
        "tcp:close",
        "A connection was closed.",
        "empty, or why it was closed early",
        *(_WAY, _HOST, _TLS),
    ),
    _type(
        "smtp:connect",
        "A server sent its greeting.",
        "the greeting",
        *(_WAY, _HOST),
        veto=True,
    ),
    _type(
        "smtp:ehlo",
        "A server answered EHLO; fires again for the EHLO inside TLS.",
        "the whole answer, lines separated by LF",
        *(_WAY, _HOST, _TLS),
    ),
    _type(
        "smtp:fail:protocol",
        "A client of our listener broke the protocol, and was refused.",
        "what it did",
        *(_CLIENT, ("phase", "smtp_code", "enhanced_code")),
    ),
    _type(
        "smtp:fail:syntax",
        "A client of our listener sent a command that cannot be understood.",
        "what it sent, cut",
        *(_CLIENT, ("phase", "smtp_code", "enhanced_code")),
    ),
    _type(
        "auth:fail",
        "A server refused our login for good, or did not keep to the exchange; or a client of our listener"
        " failed to log in (then sender_host_address is set, and no action can change what it hears).",
        "the server's reply, or what was wrong; of a client its mechanism and name too",
        *(_WAY, _HOST, _TLS, _CLIENT, ("smtp_code", "enhanced_code")),
        veto=True,
        late=True,
    ),
    _type(
        "tls:cert",
        "Before a certificate of the presented chain is accepted, once per certificate.",
        "depth in the chain, 0 is the server's own",
        *(_WAY, _HOST, _TLS, ("tls_depth", "tls_cert_issuer", "tls_cert_expires_at")),
        veto=True,
    ),
    _type(
        "ocsp:result",
        "An OCSP staple was asked for and the handshake was judged.",
        "none, good, revoked, unknown or invalid",
        *(_WAY, _HOST, _TLS),
        exim=False,
    ),
    _type(
        "tls:level",
        "The TLS policy of a connection was met; says what was demanded and what authenticated the server.",
        "the level reached: none, encrypt, pkix, dane-ta or dane-ee",
        *(_WAY, _HOST, _TLS),
        exim=False,
    ),
    _type(
        "tls:resumed",
        "An earlier TLS session was resumed; what it rests on was judged again before it was offered.",
        "the TLS version",
        *(_WAY, _HOST, _TLS),
        exim=False,
    ),
    _type(
        "tls:fallback",
        "TLS was optional and failed: the host is tried again in clear text, as the settings allow.",
        "why TLS failed",
        *(_WAY, _HOST, _TLS),
        exim=False,
    ),
    _type(
        "tls:fail:connect",
        "A TLS handshake failed.",
        "why",
        *(_WAY, _HOST, _TLS, _FAULT),
    ),
    _type(
        "tls:fail:verify",
        "A handshake finished, but the server was not authenticated as the policy demands (DANE: dane:fail), "
        "or as level try-verify tries (reason: not-required; mail goes on).",
        "why",
        *(_WAY, _HOST, _TLS, _FAULT),
        exim=False,
    ),
    _type(
        "dane:fail",
        "DANE was demanded and not achieved.",
        "dane-required, dnssec-invalid, validation-failure or starttls-not-supported",
        *(_WAY, _HOST, _TLS, _FAULT),
    ),
    _type(
        "sts:fail",
        "The MTA-STS policy of the domain keeps mail from a host, before any connection (RFC 8461).",
        "mx-mismatch (it is not among its hosts) or policy-unknown (nobody can say whether there is one)",
        *(_WAY, _HOST, _TLS, _FAULT),
        exim=False,
    ),
)

EVENTS: Final[Mapping[str, EventType]] = {one.name: one for one in _TYPES}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `at` in seconds since the epoch, `fields` primitives only.

    Never raises: values are cleaned and bounded (`events.fields.clean`).
    """

    name: str
    at: float
    fields: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", clean_all(self.fields))
        if len(self.name) > MAX_NAME:
            object.__setattr__(self, "name", self.name[:MAX_NAME])
        if not 0 <= self.at < MAX_TIME:  # also false for NaN, which JSON and SQL cannot hold
            object.__setattr__(self, "at", 0.0)

    @classmethod
    def checked(cls, name: str, at: float, **fields: Scalar) -> Event:
        """An event of the catalogue with its own fields only. Raises ValueError otherwise."""
        event = cls(name, at, fields)
        found = event.problems()
        if found:
            raise ValueError("; ".join(found))
        return event

    def problems(self) -> tuple[str, ...]:
        """What does not agree with the catalogue; empty when all is well."""
        return vocabulary_problems(self.name, self.fields)

    @property
    def time(self) -> str:
        """`at` as UTC text with milliseconds: 2026-01-31T23:59:59.123Z."""
        seconds = int(self.at)
        more, left = divmod(round((self.at - seconds) * 1e6), 1_000_000)  # microseconds, as datetime has them
        return f"{_second(seconds + more)}.{left // 1000:03d}Z"

    def encode(self) -> str:
        """JSON text; `decode` reads it."""
        return _ENCODER.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> Event:
        """Read what `encode` wrote. Raises ValueError for anything else; cleans nothing again."""
        try:
            stored = _DECODER.decode(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(str(error)) from None
        event = object.__new__(cls)
        object.__setattr__(event, "name", stored.name)
        object.__setattr__(event, "at", stored.at)
        object.__setattr__(event, "fields", stored.fields)
        return event


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[: -len("+00:00")]


class _Stored(msgspec.Struct):
    """An event as JSON; its bounds are those of `clean`."""

    name: Annotated[str, Meta(max_length=MAX_NAME)]
    at: Annotated[float, Meta(ge=0, lt=MAX_TIME)]
    fields: Annotated[
        dict[
            Annotated[str, Meta(max_length=MAX_NAME)],
            Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
            | float
            | Annotated[str, Meta(max_length=MAX_JSON)]
            | None,
        ],
        Meta(max_length=MAX_FIELDS),
    ]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Stored)


def vocabulary_problems(name: str, fields: Iterable[str]) -> tuple[str, ...]:
    """Sentences about a name or fields outside the catalogue, with the near spelling."""
    known = EVENTS.get(name)
    if known is None:
        return (f"{name!r} is not an event{nearest(name, EVENTS)}",)
    return tuple(
        f"{one!r} is not a field of {name}{nearest(one, known.fields)}"
        for one in fields
        if one not in known.fields
    )


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'host'?` for a near spelling, else empty."""
    near = difflib.get_close_matches(word[:MAX_NAME], list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def match(pattern: str) -> tuple[str, ...]:
    """Names of the events that a pattern means; `*` stands for any characters.

    Raises ValueError, with the near spelling, when there are none.
    """
    if any(character in pattern for character in "?[]"):
        raise ValueError(f"{pattern!r} is not an event pattern: only '*' is a wildcard")
    names = tuple(name for name in EVENTS if fnmatchcase(name, pattern))
    if not names:
        raise ValueError(f"{pattern!r} matches no event{nearest(pattern, EVENTS)}")
    return names


def parameters_of(names: Iterable[str]) -> tuple[str, ...]:
    """The SQL parameters that an action on these events may name, in the order of the field table."""
    own = {one for name in names for one in EVENTS[name].fields}
    return tuple(one for one in FIELDS if one in own or one in {implied.name for implied in IMPLIED})
