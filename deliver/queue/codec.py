"""Outcomes and traces as JSON, and rows as values.

What is written here is read by later versions: keys are only added. Texts that a peer controls are capped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final

import msgspec

from deliver.dsn import OriginalRecipient, Ret, parse_notify
from deliver.errors import Blame, UsageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase, TlsFacts
from deliver.report.trace import Trace
from deliver.smtp.reply import EnhancedCode, Reply

MAX_TEXT: Final = 1000  # characters
MAX_LINES: Final = 20  # of a reply
_ENCODER: Final = msgspec.json.Encoder()
_RETS: Final = {each.value: each for each in Ret}
_ESCAPING: Final = json.JSONEncoder(separators=(",", ":"))
_TLS: Final = tuple(each.name for each in fields(TlsFacts) if each.name != "resumption")


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """The plain form of an outcome: `kind`, `text` for people, and what is known beyond that."""
    plain: dict[str, Any] = {"kind": type(outcome).__name__.lower(), "text": sentence(outcome)}
    if outcome.reply is not None:
        plain["reply"] = reply_dict(outcome.reply)
    if outcome.contact is not None:
        plain["contact"] = _contact_dict(outcome.contact)
    if isinstance(outcome, Delivered):
        return plain | ({"dsn_passed": True} if outcome.dsn_passed else {})
    plain |= {"why": outcome.why[:MAX_TEXT], "blame": outcome.blame.value, "status": str(outcome.enhanced)}
    if outcome.phase is not None:
        plain["phase"] = outcome.phase.name.lower()
    if isinstance(outcome, Deferred):
        plain["in_doubt"] = outcome.in_doubt
    return plain


def sentence(outcome: Outcome) -> str:
    """One line for the log and for `outrider queue`."""
    if isinstance(outcome, Delivered):
        return str(outcome.reply)[:MAX_TEXT]
    parts = [outcome.why]
    if outcome.phase is not None and outcome.phase.value not in outcome.why:
        parts.append(outcome.phase.value)
    if outcome.contact is not None and outcome.contact.host:
        parts.append(f"at {outcome.contact.host} [{outcome.contact.address}]")
    said = f"{parts[0]} ({' '.join(parts[1:])})" if parts[1:] else parts[0]
    if outcome.reply is not None and str(outcome.reply) not in said:
        said = f"{said}: {outcome.reply}"
    return said[:MAX_TEXT]


def outcome_of(plain: Any) -> Outcome | None:
    """What `outcome_dict` wrote, as far as a report needs it (no TLS facts); None for anything else."""
    if not isinstance(plain, dict):
        return None
    reply, contact = _reply_of(plain.get("reply")), _contact_of(plain.get("contact"))
    if plain.get("kind") == "delivered":
        where = contact or Contact("", "", 0)
        return Delivered(reply or Reply(250, ()), where, dsn_passed=bool(plain.get("dsn_passed")))
    if plain.get("kind") not in ("failed", "deferred"):
        return None
    kind, klass = (Failed, 5) if plain["kind"] == "failed" else (Deferred, 4)
    phase = str(plain.get("phase", "")).upper()
    return kind(
        why=str(plain.get("why", "")),
        blame=Blame(plain["blame"]) if plain.get("blame") in set(Blame) else Blame.LOCAL,
        phase=Phase[phase] if phase in Phase.__members__ else None,
        reply=reply,
        enhanced=EnhancedCode.parse(str(plain.get("status", ""))) or EnhancedCode(klass, 0, 0),
        contact=contact,
    )


def _reply_of(plain: Any) -> Reply | None:
    if not isinstance(plain, dict) or not isinstance(plain.get("code"), int):
        return None
    return Reply(plain["code"], tuple(str(line) for line in plain.get("lines", ())))


def _contact_of(plain: Any) -> Contact | None:
    if not isinstance(plain, dict) or not isinstance(plain.get("port"), int):
        return None
    return Contact(
        str(plain.get("host", "")),
        str(plain.get("address", "")),
        plain["port"],
        greeting=str(plain.get("greeting", "")),
        ehlo=str(plain.get("ehlo", "")),
    )


def _contact_dict(contact: Contact) -> dict[str, Any]:
    plain: dict[str, Any] = {"host": contact.host, "address": contact.address, "port": contact.port}
    plain |= {name: text[:MAX_TEXT] for name in ("greeting", "ehlo") if (text := getattr(contact, name))}
    if contact.tls is not None:
        plain["tls"] = {name: getattr(contact.tls, name) for name in _TLS}
        plain["tls"]["resumption"] = int(contact.tls.resumption)
    return plain


def trace_json(trace: Trace) -> str:
    """The findings of an attempt as a JSON array."""
    return trace.as_json()


def outcome_json(outcome: Outcome) -> str:
    """`outcome_dict` as text."""
    return _encode(outcome_dict(outcome))


def _encode(plain: object) -> str:
    try:
        return _ENCODER.encode(plain).decode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot have
        return _ESCAPING.encode(plain)


def outcomes_json(outcomes: Iterable[tuple[int, Outcome]]) -> str:
    """The outcomes of an attempt by ordinal."""
    return joined(outcomes_as_json(outcomes))


def outcomes_as_json(outcomes: Iterable[tuple[int, Outcome]]) -> list[tuple[int, str]]:
    """`outcome_json` of each; recipients of one transaction mostly share one."""
    said: list[tuple[int, str]] = []
    before, text = None, ""
    for ordinal, outcome in outcomes:
        if outcome is not before:
            before, text = outcome, outcome_json(outcome)
        said.append((ordinal, text))
    return said


def joined(said: Iterable[tuple[int, str]]) -> str:
    """`outcomes_json` of what `outcomes_as_json` gave."""
    return f"[{','.join(f'[{ordinal},{text}]' for ordinal, text in said)}]"


def result_word(outcomes: tuple[tuple[int, Outcome], ...]) -> str:
    """One word for an attempt: delivered, deferred, failed or mixed."""
    kinds = {type(outcome).__name__.lower() for _, outcome in outcomes}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def reply_dict(reply: Reply) -> dict[str, Any]:
    """A reply, capped."""
    return {"code": reply.code, "lines": [line[:MAX_TEXT] for line in reply.lines[:MAX_LINES]]}


def sender_of(row: Any) -> Mailbox | None:
    """The sender in a row of `message`."""
    if row.sender_domain is None:
        return None
    return Mailbox(row.sender_local_part, row.sender_domain)


def recipient_of(row: Any) -> Recipient:
    """The recipient in a row of `recipient`. Raises UsageError, TypeError, … for a row that is damaged."""
    original = None
    if row.original_type is not None:
        original = OriginalRecipient(row.original_type, row.original_address)
    notify = None if row.notify is None else parse_notify(row.notify)
    return Recipient(row.ordinal, Mailbox(row.local_part, row.domain), notify, original)


def known_of(row: Any) -> Recipient:
    """The recipient, without what cannot be read of it: for what is told about it."""
    try:
        return recipient_of(row)
    except (UsageError, ValueError, TypeError, AttributeError):
        return Recipient(row.ordinal, Mailbox(str(row.local_part), str(row.domain)))


def envelope_of(row: Any, recipients: tuple[Recipient, ...]) -> Envelope:
    """The envelope in a row of `message`, with the given recipients."""
    return Envelope(
        id=MessageId(row.id),
        sender=sender_of(row),
        recipients=recipients,
        size=row.size,
        eight_bit=bool(row.eight_bit),
        received_at=row.received_at,
        smtputf8=bool(row.smtputf8),
        ret=_RETS.get(row.ret),
        envid=row.envid,
        authenticated=row.authenticated,
        requires_tls=bool(row.requires_tls),
    )
