"""The server machine's extensions in dialogues: CHUNKING, PRDR, DSN, SMTPUTF8, STARTTLS, REQUIRETLS, AUTH."""

from __future__ import annotations

from base64 import b64encode

import pytest

from deliver.dsn import Notify, OriginalRecipient, Ret
from deliver.message import Mailbox
from deliver.smtp.action import (
    AuthExchange,
    BeginContent,
    Close,
    ConsiderRecipient,
    ConsiderSender,
    EndContent,
    MailRequest,
    StartTls,
)
from deliver.smtp.offer import Hello, Limits, Offer
from deliver.smtp.reply import Reply
from deliver.smtp.server import MAX_COMMAND, ServerMachine, State
from tests.machine import GREETED, LIMITS, Driver

ENVELOPE = GREETED + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n"


def offering(limits: Limits = LIMITS, **keys: object) -> Driver:
    return Driver(ServerMachine(limits, "relay.test", Offer(**keys)))  # type: ignore[arg-type]


@pytest.fixture
def driver() -> Driver:
    return Driver()


# CHUNKING


def test_a_message_in_chunks_cut_inside_a_line_end(driver: Driver) -> None:
    codes = driver.codes(ENVELOPE + b"BDAT 6\r\n.a\r\n.\r" + b"BDAT 6 LAST\r\n\n\r\nb\r\n" + b"NOOP\r\n")
    assert codes == [250, 250, 250, 250, 250, 250]
    ((end, content),) = driver.messages
    assert content == b".a\r\n.\r\n\r\nb\r\n"
    assert end.size == len(content)
    assert driver.machine.state is State.READY


def test_a_last_line_without_its_end_gets_one(driver: Driver) -> None:
    assert driver.codes(ENVELOPE + b"BDAT 4\r\na\r\nbBDAT 0 LAST\r\n")[-2:] == [250, 250]
    assert driver.messages[0][1] == b"a\r\nb\r\n"
    driver.say(b"MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nBDAT 0 LAST\r\n")
    assert driver.messages[1][1] == b""


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n", b"a\r", b"x" * 999 + b"\r\n"])
def test_defective_chunks_are_read_and_refused(driver: Driver, content: bytes) -> None:
    codes = driver.codes(ENVELOPE + b"BDAT %d LAST\r\n" % len(content) + content + b"NOOP\r\n")
    assert codes[3:] == [550, 250]
    assert (driver.messages, driver.abandoned) == ([], 1)


def test_a_refused_chunk_ends_the_message_and_those_on_their_way_are_skipped(driver: Driver) -> None:
    smuggled = b"MAIL FROM:<evil@example.org>\r\n"
    session = ENVELOPE + b"BDAT 4\r\na\0\r\nBDAT %d LAST\r\n" % len(smuggled) + smuggled + b"NOOP\r\n"
    assert driver.codes(session)[3:] == [550, 503, 250]
    assert sum(isinstance(question, ConsiderSender) for question in driver.questions) == 1
    assert driver.messages == []


@pytest.mark.parametrize(
    ("before", "code"),
    [(b"", 503), (GREETED, 503), (GREETED + b"MAIL FROM:<a@example.org>\r\n", 554)],
)
def test_the_octets_of_a_chunk_out_of_sequence_are_never_commands(
    driver: Driver, before: bytes, code: int
) -> None:
    if before:
        driver.say(before)
    assert driver.codes(b"BDAT 6\r\nQUIT\r\nNOOP\r\n") == [code, 250]


def test_no_place_for_a_chunk() -> None:
    driver = Driver(refusals={BeginContent: Reply(451, ("4.3.0 Not now",))})
    assert driver.codes(ENVELOPE + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")[3:] == [451, 250]


def test_data_after_bdat_is_out_of_sequence_and_rset_forgets_the_chunks(driver: Driver) -> None:
    assert driver.codes(ENVELOPE + b"BDAT 3\r\na\r\nDATA\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\n")[3:] == [
        250, 503, 503, 503,
    ]  # fmt: skip
    assert driver.machine.in_content
    assert driver.codes(b"RSET\r\nBDAT 3 LAST\r\na\r\n") == [250, 503]
    assert (driver.abandoned, driver.messages) == (1, [])


def test_chunks_over_the_limit() -> None:
    driver = offering(Limits(message_size=10))
    assert driver.codes(ENVELOPE + b"BDAT 12 LAST\r\n" + b"x" * 10 + b"\r\n" + b"NOOP\r\n")[3:] == [552, 250]
    assert driver.codes(b"BDAT 99999999999\r\n") == [552]
    assert driver.closed == "a message far over the size limit"


def test_a_chunk_far_over_the_limit_after_others_abandons_them() -> None:
    driver = offering(Limits(message_size=10))
    driver.say(ENVELOPE + b"BDAT 3\r\na\r\n")
    assert driver.codes(b"BDAT 1048596\r\n") == [552]
    assert (driver.abandoned, driver.closed) == (1, "a message far over the size limit")


def test_content_refused_between_chunks(driver: Driver) -> None:
    driver.say(ENVELOPE)
    driver.machine.receive(b"BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n")
    assert isinstance(driver.machine.next_action(), BeginContent)
    driver.machine.accept()
    driver.machine.next_action()
    driver.machine.refuse_content(Reply(451, ("4.3.0 Not now",)))
    before = len(driver.written)
    driver.run()
    assert driver.written[before:].split(b" ")[0] == b"451"
    assert driver.written.endswith(b"503 5.5.1 Send MAIL and RCPT first\r\n")
    assert driver.messages == []


def test_empty_chunks_without_end_are_idling(driver: Driver) -> None:
    assert driver.codes(ENVELOPE + b"BDAT 0\r\n" * 20)[-1] == 421
    assert driver.abandoned == 1


def test_bdat_where_it_is_not_offered_ends_the_session() -> None:
    driver = offering(chunking=False)
    assert driver.codes(ENVELOPE + b"BDAT 3 LAST\r\na\r\n")[3:] == [421]


# PRDR


def test_each_recipient_is_answered_where_the_client_asks(driver: Driver) -> None:
    session = GREETED + b"MAIL FROM:<a@example.org> PRDR\r\n"
    for name in (b"b", b"no", b"c"):
        session += b"RCPT TO:<" + name + b"@example.net>\r\n"
    assert driver.codes(session + b"DATA\r\nx\r\n.\r\nNOOP\r\n")[5:] == [354, 353, 250, 550, 250, 250, 250]
    assert driver.messages[0][0].individually


@pytest.mark.parametrize(("parameter", "recipients"), [(b"", 2), (b" PRDR", 1)])
def test_one_reply_without_prdr_or_with_one_recipient(
    driver: Driver, parameter: bytes, recipients: int
) -> None:
    session = GREETED + b"MAIL FROM:<a@example.org>" + parameter + b"\r\n"
    session += b"".join(b"RCPT TO:<b%d@example.net>\r\n" % n for n in range(recipients))
    assert driver.codes(session + b"BDAT 3 LAST\r\nx\r\n")[-1:] == [250]
    assert not driver.messages[0][0].individually


def test_prdr_is_refused_after_helo(driver: Driver) -> None:
    assert driver.codes(b"HELO c.test\r\nMAIL FROM:<a@example.org> PRDR\r\n") == [250, 555]


# DSN and SMTPUTF8


def test_what_the_sender_asks_of_reports_comes_with_the_message(driver: Driver) -> None:
    driver.say(
        GREETED + b"MAIL FROM:<a@example.org> RET=hdrs ENVID=Q+2B1 SIZE=9\r\n"
        b"RCPT TO:<b@example.net> NOTIFY=success,DELAY ORCPT=rfc822;B+2Bx@example.net\r\n"
        b"RCPT TO:<c@example.net>\r\nDATA\r\n.\r\n"
    )
    end = driver.messages[0][0]
    assert end.mail == MailRequest(Mailbox("a", "example.org"), 9, ret=Ret.HDRS, envid="Q+1")
    first, second = end.rcpts
    assert first.notify == {Notify.SUCCESS, Notify.DELAY}
    assert first.original == OriginalRecipient("rfc822", "B+x@example.net")
    assert (second.notify, second.original) == (None, None)


def test_addresses_outside_ascii_need_smtputf8_in_mail(driver: Driver) -> None:
    rcpt = "RCPT TO:<jürgen@bücher.example> ORCPT=utf-8;jürgen@bücher.example\r\n".encode()
    assert driver.codes(GREETED + b"MAIL FROM:<a@example.org>\r\n" + rcpt) == [250, 250, 553]
    assert driver.codes("RSET\r\nMAIL FROM:<é@example.org> SMTPUTF8\r\n".encode() + rcpt) == [250, 250, 250]
    question = driver.questions[-1]
    assert isinstance(question, ConsiderRecipient)
    assert question.mailbox == Mailbox("jürgen", "xn--bcher-kva.example")
    assert question.mail.smtputf8
    assert question.rcpt.original == OriginalRecipient("utf-8", "jürgen@bücher.example")


@pytest.mark.parametrize("offer", [{"smtputf8": False}, {"dsn": False}, {"prdr": False}])
def test_what_is_not_offered_is_not_taken(offer: dict[str, bool]) -> None:
    driver = offering(**offer)
    (keyword,) = offer
    parameter = {"smtputf8": b"SMTPUTF8", "dsn": b"RET=FULL", "prdr": b"PRDR"}[keyword]
    lines = driver.say(GREETED + b"MAIL FROM:<a@example.org> " + parameter + b"\r\n")
    assert not any(line[4:].startswith(keyword.upper()) for line in lines[:-1])
    assert lines[-1].startswith("555 ")


# REQUIRETLS (RFC 8689)

REQUIRETLS = b"MAIL FROM:<a@example.org> REQUIRETLS\r\n"


def inside_tls(**keys: object) -> Driver:
    driver = offering(starttls=True, **keys)  # type: ignore[arg-type]
    driver.say(GREETED)
    driver.say(b"STARTTLS\r\n")
    driver.machine.tls_started()
    return driver


def test_requiretls_is_announced_inside_tls_only() -> None:
    driver = offering(starttls=True)
    clear = driver.say(GREETED)
    assert not any("REQUIRETLS" in line for line in clear)
    driver.say(b"STARTTLS\r\n")
    driver.machine.tls_started()
    secured = driver.say(GREETED)
    assert "250 REQUIRETLS" in secured
    assert {line[4:] for line in clear} ^ {line[4:] for line in secured} == {"STARTTLS", "REQUIRETLS"}


def test_the_mark_is_that_of_one_message() -> None:
    driver = inside_tls()
    rest = b"RCPT TO:<b@example.net>\r\nDATA\r\n.\r\n"
    driver.say(GREETED + REQUIRETLS.replace(b"REQUIRETLS", b"SIZE=5 requiretls") + rest)
    driver.say(b"MAIL FROM:<a@example.org> SIZE=5\r\n" + rest)
    assert [end.mail.requires_tls for end, _ in driver.messages] == [True, False]


@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        (b"REQUIRETLS", "250 2.1.0 "),
        (b"REQUIRETLS=1", "501 5.5.4 "),
        (b"REQUIRETLS requiretls", "501 5.5.4 "),
    ],
)
def test_requiretls_has_no_value_and_comes_once(parameters: bytes, reply: str) -> None:
    driver = inside_tls()
    driver.say(GREETED)
    (said,) = driver.say(b"MAIL FROM:<a@example.org> " + parameters + b"\r\n")
    assert said.startswith(reply)


def test_in_clear_text_requiretls_is_told_to_begin_tls() -> None:
    driver = offering(starttls=True)
    (said,) = driver.say(GREETED + REQUIRETLS)[-1:]
    assert said == "530 5.7.10 Parameter REQUIRETLS needs TLS: send STARTTLS first"
    assert driver.machine.state is State.READY
    assert driver.codes(b"HELO c.test\r\n" + REQUIRETLS) == [250, 555], "HELO knows no parameters"
    driver.say(b"STARTTLS\r\n")
    driver.machine.tls_started()
    assert driver.codes(GREETED + REQUIRETLS) == [250, 250]


@pytest.mark.parametrize("secured", [True, False])
def test_requiretls_that_is_not_offered_is_unknown(secured: bool) -> None:
    driver = inside_tls(requiretls=False) if secured else offering(starttls=True, requiretls=False)
    lines = driver.say(GREETED + REQUIRETLS)
    assert not any("REQUIRETLS" in line for line in lines[:-1])
    assert lines[-1].startswith("555 5.5.4 ")


def test_requiretls_is_unknown_where_there_is_no_starttls_to_send() -> None:
    assert offering().say(GREETED + REQUIRETLS)[-1].startswith("555 5.5.4 ")


# STARTTLS


def test_tls_begins_after_the_reply_and_forgets_everything() -> None:
    driver = offering(starttls=True)
    assert "250 STARTTLS" in driver.say(GREETED)
    assert driver.codes(b"STARTTLS\r\n") == [220]
    assert (driver.handshakes, driver.machine.state) == (1, State.HANDSHAKE)
    driver.machine.tls_started(Offer(starttls=True, mechanisms=("PLAIN",)))
    assert driver.machine.helo == ""
    assert driver.codes(b"MAIL FROM:<a@example.org>\r\n") == [503]
    lines = driver.say(GREETED)
    assert "250 AUTH PLAIN" in lines
    assert not any("STARTTLS" in line for line in lines)
    assert driver.codes(b"STARTTLS\r\n") == [503]


@pytest.mark.parametrize(
    "behind", [b"EHLO again\r\n", b"\x16\x03\x01", b"\r", b"MAIL FROM:<evil@example.org>\r\n"]
)
def test_octets_behind_starttls_close_the_connection(behind: bytes) -> None:
    driver = offering(starttls=True)
    driver.say(GREETED)
    assert driver.codes(b"STARTTLS\r\n" + behind) == [421]
    assert driver.handshakes == 0
    assert driver.questions == []
    assert driver.closed == "octets behind STARTTLS, in clear text"


def test_octets_that_arrive_before_the_handshake_are_not_for_the_machine() -> None:
    driver = offering(starttls=True)
    driver.say(GREETED + b"STARTTLS\r\n")
    with pytest.raises(AssertionError):
        driver.machine.receive(b"EHLO evil\r\n")


def test_tls_may_be_impossible_now() -> None:
    driver = offering(starttls=True)
    driver.refusals[StartTls] = Reply(454, ("4.7.0 Not now",))
    assert driver.codes(GREETED + b"STARTTLS\r\nNOOP\r\n")[-1] == 421
    driver = offering(starttls=True)
    driver.refusals[StartTls] = Reply(454, ("4.7.0 Not now",))
    driver.say(GREETED)
    assert driver.codes(b"STARTTLS\r\n") == [454]
    assert driver.codes(b"NOOP\r\n") == [250]


def test_nothing_before_tls_where_it_is_demanded() -> None:
    driver = offering(starttls=True, require_tls=True)
    assert driver.codes(GREETED + b"MAIL FROM:<a@example.org>\r\nVRFY x\r\nNOOP\r\n") == [250, 530, 530, 250]
    driver.say(b"STARTTLS\r\n")
    driver.machine.tls_started()
    assert driver.codes(GREETED + b"MAIL FROM:<a@example.org>\r\n") == [250, 250]


def test_tls_before_the_greeting() -> None:
    machine = ServerMachine(LIMITS, "relay.test", Offer(starttls=True, require_tls=True))
    machine.tls_started()
    driver = Driver(machine)
    assert driver.codes(GREETED + b"MAIL FROM:<a@example.org>\r\n") == [250, 250]


# AUTH

LOGGED_IN = b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"


def with_auth(**keys: object) -> Driver:
    driver = offering(mechanisms=("SCRAM-SHA-256", "PLAIN"), **keys)
    driver.machine.tls_started()
    return driver


def test_an_exchange_with_an_initial_response() -> None:
    driver = with_auth()
    assert "250 AUTH SCRAM-SHA-256 PLAIN" in driver.say(GREETED)
    assert driver.say(LOGGED_IN) == ["235 2.7.0 Logged in"]
    assert driver.questions == [AuthExchange("PLAIN", b"\0ann\0secret", first=True)]
    assert driver.machine.authenticated == "ann"
    assert driver.codes(LOGGED_IN) == [503]
    assert driver.codes(b"EHLO c\r\nMAIL FROM:<a@example.org> AUTH=ann+40example.org\r\n") == [250, 250]


def test_an_exchange_with_challenges() -> None:
    driver = with_auth()
    driver.say(GREETED)
    assert driver.say(b"AUTH scram-sha-256\r\n") == ["334 " + b64encode(b"go on").decode()]
    assert driver.say(b64encode(b"more") + b"\r\n") == ["334 " + b64encode(b"go on").decode()]
    assert driver.codes(b"\r\n") == [235]
    assert driver.questions[-1] == AuthExchange("SCRAM-SHA-256", b"", first=False)


def test_an_empty_initial_response() -> None:
    driver = with_auth()
    driver.say(GREETED + b"AUTH PLAIN =\r\n")
    assert driver.questions == [AuthExchange("PLAIN", b"", first=True)]


@pytest.mark.parametrize("response", [b"*", b"not base64!", b"QUIT", b"A", b"x" * 13000])
def test_a_cancelled_or_broken_exchange(response: bytes) -> None:
    driver = with_auth()
    driver.say(GREETED + b"AUTH PLAIN\r\n")
    before = list(driver.questions)
    if response == b"QUIT":  # it is base64, and a response: never a command
        assert driver.codes(response + b"\r\n") == [235]
        return
    assert driver.codes(response + b"\r\nNOOP\r\n") == [501, 250]
    assert (driver.questions, driver.exchanges_abandoned) == (before, 1)
    assert driver.machine.authenticated is None


def test_a_refused_login_counts_and_another_may_follow() -> None:
    driver = with_auth()
    driver.refusals[AuthExchange] = Reply(535, ("5.7.8 No",))
    driver.say(GREETED)
    assert driver.codes(LOGGED_IN * 6) == [535] * 5 + [421]
    assert driver.machine.authenticated is None


def test_a_421_closes() -> None:
    driver = with_auth()
    driver.refusals[AuthExchange] = Reply(421, ("4.7.0 Too many failures",))
    driver.say(GREETED)
    assert driver.codes(LOGGED_IN + b"NOOP\r\n") == [421]
    assert driver.closed == "4.7.0 Too many failures"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"AUTH", 501),
        (b"AUTH LOGIN", 504),
        (b"AUTH PLAIN !", 501),
        (b"AUTH PLAIN AAA", 501),
        (b"AUTH PLAIN = x", 501),
    ],
)
def test_auth_that_cannot_be_used(line: bytes, code: int) -> None:
    driver = with_auth()
    driver.say(GREETED)
    assert driver.codes(line + b"\r\n") == [code]
    assert driver.questions == []


def test_auth_outside_tls_is_neither_offered_nor_taken() -> None:
    driver = offering(mechanisms=("PLAIN",), starttls=True)
    assert not any("AUTH" in line for line in driver.say(GREETED))
    assert driver.codes(LOGGED_IN) == [538]
    assert driver.questions == []


def test_auth_before_ehlo_and_inside_a_message() -> None:
    driver = with_auth()
    assert driver.codes(LOGGED_IN) == [503]
    driver.say(ENVELOPE)
    assert driver.codes(LOGGED_IN) == [503]


def test_mail_before_login_where_it_is_demanded() -> None:
    driver = with_auth(require_auth=True)
    driver.say(GREETED)
    assert driver.codes(b"MAIL FROM:<a@example.org>\r\n" + LOGGED_IN + b"MAIL FROM:<a@example.org>\r\n") == [
        530, 235, 250,
    ]  # fmt: skip


def test_long_lines_are_for_auth_only() -> None:
    driver = with_auth()
    driver.say(GREETED)
    assert driver.codes(b"AUTH PLAIN " + b64encode(b"x" * 9000) + b"\r\n") == [235]
    assert driver.codes(b"NOOP " + b"x" * MAX_COMMAND + b"\r\n") == [500]


def test_a_second_handshake_forgets_the_login() -> None:
    driver = offering(mechanisms=("PLAIN",), auth_in_clear=True, starttls=True)
    driver.say(GREETED + LOGGED_IN)
    assert driver.machine.authenticated == "ann"
    driver.say(b"STARTTLS\r\n")
    driver.machine.tls_started()
    assert driver.machine.authenticated is None


# EHLO


@pytest.mark.parametrize(
    ("hello", "name", "code"),
    [
        (Hello.ANYTHING, b"any()thing", 250),
        (Hello.NAME, b"any()thing", 501),
        (Hello.NAME, b"host", 250),
        (Hello.NAME, b"-host.example.org", 501),
        (Hello.NAME, b"[192.0.2.1]", 250),
        (Hello.NAME, b"[192.0.2.256]", 501),
        (Hello.NAME, b"host name", 501),
        (Hello.QUALIFIED, b"host", 504),
        (Hello.QUALIFIED, b"host.", 504),
        (Hello.QUALIFIED, b"host.example.org", 250),
        (Hello.QUALIFIED, b"[IPv6:2001:db8::1]", 250),
    ],
)
@pytest.mark.parametrize("verb", [b"EHLO ", b"HELO "])
def test_the_name_in_ehlo(hello: Hello, name: bytes, code: int, verb: bytes) -> None:
    driver = offering(hello=hello)
    assert driver.codes(verb + name + b"\r\n") == [code]
    assert driver.codes(b"MAIL FROM:<a@example.org>\r\n") == [250 if code == 250 else 503]


def test_pipeconnect_is_said_where_it_is_offered() -> None:
    assert any("PIPECONNECT" in line for line in offering(pipeconnect=True).say(GREETED))
    assert not any("PIPECONNECT" in line for line in offering().say(GREETED))


def test_turning_a_client_away_replaces_the_greeting() -> None:
    machine = ServerMachine(LIMITS, "relay.test")
    machine.turn_away(Reply(554, ("5.5.0 No",)), "early")
    assert machine.next_action() == Close("early")
    assert machine.take_output() == b"554 5.5.0 No\r\n"
    assert machine.state is State.CLOSED


def test_end_content_knows_no_recipient_twice(driver: Driver) -> None:
    driver.say(ENVELOPE + b"RCPT TO:<b@example.net> NOTIFY=NEVER\r\nDATA\r\n.\r\n")
    end = driver.messages[0][0]
    assert isinstance(end, EndContent)
    assert [(rcpt.mailbox.local_part, rcpt.notify) for rcpt in end.rcpts] == [("b", None)]
