"""A miniature mail Internet on loopback addresses, in pure Python: DNSSEC, DANE, certificates, SMTP servers.

    async with open_internet() as world: ...     inside trio
    with LiveInternet() as live: ...             in a thread of its own, for real client processes

`sites` holds the standard population, `stssites` one that publishes MTA-STS policies, `zones` the DNS that they
become, `resolver` its recursive resolver, `pki` its certificates, `smtpd` and `behaviour` its mail servers,
`policy` and `policyhost` what MTA-STS needs.
"""

from tests.internet.behaviour import Behaviour, Delay, Drop, Held, Point, Silence
from tests.internet.gate import Gate
from tests.internet.live import LiveInternet
from tests.internet.peer import Peer
from tests.internet.pki import Authority, Certificate, Credentials
from tests.internet.policy import Mode, Policy
from tests.internet.policyhost import PolicyAnswer, PolicyHost, PolicyRequest, Visit
from tests.internet.received import Command, Connection, ReceivedMessage, TlsFacts
from tests.internet.resolver import Fault, Question, Resolver
from tests.internet.sites import ABSENT, STANDARD, Exchanger, Site
from tests.internet.smtpd import SmtpServer, open_server
from tests.internet.stssites import STS
from tests.internet.world import World, open_internet
from tests.internet.zones import Internet, MailDomain, Security, Status, build

__all__ = [
    "ABSENT",
    "STANDARD",
    "STS",
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
    "Mode",
    "Peer",
    "Point",
    "Policy",
    "PolicyAnswer",
    "PolicyHost",
    "PolicyRequest",
    "Question",
    "ReceivedMessage",
    "Resolver",
    "Security",
    "Silence",
    "Site",
    "SmtpServer",
    "Status",
    "TlsFacts",
    "Visit",
    "World",
    "build",
    "open_internet",
    "open_server",
]
