"""The demonstration's own judgement: every way in which it may not have gone as it had to is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.internet.report import Case, Received, Report, Seen, Story, shortcomings

SUBMITTED = "Subject: hi\r\n\r\n.dot\r\n"
ARRIVED = f"Received: from app.example\r\n by relay.demo.test\r\n{SUBMITTED}"
DELIVERED = Case("a@good.test", "is sound", "delivered", "dane-ee")
DEFERRED = Case("b@bad.test", "is not", "deferred")


def story(case: Case, **changes: Any) -> Story:
    name = "msg:delivery" if case.outcome == "delivered" else "msg:defer"
    sound = Story(
        case=case,
        id="m1",
        submitted=SUBMITTED,
        outcome=case.outcome,
        why="why",
        status=None,
        server=case.exchanger,
        tls={"verified_by": case.verified_by} if case.verified_by else None,
        next_attempt_in=None,
        decisions=(),
        events=({"name": name, "fields": {"tls_verified_by": case.verified_by}},),
    )
    return replace(sound, **changes)


ARRIVAL = Received("mx.good.test", "s@app.example", ("a@good.test",), "TLSv1.3", ARRIVED, "250 OK")
SOUND = Report(
    messages=(story(DELIVERED), story(DEFERRED)),
    hints=(),
    received=(ARRIVAL,),
    connections=(
        Seen("mx.good.test", ("EHLO", "STARTTLS"), ("EHLO", "MAIL", "RCPT", "DATA", "QUIT"), "quit"),
        Seen("mx.bad.test", ("EHLO", "STARTTLS"), (), "closed"),
    ),
    ledger=(
        {"domain": "good.test", "event": "msg:delivery"},
        {"domain": "bad.test", "event": "msg:defer"},
    ),
)


def with_first(**changes: Any) -> Report:
    return replace(SOUND, messages=(story(DELIVERED, **changes), SOUND.messages[1]))


def with_arrival(content: str) -> Report:
    return replace(SOUND, received=(replace(ARRIVAL, content=content),))


def test_what_went_as_it_had_to_has_no_shortcomings() -> None:
    assert shortcomings(SOUND) == ()


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (with_first(outcome="deferred"), "a@good.test: the message is deferred, must be delivered: why"),
        (
            with_first(tls={"verified_by": "none"}),
            "a@good.test: the server was authenticated by none, must be by dane-ee",
        ),
        (with_first(tls=None), "a@good.test: the server was authenticated by None, must be by dane-ee"),
        (with_first(events=()), "a@good.test: 0 event rows msg:delivery, must be 1"),
        (
            with_first(events=({"name": "msg:delivery", "fields": {"tls_verified_by": "none"}},)),
            "a@good.test: the event row msg:delivery says that none authenticated the server",
        ),
        (
            replace(SOUND, ledger=SOUND.ledger[1:]),
            "a@good.test: the SQL action in the settings wrote nothing",
        ),
        (replace(SOUND, received=()), "a@good.test: mx.good.test received 0 messages, must be 1"),
        (
            replace(SOUND, received=(ARRIVAL, ARRIVAL)),
            "a@good.test: mx.good.test received 2 messages, must be 1",
        ),
        (
            replace(SOUND, received=(ARRIVAL, replace(ARRIVAL, server="mx.bad.test"))),
            "b@bad.test: mx.bad.test received 1 messages, must be 0",
        ),
        (with_arrival(SUBMITTED), "a@good.test: the message arrived without a Received field at its top"),
        (
            with_arrival(ARRIVED.replace("\r\n.dot", "\r\ndot")),
            "a@good.test: the message that arrived is not the one that was handed over",
        ),
        (
            replace(SOUND, connections=(Seen("mx.bad.test", ("EHLO", "MAIL"), (), "closed"),)),
            "mx.bad.test was sent MAIL in clear text",
        ),
        (replace(SOUND, violations=("bare LF",)), "a mail server saw a rule broken: bare LF"),
    ],
)
def test_each_difference_is_named(report: Report, sentence: str) -> None:
    assert sentence in shortcomings(report)


def test_the_json_form_has_what_had_to_happen_beside_what_happened() -> None:
    plain = SOUND.messages[0].as_dict()
    assert plain["recipient"] == "a@good.test"
    assert plain["expected"] == {"outcome": "delivered", "verified_by": "dane-ee"}
    assert (plain["outcome"], plain["verified_by"]) == ("delivered", "dane-ee")
