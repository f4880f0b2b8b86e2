"""The ready-made tables beside `event_log`: what reports ask for, one subject each.

    outrider_messages      one row per message: from whom, how large, when accepted and when complete
    outrider_deliveries    one row per recipient that was delivered or failed for good
    outrider_attempts      one row per attempt at a domain: how many went, how many wait, and why
    outrider_connections   one row per connection that was opened, with its TLS and how long it took
    outrider_tls           one row per TLS fact: level reached, fallback, failure, DANE failure
    outrider_certificates  one row per host, depth and certificate: first and last time it was seen

`wanted` and `reached` are none, encrypt, verify or dane; `below` is 1 where less was reached than wanted.
Times are seconds since the epoch. `id` is the id of the event that the row comes from. These definitions are
those of the newest version (`events.migrations`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, SmallInteger, String, Table, Text

from events.fields import Scalar

metadata = MetaData()

MAX_NAME: Final = 255  # characters
MAX_KEY: Final = 128
MAX_WORD: Final = 64

NAME = String(MAX_NAME)  # MySQL cannot index TEXT
KEY = String(MAX_KEY)
EVENT_ID = String(64)
WORD = String(MAX_WORD)

# Whatever the database's own default: every character can be stored, and keys differ by case.
MYSQL: Final[dict[str, Any]] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


class Copy:
    """Columns whose values are those of the fields of the same names.

    Texts are cut to the column's length: PostgreSQL refuses longer ones, which peers may choose.
    """

    __slots__ = ("_limits", "names")

    def __init__(self, table: Table, *names: str) -> None:
        self.names = names
        lengths = (getattr(table.c[name].type, "length", None) for name in names)
        self._limits = tuple((place, length) for place, length in enumerate(lengths) if length)

    def values(self, known: Mapping[str, Scalar]) -> list[Scalar]:
        """The values, in the order of the names."""
        found = list(map(known.get, self.names))
        for place, length in self._limits:
            value = found[place]
            if isinstance(value, str) and len(value) > length:
                found[place] = value[:length]
        return found

    def row(self, known: Mapping[str, Scalar]) -> dict[str, Any]:
        """The values by name."""
        return dict(zip(self.names, self.values(known), strict=True))


def cut(value: Scalar, length: int) -> Scalar:
    """Text of at most `length` characters; anything else as it is."""
    return value[:length] if isinstance(value, str) else value


messages = Table(
    "outrider_messages",
    metadata,
    Column("message_id", KEY, primary_key=True),
    Column("sender_address", Text),
    Column("client_address", WORD),
    Column("size", BigInteger),
    Column("recipients", Integer),
    Column("accepted_at", Double),
    Column("completed_at", Double),
    Column("last_at", Double, nullable=False),
    Index("outrider_messages_last", "last_at"),
    **MYSQL,
)

deliveries = Table(
    "outrider_deliveries",
    metadata,
    Column("id", EVENT_ID, primary_key=True),
    Column("at", Double, nullable=False),
    Column("message_id", KEY),
    Column("attempt", Integer),
    Column("result", WORD, nullable=False),  # delivered, failed
    Column("sender_address", Text),
    Column("local_part", Text),
    Column("domain", NAME),
    Column("host", NAME),
    Column("host_address", WORD),
    Column("host_port", Integer),
    Column("wanted", WORD),
    Column("reached", WORD),
    Column("below", SmallInteger),
    Column("tls_version", WORD),
    Column("tls_cipher", WORD),
    Column("resumed", SmallInteger),
    Column("smtp_code", Integer),
    Column("enhanced_code", WORD),
    Column("said", Text),  # the server's reply, or why it failed
    Index("outrider_deliveries_message", "message_id"),
    Index("outrider_deliveries_domain", "domain", "at"),
    **MYSQL,
)

attempts = Table(
    "outrider_attempts",
    metadata,
    Column("message_id", KEY, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("domain", NAME, primary_key=True),
    Column("at", Double, nullable=False),
    Column("delivered", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("deferred", SmallInteger, nullable=False),  # 1: recipients remain
    Column("host", NAME),
    Column("host_address", WORD),
    Column("phase", WORD),
    Column("blame", WORD),
    Column("enhanced_code", WORD),
    Column("smtp_code", Integer),
    Column("in_doubt", SmallInteger),
    Column("why", Text),
    Index("outrider_attempts_domain", "domain", "at"),
    **MYSQL,
)

connections = Table(
    "outrider_connections",
    metadata,
    Column("id", EVENT_ID, primary_key=True),
    Column("at", Double, nullable=False),  # when it was closed
    Column("seconds", Double),
    Column("message_id", KEY),
    Column("domain", NAME),
    Column("host", NAME),
    Column("host_address", WORD),
    Column("host_port", Integer),
    Column("sending_ip_address", WORD),
    Column("dnssec", WORD),
    Column("tls_version", WORD),
    Column("tls_cipher", WORD),
    Column("tls_group", WORD),
    Column("verified_by", WORD),
    Column("resumed", SmallInteger),
    Column("certificate", WORD),  # SHA-256 of the server's
    Column("why", Text),  # why it was closed early
    Index("outrider_connections_domain", "domain", "at"),
    **MYSQL,
)

tls = Table(
    "outrider_tls",
    metadata,
    Column("id", EVENT_ID, primary_key=True),
    Column("at", Double, nullable=False),
    Column("message_id", KEY),
    Column(
        "name", WORD, nullable=False
    ),  # of the event: tls:level, tls:fallback, tls:fail:*, dane:fail, sts:fail
    Column("domain", NAME),
    Column("host", NAME),
    Column("host_address", WORD),
    Column("wanted", WORD),
    Column("reached", WORD),
    Column("ocsp", WORD),
    Column("said", Text),
    Index("outrider_tls_domain", "domain", "at"),
    **MYSQL,
)

certificates = Table(
    "outrider_certificates",
    metadata,
    Column("host", NAME, primary_key=True),
    Column("depth", Integer, primary_key=True),
    Column("sha256", WORD, primary_key=True),
    Column("subject", Text),
    Column("issuer", Text),
    Column("expires_at", Double),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("times", BigInteger, nullable=False),
    **MYSQL,
)
