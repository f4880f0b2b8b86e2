"""SMTP replies (RFC 5321 4.2) and enhanced status codes (RFC 3463, RFC 2034)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|\Z)")


@dataclass(frozen=True, slots=True)
class EnhancedCode:
    """RFC 3463: class, subject, detail."""

    klass: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"

    @classmethod
    def parse(cls, text: str) -> EnhancedCode | None:
        """The code at the start of `text`, or None."""
        match = _ENHANCED.match(text)
        return cls(int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete reply: three-digit code and the texts of its lines without codes and line ends."""

    code: int
    lines: tuple[str, ...]

    @property
    def positive(self) -> bool:
        """2yz: done."""
        return self.code // 100 == 2

    @property
    def intermediate(self) -> bool:
        """3yz: go on."""
        return self.code // 100 == 3

    @property
    def transient(self) -> bool:
        """4yz: not now."""
        return self.code // 100 == 4

    @property
    def permanent(self) -> bool:
        """5yz: never."""
        return self.code // 100 == 5

    @property
    def enhanced(self) -> EnhancedCode | None:
        """The enhanced code of the first line, where its class agrees with the code (RFC 2034 4)."""
        code = EnhancedCode.parse(self.lines[0]) if self.lines else None
        return code if code and code.klass == self.code // 100 else None

    def __str__(self) -> str:
        return f"{self.code} {' '.join(line for line in self.lines if line)}".rstrip()
