"""BDAT, PRDR and LIMITS without I/O: the machine's pairing, the limits, who is offered again."""

from __future__ import annotations

import pytest

from deliver.errors import Blame, MessageError
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.outcome import Contact, Deferred, Delivered, Failed, Phase
from deliver.smtp.batch import Batch
from deliver.smtp.chunking import FIRST_CHUNK, LineEnds, usable
from deliver.smtp.client import ClientMachine, State, UnexpectedReply
from deliver.smtp.command import Bdat, BdatLast, Data, Ehlo, LocalMisuse, Mail, Rcpt, Rset
from deliver.smtp.ehlo import Capabilities, Limits
from deliver.smtp.prdr import individual_refusal
from deliver.smtp.reply import Reply
from deliver.smtp.transaction import AwaitReply, SendChunks, SendCommands, Transaction

CONTACT = Contact("mx.example.net", "192.0.2.1", 25)
RCPT = Rcpt(Mailbox.parse("bob@example.net"))


def offering(*keywords: str) -> Capabilities:
    return Capabilities.parse(Reply(250, ("mx", *keywords)))


def machine(*commands: object) -> ClientMachine:
    made = ClientMachine()
    made.receive(b"220 mx\r\n")
    made.next_exchange()
    made.send(Ehlo("us"))
    made.receive(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
    made.next_exchange()
    return made


def test_nothing_follows_a_chunk_before_its_octets() -> None:
    ours = machine()
    for command in (Mail(None), RCPT, Bdat(3)):
        ours.send(command)
    assert not ours.may_send(BdatLast(1))
    with pytest.raises(LocalMisuse):
        ours.send_octets(b"four")
    assert ours.send_octets(b"ab") == b"ab"
    assert not ours.may_send(BdatLast(1))
    ours.send_octets(b"c")
    assert not ours.may_send(Data())
    assert ours.send(BdatLast(0)) == b"BDAT 0 LAST\r\n"


@pytest.mark.parametrize("size", [-1, 10**20])
def test_a_chunk_has_a_size(size: int) -> None:
    for kind in (Bdat, BdatLast):
        with pytest.raises(LocalMisuse):
            kind(size)


def test_a_refused_last_chunk_leaves_a_transaction_to_reset() -> None:
    ours = machine()
    for command in (Mail(None), RCPT, BdatLast(0)):
        ours.send(command)
    ours.receive(b"250 a\r\n250 b\r\n552 c\r\n")
    assert [ours.next_exchange().reply.code for _ in range(3)] == [250, 250, 552]  # type: ignore[union-attr]
    assert ours.state is State.ENVELOPE
    assert ours.may_send(Rset())
    assert not ours.may_send(Mail(None))


def test_353_is_an_answer_only_where_prdr_was_asked_for() -> None:
    for asked in (True, False):
        ours = machine()
        for command in (Mail(None, prdr=asked), RCPT, RCPT, BdatLast(0)):
            ours.send(command)
        ours.receive(b"250 a\r\n250 b\r\n550 c\r\n353 d\r\n250 e\r\n250 f\r\n")
        for _ in range(3):
            ours.next_exchange()
        if not asked:
            with pytest.raises(UnexpectedReply):
                ours.next_exchange()
            continue
        got = [ours.next_exchange() for _ in range(3)]
        assert [one.individual for one in got if one] == [False, True, False]  # one RCPT was accepted
        assert ours.state is State.READY


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("LIMITS RCPTMAX=5 MAILMAX=2", Limits(2, 5)),
        ("limits rcptmax=5 other=x", Limits(None, 5)),
        ("LIMITS RCPTMAX=5 MAILMAX=0", Limits()),
        ("LIMITS RCPTMAX=5 RCPTMAX=6", Limits()),
        ("LIMITS RCPTMAX=5 nonsense", Limits()),
        ("LIMITS RCPTMAX=1234567", Limits()),
        ("LIMITS", Limits()),
        ("SIZE", Limits()),
    ],
)
def test_limits_are_taken_whole_or_not_at_all(text: str, limits: Limits) -> None:
    assert offering(text).limits == limits


def test_chunks_are_used_where_they_save_a_round_trip() -> None:
    assert usable(offering("CHUNKING"), FIRST_CHUNK, False)
    assert not usable(offering("CHUNKING"), FIRST_CHUNK + 1, False)
    assert usable(offering("CHUNKING"), FIRST_CHUNK + 1, True)
    assert not usable(offering("PIPELINING"), 1, True)


@pytest.mark.parametrize("portions", [(b"a\r", b"\n"), (b"a\r\n",), (), (b"", b"\r", b"", b"\n")])
def test_whole_lines_are_left_alone(portions: tuple[bytes, ...]) -> None:
    ends = LineEnds()
    for portion in portions:
        ends.check(portion)
    assert ends.finish() == b""


@pytest.mark.parametrize("portions", [(b"a\n",), (b"a\r", b"b"), (b"\rb",), (b"a\r\r",)])
def test_a_bare_line_end_is_never_sent(portions: tuple[bytes, ...]) -> None:
    ends = LineEnds()
    for portion in portions[:-1]:
        ends.check(portion)
    with pytest.raises(MessageError):
        ends.check(portions[-1])


def test_a_last_line_without_an_end_gets_one() -> None:
    ends = LineEnds()
    ends.check(b"a\r\nb")
    assert ends.finish() == b"\r\n"
    ends.check(b"\r")
    with pytest.raises(MessageError):
        ends.finish()


def test_an_individual_refusal_concerns_the_recipient() -> None:
    assert individual_refusal(Reply(250, ()), CONTACT) is None
    refused, later = (individual_refusal(Reply(code, ("no",)), CONTACT) for code in (550, 450))
    assert isinstance(refused, Failed)
    assert refused.blame is Blame.RECIPIENT
    assert isinstance(later, Deferred)
    assert later.blame is Blame.RECIPIENT


class Session:
    """A batch, its machine and scripted answers to each command or chunk in turn."""

    def __init__(self, count: int, *keywords: str, limits: Limits | None = None, domains: str = "x") -> None:
        said = offering("PIPELINING", *keywords)
        who = tuple(Recipient(n, Mailbox(f"r{n}", f"{domains[n % len(domains)]}.test")) for n in range(count))
        envelope = Envelope(MessageId("m"), None, who, 9, False, 0.0)
        self.batch = Batch(
            lambda these, chunks: Transaction(envelope, these, said, CONTACT, chunking=chunks),
            who,
            limits or said.limits,
            CONTACT,
        )
        self.sent: list[list[str]] = []

    def run(self, *scripts: str) -> list[str]:
        for script in scripts:
            transaction = self.batch.following()
            assert transaction is not None
            self._transact(transaction, script.split())
        assert self.batch.following() is None
        return [type(outcome).__name__ for _, outcome in self.batch.outcomes()]

    def _transact(self, transaction: Transaction, codes: list[str]) -> None:
        ours, said = machine(), []
        while not transaction.finished:
            action = transaction.next_action()
            commands = action.commands if isinstance(action, SendCommands | SendChunks) else ()
            said += [ours.send(command).split()[0].decode() for command in commands]
            if isinstance(action, SendChunks):
                said.append(ours.send(BdatLast(0)).split()[0].decode())
                transaction.dot_handed_over()
            due = sum(1 for _ in ours._expected) if isinstance(action, SendChunks) else 0
            for _ in range(due or isinstance(action, AwaitReply)):
                ours.receive(f"{codes.pop(0)} x\r\n".encode())
                exchange = ours.next_exchange()
                assert exchange is not None
                transaction.got(exchange)
            if not codes:
                break
        self.sent.append(said)


def test_rcptmax_splits() -> None:
    session = Session(5, "CHUNKING", "LIMITS RCPTMAX=2")
    one = "250 250 250 250"
    assert session.run(one, one, "250 250 250") == ["Delivered"] * 5
    assert session.sent[0] == ["MAIL", "RCPT", "RCPT", "BDAT"]


def test_rcptdomainmax_splits_by_domain() -> None:
    session = Session(6, "CHUNKING", "LIMITS RCPTDOMAINMAX=2 RCPTMAX=3", domains="abc")
    assert session.run(*["250 250 250 250 250"] * 2) == ["Delivered"] * 6
    offered = [[who.mailbox.domain for who in one._recipients] for one in session.batch._transactions]
    assert offered == [["a.test", "b.test", "a.test"], ["c.test", "b.test", "c.test"]]
    one_domain = Session(3, "CHUNKING", "LIMITS RCPTDOMAINMAX=1")
    assert one_domain.run("250 250 250 250 250") == ["Delivered"] * 3


def test_no_room_left_is_no_transaction() -> None:
    session = Session(1, "CHUNKING", limits=Limits(mailmax=0))
    assert session.batch.following() is None
    assert [who.ordinal for who in session.batch.unoffered] == [0]


def test_mailmax_leaves_the_rest_to_another_session() -> None:
    session = Session(5, "CHUNKING", "LIMITS RCPTMAX=2 MAILMAX=2")
    one = "250 250 250 250"
    assert session.run(one, one) == ["Delivered"] * 4 + ["Deferred"]
    assert [who.ordinal for who in session.batch.unoffered] == [4]
    assert session.batch.progress


def test_too_many_recipients_are_offered_again_and_a_first_452_is_not() -> None:
    session = Session(3, "CHUNKING")
    assert session.run("250 250 452 552 250", "250 250 452 250", "250 250 250") == ["Delivered"] * 3
    assert Session(2, "CHUNKING").run("250 452 452 503") == ["Deferred"] * 2


def test_a_server_that_does_not_know_bdat_gets_data_once() -> None:
    session = Session(2, "CHUNKING")
    first = session.batch.following()
    assert first is not None
    session._transact(first, ["250", "250", "550", "503"])
    second = session.batch.following()
    assert second is not None
    assert not second.chunked
    assert isinstance(session.batch.outcomes()[1][1], Failed)
    action = second.next_action()
    assert isinstance(action, SendCommands)
    assert [type(command) for command in action.commands] == [Mail, Rcpt, Data]


def test_who_was_refused_in_the_words_that_a_chunk_was_refused_in_is_not_offered_again() -> None:
    session = Session(2, "CHUNKING")
    first = session.batch.following()
    assert first is not None
    session._transact(first, ["250", "250", "500", "500"])
    assert [str(who.mailbox) for who in first.refused_with_chunk] == ["r0@x.test"]


def test_a_last_chunk_without_an_answer_is_in_doubt_unless_refused_before() -> None:
    session = Session(3, "CHUNKING")
    transaction = session.batch.following()
    assert transaction is not None
    ours = machine()
    action = transaction.next_action()
    assert isinstance(action, SendChunks)
    for command in (*action.commands, BdatLast(0)):
        ours.send(command)
    transaction.dot_handed_over()
    ours.receive(b"250 a\r\n550 b\r\n")
    for _ in range(2):
        exchange = ours.next_exchange()
        assert exchange is not None
        transaction.got(exchange)
    transaction.lost("cut")
    refused, second, third = (outcome for _, outcome in transaction.outcomes())
    assert isinstance(refused, Failed)
    for outcome in (second, third):
        assert isinstance(outcome, Deferred)
        assert (outcome.in_doubt, outcome.phase) == (True, Phase.DOT)
    assert not any(isinstance(outcome, Delivered) for _, outcome in transaction.outcomes())
