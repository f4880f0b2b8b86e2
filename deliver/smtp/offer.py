"""What a server offers its clients with EHLO, what it demands of them, and their limits. Pure.

keyword               RFC                        parameters
--------------------  -------------------------  ------------------
PIPELINING            2920
SIZE                  1870                       MAIL SIZE
8BITMIME              6152                       MAIL BODY
ENHANCEDSTATUSCODES   2034
DSN                   3461                       MAIL RET ENVID, RCPT NOTIFY ORCPT
SMTPUTF8              6531                       MAIL SMTPUTF8
CHUNKING              3030
LIMITS                9422
PRDR                  draft-hall-prdr-00         MAIL PRDR
REQUIRETLS            8689                       MAIL REQUIRETLS
PIPECONNECT           draft-harris-early-pipe
STARTTLS              3207
AUTH                  4954                       MAIL AUTH
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of us."""

    message_size: int  # octets, announced with SIZE; 0 is no limit
    recipients: int = 1000  # of one message; RFC 5321 4.5.3.1.8 asks for at least 100
    errors: int = 20  # commands out of sequence, unknown or refused by policy, in one connection
    idle_commands: int = 100  # commands that bring no message, since the last message


class Hello(Enum):
    """What the name in EHLO and HELO has to be."""

    ANYTHING = "none"
    NAME = "syntax"  # a host name or an address literal
    QUALIFIED = "qualified"  # with a dot, or an address literal

    __hash__ = object.__hash__  # members are single objects; Enum would hash their names, again and again


@dataclass(frozen=True, slots=True)
class Offer:
    """Beside what every client gets.

    `starttls` is not said again once TLS is there. `mechanisms` (upper case, the best first) are offered only
    inside TLS, unless `auth_in_clear`; REQUIRETLS in no other case (RFC 8689 2). `require_tls`: nothing but
    STARTTLS before TLS (RFC 3207 4); `require_auth`: no MAIL before AUTH (RFC 4954 6).
    """

    chunking: bool = True
    smtputf8: bool = True
    dsn: bool = True
    prdr: bool = True
    requiretls: bool = True
    pipeconnect: bool = False
    starttls: bool = False
    mechanisms: tuple[str, ...] = ()
    auth_in_clear: bool = False
    require_tls: bool = False
    require_auth: bool = False
    hello: Hello = Hello.ANYTHING

    def mail_parameters(self, *, secured: bool) -> frozenset[str]:
        """Keywords that MAIL may have on the connection as it is."""
        words = {"SIZE", "BODY"}
        words |= {"SMTPUTF8"} if self.smtputf8 else set()
        words |= {"RET", "ENVID"} if self.dsn else set()
        words |= {"PRDR"} if self.prdr else set()
        words |= {"REQUIRETLS"} if self.requiretls and secured else set()
        words |= {"AUTH"} if self.mechanisms else set()
        return frozenset(words)

    def after_starttls(self, *, secured: bool) -> frozenset[str]:
        """Keywords that MAIL may not have yet, but once STARTTLS was sent."""
        if not self.starttls or secured:
            return frozenset()
        return self.mail_parameters(secured=True) - self.mail_parameters(secured=False)

    @property
    def rcpt_parameters(self) -> frozenset[str]:
        """Keywords that RCPT may have."""
        return frozenset({"NOTIFY", "ORCPT"} if self.dsn else ())

    def may_auth(self, *, secured: bool) -> bool:
        """Whether AUTH is possible on the connection as it is."""
        return bool(self.mechanisms) and (secured or self.auth_in_clear)

    @lru_cache(maxsize=64)  # noqa: B019 - offers are few, and values
    def keywords(self, limits: Limits, *, secured: bool) -> tuple[str, ...]:
        """The lines of the reply to EHLO behind the first."""
        size = f"SIZE {limits.message_size}" if limits.message_size else "SIZE"
        optional = {
            "DSN": self.dsn,
            "SMTPUTF8": self.smtputf8,
            "CHUNKING": self.chunking,
            "PRDR": self.prdr,
            "REQUIRETLS": self.requiretls and secured,
            "PIPECONNECT": self.pipeconnect,
            "STARTTLS": self.starttls and not secured,
            f"AUTH {' '.join(self.mechanisms)}": self.may_auth(secured=secured),
        }
        always = (
            "PIPELINING",
            size,
            "8BITMIME",
            "ENHANCEDSTATUSCODES",
            f"LIMITS RCPTMAX={limits.recipients}",
        )
        return (*always, *(keyword for keyword, offered in optional.items() if offered))
