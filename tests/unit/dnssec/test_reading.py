"""Which replies are read at all, and which parts of them."""

from __future__ import annotations

from collections.abc import Callable

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.update
import pytest

from deliver.dnssec.budget import Limits
from deliver.dnssec.reading import Reading, read
from deliver.dnssec.response import of_message
from deliver.dnssec.verdict import Failure
from tests.unit.dnssec.lab import ask

QUESTION = ask("good.test. MX")


def response() -> dns.message.Message:
    made = dns.message.make_response(dns.message.make_query("good.test.", "MX"))
    made.answer = [dns.rrset.from_text("good.test.", 60, "IN", "MX", "10 mx.good.test.")]
    made.additional = [dns.rrset.from_text("mx.good.test.", 60, "IN", "A", "192.0.2.1")]
    return made


def test_answer_and_authority_are_read_but_not_the_additional_section() -> None:
    found = read(QUESTION, of_message(response()), Limits())
    assert isinstance(found, Reading)
    assert found.answer.get(QUESTION.name, QUESTION.rdtype) is not None
    mx = dns.name.from_text("mx.good.test.")
    assert found.answer.get(mx, dns.rdatatype.A) is None
    assert found.authority.get(mx, dns.rdatatype.A) is None


def test_a_failure_stays_one() -> None:
    assert read(QUESTION, Failure("timed out"), Limits()) == Failure("timed out")


def _query(made: dns.message.Message) -> None:
    made.flags &= ~dns.flags.QR


def _truncated(made: dns.message.Message) -> None:
    made.flags |= dns.flags.TC


def _no_question(made: dns.message.Message) -> None:
    made.question = []


def _two_questions(made: dns.message.Message) -> None:
    made.question = made.question * 2


def _other_name(made: dns.message.Message) -> None:
    made.question = dns.message.make_query("evil.test.", "MX").question


def _other_type(made: dns.message.Message) -> None:
    made.question = dns.message.make_query("good.test.", "A").question


def _other_class(made: dns.message.Message) -> None:
    made.question = dns.message.make_query("good.test.", "MX", "CH").question


def _servfail(made: dns.message.Message) -> None:
    made.set_rcode(dns.rcode.SERVFAIL)


def _notify(made: dns.message.Message) -> None:
    made.set_opcode(dns.opcode.NOTIFY)


def _many_records(made: dns.message.Message) -> None:
    texts = [f"{n} mx.good.test." for n in range(300)]
    made.answer = [dns.rrset.from_text("good.test.", 60, "IN", "MX", *texts)]


def _many_rrsets(made: dns.message.Message) -> None:
    made.authority = [dns.rrset.from_text(f"n{n}.test.", 60, "IN", "A", "192.0.2.1") for n in range(200)]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_query, "not a response"),
        (_truncated, "truncated"),
        (_no_question, "one question"),
        (_two_questions, "one question"),
        (_other_name, "another question"),
        (_other_type, "another question"),
        (_other_class, "another question"),
        (_servfail, "SERVFAIL"),
        (_notify, "not a response"),
        (_many_records, "too many records"),
        (_many_rrsets, "too many records"),
    ],
)
def test_replies_that_do_not_fit_are_failures(
    spoil: Callable[[dns.message.Message], None], said: str
) -> None:
    made = response()
    spoil(made)
    found = read(QUESTION, of_message(made), Limits())
    assert isinstance(found, Failure)
    assert said in found.why


def test_the_case_of_the_question_does_not_matter() -> None:
    assert isinstance(read(ask("GOOD.test. MX"), of_message(response()), Limits()), Reading)


def test_records_of_another_class_are_not_seen() -> None:
    made = response()
    made.answer = [dns.rrset.from_text("good.test.", 60, "CH", "MX", "10 mx.good.test.")]
    found = read(QUESTION, of_message(made), Limits())
    assert isinstance(found, Reading)
    assert found.answer.rrsets == {}
