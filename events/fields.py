"""The fields that events carry: names, types, meaning, and how values are made safe to store.

Names follow Exim's variables without the `$` where Exim has one, so that existing actions can be carried
over. Values come from peers: `clean` bounds every text, removes NUL and lone surrogates (neither can be
stored as text in PostgreSQL) and never fails, because an event must not cost a delivery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

Scalar = str | int | float | None

MAX_TEXT: Final = 1000  # characters of a text field
MAX_JSON: Final = 100_000  # characters of a field that holds JSON
MAX_FIELDS: Final = 64  # fields of one event
MAX_NAME: Final = 64  # characters of a name, an event's or a field's
OMITTED: Final = '{"omitted":"too long"}'  # replaces JSON beyond MAX_JSON; cutting it would break it

MAX_INTEGER: Final = 2**63 - 1  # what SQL's BIGINT holds
_UNSTORABLE = {0: "�", **dict.fromkeys(range(0xD800, 0xE000), "�")}


class Kind(StrEnum):
    """How a field's value is stored and bound to SQL parameters."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"
    JSON = "JSON text"


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its SQL kind, and what it means. `exim`: Exim has a variable of the same name."""

    name: str
    kind: Kind
    meaning: str
    exim: bool = False


def _exim(name: str, meaning: str, kind: Kind = Kind.TEXT) -> Field:
    return Field(name, kind, meaning, exim=True)


def _ours(name: str, meaning: str, kind: Kind = Kind.TEXT) -> Field:
    return Field(name, kind, meaning)


# Known for every event, whatever its own fields are.
IMPLIED: Final[tuple[Field, ...]] = (
    _exim("event_name", "the name of the event"),
    _ours("event_id", "unique id of this event; the same when it is reported a second time"),
    _ours("event_at", "when it happened, seconds since the epoch", Kind.REAL),
    _ours("event_time", "when it happened, UTC, as 2026-01-31T23:59:59.123Z"),
)

_OWN: tuple[Field, ...] = (
    _exim("event_data", "what the event is about; its meaning stands with each event"),
    _exim("event_defer_errno", "the number behind a deferral: errno or reply code", Kind.INTEGER),
    _exim("verify_mode", "R or S when a callout verifies an address, empty in a delivery"),
    _exim("message_id", "the message's id in the queue"),
    _exim("sender_address", "the envelope sender, empty for bounces"),
    _exim("sender_host_address", "who gave us the message: IP address"),
    _exim("sender_helo_name", "who gave us the message: the name in its EHLO or HELO"),
    _exim("received_protocol", "how it came: ESMTPS and so on (RFC 3848)"),
    _exim("authenticated_id", "as whom the client had logged in"),
    _exim("proxy_local_address", "the load balancer that it came through: its IP address"),
    _exim("message_size", "octets of the content", Kind.INTEGER),
    _exim("recipients_count", "recipients that the event is about", Kind.INTEGER),
    _exim("local_part", "the recipient's local part"),
    _exim("domain", "the recipient's domain, lower-case A-labels"),
    _exim("router", "how the destination was chosen: mx, smarthost or reject"),
    _exim("transport", "how it was carried: smtp or lmtp"),
    _exim("host", "the server's name as routing found it"),
    _exim("host_address", "the server's IP address"),
    _exim("host_port", "the server's TCP port", Kind.INTEGER),
    _exim("sending_ip_address", "our own IP address of the connection"),
    _exim("sending_port", "our own TCP port of the connection", Kind.INTEGER),
    _ours("connection_reused", "1 when the connection had served an earlier message, else 0", Kind.INTEGER),
    _exim("lookup_dnssec_authenticated", "yes, no or empty: DNSSEC vouches for the addresses of the host"),
    _exim("tls_version", "TLS version in use, such as TLSv1.3; NULL in clear text"),
    _exim("tls_cipher", "cipher suite in use"),
    _exim("tls_out_peerdn", "subject of the server's certificate, RFC 4514"),
    _exim("tls_out_peercert_sha256", "SHA-256 over the certificate in DER, hexadecimal"),
    _exim("tls_out_dane", "yes when DANE authenticated the server (RFC 7672)"),
    _exim("tls_out_tlsa_usage", "TLSA usages found: a bit mask, bit 2 DANE-TA, bit 3 DANE-EE", Kind.INTEGER),
    _exim(
        "tls_out_ocsp",
        "stapled OCSP response: 0 not requested, 1 requested and none came, 3 not good or not usable, 4 good",
        Kind.INTEGER,
    ),
    _ours("tls_ocsp", "the same as a word: none, good, revoked, unknown or invalid"),
    _exim(
        "tls_out_resumption",
        "a bit mask: 1 supported, 2 ticket requested, 4 session offered, 8 new ticket issued, 16 resumed",
        Kind.INTEGER,
    ),
    _ours("tls_resumption", "off, full (no session was offered), offered (and not taken) or resumed"),
    _exim("tls_out_sni", "the server name that we sent in the handshake"),
    _ours(
        "tls_level", "what the settings asked for: none, may, try-verify, encrypt, verify, dane, dane-only"
    ),
    _ours("tls_required", "1 when the policy forbade clear text, else 0", Kind.INTEGER),
    _ours("tls_verified_by", "what authenticated the server: dane-ee, dane-ta, pkix or none"),
    _ours("tls_group", "key agreement, such as X25519MLKEM768"),
    _ours("tls_cert_issuer", "issuer of the certificate, RFC 4514"),
    _ours("tls_cert_expires_at", "when the certificate expires, seconds since the epoch", Kind.REAL),
    _ours("tls_depth", "depth of a certificate in the chain, 0 is the server's own", Kind.INTEGER),
    _ours("attempt", "number of the delivery attempt, from 1", Kind.INTEGER),
    _ours("attempt_id", "id of the delivery attempt; the same for all its events"),
    _ours("phase", "where in the session it happened, such as RCPT or DOT"),
    _ours("blame", "whose fault: recipient, message, host, destination, policy or local"),
    _ours("smtp_code", "code of the server's reply, such as 550", Kind.INTEGER),
    _ours("enhanced_code", "enhanced status code, such as 5.1.1 (RFC 3463)"),
    _ours(
        "in_doubt", "1 when the server may hold the message although it was deferred, else 0", Kind.INTEGER
    ),
    _ours("next_attempt_at", "when delivery is tried next, seconds since the epoch", Kind.REAL),
    _ours("dns_name", "the name that was looked up"),
    _ours("dns_type", "the type that was looked up, such as MX or TLSA"),
    _ours("reason", "stable word for programs, as in the trace"),
    _ours("bounce_id", "id of the bounce message that reports a failure to the sender"),
    _ours("seconds", "how long it took, seconds", Kind.REAL),
    _ours("trace", "the decisions of the attempt with their evidence", Kind.JSON),
)

FIELDS: Final[Mapping[str, Field]] = {field.name: field for field in (*IMPLIED, *_OWN)}

# Names that existing actions use for a field: Exim's variables of another name, and those of its TPDA.
ALIASES: Final[Mapping[str, str]] = {
    "message_exim_id": "message_id",
    "router_name": "router",
    "transport_name": "transport",
    "tpda_event": "event_name",
    "tpda_data": "event_data",
    "tpda_delivery_ip": "host_address",
    "tpda_delivery_port": "host_port",
    "tpda_delivery_fqdn": "host",
    "tpda_delivery_local_part": "local_part",
    "tpda_delivery_domain": "domain",
    "tpda_delivery_confirmation": "event_data",
    "tpda_defer_errno": "event_defer_errno",
    "tpda_defer_errstr": "event_data",
}


def clean_all(fields: Mapping[str, Any]) -> dict[str, Scalar]:
    """The fields of an event as they can be stored: so many, names bounded, values clean; never raises."""
    if len(fields) > MAX_FIELDS or not fields.keys() <= FIELDS.keys():  # hardly ever
        fields = {name[:MAX_NAME]: value for name, value in list(fields.items())[:MAX_FIELDS]}
    safe: dict[str, Any] = dict(fields)
    for name, value in fields.items():
        kind = type(value)
        if kind is str:  # written out: nearly every value needs no more than this
            if len(value) <= MAX_TEXT and value.isascii() and "\0" not in value:
                continue
        elif value is None or (kind is int and -MAX_INTEGER <= value <= MAX_INTEGER):
            continue
        safe[name] = clean(name, value)
    return safe


def clean(name: str, value: object) -> Scalar:
    """The value as it can be stored: text bounded, no NUL; integers within 64 bits; never raises."""
    if value is None:
        return None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        value = value[: 4 * MAX_TEXT].decode("utf-8", "replace")
    text = str(value)
    known = FIELDS.get(name)
    if known is not None and known.kind is Kind.JSON:
        return OMITTED if len(text) > MAX_JSON else _storable(text)
    return _storable(text[:MAX_TEXT])


def _storable(text: str) -> str:
    return text if text.isascii() and "\0" not in text else text.translate(_UNSTORABLE)
