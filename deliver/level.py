"""The TLS levels of the settings; what they mean for a host is decided in `deliver.tls.policy`."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """What an administrator asks for, by `tls.level`."""

    NONE = "none"
    MAY = "may"
    TRY_VERIFY = "try-verify"
    ENCRYPT = "encrypt"
    VERIFY = "verify"
    DANE = "dane"
    DANE_ONLY = "dane-only"

    @property
    def wants_tlsa(self) -> bool:
        """Whether TLSA records are looked up at this level."""
        return self in (Level.DANE, Level.DANE_ONLY)
