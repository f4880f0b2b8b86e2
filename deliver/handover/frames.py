"""The frames on the socket between `outrider send` and the service: pure, and light to import.

    octets  meaning
    ------  ------------------------------------------------
    1       kind
    4       length of the payload, big-endian
    …       payload, of at most the kind's limit

    kind      from     payload
    --------  -------  -----------------------------------------------------------------------------
    OFFER     caller   fields in UTF-8, each ended by NUL: see `Offer`
    GO        service  none: send the message
    NO        service  a reason; the caller delivers in its own process
    CONTENT   caller   octets of the message
    END       caller   none: the message is complete
    ANSWER    service  exit status (1 octet), length of the output (4 octets), output, text for stderr

A caller that goes away before END has handed nothing over. Another version is refused.
"""

from __future__ import annotations

VERSION = "2"
OFFER, GO, NO, CONTENT, END, ANSWER = b"OGNCEA"

HEADER = 5  # octets
MAX_PIECE = 64 * 1024  # octets of content in one frame
MAX_OFFER = 512 * 1024  # a thousand recipients
MAX_ANSWER = 64 * 1024 * 1024
MAX_QUEUE_ID = 255  # characters
LIMITS = {OFFER: MAX_OFFER, GO: 0, NO: 4096, CONTENT: MAX_PIECE, END: 0, ANSWER: MAX_ANSWER}


class BadFrame(Exception):
    """The other side does not keep to the table above; the text says how."""


class Offer:
    """What a caller wants delivered. `sender` None: the calling user at this machine; "": the null sender.

    `digest` stands for the caller's settings (`digest_of`), `queue_id` is empty without one. `requires_tls`:
    as with REQUIRETLS in MAIL (RFC 8689 2).
    """

    __slots__ = ("as_json", "digest", "queue_id", "recipients", "requires_tls", "sender", "user")

    def __init__(
        self,
        digest: str,
        user: str,
        sender: str | None,
        queue_id: str,
        as_json: bool,
        recipients: tuple[str, ...],
        *,
        requires_tls: bool = False,
    ) -> None:
        self.digest = digest
        self.user = user
        self.sender = sender
        self.queue_id = queue_id
        self.as_json = as_json
        self.recipients = recipients
        self.requires_tls = requires_tls

    def encode(self) -> bytes:
        """The payload. Raises BadFrame for what cannot be offered."""
        sender = ("", "") if self.sender is None else ("given", self.sender)
        asked = ("json" if self.as_json else "", "requiretls" if self.requires_tls else "")
        fields = (VERSION, self.digest, self.user, *sender, self.queue_id, *asked)
        try:
            payload = b"".join(field.encode() + b"\0" for field in (*fields, *self.recipients))
        except UnicodeEncodeError:
            raise BadFrame("a field is not text") from None
        if payload.count(b"\0") != len(fields) + len(self.recipients) or len(payload) > MAX_OFFER:
            raise BadFrame("a field holds NUL, or there is too much")
        return payload

    @classmethod
    def decode(cls, payload: bytes) -> Offer:
        """Read a payload. Raises BadFrame, also for another version."""
        version, _, fields = payload.partition(b"\0")
        if version != VERSION.encode():  # first: what another version means by its fields is not known
            said = version[:20].decode(errors="replace")
            raise BadFrame(f"version {said!r} of the hand-over, here it is {VERSION}")
        *octets, rest = fields.split(b"\0")
        if rest or len(octets) < 8:
            raise BadFrame("an offer with too few fields")
        try:
            digest, user, given, sender, queue_id, form, tls, *recipients = (
                field.decode() for field in octets
            )
        except UnicodeDecodeError:
            raise BadFrame("an offer that is not UTF-8") from None
        return cls(
            digest,
            user,
            sender if given else None,
            queue_id,
            bool(form),
            tuple(recipients),
            requires_tls=bool(tls),
        )


def encode(kind: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return bytes((kind,)) + len(payload).to_bytes(4, "big") + payload


def answer(status: int, output: bytes, errors: bytes) -> bytes:
    """An ANSWER frame; what is too long is cut."""
    room = MAX_ANSWER - 5
    output = output[:room]
    return encode(
        ANSWER, bytes((status,)) + len(output).to_bytes(4, "big") + output + errors[: room - len(output)]
    )


def parse_answer(payload: bytes) -> tuple[int, bytes, bytes]:
    """Exit status, output and text for stderr. Raises BadFrame."""
    if len(payload) < 5 or (end := 5 + int.from_bytes(payload[1:5], "big")) > len(payload):
        raise BadFrame("an answer that is too short")
    return payload[0], payload[5:end], payload[end:]


class FrameReader:
    """Octets in any portions to frames, of the kinds that are expected."""

    def __init__(self, *kinds: int) -> None:
        self._kinds = kinds
        self._buffer = bytearray()

    def expect(self, *kinds: int) -> None:
        """From now on these kinds; what was read already is kept."""
        self._kinds = kinds

    def feed(self, data: bytes) -> None:
        """Take octets."""
        self._buffer += data

    def next_frame(self) -> tuple[int, bytes] | None:
        """Kind and payload of the next frame, or None. Raises BadFrame."""
        if not self._buffer:
            return None
        kind = self._buffer[0]
        if kind not in self._kinds:
            raise BadFrame(f"a frame of the unexpected kind {kind}")
        if len(self._buffer) < HEADER:
            return None
        length = int.from_bytes(self._buffer[1:HEADER], "big")
        if length > LIMITS[kind]:
            raise BadFrame(f"a frame of {length} octets")
        if len(self._buffer) < HEADER + length:
            return None
        payload = bytes(self._buffer[HEADER : HEADER + length])
        del self._buffer[: HEADER + length]
        return kind, payload


def digest_of(file: bytes | None, overrides: tuple[str, ...] = ()) -> str:
    """What stands for settings: the octets of their file (None: there is none) and the overrides."""
    try:
        from _blake2 import blake2b  # hashlib loads all of OpenSSL's
    except ImportError:
        from hashlib import blake2b

    digest = blake2b(b"none" if file is None else b"file" + blake2b(file).digest(), digest_size=32)
    for override in overrides:
        digest.update(b"\0" + override.encode(errors="surrogateescape"))
    return digest.hexdigest()
