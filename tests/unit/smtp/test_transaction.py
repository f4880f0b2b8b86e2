"""Transactions: the plan, the course corrections, what replies and losses mean."""

from __future__ import annotations

import pytest

from deliver.errors import Blame
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Outcome, Phase
from deliver.smtp.client import ClientMachine, Exchange
from deliver.smtp.command import Data, Ehlo, LocalMisuse, Mail, Rcpt
from deliver.smtp.ehlo import Capabilities
from deliver.smtp.refusal import refusal_outcome
from deliver.smtp.reply import EnhancedCode, Reply
from deliver.smtp.transaction import (
    FLIGHT,
    LONE_DOT,
    AwaitReply,
    Done,
    SendCommands,
    SendContent,
    Transaction,
)

CONTACT = Contact("mx.example.net", "192.0.2.1", 25)


def offering(*keywords: str) -> Capabilities:
    return Capabilities.parse(Reply(250, ("mx", *keywords)))


def transaction(
    count: int = 2,
    *keywords: str,
    size: int = 100,
    eight_bit: bool = False,
    pipelining: bool = True,
    pass_8bit: bool = False,
) -> Transaction:
    recipients = tuple(Recipient(n, Mailbox(f"r{n}", "example.net")) for n in range(count))
    envelope = Envelope(MessageId("m"), Mailbox("ann", "example.org"), recipients, size, eight_bit, 0.0)
    return Transaction(
        envelope, recipients, offering(*keywords), CONTACT, pipelining=pipelining, pass_8bit=pass_8bit
    )


class Play:
    """A transaction, a real machine, and a server that answers from a script of code texts."""

    def __init__(self, subject: Transaction, *keywords: str) -> None:
        self.subject = subject
        self.machine = ClientMachine()
        self.sent: list[str] = []
        self.flights: list[int] = []
        self._say("220 mx")
        self.machine.send(Ehlo("us"))
        self._say(*(f"250-{word}" for word in ("mx", *keywords)), "250 HELP")

    def run(self, *answers: str) -> list[Outcome]:
        """Until the script ends or the transaction is done; content is ended at once."""
        script = list(answers)
        while True:
            match self.subject.next_action():
                case SendCommands(commands):
                    self.flights.append(len(commands))
                    for command in commands:
                        self.sent.append(self.machine.send(command).decode().split(":")[0].strip())
                case SendContent():
                    self.sent.append("CONTENT")
                    if script and script[0].startswith("early "):
                        self._say(script.pop(0).removeprefix("early "))
                        continue
                    if script and script[0] == "lost in content":
                        break
                    self.subject.dot_handed_over()
                    self.machine.send(LONE_DOT)
                case AwaitReply():
                    if not script:
                        break
                    self._say(script.pop(0))
                case Done():
                    assert not script, script
                    break
        return [outcome for _, outcome in self.subject.outcomes()]

    def _say(self, *lines: str) -> None:
        self.machine.receive("".join(f"{line}\r\n" for line in lines).encode())
        exchange = self.machine.next_exchange()
        assert exchange is not None
        if exchange.phase not in (Phase.BANNER, Phase.EHLO):
            self.delivered = self.subject.got(exchange)


def blames(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [
        (type(outcome).__name__, "" if isinstance(outcome, Delivered) else outcome.blame.value)
        for outcome in outcomes
    ]


def test_one_flight_with_pipelining() -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run("250 a", "250 b", "250 c", "354 d", "250 2.0.0 queued as 1")
    assert play.flights == [4]
    assert play.sent == ["MAIL FROM", "RCPT TO", "RCPT TO", "DATA", "CONTENT"]
    assert outcomes == [Delivered(Reply(250, ("2.0.0 queued as 1",)), CONTACT)] * 2
    assert [recipient.ordinal for recipient in play.delivered] == [0, 1]


@pytest.mark.parametrize("keywords", [(), ("PIPELINING",)])
def test_one_by_one_without_pipelining(keywords: tuple[str, ...]) -> None:
    play = Play(transaction(2, *keywords, pipelining=False), *keywords)
    outcomes = play.run("250 a", "250 b", "250 c", "354 d", "250 e")
    assert play.flights == [1, 1, 1, 1]
    assert blames(outcomes) == [("Delivered", "")] * 2


def test_flights_are_bounded() -> None:
    count = 2 * FLIGHT
    play = Play(transaction(count, "PIPELINING"), "PIPELINING")
    outcomes = play.run(*["250 ok"] * (count + 1), "354 go", "250 ok")
    assert play.flights == [FLIGHT, FLIGHT, 2]
    assert blames(outcomes) == [("Delivered", "")] * count


def test_parameters_only_where_announced() -> None:
    action = transaction(1, "SIZE 1000", "8BITMIME", eight_bit=True).next_action()
    assert action == SendCommands((Mail(Mailbox("ann", "example.org"), 100, True),))
    assert transaction(1).next_action() == SendCommands((Mail(Mailbox("ann", "example.org")),))
    action = transaction(1, eight_bit=True, pass_8bit=True).next_action()
    assert action == SendCommands((Mail(Mailbox("ann", "example.org")),))


def test_too_big_a_message_is_not_offered() -> None:
    subject = transaction(2, "SIZE 99")
    assert subject.next_action() == Done()
    for _, outcome in subject.outcomes():
        assert isinstance(outcome, Failed)
        assert (outcome.blame, outcome.enhanced) == (Blame.MESSAGE, EnhancedCode(5, 3, 4))
    assert transaction(2, "SIZE 100").next_action() != Done()


def test_8bit_text_needs_8bitmime() -> None:
    subject = transaction(1, eight_bit=True)
    assert subject.next_action() == Done()
    ((_, outcome),) = subject.outcomes()
    assert isinstance(outcome, Failed)
    assert (outcome.blame, outcome.enhanced) == (Blame.HOST, EnhancedCode(5, 6, 3))


def test_each_recipient_has_its_own_answer() -> None:
    play = Play(transaction(4, "PIPELINING"), "PIPELINING")
    outcomes = play.run("250 a", "250 b", "550 5.1.1 no", "450 4.2.1 later", "250 c", "354 d", "250 e")
    assert blames(outcomes) == [
        ("Delivered", ""), ("Failed", "recipient"), ("Deferred", "recipient"), ("Delivered", ""),
    ]  # fmt: skip
    assert [recipient.ordinal for recipient in play.delivered] == [0, 3]


@pytest.mark.parametrize("end", ["503 5.5.1 need RCPT", "554 no valid recipients", "451 x"])
def test_all_recipients_refused_with_data_refused(end: str) -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    assert blames(play.run("250 a", "550 b", "451 c", end)) == [
        ("Failed", "recipient"),
        ("Deferred", "recipient"),
    ]
    assert "CONTENT" not in play.sent


@pytest.mark.parametrize("end", ["250 queued", "554 no", "421 bye"])
def test_all_recipients_refused_yet_354_gets_a_lone_dot(end: str) -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run("250 a", "550 b", "550 c", "354 go", end)
    assert play.sent[-1] == "."
    assert blames(outcomes) == [("Failed", "recipient")] * 2
    assert play.delivered == ()


def test_all_recipients_refused_one_by_one_sends_no_data() -> None:
    play = Play(transaction(2))
    play.run("250 a", "550 b", "550 c")
    assert play.sent == ["MAIL FROM", "RCPT TO", "RCPT TO"]


def test_a_refused_mail_one_by_one_ends_it() -> None:
    play = Play(transaction(2))
    assert blames(play.run("550 5.7.1 not you")) == [("Failed", "message")] * 2
    assert play.sent == ["MAIL FROM"]


def test_a_refused_mail_in_a_flight_ignores_what_follows() -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run("451 4.7.1 later", "503 a", "503 b", "503 c")
    assert blames(outcomes) == [("Deferred", "message")] * 2


def test_a_refused_mail_with_354_and_no_recipient_gets_a_lone_dot() -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run("550 no", "503 a", "503 b", "354 go", "250 queued")
    assert play.sent[-1] == "."
    assert blames(outcomes) == [("Failed", "message")] * 2


def test_a_refused_mail_with_accepted_recipient_and_354_sends_no_dot_at_all() -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run("550 no", "250 a", "503 b", "354 go")
    assert play.sent[-1] == "DATA"
    assert play.subject.next_action() == Done()
    assert not play.machine.synchronised()
    assert blames(outcomes) == [("Failed", "message")] * 2


@pytest.mark.parametrize(("end", "kind"), [("451 x", "Deferred"), ("554 x", "Failed")])
def test_a_refused_data_and_a_refused_dot_are_about_the_message(end: str, kind: str) -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    assert blames(play.run("250 a", "250 b", "550 c", end)) == [(kind, "message"), ("Failed", "recipient")]
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run("250 a", "250 b", "550 c", "354 go", end)
    assert blames(outcomes) == [(kind, "message"), ("Failed", "recipient")]
    assert not any(isinstance(outcome, Deferred) and outcome.in_doubt for outcome in outcomes)


@pytest.mark.parametrize("at", range(5))
def test_421_anywhere_defers_the_host(at: int) -> None:
    answers = ["250 a", "250 b", "250 c", "354 d", "250 e"][:at]
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    outcomes = play.run(*answers, "421 4.3.2 bye")
    assert blames(outcomes) == [("Deferred", "host")] * 2
    assert not any(isinstance(outcome, Deferred) and outcome.in_doubt for outcome in outcomes)
    assert play.subject.next_action() == Done()


def test_421_spares_a_recipient_that_was_refused_before() -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    assert blames(play.run("250 a", "550 b", "421 c")) == [("Failed", "recipient"), ("Deferred", "host")]


@pytest.mark.parametrize(
    ("early", "kind", "blame"), [("552 x", "Failed", "message"), ("421 x", "Deferred", "host")]
)
def test_an_early_refusal_during_content_is_not_in_doubt(early: str, kind: str, blame: str) -> None:
    play = Play(transaction(1, "PIPELINING"), "PIPELINING")
    (outcome,) = play.run("250 a", "250 b", "354 c", f"early {early}")
    assert blames([outcome]) == [(kind, blame)]
    assert not isinstance(outcome, Deferred) or not outcome.in_doubt


LOSSES = [
    ([], Phase.MAIL, False),
    (["250 a"], Phase.RCPT, False),
    (["250 a", "250 b"], Phase.RCPT, False),
    (["250 a", "250 b", "550 c"], Phase.DATA, False),
    (["250 a", "250 b", "550 c", "354 d", "lost in content"], Phase.BODY, False),
    (["250 a", "250 b", "550 c", "354 d"], Phase.DOT, True),
]


@pytest.mark.parametrize(("answers", "phase", "in_doubt"), LOSSES)
@pytest.mark.parametrize("cancelled", [False, True])
def test_what_a_loss_means(answers: list[str], phase: Phase, in_doubt: bool, cancelled: bool) -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    play.run(*answers)
    assert play.subject.phase is phase
    assert play.subject.in_doubt is in_doubt
    if not cancelled:
        play.subject.lost("the connection broke")
        assert play.subject.next_action() == Done()
    first, second = (outcome for _, outcome in play.subject.outcomes())
    assert isinstance(first, Deferred)
    assert (first.blame, first.phase, first.in_doubt) == (Blame.HOST, phase, in_doubt)
    assert first.why == ("the delivery was interrupted" if cancelled else "the connection broke")
    refused = len(answers) >= 3
    assert isinstance(second, Failed) is refused


def test_a_loss_after_the_final_reply_changes_nothing() -> None:
    play = Play(transaction(1))
    before = play.run("250 a", "250 b", "354 c", "250 d")
    play.subject.lost("gone")
    assert [outcome for _, outcome in play.subject.outcomes()] == before
    assert blames(before) == [("Delivered", "")]


def test_our_own_failure_is_local_unless_in_doubt() -> None:
    play = Play(transaction(1))
    play.run("250 a", "250 b", "354 c", "lost in content")
    play.subject.lost("the disk is broken", Blame.LOCAL)
    assert blames([play.subject.outcomes()[0][1]]) == [("Deferred", "local")]
    play = Play(transaction(1))
    play.run("250 a", "250 b", "354 c")
    play.subject.lost("the disk is broken", Blame.LOCAL)
    assert blames([play.subject.outcomes()[0][1]]) == [("Deferred", "host")]


def test_unsendable_content_fails_only_while_it_is_being_sent() -> None:
    play = Play(transaction(1))
    play.run("250 a", "250 b", "354 c", "lost in content")
    play.subject.unsendable("a bare LF")
    assert blames([play.subject.outcomes()[0][1]]) == [("Failed", "message")]
    with pytest.raises(LocalMisuse):
        play.subject.unsendable("again")
    with pytest.raises(LocalMisuse):
        transaction(1).unsendable("too early")
    with pytest.raises(LocalMisuse):
        transaction(1).dot_handed_over()


def test_an_address_too_long_for_a_command_fails_alone() -> None:
    domain = ".".join(["x" * 62] * 4)[:253]
    long = Recipient(1, Mailbox("a" * 256, domain))
    recipients = (Recipient(0, Mailbox("bob", "example.net")), long)
    envelope = Envelope(MessageId("m"), None, recipients, 10, False, 0.0)
    play = Play(Transaction(envelope, recipients, offering("PIPELINING"), CONTACT), "PIPELINING")
    outcomes = play.run("250 a", "250 b", "354 c", "250 d")
    assert blames(outcomes) == [("Delivered", ""), ("Failed", "recipient")]
    alone = Transaction(envelope, (long,), offering(), CONTACT)
    assert alone.next_action() == Done()
    too_long = Envelope(MessageId("m"), long.mailbox, recipients, 10, False, 0.0)
    refused = Transaction(too_long, recipients, offering(), CONTACT)
    assert refused.next_action() == Done()
    assert blames([outcome for _, outcome in refused.outcomes()]) == [("Failed", "message")] * 2


def test_replies_out_of_order_and_empty_transactions_are_bugs() -> None:
    subject = transaction(1, "PIPELINING")
    subject.next_action()
    with pytest.raises(LocalMisuse):
        subject.got(Exchange(Phase.DATA, Data(), 1, Reply(354, ("",))))
    with pytest.raises(LocalMisuse):
        transaction(0)


D, F = "Deferred", "Failed"


@pytest.mark.parametrize(
    ("phase", "text", "kind", "blame", "enhanced"),
    [
        (Phase.RCPT, "421 x", D, Blame.HOST, "4.0.0"),
        (Phase.DOT, "421 4.3.2 x", D, Blame.HOST, "4.3.2"),
        (Phase.RCPT, "503 x", D, Blame.HOST, "4.0.0"),
        (Phase.DATA, "503 5.5.1 x", D, Blame.HOST, "4.5.1"),
        (Phase.RCPT, "503 5.7.1 x", F, Blame.RECIPIENT, "5.7.1"),
        (Phase.MAIL, "530 5.7.0 x", D, Blame.HOST, "4.7.0"),
        (Phase.RCPT, "530 x", D, Blame.HOST, "4.0.0"),
        (Phase.DOT, "530 x", F, Blame.MESSAGE, "5.0.0"),
        (Phase.MAIL, "452 4.3.1 x", D, Blame.HOST, "4.3.1"),
        (Phase.RCPT, "452 4.5.3 x", D, Blame.RECIPIENT, "4.5.3"),
        (Phase.RCPT, "552 5.5.3 x", D, Blame.RECIPIENT, "4.5.3"),
        (Phase.DOT, "552 5.3.4 x", F, Blame.MESSAGE, "5.3.4"),
        (Phase.DOT, "452 x", D, Blame.MESSAGE, "4.0.0"),
        (Phase.RCPT, "450 4.2.1 x", D, Blame.RECIPIENT, "4.2.1"),
        (Phase.RCPT, "550 5.1.1 x", F, Blame.RECIPIENT, "5.1.1"),
        (Phase.MAIL, "450 x", D, Blame.MESSAGE, "4.0.0"),
        (Phase.MAIL, "550 x", F, Blame.MESSAGE, "5.0.0"),
        (Phase.DATA, "451 x", D, Blame.MESSAGE, "4.0.0"),
        (Phase.BODY, "552 x", F, Blame.MESSAGE, "5.0.0"),
    ],
)
def test_what_a_refusal_means(phase: Phase, text: str, kind: str, blame: Blame, enhanced: str) -> None:
    code, rest = text.split(" ", 1)
    outcome = refusal_outcome(phase, Reply(int(code), (rest,)), CONTACT)
    assert type(outcome).__name__ == kind
    assert (outcome.blame, str(outcome.enhanced), outcome.phase) == (blame, enhanced, phase)
    assert outcome.contact == CONTACT
    assert "mx.example.net answered" in outcome.why


def test_a_long_reply_is_cut_in_the_explanation() -> None:
    outcome = refusal_outcome(Phase.RCPT, Reply(550, ("x" * 4000,) * 10), CONTACT)
    assert len(outcome.why) == 500


def test_findings_tell_refusals_and_acceptance() -> None:
    play = Play(transaction(2, "PIPELINING"), "PIPELINING")
    play.run("250 a", "550 no", "250 b", "354 c", "250 queued")
    refused, accepted = play.subject.findings()
    assert (refused.code, accepted.code) == ("rcpt-refused", "accepted")
    assert ("recipient", "r0@example.net") in refused.evidence
    assert "1 recipient" in accepted.text
    assert [type(exchange.command) for exchange in play.subject.exchanges][:3] == [Mail, Rcpt, Rcpt]
