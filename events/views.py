"""The documented views over the ready-made tables: answers to the questions that people ask.

Plain SQL that SQLite, PostgreSQL and MariaDB understand alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class View:
    """One view: `question` in words, `select` its definition, `order` how `events query` sorts it."""

    name: str
    question: str
    select: str
    order: str

    @property
    def table(self) -> str:
        """Its name in the database."""
        return f"outrider_{self.name}"


_ALL: Final = (
    View(
        "below_level",
        "Which domains got mail below the TLS level that was wished for?",
        """
        SELECT domain, wanted, reached, COUNT(*) AS deliveries, MIN(at) AS first_at, MAX(at) AS last_at
        FROM outrider_deliveries WHERE below = 1 GROUP BY domain, wanted, reached
        """,
        "deliveries DESC, domain",
    ),
    View(
        "slowest",
        "Which destinations take longest?",
        """
        SELECT domain, host, COUNT(*) AS connections, AVG(seconds) AS mean_seconds,
               MAX(seconds) AS longest_seconds, MAX(at) AS last_at
        FROM outrider_connections WHERE seconds IS NOT NULL GROUP BY domain, host
        """,
        "mean_seconds DESC, domain",
    ),
    View(
        "defers",
        "Why does mail wait, and where?",
        """
        SELECT domain, host, blame, phase, enhanced_code, COUNT(*) AS attempts,
               COUNT(DISTINCT message_id) AS messages, MAX(why) AS for_instance, MAX(at) AS last_at
        FROM outrider_attempts WHERE deferred = 1 GROUP BY domain, host, blame, phase, enhanced_code
        """,
        "attempts DESC, domain",
    ),
    View(
        "certificate_changes",
        "Which servers changed their certificate, or its issuer?",
        """
        SELECT later.host AS host, later.first_at AS changed_at,
               CASE WHEN later.issuer = earlier.issuer THEN 0 ELSE 1 END AS issuer_changed,
               earlier.issuer AS issuer_before, later.issuer AS issuer_now,
               earlier.sha256 AS sha256_before, later.sha256 AS sha256_now, later.expires_at AS expires_at
        FROM outrider_certificates later
        JOIN outrider_certificates earlier
          ON earlier.host = later.host AND earlier.depth = later.depth AND earlier.first_at < later.first_at
        WHERE later.depth = 0 AND NOT EXISTS (
            SELECT 1 FROM outrider_certificates middle
            WHERE middle.host = later.host AND middle.depth = later.depth
              AND middle.first_at > earlier.first_at AND middle.first_at < later.first_at)
        """,
        "changed_at DESC, host",
    ),
)

VIEWS: Final[Mapping[str, View]] = {view.name: view for view in _ALL}
