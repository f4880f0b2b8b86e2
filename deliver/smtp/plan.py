"""What a transaction says to one server: its MAIL and RCPT commands, and whom it need not ask for. Pure.

    the message                       the server lacks          what happens here
    --------------------------------  ------------------------  --------------------------------------------
    is larger                         than SIZE allows          Failed MESSAGE 5.3.4 (RFC 1870 6.1)
    has 8-bit text                    8BITMIME                  Failed HOST 5.6.3, or sent with pass_8bit
    asks for SMTPUTF8, or has such    SMTPUTF8                  Failed HOST 5.6.7 (RFC 6531 3.2)
      a sender
    has a recipient outside ASCII     SMTPUTF8                  that one Failed HOST 5.6.7
    has REQUIRETLS                    REQUIRETLS, or TLS        Failed HOST 5.7.30 (RFC 8689 4.2.1)
    the same, and is a bounce         REQUIRETLS                sent without it, over TLS (RFC 8689 5)
    asks for delivery reports         DSN                       left out (RFC 3461 5.2.2), not `dsn_passed`
    has an address that no command    -                         Failed 5.1.7 (sender), 5.1.3 (recipient)
      line can hold

Failed by the blame of the HOST another host may help; what else may help, `deliver.presentation` knows.
"""

from __future__ import annotations

from msgspec import Struct

from deliver.dsn import MAX_ENVID, MAX_ORCPT, Ret, orcpt_text, xtext
from deliver.errors import Blame
from deliver.message import Envelope, Recipient
from deliver.outcome import Contact, Failed, Phase
from deliver.smtp.command import CommandTooLong, Mail, Rcpt
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.refusal import MAX_WHY
from deliver.smtp.reply import EnhancedCode

NEEDS_8BITMIME = EnhancedCode(5, 6, 3)
NEEDS_SMTPUTF8 = EnhancedCode(5, 6, 7)
NEEDS_REQUIRETLS = EnhancedCode(5, 7, 30)


class Plan(Struct, frozen=True):
    """`mail` is None where nobody is asked; `refused` are settled without a word."""

    mail: Mail | None
    asked: tuple[tuple[Recipient, Rcpt], ...] = ()
    refused: tuple[tuple[Recipient, Failed], ...] = ()
    dsn_passed: bool = False


def plan(
    envelope: Envelope,
    recipients: tuple[Recipient, ...],
    capabilities: Capabilities,
    contact: Contact,
    *,
    pass_8bit: bool = False,
    prdr: bool = True,
    logged_in: bool = False,
) -> Plan:
    """The table above."""
    hopeless = _refuse_all(envelope, capabilities, contact, pass_8bit)
    if hopeless:
        return Plan(None, refused=tuple((who, hopeless) for who in recipients))
    utf8 = capabilities.smtputf8 and _wants_utf8(envelope, recipients)
    asked: list[tuple[Recipient, Rcpt]] = []
    refused: list[tuple[Recipient, Failed]] = []
    for who in recipients:
        command = _rcpt(who, capabilities, contact, utf8)
        if isinstance(command, Failed):
            refused.append((who, command))
        else:
            asked.append((who, command))
    if not asked:
        return Plan(None, refused=tuple(refused))
    several = len(asked) > 1
    mail = _mail(envelope, capabilities, utf8, prdr and several, logged_in)
    if isinstance(mail, Failed):
        return Plan(None, refused=tuple((who, mail) for who in recipients))
    return Plan(mail, tuple(asked), tuple(refused), capabilities.dsn)


def needs_8bitmime(outcome: object) -> bool:
    """Whether a recipient was not offered to a server because the message has 8-bit text."""
    return isinstance(outcome, Failed) and outcome.reply is None and outcome.enhanced == NEEDS_8BITMIME


def _refuse_all(
    envelope: Envelope, capabilities: Capabilities, contact: Contact, pass_8bit: bool
) -> Failed | None:
    """What need not be sent to anybody, because this server has announced that it will not take it."""
    if capabilities.size is not None and envelope.size > capabilities.size:
        why = f"the message has {envelope.size} octets, {contact.host} takes at most {capabilities.size}"
        return Failed(why, Blame.MESSAGE, Phase.MAIL, enhanced=EnhancedCode(5, 3, 4), contact=contact)
    if envelope.requires_tls and not _may_have(envelope, capabilities, contact):
        why = f"the message has REQUIRETLS and {contact.host} does not announce it inside TLS"
        return Failed(why, Blame.HOST, Phase.MAIL, enhanced=NEEDS_REQUIRETLS, contact=contact)
    sender = envelope.sender
    if not capabilities.smtputf8 and (envelope.smtputf8 or (sender and sender.internationalised)):
        return _needs_utf8("the message", Phase.MAIL, contact)
    if envelope.eight_bit and not capabilities.eight_bit_mime and not pass_8bit:
        why = f"the message has 8-bit text and {contact.host} does not announce 8BITMIME"
        return Failed(why, Blame.HOST, Phase.MAIL, enhanced=NEEDS_8BITMIME, contact=contact)
    return None


def _may_have(envelope: Envelope, capabilities: Capabilities, contact: Contact) -> bool:
    """Whether a message with REQUIRETLS may go to this server; a bounce must not be lost for want of it."""
    return contact.tls is not None and (capabilities.requiretls or envelope.sender is None)


def _wants_utf8(envelope: Envelope, recipients: tuple[Recipient, ...]) -> bool:
    if envelope.smtputf8 or (envelope.sender is not None and envelope.sender.internationalised):
        return True
    return any(who.mailbox.internationalised for who in recipients)


def _needs_utf8(what: str, phase: Phase, contact: Contact) -> Failed:
    why = f"{what} needs SMTPUTF8 and {contact.host} does not announce it"
    return Failed(why, Blame.HOST, phase, enhanced=NEEDS_SMTPUTF8, contact=contact)


def _mail(
    envelope: Envelope, capabilities: Capabilities, utf8: bool, prdr: bool, logged_in: bool
) -> Mail | Failed:
    ret, envid = (envelope.ret, envelope.envid) if capabilities.dsn else (None, None)
    if ret is Ret.FULL and envelope.requires_tls:
        ret = Ret.HDRS  # RFC 8689 5
    if envid is not None and not 0 < len(xtext(envid)) <= MAX_ENVID:
        envid = None  # longer than a client may make it
    try:
        return Mail(
            envelope.sender,
            size=envelope.size if capabilities.announces_size else None,
            body_8bit=envelope.eight_bit and capabilities.eight_bit_mime,
            prdr=prdr and capabilities.prdr,
            smtputf8=utf8,
            ret=ret,
            envid=envid,
            logged_in=logged_in and bool(capabilities.auth),
            requires_tls=envelope.requires_tls and capabilities.requiretls,
        )
    except CommandTooLong as error:
        return Failed(str(error)[:MAX_WHY], Blame.MESSAGE, Phase.MAIL, enhanced=EnhancedCode(5, 1, 7))


def _rcpt(who: Recipient, capabilities: Capabilities, contact: Contact, utf8: bool) -> Rcpt | Failed:
    if who.mailbox.internationalised and not utf8:
        return _needs_utf8("the recipient's address", Phase.RCPT, contact)
    notify, original = (who.notify or None, who.original) if capabilities.dsn else (None, None)
    if original is not None and len(orcpt_text(original)) > MAX_ORCPT:
        original = None  # longer than a client may make it
    try:
        return Rcpt(who.mailbox, utf8, notify, original)
    except CommandTooLong as error:
        return Failed(str(error)[:MAX_WHY], Blame.RECIPIENT, Phase.RCPT, enhanced=EnhancedCode(5, 1, 3))
