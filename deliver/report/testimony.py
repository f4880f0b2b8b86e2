"""The events and log lines of an attempt, each raised where the story reaches it (see `events.catalogue`).

Order of a normal delivery: tcp:connect, smtp:connect, smtp:ehlo, tls:cert (leaf last), tls:level, smtp:ehlo,
tcp:close, msg:delivery per recipient. `msg:accept` and `msg:complete` are the queue's to tell.

Log: one line per connection and one per attempt; those of the recipients are `deliver.report.result`'s, which
are written when the outcome is settled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from deliver.message import Envelope, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase, Resumption, TlsFacts
from deliver.report.fields import (
    TLS_FAILED,
    certificate_fields,
    fault_fields,
    ocsp_number,
    resumption_word,
    server_fields,
    subject_of,
    usage_bits,
)
from deliver.report.log import say
from deliver.report.result import tls_word
from deliver.report.trace import Finding, Trace
from deliver.resolve.mx import NoHost
from deliver.smtp.reply import Reply
from deliver.tls.policy import Authentication, TlsPolicy
from deliver.tls.verdict import Handshake
from events.catalogue import Event, Scalar

_deliveries = logging.getLogger("outrider.delivery")
_connections = logging.getLogger("outrider.connection")

# The event and its event_data by the finding that refuses a host; others are failures of DNSSEC.
_REFUSED: Final = {
    "dane-required": ("dane:fail", "dane-required"),
    "sts-mx-mismatch": ("sts:fail", "mx-mismatch"),
    "sts-unknown": ("sts:fail", "policy-unknown"),
}


@dataclass(slots=True)
class Testimony:
    """Told by `deliver.attempt` and `deliver.session`; writes to the trace and to the log."""

    trace: Trace
    now: Callable[[], float]
    envelope: Envelope
    domain: str
    attempt: int
    router: str = "mx"
    levels: dict[tuple[str, str], str] = field(default_factory=dict)  # wanted, by host and address
    _began: float = field(init=False)
    _about: dict[str, Scalar] = field(init=False)  # what every event of this attempt carries

    def __post_init__(self) -> None:
        self._began = self.now()
        self._about = {
            "message_id": self.envelope.id,
            "sender_address": self.envelope.reverse_path,
            "attempt": self.attempt,
        }

    def apart(self) -> Testimony:
        """For what happens when the attempt is over, in a trace of its own."""
        return Testimony(
            Trace(), self.now, self.envelope, self.domain, self.attempt, self.router, self.levels
        )

    def connection(self, host: str, address: str, port: int, policy: TlsPolicy, secure: bool) -> Connection:
        """For what happens on one connection."""
        fields: dict[str, Scalar] = {
            "domain": self.domain,
            "host": host,
            "host_address": address,
            "host_port": port,
            "router": self.router,
            "transport": "smtp",
            "lookup_dnssec_authenticated": "yes" if secure else "no",
            "connection_reused": 0,
        }
        self.levels[host, address] = str(policy.level)
        return Connection(self, policy, fields, self.now())

    def no_route(self, refusal: NoHost) -> None:
        """No host, or not this one: dns:fail."""
        result = "DNS_NOMATCH" if refusal.permanent else "DNS_AGAIN"
        name = (refusal.name or self.domain).replace(":", "::")
        self.tell(
            "dns:fail",
            event_data=f"{result}:{name}:{refusal.type}",
            dns_name=refusal.name or self.domain,
            dns_type=refusal.type,
            reason=refusal.code,
        )

    def refused(self, host: str, port: int, finding: Finding) -> None:
        """The TLS policy refuses the host before any connection: dane:fail or sts:fail."""
        name, data = _REFUSED.get(finding.code, ("dane:fail", "dnssec-invalid"))
        self.tell(name, event_data=data, domain=self.domain, host=host, host_port=port, reason=finding.code)

    def host_deferred(self, host: str, outcome: Deferred | Failed) -> None:
        """No recipient could be offered to this host: msg:host:defer."""
        fields = {"host": host, "domain": self.domain, **fault_fields(outcome), **self._way(outcome)}
        self.tell("msg:host:defer", event_data=outcome.why, **fields)

    def fell_back(self, host: str, outcome: Deferred | Failed) -> None:
        """TLS failed where it is optional; the next contact is in clear text: tls:fallback."""
        self.tell("tls:fallback", event_data=outcome.why, **{"host": host, **server_fields(outcome)})

    def tried(self, recipient: Recipient, outcome: Outcome) -> None:
        """One host's answer for one recipient: msg:rcpt:host:defer for a 4yz to RCPT."""
        if isinstance(outcome, Deferred) and outcome.phase is Phase.RCPT and outcome.reply is not None:
            self._tell_of(recipient, "msg:rcpt:host:defer", str(outcome.reply), outcome)

    def settled(self, recipient: Recipient, outcome: Outcome) -> None:
        """The last word of this attempt on a recipient: msg:delivery or msg:fail:*."""
        if isinstance(outcome, Delivered):
            self._tell_of(recipient, "msg:delivery", str(outcome.reply), outcome)
            return
        match outcome:
            case Failed(contact=None, why=why):
                self._tell_of(recipient, "msg:fail:internal", why, outcome)
            case Failed(why=why, reply=reply):
                self._tell_of(recipient, "msg:fail:delivery", str(reply) if reply else why, outcome)
            case Deferred():
                if outcome.phase is Phase.RCPT:
                    self._tell_of(recipient, "msg:rcpt:defer", outcome.why, outcome)

    def attempt_over(self, outcomes: Sequence[tuple[Recipient, Outcome]]) -> None:
        """msg:defer once if anybody remains, and the line of the attempt."""
        deferred: list[Deferred] = []
        delivered = 0
        for _, outcome in outcomes:
            if isinstance(outcome, Delivered):
                delivered += 1
            elif isinstance(outcome, Deferred):
                deferred.append(outcome)
        if deferred:
            why = deferred[0]
            fields = {
                "domain": self.domain,
                "trace": self.trace.as_json(),
                **fault_fields(why),
                **server_fields(why),
            }
            self.tell("msg:defer", event_data=why.why, **fields)
        say(
            _deliveries,
            logging.INFO,
            "attempt",
            id=self.envelope.id,
            attempt=self.attempt,
            domain=self.domain,
            delivered=delivered,
            deferred=len(deferred),
            failed=len(outcomes) - delivered - len(deferred),
            seconds=round(self.now() - self._began, 3),
        )

    def tell(self, name: str, **fields: Scalar) -> Event:
        """Raise an event with what every event of this attempt carries."""
        return self.tell_of(name, fields)

    def tell_of(self, name: str, fields: Mapping[str, Scalar]) -> Event:
        """The same of fields that are together already."""
        event = Event(name, self.now(), {**self._about, **fields})
        self.trace.events.append(event)
        return event

    def about(self) -> Mapping[str, Scalar]:
        """What every event of this attempt carries."""
        return self._about

    def _tell_of(self, recipient: Recipient, name: str, data: str, outcome: Outcome) -> None:
        box = recipient.mailbox
        fields: dict[str, Scalar] = {
            "event_data": data,
            "local_part": box.local_part,
            "domain": box.domain,
        }
        if isinstance(outcome, Delivered):
            fields["smtp_code"] = outcome.reply.code
        else:
            fields |= fault_fields(outcome)
        if name != "msg:rcpt:host:defer" and name != "msg:rcpt:defer":
            fields["trace"] = self.trace.as_json()
        if name != "msg:fail:internal":
            fields |= self._way(outcome)
        self.tell_of(name, fields)

    def _way(self, outcome: Outcome) -> dict[str, Scalar]:
        """The server, and the TLS level that was wanted of it, also where it came to clear text."""
        contact = outcome.contact
        if contact is None:
            return {}
        return {
            "router": self.router,
            "transport": "smtp",
            "tls_level": self.levels.get((contact.host, contact.address)),
            **server_fields(outcome),
        }


class Connection:
    """What happens on one connection, in order."""

    def __init__(
        self, testimony: Testimony, policy: TlsPolicy, fields: dict[str, Scalar], began: float
    ) -> None:
        """`fields`: what every event of it carries, beside those of TLS; `began`: when it was opened."""
        self._testimony = testimony
        self._policy = policy
        self._began = began
        self._fields = fields
        self._tls: dict[str, Scalar] = {}
        self._announced: list[Event] = []

    def serve(self, testimony: Testimony, policy: TlsPolicy, secure: bool) -> None:
        """It goes on in the service of another message."""
        self._testimony, self._policy, fields = testimony, policy, self._fields
        fields["domain"] = testimony.domain
        fields["router"] = testimony.router
        fields["lookup_dnssec_authenticated"] = "yes" if secure else "no"
        fields["connection_reused"] = 1
        testimony.levels[str(fields["host"]), str(fields["host_address"])] = str(policy.level)

    def part(self) -> Trace:
        """No message is served any more: a trace for how it ends, told of the last one's id."""
        self._testimony = self._testimony.apart()
        return self._testimony.trace

    def announced_again(self, watched: Callable[[str, Mapping[str, Scalar]], bool]) -> tuple[Event, ...]:
        """What actions could refuse when the connection was opened, as it would be said of this message.

        Only what `watched(name, fields)` says that somebody may want to decide about. Nobody else is told: no
        connection is opened.
        """
        now, about = self._testimony.now(), self._testimony.about()
        news = {**about, "domain": self._testimony.domain, "connection_reused": 1}
        opened = [(event.name, event.fields) for event in self._announced]
        return tuple(
            Event(name, now, fields)
            for name, known in (("tcp:connect", self._fields), *opened)
            if watched(name, fields := {**known, **news})
        )

    @property
    def known(self) -> Mapping[str, Scalar]:
        """What every event of this connection carries from now on."""
        return {**self._fields, **self._tls}

    def connecting(self) -> Event:
        """tcp:connect, before a connection is opened."""
        return self._testimony.tell_of("tcp:connect", self._fields)

    def connected(self, local_address: str, local_port: int) -> None:
        """The TCP connection stands; our own end of it."""
        self._fields |= {"sending_ip_address": local_address, "sending_port": local_port}

    def greeted(self, reply: Reply) -> Event:
        """smtp:connect with the banner."""
        self._announced.append(event := self._tell("smtp:connect", event_data=str(reply)))
        return event

    def answered_ehlo(self, reply: Reply) -> None:
        """smtp:ehlo with the whole answer."""
        self._tell("smtp:ehlo", event_data="\n".join(reply.lines))

    def starttls_refused(self, why: str) -> None:
        """TLS is required and the server has none: dane:fail where DANE asks for it."""
        if self._policy.authentication is Authentication.DANE:
            self._tell("dane:fail", event_data="starttls-not-supported", reason=why)

    def handshake_failed(self, why: str, *, once_more: str = "") -> None:
        """tls:fail:connect, and dane:fail where DANE asked for TLS; `once_more`: what is tried next."""
        reason = f"once more with {once_more}" if once_more else None
        self._tell("tls:fail:connect", event_data=why, event_defer_errno=TLS_FAILED, reason=reason)
        if self._policy.authentication is Authentication.DANE and not once_more:
            self._tell("dane:fail", event_data="validation-failure")

    def shook_hands(self, handshake: Handshake, resumption: Resumption) -> tuple[Event, ...]:
        """tls:cert per certificate of the chain, from the top down to the server's own."""
        self._tls |= {
            "tls_version": handshake.version,
            "tls_cipher": handshake.cipher,
            "tls_group": handshake.group,
            "tls_level": str(self._policy.level),
            "tls_required": int(self._policy.required),
            "tls_out_sni": self._policy.sni,
            "tls_out_resumption": int(resumption),
            "tls_resumption": resumption_word(resumption),
            "tls_out_tlsa_usage": usage_bits(self._policy),
            "tls_out_peerdn": subject_of(handshake.chain[0]) if handshake.chain else None,
            "tls_out_peercert_sha256": sha256(handshake.chain[0]).hexdigest() if handshake.chain else None,
        }
        presented = tuple(
            self._tell(
                "tls:cert",
                event_data=str(depth),
                tls_depth=depth,
                **certificate_fields(handshake.chain[depth]),
            )
            for depth in reversed(range(len(handshake.chain)))
        )
        self._announced += presented
        return presented

    def staple(self, status: str) -> None:
        """ocsp:result, where a staple was asked for."""
        self._tls |= {"tls_out_ocsp": ocsp_number(status, requested=True), "tls_ocsp": status}
        self._tell("ocsp:result", event_data=status)

    def judged(self, facts: TlsFacts) -> None:
        """tls:level with what authenticated the server."""
        self._tls |= {
            "tls_verified_by": facts.verified_by,
            "tls_out_dane": "yes" if facts.verified_by.startswith("dane") else "no",
            "tls_out_ocsp": ocsp_number(facts.ocsp, requested=facts.ocsp_requested),
            "tls_ocsp": facts.ocsp,
        }
        self._tell("tls:level", event_data="encrypt" if facts.verified_by == "none" else facts.verified_by)

    def resumed(self, facts: TlsFacts) -> None:
        """tls:resumed, after what the session rests on was judged again."""
        self._tell("tls:resumed", event_data=facts.version)

    def ticket(self, facts: TlsFacts) -> None:
        """A new ticket came; later events of the connection tell it."""
        self._tls |= {
            "tls_out_resumption": int(facts.resumption),
            "tls_resumption": resumption_word(facts.resumption),
        }

    def not_verified(self, why: str) -> None:
        """tls:fail:verify where verification was only tried: mail goes on."""
        self._tell("tls:fail:verify", event_data=why, reason="not-required")

    def level_dropped(self, reached: str, best: str) -> None:
        """tls:level again: worse than what this host reached before."""
        self._tell("tls:level", event_data=reached, reason=f"dropped from {best}")

    def login_failed(self, said: str, reply: Reply | None) -> Event:
        """auth:fail with the server's reply, or with what was wrong with the exchange."""
        if reply is None:
            return self._tell("auth:fail", event_data=said)
        enhanced = str(reply.enhanced) if reply.enhanced else None
        return self._tell("auth:fail", event_data=said, smtp_code=reply.code, enhanced_code=enhanced)

    def rejected(self, why: str) -> None:
        """The verdict is no: dane:fail or tls:fail:verify."""
        if self._policy.authentication is Authentication.DANE:
            self._tell("dane:fail", event_data="validation-failure", event_defer_errno=TLS_FAILED)
        else:
            self._tell("tls:fail:verify", event_data=why, event_defer_errno=TLS_FAILED)

    def closed(self, contact: Contact, why: str | None, *, messages: int | None = None) -> None:
        """tcp:close and the line of the connection; `messages`: how many it served, if it waited."""
        self._tell("tcp:close", event_data=why, seconds=self._testimony.now() - self._began)
        say(
            _connections,
            logging.INFO,
            "connection",
            id=self._testimony.envelope.id,
            host=contact.host,
            address=contact.address,
            port=contact.port,
            tls=tls_word(contact.tls),
            version=contact.tls.version if contact.tls else None,
            cipher=contact.tls.cipher if contact.tls else None,
            resumed="yes" if contact.tls and contact.tls.resumed else None,
            messages=messages,
            seconds=round(self._testimony.now() - self._began, 3),
            why=why,
        )

    def _tell(self, name: str, **fields: Scalar) -> Event:
        return self._testimony.tell_of(name, {**self._fields, **self._tls, **fields})
