"""A miniature mail Internet on loopback addresses, in pure Python: DNSSEC, DANE, certificates, SMTP servers.

    async with open_internet() as world: ...     inside trio
    with LiveInternet() as live: ...             in a thread of its own, for real client processes

`sites` holds the standard population, `zones` the DNS that it becomes, `resolver` its recursive resolver,
`pki` its certificates, `smtpd` and `behaviour` its mail servers.
"""

from tests.internet.behaviour import Behaviour, Delay, Drop, Held, Point, Silence
from tests.internet.gate import Gate
from tests.internet.live import LiveInternet
from tests.internet.peer import Peer
from tests.internet.pki import Authority, Certificate, Credentials
from tests.internet.received import Command, Connection, ReceivedMessage, TlsFacts
from tests.internet.resolver import Fault, Question, Resolver
from tests.internet.sites import ABSENT, STANDARD, Exchanger, Site
from tests.internet.smtpd import SmtpServer, open_server
from tests.internet.world import World, open_internet
from tests.internet.zones import Internet, MailDomain, Security, Status, build

__all__ = [
    "ABSENT",
    "STANDARD",
    "Authority",
    "Behaviour",
    "Certificate",
    "Command",
    "Connection",
    "Credentials",
    "Delay",
    "Drop",
    "Exchanger",
    "Fault",
    "Gate",
    "Held",
    "Internet",
    "LiveInternet",
    "MailDomain",
    "Peer",
    "Point",
    "Question",
    "ReceivedMessage",
    "Resolver",
    "Security",
    "Silence",
    "Site",
    "SmtpServer",
    "Status",
    "TlsFacts",
    "World",
    "build",
    "open_internet",
    "open_server",
]
