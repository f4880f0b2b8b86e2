"""Which recipients a message may have, by the terms of a listener: pure.

a route that rejects        said at RCPT, where the sender still hears it, and not by a bounce
relay.recipient_limit       said at RCPT where the size was declared, else at the end of the content
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from deliver.message import Mailbox
from deliver.relay.headerfields import Fields
from deliver.relay.route import Reject, choose
from deliver.relay.terms import Terms, header_pattern
from deliver.settings import RecipientLimit
from deliver.smtp.action import ConsiderRecipient
from deliver.smtp.reply import Reply


@dataclass(frozen=True, slots=True)
class ContentFacts:
    """What is known of content that has come: `size` in octets, `hops` its Received lines.

    `fields`: those that some limit looks at; None: its header section is too large to be looked at.
    """

    size: int
    eight_bit: bool = False
    hops: int = 0
    fields: Fields | None = ()


def recipient_refusal(question: ConsiderRecipient, terms: Terms) -> Reply | None:
    """The reply to RCPT for a recipient who cannot have this message, whoever sends it, else None."""
    if terms.rejecting and (unroutable := _unroutable(question, terms)):
        return unroutable
    return _declared_too_large(question, terms) if terms.recipient_limits else None


def content_refusals(
    recipients: tuple[Mailbox, ...], facts: ContentFacts, terms: Terms
) -> dict[Mailbox, Reply]:
    """The recipients that do not take this content, and what to say of them at its end."""
    if not terms.recipient_limits:
        return {}
    judged = {box: _content_refusal(box, facts, terms.limit_of(box)) for box in recipients}
    return {box: reply for box, reply in judged.items() if reply is not None}


def _content_refusal(box: Mailbox, facts: ContentFacts, limit: RecipientLimit) -> Reply | None:
    if limit.max_message_size is not None and facts.size > limit.max_message_size:
        return Reply(552, (_too_large(box, limit.max_message_size),))
    if limit.max_hops is not None and facts.hops > limit.max_hops:
        return Reply(554, (f"5.4.6 <{box}> takes no message with more than {limit.max_hops} hops",))
    if facts.eight_bit and not limit.eight_bit:
        return Reply(554, (f"5.6.1 <{box}> takes no message with 8-bit content",))
    if limit.refuse_headers:
        return _header_refusal(box, facts.fields, limit.refuse_headers)
    return None


def _header_refusal(box: Mailbox, fields: Fields | None, patterns: tuple[str, ...]) -> Reply | None:
    if fields is None:
        return Reply(554, (f"5.6.0 <{box}> takes no message with so large a header section",))
    for name, pattern in map(header_pattern, patterns):
        if any(name == field and fnmatchcase(value.lower(), pattern) for field, value in fields):
            return Reply(554, (f"5.7.1 <{box}> takes no message with this {name} field",))
    return None


def _unroutable(question: ConsiderRecipient, terms: Terms) -> Reply | None:
    sender = question.mail.sender
    route = choose(terms.routes, question.mailbox.domain, str(sender) if sender else "")
    return Reply(550, (f"5.7.1 {route.why}",)) if isinstance(route, Reject) else None


def _declared_too_large(question: ConsiderRecipient, terms: Terms) -> Reply | None:
    limit, size = terms.limit_of(question.mailbox).max_message_size, question.mail.size
    if limit is None or size is None or size <= limit:
        return None
    # Not 552, which means "too many recipients" here (RFC 5321 4.5.3.1.10).
    return Reply(550, (_too_large(question.mailbox, limit),))


def _too_large(mailbox: Mailbox, limit: int) -> str:
    return f"5.2.3 <{mailbox}> takes no message larger than {int(limit)} octets"
