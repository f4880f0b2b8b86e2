"""What became of recipients whom no session reached. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deliver.errors import Blame
from deliver.outcome import Deferred, Failed, Outcome, Phase, failed_for_now
from deliver.resolve.mx import NoHost
from deliver.smtp.reply import EnhancedCode


def unreached(refusals: Sequence[NoHost], gave_up: str | None, *, by_settings: bool) -> Outcome:
    """The outcome: by the hosts that were out of reach, or by why the attempt `gave_up`.

    `by_settings`: the hosts are named by the settings, not by DNS.
    """
    if gave_up:
        return Deferred(gave_up, Blame.LOCAL, Phase.CONNECT, enhanced=EnhancedCode(4, 4, 7))
    if not refusals:
        return Deferred("the attempt was interrupted", Blame.LOCAL, enhanced=EnhancedCode(4, 3, 2))
    refusal = temporary(refusals) or refusals[-1]
    failed = Failed(refusal.why, Blame.DESTINATION, enhanced=EnhancedCode(*refusal.enhanced))
    if by_settings and refusal.permanent:
        return failed_for_now(failed, "the settings name this server: mail waits until they or DNS are right")
    return failed if refusal.permanent else Deferred(refusal.why, failed.blame, enhanced=failed.enhanced)


def temporary(refusals: Iterable[NoHost]) -> NoHost | None:
    """The first that need not last."""
    return next((refusal for refusal in refusals if not refusal.permanent), None)
