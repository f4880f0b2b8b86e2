"""The states of the SMTP server machine, and which command leads where.

    state       STARTTLS   AUTH   MAIL    RCPT        DATA     BDAT     RSET
    ----------  ---------  -----  ------  ----------  -------  -------  -----
    FRESH       HANDSHAKE  503    503     503         503      503      FRESH
    READY       HANDSHAKE  READY  SENDER  503         503      503      READY
    SENDER      503        503    503     RECIPIENTS  554      554      READY
    RECIPIENTS  503        503    503     RECIPIENTS  CONTENT  CONTENT  READY
    CHUNKS      503        503    503     503         503      CONTENT  READY

In these states EHLO and HELO lead to READY, QUIT to CLOSED; NOOP, VRFY and HELP lead nowhere. In the others
no commands are read:

    CONTENT     everything is content, up to CRLF.CRLF or the end of the chunk; then READY, or CHUNKS
    EXCHANGE    everything is a response to our challenge (RFC 4954 4), until it was judged; then READY
    HANDSHAKE   nothing is read until TLS is there; then FRESH

The state changes only when the command succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from deliver.smtp.request import Verb


class State(Enum):
    """Where in a session the client is."""

    FRESH = "no EHLO or HELO yet"
    READY = "no transaction"
    SENDER = "MAIL was accepted"
    RECIPIENTS = "at least one RCPT was accepted"
    CHUNKS = "the content is being received, a command is next"
    CONTENT = "the content is being received"
    EXCHANGE = "AUTH goes on"
    HANDSHAKE = "TLS begins"
    CLOSED = "no more commands"

    __hash__ = object.__hash__  # members are single objects; Enum would hash their names, again and again


_GREETED = frozenset({State.READY, State.SENDER, State.RECIPIENTS, State.CHUNKS})
COMMANDED = frozenset({State.FRESH, *_GREETED})  # states in which commands are read
DEAF = frozenset({State.HANDSHAKE, State.CLOSED})  # in which nothing is read

TRANSITIONS: Mapping[tuple[State, Verb], State] = {
    **{(state, verb): State.READY for state in COMMANDED for verb in (Verb.EHLO, Verb.HELO)},
    (State.FRESH, Verb.STARTTLS): State.HANDSHAKE,
    (State.READY, Verb.STARTTLS): State.HANDSHAKE,
    (State.READY, Verb.AUTH): State.READY,
    (State.READY, Verb.MAIL): State.SENDER,
    (State.SENDER, Verb.RCPT): State.RECIPIENTS,
    (State.RECIPIENTS, Verb.RCPT): State.RECIPIENTS,
    (State.RECIPIENTS, Verb.DATA): State.CONTENT,
    (State.RECIPIENTS, Verb.BDAT): State.CONTENT,
    (State.CHUNKS, Verb.BDAT): State.CONTENT,
    (State.FRESH, Verb.RSET): State.FRESH,
    **{(state, Verb.RSET): State.READY for state in _GREETED},
    **{(state, verb): state for state in COMMANDED for verb in (Verb.NOOP, Verb.VRFY, Verb.HELP)},
    **{(state, Verb.QUIT): State.CLOSED for state in COMMANDED},
}

OUT_OF_SEQUENCE: Mapping[Verb, str] = {
    Verb.STARTTLS: "5.5.1 Finish the message first",
    Verb.AUTH: "5.5.1 Send EHLO first, and AUTH before MAIL",
    Verb.MAIL: "5.5.1 Send EHLO first, and one MAIL per message",
    Verb.RCPT: "5.5.1 Send MAIL first",
    Verb.DATA: "5.5.1 Send MAIL and RCPT first, and not both DATA and BDAT",
    Verb.BDAT: "5.5.1 Send MAIL and RCPT first",
}
