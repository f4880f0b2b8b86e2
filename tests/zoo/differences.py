"""Where a validator concludes something else than the zoo expects, why, and the RFC section that decides.

`UNBOUND` may or may not hold, as versions of unbound differ; `OURS` must hold, so that a row whose reason is gone
is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.zoo.animal import Animal, Kind, Security


@dataclass(frozen=True, slots=True)
class Difference:
    """Questions (`name. TYPE`, with shell wildcards), what is concluded, the section and the reason.

    `kind` None: that of the animal, or any where the animal has none.
    """

    questions: tuple[str, ...]
    security: Security
    rfc: str
    why: str
    kind: Kind | None = None

    def concerns(self, animal: Animal) -> bool:
        """Whether the animal is one of them."""
        return any(fnmatchcase(str(animal), question) for question in self.questions)

    def agrees(self, animal: Animal, security: Security, kind: Kind) -> bool:
        """Whether that is what this row says about the animal."""
        wanted = self.kind or (animal.kind if animal.kind is not Kind.NOTHING else kind)
        return (security, kind) == (self.security, wanted)


def find(table: Iterable[Difference], animal: Animal) -> Difference | None:
    """The row about the animal."""
    return next((row for row in table if row.concerns(animal)), None)


UNBOUND = (
    Difference(
        ("*.alg5.test. *", "alg5.test. *", "*.alg7.test. *", "alg7.test. *", "sha1-left.test. *"),
        Security.SECURE,
        "RFC 9905 2",
        "RSASHA1 still counts where OpenSSL's policy allows it",
    ),
    Difference(
        ("*nsec3-101.test. *", "*nsec3-150.test. *"),
        Security.SECURE,
        "RFC 9276 3.2",
        "its limit is 150 iterations, ours is 100",
    ),
    Difference(
        ("*ds-sha256-bad.test. *",),
        Security.SECURE,
        "RFC 4509 3",
        "with harden-algo-downgrade off a SHA-1 DS counts beside one of SHA-256",
    ),
    Difference(
        ("revoked.test. *", "*.revoked.test. *", "by-revoked-key.sig.test. A"),
        Security.SECURE,
        "RFC 5011 2.1",
        "the REVOKE flag is read for trust anchors only",
    ),
    Difference(
        ("by-parent.sig.test. A", "by-root.sig.test. A"),
        Security.SECURE,
        "RFC 4035 5.3.1",
        "a signature by a zone further up counts: that zone is trusted for all below it",
    ),
    Difference(
        ("n06m.false-nsec.test. A", "n16.false-nsec.test. TXT", "h10.false-nsec3.test. TXT"),
        Security.SECURE,
        "RFC 4035 5.3.4, RFC 4592 4",
        "a denial signed as that of a wildcard is read as the wildcard's own record",
    ),
    Difference(
        ("x.w.w-no-type-proof.test. TXT",),
        Security.SECURE,
        "RFC 4035 5.4, RFC 4592 2.2.2",
        "an NSEC that ends at the wildcard is taken as proof that it is an empty non-terminal",
        Kind.NODATA,
    ),
)

OURS: tuple[Difference, ...] = ()
