"""Which recipients a message may have, by the terms of a listener: pure.

a route that rejects        said at RCPT, where the sender still hears it, and not by a bounce
relay.recipient_limit       said at RCPT where the size was declared, else at the end of the content
"""

from __future__ import annotations

from deliver.message import Mailbox
from deliver.relay.route import Reject, choose
from deliver.relay.terms import Terms
from deliver.smtp.action import ConsiderRecipient, EndContent
from deliver.smtp.reply import Reply


def recipient_refusal(question: ConsiderRecipient, terms: Terms) -> Reply | None:
    """The reply to RCPT for a recipient who cannot have this message, whoever sends it, else None."""
    return _unroutable(question, terms) or _declared_too_large(question, terms)


def over_limit(question: EndContent, terms: Terms) -> dict[Mailbox, Reply]:
    """The recipients that do not take so much, and what to say of them at the end of the content."""
    limits = {box: terms.size_limit(box) for box in question.recipients}
    return {
        box: Reply(552, (_too_large(box, limit),))
        for box, limit in limits.items()
        if limit is not None and question.size > limit
    }


def _unroutable(question: ConsiderRecipient, terms: Terms) -> Reply | None:
    sender = question.mail.sender
    route = choose(terms.routes, question.mailbox.domain, str(sender) if sender else "")
    return Reply(550, (f"5.7.1 {route.why}",)) if isinstance(route, Reject) else None


def _declared_too_large(question: ConsiderRecipient, terms: Terms) -> Reply | None:
    limit, size = terms.size_limit(question.mailbox), question.mail.size
    if limit is None or size is None or size <= limit:
        return None
    # Not 552, which means "too many recipients" here (RFC 5321 4.5.3.1.10).
    return Reply(550, (_too_large(question.mailbox, limit),))


def _too_large(mailbox: Mailbox, limit: int) -> str:
    return f"5.2.3 <{mailbox}> takes no message larger than {limit} octets"
