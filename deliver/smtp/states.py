"""The table of an SMTP session from the client's side (RFC 5321 3 and 4.1.4); `deliver.smtp.client` runs it.

    state      command         state then   the reply 2yz      3yz       4yz 5yz
    ---------  --------------  -----------  -----------------  --------  --------------------
    CONNECTED  (the greeting)               GREETED            -         REFUSED
    GREETED    EHLO HELO       HELLO        READY              -         GREETED
    READY      STARTTLS        UPGRADING    UPGRADING (1)      -         READY
    READY      MAIL            ENVELOPE     as it is           -         as it is (2)
    READY      AUTH            LOGIN        READY (6)          ASKED     READY
    ASKED      (a response)    LOGIN        READY (6)          ASKED     READY
    READY      NOOP            READY        as it is           -         as it is
    ENVELOPE   RCPT            ENVELOPE     as it is           -         as it is
    ENVELOPE   DATA            DATA         -                  CONTENT   ENVELOPE (2)
    READY ENVELOPE  RSET       READY        as it is           -         as it is
    CONTENT    (early reply)                -                  -         BROKEN (3)
    CONTENT    end of content  ENDED        READY              (4)       READY
    ENVELOPE   BDAT            CHUNKS       as it is           -         as it is (2)
    CHUNKS     BDAT            CHUNKS       as it is           -         as it is (2)
    ENVELOPE CHUNKS  BDAT LAST ENDED        READY              (4)       ENVELOPE (2)
    CHUNKS     RSET            READY        as it is           -         as it is
    GREETED READY ENVELOPE CHUNKS REFUSED  QUIT    CLOSING     CLOSING  -         CLOSING
    CONNECTED  EHLO            HELLO        as it is           -         BROKEN (5)
    HELLO      STARTTLS        UPGRADING    as above           -         as above (5)
    HELLO      MAIL            ENVELOPE     as above           -         as above (5)

(1) Until `start_tls_done`; octets behind this reply were injected before TLS and break the session.
(2) A refused transaction stays open until RSET.
(3) The server still reads content: nothing that we could say now would be a command.
(4) 353 if MAIL asked for PRDR: one reply per accepted RCPT follows, in order, then the one to the message.
(5) Only after `presume` (draft-harris-early-pipe): what leaves before the greeting and before the answer to
    EHLO. A greeting or an EHLO that is refused with commands behind it breaks the session.
(6) Once per session (RFC 4954 4).

Nothing may follow BDAT before the octets that it announced have gone through `send_octets` (RFC 3030 2).

A 421 in place of any reply means that the server is closing (RFC 5321 3.8): the state is CLOSING.
"""

from __future__ import annotations

from enum import Enum

from deliver.outcome import Phase
from deliver.smtp.command import (
    Auth,
    AuthResponse,
    Bdat,
    BdatLast,
    Command,
    Data,
    Ehlo,
    EndOfContent,
    Helo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
)


class State(Enum):
    """How far the session is, counted by what was sent."""

    CONNECTED = "waiting for the greeting"
    GREETED = "greeted"
    REFUSED = "refused by the greeting"
    HELLO = "waiting for the answer to EHLO"
    READY = "ready for a transaction"
    UPGRADING = "between STARTTLS and TLS"
    LOGIN = "waiting for the answer to AUTH"
    ASKED = "being asked by AUTH"
    ENVELOPE = "in the envelope of a transaction"
    DATA = "waiting for the answer to DATA"
    CONTENT = "sending content"
    CHUNKS = "sending chunks of content"
    ENDED = "waiting for the answer to the content"
    CLOSING = "closing"
    BROKEN = "broken"

    __hash__ = object.__hash__  # members are single objects; Enum would hash their names, again and again


SENDING: dict[tuple[State, type[Command]], State] = {
    (State.GREETED, Ehlo): State.HELLO,
    (State.GREETED, Helo): State.HELLO,
    (State.READY, StartTls): State.UPGRADING,
    (State.READY, Auth): State.LOGIN,
    (State.ASKED, AuthResponse): State.LOGIN,
    (State.READY, Mail): State.ENVELOPE,
    (State.READY, Noop): State.READY,
    (State.READY, Rset): State.READY,
    (State.ENVELOPE, Rset): State.READY,
    (State.ENVELOPE, Rcpt): State.ENVELOPE,
    (State.ENVELOPE, Data): State.DATA,
    (State.CONTENT, EndOfContent): State.ENDED,
    (State.ENVELOPE, Bdat): State.CHUNKS,
    (State.CHUNKS, Bdat): State.CHUNKS,
    (State.ENVELOPE, BdatLast): State.ENDED,
    (State.CHUNKS, BdatLast): State.ENDED,
    (State.CHUNKS, Rset): State.READY,
    (State.CHUNKS, Quit): State.CLOSING,
    (State.GREETED, Quit): State.CLOSING,
    (State.REFUSED, Quit): State.CLOSING,
    (State.READY, Quit): State.CLOSING,
    (State.ENVELOPE, Quit): State.CLOSING,
}

# What may leave on the strength of an earlier connection: see `presume`.
SENDING_EARLY: dict[tuple[State, type[Command]], State] = {
    (State.CONNECTED, Ehlo): State.HELLO,
    (State.HELLO, StartTls): State.UPGRADING,
    (State.HELLO, Mail): State.ENVELOPE,
}

# By first digit of the reply; None leaves the state as what was sent since has made it.
RECEIVING: dict[tuple[Phase, int], State | None] = {
    (Phase.BANNER, 2): State.GREETED,
    (Phase.BANNER, 4): State.REFUSED,
    (Phase.BANNER, 5): State.REFUSED,
    (Phase.EHLO, 2): State.READY,
    (Phase.EHLO, 4): State.GREETED,
    (Phase.EHLO, 5): State.GREETED,
    (Phase.STARTTLS, 2): State.UPGRADING,
    (Phase.STARTTLS, 4): State.READY,
    (Phase.STARTTLS, 5): State.READY,
    (Phase.AUTH, 2): State.READY,
    (Phase.AUTH, 3): State.ASKED,
    (Phase.AUTH, 4): State.READY,
    (Phase.AUTH, 5): State.READY,
    (Phase.DATA, 3): State.CONTENT,
    (Phase.DATA, 4): State.ENVELOPE,
    (Phase.DATA, 5): State.ENVELOPE,
    (Phase.BODY, 4): State.BROKEN,
    (Phase.BODY, 5): State.BROKEN,
    (Phase.DOT, 2): State.READY,
    (Phase.DOT, 4): State.READY,
    (Phase.DOT, 5): State.READY,
    **{(phase, digit): None for phase in (Phase.MAIL, Phase.RCPT, Phase.RSET) for digit in (2, 4, 5)},
    **{(Phase.QUIT, digit): State.CLOSING for digit in (2, 4, 5)},
}

# Replies to chunks go another way than those to mail data of the same phase.
RECEIVING_CHUNKS: dict[tuple[type[Command] | None, int], State | None] = {
    **{(Bdat, digit): None for digit in (2, 4, 5)},
    (BdatLast, 4): State.ENVELOPE,
    (BdatLast, 5): State.ENVELOPE,
}
