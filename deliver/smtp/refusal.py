"""What a server's refusal means for the recipients that it concerns (RFC 5321 4.2.1 to 4.2.3).

The first row that fits counts; `deliver.outcome` says what follows from outcome and blame.

    in reply to         code                      outcome   blame
    ------------------  ------------------------  --------  ---------  ------------------------------------
    anything            421                       Deferred  HOST       the server is closing
    anything            503, enhanced none, 5.5.z Deferred  HOST       server and we are out of step
    MAIL RCPT DATA      530                       Deferred  HOST       wants TLS or AUTH: our settings, likely
    MAIL                452                       Deferred  HOST       its disk is full
    RCPT                552                       Deferred  RECIPIENT  too many: 452, RFC 5321 4.5.3.1.10
    RCPT                4yz                       Deferred  RECIPIENT  452 too: the rest is asked later
    RCPT                5yz                       Failed    RECIPIENT
    MAIL DATA BODY DOT  4yz                       Deferred  MESSAGE
    MAIL DATA BODY DOT  5yz                       Failed    MESSAGE

A 503 with another enhanced code, such as 5.7.1, states a policy and counts as any 5yz.
"""

from __future__ import annotations

from deliver.errors import Blame
from deliver.outcome import Contact, Deferred, Failed, Phase
from deliver.smtp.reply import EnhancedCode, Reply

MAX_WHY = 500  # characters of an explanation; servers write part of it

_ENVELOPE = (Phase.MAIL, Phase.RCPT, Phase.DATA)


def refusal_outcome(phase: Phase, reply: Reply, contact: Contact) -> Deferred | Failed:
    """The table above, for a reply that is neither 2yz nor 3yz."""
    failed, blame = _judge(phase, reply)
    subject, detail = (reply.enhanced.subject, reply.enhanced.detail) if reply.enhanced else (0, 0)
    why = f"{contact.host} answered {phase.value}: {reply}"[:MAX_WHY]
    if failed:
        return Failed(why, blame, phase, reply, EnhancedCode(5, subject, detail), contact)
    return Deferred(why, blame, phase, reply, EnhancedCode(4, subject, detail), contact)


def _judge(phase: Phase, reply: Reply) -> tuple[bool, Blame]:
    """Whether it is for good, and who is to blame."""
    if reply.code == 421 or _out_of_step(reply):
        return False, Blame.HOST
    if reply.code == 530 and phase in _ENVELOPE:
        return False, Blame.HOST
    if reply.code == 452 and phase is Phase.MAIL:
        return False, Blame.HOST
    if reply.code == 552 and phase is Phase.RCPT:
        return False, Blame.RECIPIENT
    return reply.permanent, Blame.RECIPIENT if phase is Phase.RCPT else Blame.MESSAGE


def _out_of_step(reply: Reply) -> bool:
    return reply.code == 503 and (reply.enhanced is None or reply.enhanced.subject == 5)
