"""The one error tree: whose fault it is, whether it is temporary, and what a person should do.

    OutriderError                 blame, temporary, exit status
    ├── ConfigurationError        LOCAL, permanent    78 EX_CONFIG
    ├── UsageError                LOCAL, permanent    64 EX_USAGE
    ├── MessageError              MESSAGE, permanent  65 EX_DATAERR
    ├── StorageError              LOCAL, temporary    75 EX_TEMPFAIL
    └── PeerError                 HOST, temporary     75 EX_TEMPFAIL

Every error says what was attempted, what happened and what to do. Anything else that escapes is a bug.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Blame(StrEnum):
    """Whose fault an unwanted outcome is; it decides what is tried next (see `deliver.outcome`)."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    DESTINATION = "destination"
    POLICY = "policy"
    LOCAL = "local"


class Fault(StrEnum):
    """How a connection failed, where that is known; retry rules choose by it."""

    REFUSED = "refused"
    TIMEOUT = "timeout"


class OutriderError(Exception):
    """Root of the tree. `attempted`, `happened` and `remedy` are phrases without a final full stop."""

    blame: ClassVar[Blame] = Blame.LOCAL
    temporary: ClassVar[bool] = False
    exit_status: ClassVar[int] = 70

    def __init__(self, attempted: str, happened: str, remedy: str = "") -> None:
        super().__init__(attempted, happened, remedy)
        self.attempted = attempted
        self.happened = happened
        self.remedy = remedy

    def __str__(self) -> str:
        said = f"{self.attempted}: {self.happened}"
        return f"{said} ({self.remedy})" if self.remedy else said


class ConfigurationError(OutriderError):
    """The settings cannot be used; nothing was started."""

    exit_status = 78


class UsageError(OutriderError):
    """The command line cannot be understood."""

    exit_status = 64


class MessageError(OutriderError):
    """The message itself cannot be sent by anybody."""

    blame = Blame.MESSAGE
    exit_status = 65


class StorageError(OutriderError):
    """A database or spool file could not be read or written; try again when it is repaired."""

    temporary = True
    exit_status = 75


class StorageFault(StorageError):
    """The storage takes nothing at all; `final`: it is not to be trusted until somebody looked at it."""

    def __init__(self, attempted: str, happened: str, remedy: str = "", *, final: bool = False) -> None:
        super().__init__(attempted, happened, remedy)
        self.final = final


class PeerError(OutriderError):
    """The other side, or the path to it, misbehaved."""

    fault: Fault | None = None
    blame = Blame.HOST
    temporary = True
    exit_status = 75
