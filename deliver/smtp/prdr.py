"""One reply per recipient after the content (draft-hall-prdr-00): what they mean together.

After 353 come one reply per accepted RCPT, in order, and one to the message. Nothing is settled before the
last of them was read:

    reply to the message   reply to the recipient   outcome of the recipient
    ---------------------  -----------------------  --------------------------------------------
    2yz                    2yz                      Delivered
    any                    4yz 5yz                  as its own reply says: never upgraded
    4yz 5yz                2yz                      as the reply to the message says
    421                    2yz, or none             Deferred HOST: the server is closing
    not read               any                      Deferred, in doubt
"""

from __future__ import annotations

from dataclasses import replace

from deliver.errors import Blame
from deliver.outcome import Contact, Deferred, Failed, Phase
from deliver.smtp.refusal import refusal_outcome
from deliver.smtp.reply import Reply


def individual_refusal(reply: Reply, contact: Contact) -> Deferred | Failed | None:
    """What a reply to one recipient settles whatever the server says of the message; None for 2yz."""
    if reply.positive:
        return None
    outcome = refusal_outcome(Phase.DOT, reply, contact)
    # Another recipient's content was the same: what is refused is the recipient.
    return replace(outcome, blame=Blame.RECIPIENT) if outcome.blame is Blame.MESSAGE else outcome
