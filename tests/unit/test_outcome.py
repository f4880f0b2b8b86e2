"""What follows from an outcome for the hosts not yet tried, and from several hosts for a recipient."""

from __future__ import annotations

import pytest

from deliver.errors import Blame
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Step, after_another_host, next_step
from deliver.smtp.reply import Reply

DELIVERED = Delivered(Reply(250, ("ok",)), Contact("mx", "192.0.2.1", 25))
LATER, NEVER = Deferred("busy", Blame.HOST), Failed("cannot", Blame.HOST)


@pytest.mark.parametrize(
    ("outcome", "step"),
    [
        (DELIVERED, Step.STOP),
        (Deferred("?", Blame.HOST, in_doubt=True), Step.STOP),
        *(
            (Deferred("x", blame), Step.NEXT)
            for blame in (Blame.HOST, Blame.POLICY, Blame.RECIPIENT, Blame.MESSAGE)
        ),
        *((Deferred("x", blame), Step.STOP) for blame in (Blame.DESTINATION, Blame.LOCAL)),
        *((Failed("x", blame), Step.NEXT if blame is Blame.HOST else Step.STOP) for blame in Blame),
    ],
)
def test_the_table(outcome: Outcome, step: Step) -> None:
    assert next_step(outcome) is step


@pytest.mark.parametrize(
    ("before", "outcome", "holds"),
    [
        (None, NEVER, NEVER),
        (None, LATER, LATER),
        (LATER, NEVER, LATER),
        (NEVER, LATER, LATER),
        (NEVER, NEVER, NEVER),
        (LATER, DELIVERED, DELIVERED),
    ],
)
def test_while_one_host_may_take_it_mail_waits(
    before: Outcome | None, outcome: Outcome, holds: Outcome
) -> None:
    assert after_another_host(before, outcome) == holds
