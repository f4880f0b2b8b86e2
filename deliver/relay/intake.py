"""The port through which accepted mail leaves the SMTP server: the queue stands behind it, or a test."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from deliver.message import Envelope, MessageId


class Origin(Struct, frozen=True):
    """Where a message comes from; `received_at` in seconds since the epoch, `helo` as the client gave it.

    `authenticated`: as whom it had logged in, or "". `proxy`: the load balancer's address, or "". `helo`
    is hostile: printable ASCII of at most 255 octets, nothing more is known of it.
    """

    message_id: MessageId
    client: str
    helo: str
    protocol: str
    received_at: float
    authenticated: str = ""
    proxy: str = ""


class Sink(Protocol):
    """Takes the content of one message. Exactly one of `commit` and `abandon` is called at the end."""

    async def write(self, chunk: bytes) -> None:
        """Append content as it will be sent, our Received header first. Raises StorageError, MessageError.

        After an error only `abandon` is called.
        """
        ...

    async def commit(self, envelope: Envelope) -> None:
        """Make the message durable; on return it survives a crash and the client is told 250.

        Raises StorageError when the message was not taken; what was written is then the sink's to remove.
        The caller shields this call from cancellation.
        """
        ...

    async def abandon(self) -> None:
        """Forget what was written; never raises an error of the tree."""
        ...


class Intake(Protocol):
    """Where messages go."""

    async def check_space(self, size: int) -> bool:
        """Whether a message of about `size` octets (0: not declared) may begin. Raises StorageError."""
        ...

    async def begin(self, origin: Origin) -> Sink:
        """A place for the content of one message. Raises StorageError."""
        ...
