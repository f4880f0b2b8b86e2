"""The standard population of the miniature Internet: one mail domain per situation that a sender can meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.internet.behaviour import Behaviour, Drop
from tests.internet.pki import Authority, Certificate, Credentials
from tests.internet.policy import Policy, policy_host_of, record_owner_of
from tests.internet.policyhost import PolicyAnswer
from tests.internet.resolver import Fault
from tests.internet.zones import MailDomain, Security

Association = tuple[int, int, int, int]  # usage, selector, matching type, place in the presented chain

DANE_EE: Association = (3, 1, 1, 0)
INTERMEDIATE_KEY: Association = (2, 1, 1, 1)
ROOT_CERTIFICATE: Association = (2, 0, 1, 2)
OTHER_KEY = f"3 1 1 {'5a' * 32}"  # matches nothing


@dataclass(frozen=True, slots=True)
class Exchanger:
    """One host with an SMTP server. Without a `certificate` it has no TLS, without `listening` no server.

    `tlsa` are associations with its own chain, or record data as text. `addresses` is how many it has.
    """

    name: str
    certificate: Certificate | None = Certificate.TRUSTED
    tlsa: tuple[Association | str, ...] = ()
    with_root: bool = False
    listening: bool = True
    behaviour: Behaviour = field(default_factory=Behaviour)
    addresses: int = 1

    def credentials(self, authority: Authority) -> Credentials | None:
        """What it presents."""
        if self.certificate is None:
            return None
        return authority.issue(self.name, kind=self.certificate, with_root=self.with_root)

    def tlsa_data(self, authority: Authority) -> tuple[str, ...]:
        """Its TLSA records. ValueError for an association without a certificate."""
        credentials = self.credentials(authority)
        data = []
        for association in self.tlsa:
            if isinstance(association, str):
                data.append(association)
            elif credentials is None:
                raise ValueError(f"{self.name} has no certificate for {association}")
            else:
                *numbers, place = association
                data.append(credentials.tlsa(*numbers, place=place))
        return tuple(data)


@dataclass(frozen=True, slots=True)
class Site:
    """One mail domain with its exchangers.

    `mx` None: the exchangers in their order, preferences 10, 20, …; empty: no MX record. `{port}` in `records`,
    `forged` and the names of `troubles` (name, type, fault) becomes the port of all servers. `policy`: it publishes
    MTA-STS; its policy host answers as `policy_answer`, whose body the policy becomes.
    """

    domain: str
    exchangers: tuple[Exchanger, ...] = ()
    mx: tuple[tuple[int, str], ...] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    forged: tuple[str, ...] = ()
    troubles: tuple[tuple[str, str, Fault], ...] = ()
    security: Security = Security.SECURE
    policy: Policy | None = None
    policy_answer: PolicyAnswer = field(default_factory=PolicyAnswer)

    def mail_domain(
        self, authority: Authority, port: int, addresses: Mapping[str, tuple[str, ...]]
    ) -> MailDomain:
        """Its zone, given the port of all servers and the addresses of all exchangers and policy hosts."""
        mx = self.mx
        if mx is None:
            mx = tuple((10 * place, host.name) for place, host in enumerate(self.exchangers, 1))
        return MailDomain(
            self.domain,
            mx=mx,
            hosts={name: addresses[name] for name in self._hosts()},
            aliases=self.aliases,
            texts={} if self.policy is None else {record_owner_of(self.domain): self.policy.record},
            tlsa=tuple(
                (f"_{port}._tcp.{host.name}", data)
                for host in self.exchangers
                for data in host.tlsa_data(authority)
            ),
            records=tuple(record.replace("{port}", str(port)) for record in self.records),
            forged=tuple(record.replace("{port}", str(port)) for record in self.forged),
            security=self.security,
        )

    def _hosts(self) -> tuple[str, ...]:
        exchangers = tuple(host.name for host in self.exchangers)
        return exchangers if self.policy is None else (*exchangers, policy_host_of(self.domain))


def _with_mx(domain: str, *, security: Security = Security.SECURE, **exchanger: object) -> Site:
    """A site with one exchanger, `mx.` in front of the domain."""
    return Site(domain, (Exchanger(f"mx.{domain}", **exchanger),), security=security)  # type: ignore[arg-type]


STANDARD: tuple[Site, ...] = (
    # DANE authenticates
    _with_mx("dane-ee.test", certificate=Certificate.SELF_SIGNED, tlsa=(DANE_EE,)),
    _with_mx("dane-ta.test", tlsa=(ROOT_CERTIFICATE,), with_root=True),
    _with_mx("dane-ta-key.test", tlsa=(INTERMEDIATE_KEY,)),
    _with_mx("dane-ee-expired.test", certificate=Certificate.EXPIRED, tlsa=(DANE_EE,)),  # RFC 7672 3.1.1
    _with_mx("dane-ee-name.test", certificate=Certificate.WRONG_NAME, tlsa=(DANE_EE,)),  # RFC 7672 3.1.1
    _with_mx("dane-rollover.test", tlsa=(OTHER_KEY, DANE_EE)),
    Site(
        "alias.test",  # the MX names an alias; TLSA is at its expansion
        (Exchanger("mx.alias.test", tlsa=(DANE_EE,)),),
        mx=((10, "mail.alias.test"),),
        aliases={"mail.alias.test": "mx.alias.test"},
    ),
    # DANE must stop it
    _with_mx("dane-mismatch.test", tlsa=(OTHER_KEY,)),
    _with_mx("dane-ta-name.test", certificate=Certificate.WRONG_NAME, tlsa=(INTERMEDIATE_KEY,)),
    _with_mx("dane-ta-expired.test", certificate=Certificate.EXPIRED, tlsa=(INTERMEDIATE_KEY,)),
    _with_mx("dane-stripped.test", tlsa=(DANE_EE,), behaviour=Behaviour(starttls=False)),
    Site(
        "tlsa-servfail.test",
        (Exchanger("mx.tlsa-servfail.test", tlsa=(DANE_EE,)),),
        troubles=(("_{port}._tcp.mx.tlsa-servfail.test", "TLSA", Fault.SERVFAIL),),
    ),
    Site(
        "tlsa-bogus.test",  # one forged RRset in a sound zone
        (Exchanger("mx.tlsa-bogus.test", tlsa=(DANE_EE,)),),
        forged=(f"_{{port}}._tcp.mx.tlsa-bogus.test. TLSA {OTHER_KEY}",),
    ),
    _with_mx("bogus.test", security=Security.BOGUS),
    _with_mx("expired.test", security=Security.EXPIRED),
    # no DANE
    _with_mx("tlsa-unusable.test", tlsa=((1, 1, 1, 0),)),  # TLS required, unauthenticated: RFC 7672 2.2
    _with_mx("signed.test"),
    _with_mx("insecure.test", certificate=Certificate.SELF_SIGNED, security=Security.INSECURE),
    _with_mx("insecure-tlsa.test", tlsa=(OTHER_KEY,), security=Security.INSECURE),  # must be ignored
    _with_mx("plain.test", certificate=None, security=Security.INSECURE),
    Site("implicit.test", (Exchanger("implicit.test"),), mx=()),
    # more than one host
    Site(
        "two.test",  # nobody listens on the first
        (Exchanger("mx1.two.test", listening=False), Exchanger("mx2.two.test", tlsa=(DANE_EE,))),
    ),
    Site(
        "busy.test",  # the first greets with 421
        (
            Exchanger("mx1.busy.test", behaviour=Behaviour(replies={"CONNECT": Drop("421 4.3.2 Busy")})),
            Exchanger("mx2.busy.test"),
        ),
    ),
    # nowhere to go
    Site("null.test", mx=((0, "."),)),  # RFC 7505
    Site("no-host.test", mx=((10, "mx.no-host.test"),)),  # the MX host does not exist
)

ABSENT = "absent.test"  # proven not to exist
