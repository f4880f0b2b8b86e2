"""The server machine in dialogues: C: what the client sends, S: what it gets back."""

from __future__ import annotations

from itertools import product

import pytest

from deliver.message import Mailbox
from deliver.smtp.action import (
    BeginContent,
    ConsiderRecipient,
    ConsiderSender,
    ContentChunk,
    EndContent,
    MailRequest,
    RcptRequest,
)
from deliver.smtp.inspection import SURPLUS
from deliver.smtp.offer import Offer
from deliver.smtp.reply import Reply
from deliver.smtp.request import Verb
from deliver.smtp.server import MAX_COMMAND, MAX_DISCARD, TRANSITIONS, Limits, ServerMachine, State, encode
from tests.machine import GREETED, LIMITS, OPENED, Driver


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_pipelined_session_is_answered_in_order(driver: Driver) -> None:
    lines = driver.say(OPENED + b"Subject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n")
    assert lines == [
        "250-relay.test",
        "250-PIPELINING",
        "250-SIZE 10000",
        "250-8BITMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-LIMITS RCPTMAX=3",
        "250-DSN",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250 PRDR",
        "250 2.1.0 Sender ok",
        "250 2.1.5 Recipient ok",
        "354 End data with <CR><LF>.<CR><LF>",
        "250 2.0.0 Ok: queued as X1",
        "221 2.0.0 relay.test closing connection",
    ]
    ((end, content),) = driver.messages
    assert content == b"Subject: x\r\n\r\n.dot\r\n"
    assert end == EndContent(
        MailRequest(Mailbox("a", "example.org")),
        (RcptRequest(Mailbox("b", "example.net")),),
        size=len(content),
        eight_bit=False,
    )
    assert driver.closed == "QUIT"


def test_nothing_is_obeyed_after_quit(driver: Driver) -> None:
    assert driver.codes(b"QUIT\r\nNOOP\r\n") == [221]
    assert driver.codes(b"NOOP\r\n") == []


def test_several_messages_in_one_session(driver: Driver) -> None:
    driver.say(OPENED + b"one\r\n.\r\n")
    driver.say(b"MAIL FROM:<>\r\nRCPT TO:<c@example.net>\r\nDATA\r\ntw\xf6\r\n.\r\n")
    assert [content for _, content in driver.messages] == [b"one\r\n", b"tw\xf6\r\n"]
    second = driver.messages[1][0]
    assert (second.sender, second.recipients) == (None, (Mailbox("c", "example.net"),))
    assert (driver.messages[0][0].eight_bit, second.eight_bit) == (False, True)


def test_an_empty_message(driver: Driver) -> None:
    assert driver.codes(OPENED + b".\r\n")[-1] == 250
    assert driver.messages[0][1] == b""


PATHS_TO_STATE = {
    State.FRESH: b"",
    State.READY: GREETED,
    State.SENDER: GREETED + b"MAIL FROM:<a@example.org>\r\n",
    State.RECIPIENTS: GREETED + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n",
    State.CHUNKS: GREETED + b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nBDAT 3\r\nx\r\n",
}
BOTH = Offer(starttls=True, mechanisms=("PLAIN",), auth_in_clear=True)
COMMANDS = {
    Verb.AUTH: b"AUTH PLAIN AGEAYg==\r\n",
    Verb.BDAT: b"BDAT 0\r\n",
    Verb.EHLO: b"EHLO x\r\n",
    Verb.HELO: b"HELO x\r\n",
    Verb.MAIL: b"MAIL FROM:<a@example.org>\r\n",
    Verb.RCPT: b"RCPT TO:<c@example.net>\r\n",
}


@pytest.mark.parametrize(("state", "verb"), list(product(PATHS_TO_STATE, Verb)))
def test_every_command_in_every_state(state: State, verb: Verb) -> None:
    driver = Driver(ServerMachine(LIMITS, "relay.test", BOTH))
    if PATHS_TO_STATE[state]:
        driver.say(PATHS_TO_STATE[state])
    assert driver.machine.state is state
    (code,) = driver.codes(COMMANDS.get(verb, verb.value.encode() + b"\r\n"))
    if (state, verb) in TRANSITIONS:
        assert code // 100 in (2, 3)
        after = State.CHUNKS if verb is Verb.BDAT else TRANSITIONS[state, verb]
        assert driver.machine.state is after
    else:
        assert code == (554 if state is State.SENDER and verb in (Verb.DATA, Verb.BDAT) else 503)
        assert driver.machine.state is state


def test_rset_and_ehlo_forget_the_transaction(driver: Driver) -> None:
    for forget in (b"RSET\r\n", b"EHLO again\r\n", b"HELO again\r\n"):
        driver.say(PATHS_TO_STATE[State.RECIPIENTS])
        assert driver.codes(forget + b"RCPT TO:<c@example.net>\r\n") == [250, 503]
        driver.say(b"MAIL FROM:<y@example.org>\r\nRCPT TO:<y@example.net>\r\nDATA\r\n.\r\n")
    driver.say(b"MAIL FROM:<z@example.org>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n.\r\n")
    assert driver.messages[-1][0].recipients == (Mailbox("c", "example.net"),)
    assert len(driver.messages) == 4


def test_helo_knows_no_parameters(driver: Driver) -> None:
    assert driver.say(b"HELO client.test\r\n") == ["250 relay.test"]
    assert driver.codes(b"MAIL FROM:<a@example.org> SIZE=5\r\n") == [555]
    assert not driver.machine.extended


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"EHLO", "501 5.5.4"),
        (b"DATA now", "501 5.5.4"),
        (b"RSET x", "501 5.5.4"),
        (b"QUIT x", "501 5.5.4"),
        (b"NOOP anything", "250 2.0.0"),
        (b"VRFY root", "252 2.0.0"),
        (b"STARTTLS", "502 5.5.1"),
        (b"AUTH PLAIN", "502 5.5.1"),
        (b"XYZZY", "500 5.5.2"),
        (b"", "500 5.5.2"),
        (b"NOOP \0", "501 5.5.2"),
        (b"NOOP a\rQUIT", "501 5.5.2"),
        (b"VRFY \xe9", "501 5.5.2"),
        (b"noop", "250 2.0.0"),
        (b"QUIT  ", "221 2.0.0"),
        (b"MAIL", "501 5.5.4"),
        (b"MAIL FROM:", "501 5.5.4"),
        (b"MAIL TO:<a@example.org>", "501 5.5.4"),
        (b"MAIL FROM:a@example.org", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org>SIZE=1", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> SIZE=", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> SIZE=-1", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> SIZE=1 SIZE=2", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> BODY=BINARYMIME", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> SMTPUTF8", "250 2.1.0"),
        (b"MAIL FROM:<a@example.org> SMTPUTF8=1", "501 5.5.4"),
        (b"MAIL FROM:<\xc3\xa9@example.org> SMTPUTF8", "250 2.1.0"),
        (b"MAIL FROM:<\xff@example.org> SMTPUTF8", "501 5.5.2"),
        (b"MAIL FROM:<a@example.org> REQUIRETLS", "555 5.5.4"),  # neither TLS nor STARTTLS
        (b"MAIL FROM:<a@example.org> AUTH=<>", "555 5.5.4"),
        (b"MAIL FROM:<a@example.org> RET=HDRS", "250 2.1.0"),
        (b"MAIL FROM:<a@example.org> RET=SOME", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> ENVID=a+2B", "250 2.1.0"),
        (b"MAIL FROM:<a@example.org> ENVID=a+0D+0A", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> ENVID=" + b"a" * 101, "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> ENVID=", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> PRDR", "250 2.1.0"),
        (b"MAIL FROM:<a@example.org> PRDR=1", "501 5.5.4"),
        (b"MAIL FROM:<a@example.org> SIZE=10001", "552 5.3.4"),
        (b"MAIL FROM:<a@example.org> SIZE=10000 body=8bitmime", "250 2.1.0"),
        (b"MAIL FROM:<example.org>", "553 5.1.7"),
        (b"MAIL FROM:<a b@example.org>", "501 5.5.4"),
        (b"MAIL FROM:<\xc3\xa9@example.org>", "553 5.6.7"),
        (b"mail from: <a@example.org>", "250 2.1.0"),
    ],
)
def test_one_line_gets_one_reply(driver: Driver, line: bytes, reply: str) -> None:
    driver.say(GREETED)
    (answer,) = driver.say(line + b"\r\n")
    assert answer.startswith(reply + " ")


@pytest.mark.parametrize(
    ("path", "mailbox"),
    [
        (b"<b@Example.NET>", Mailbox("b", "example.net")),
        (b"<@one.test,@two.test:b@example.net>", Mailbox("b", "example.net")),
        (b"<PostMaster>", Mailbox("PostMaster", "relay.test")),
        (b'<"a > b \\" c"@example.net>', Mailbox('"a > b \\" c"', "example.net")),
        (b"<b@[192.0.2.1]>", Mailbox("b", "[192.0.2.1]")),
        (b"<b@[IPv6:2001:db8::1]>", Mailbox("b", "[IPv6:2001:db8::1]")),
    ],
)
def test_recipient_paths(driver: Driver, path: bytes, mailbox: Mailbox) -> None:
    driver.say(PATHS_TO_STATE[State.SENDER])
    assert driver.codes(b"RCPT TO:" + path + b"\r\n") == [250]
    question = driver.questions[-1]
    assert isinstance(question, ConsiderRecipient)
    assert question.mailbox == mailbox


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (b"<>", "553 5.1.3"),
        (b"<b@>", "553 5.1.3"),
        (b"<root>", "553 5.1.3"),
        (b"<b@exa mple.net>", "501 5.5.4"),
        (b"<b@-.net>", "553 5.1.3"),
        (b"<b@ex\xc3\xa4mple.net>", "553 5.6.7"),
        (b"<b@example.net> NOTIFY=NEVER,DELAY", "501 5.5.4"),
        (b"<b@example.net> NOTIFY=", "501 5.5.4"),
        (b"<b@example.net> ORCPT=b@example.net", "501 5.5.4"),
        (b"<b@example.net> ORCPT=rfc822;b+0A", "501 5.5.4"),
        (b"<b@example.net> ORCPT=utf-8;\xc3\xa9@example.net", "501 5.5.4"),
        (b"<b@example.net> SIZE=3", "555 5.5.4"),
        (b"<b@example.net> =", "501 5.5.4"),
    ],
)
def test_recipient_paths_that_are_refused(driver: Driver, path: bytes, reply: str) -> None:
    driver.say(PATHS_TO_STATE[State.SENDER])
    (answer,) = driver.say(b"RCPT TO:" + path + b"\r\n")
    assert answer.startswith(reply)
    assert driver.machine.state is State.SENDER


def test_the_declared_size_is_given_to_the_question(driver: Driver) -> None:
    driver.say(GREETED + b"MAIL FROM:<a@example.org> SIZE=77\r\n")
    assert driver.questions[-1] == ConsiderSender(MailRequest(Mailbox("a", "example.org"), 77))


def test_a_recipient_named_twice_gets_one_copy(driver: Driver) -> None:
    twice = b"RCPT TO:<b@example.net>\r\nRCPT TO:<b@EXAMPLE.net>\r\n"
    assert driver.codes(PATHS_TO_STATE[State.SENDER] + twice) == [250, 250, 250, 250]
    driver.say(b"DATA\r\n.\r\n")
    assert driver.messages[0][0].recipients == (Mailbox("b", "example.net"),)


def test_too_many_recipients_are_for_another_message(driver: Driver) -> None:
    driver.say(PATHS_TO_STATE[State.SENDER])
    many = b"".join(b"RCPT TO:<b%d@example.net>\r\n" % n for n in range(20))
    assert driver.codes(many) == [250] * 3 + [452] * 17
    assert driver.codes(b"DATA\r\n.\r\n") == [354, 250]


# Refusals by the driver


def test_a_refused_sender_leaves_no_transaction() -> None:
    driver = Driver(refusals={ConsiderSender: Reply(452, ("4.3.1 Disk full",))})
    assert driver.codes(OPENED) == [250, 452, 503, 503]


def test_all_recipients_refused_means_no_content() -> None:
    driver = Driver(refusals={ConsiderRecipient: Reply(550, ("5.7.1 Relaying denied",))})
    assert driver.codes(OPENED) == [250, 250, 550, 554]
    assert not any(isinstance(question, BeginContent) for question in driver.questions)


def test_no_place_for_the_content() -> None:
    driver = Driver(refusals={BeginContent: Reply(451, ("4.3.0 Not now",))})
    assert driver.codes(OPENED + b"RSET\r\n") == [250, 250, 250, 451, 250]


def test_a_message_that_could_not_be_kept_is_not_accepted() -> None:
    driver = Driver(refusals={EndContent: Reply(451, ("4.3.0 Not now",))})
    assert driver.codes(OPENED + b"x\r\n.\r\nRCPT TO:<c@example.net>\r\n") == [250, 250, 250, 354, 451, 503]


def test_content_refused_on_the_way_is_read_to_its_end(driver: Driver) -> None:
    driver.say(OPENED + b"one\r\n")
    driver.machine.refuse_content(Reply(451, ("4.3.0 Not now",)))
    driver.content = b""
    assert driver.codes(b"two\r\n") == []
    assert driver.codes(b"three\r\n.\r\nNOOP\r\n") == [451, 250]
    assert driver.content == b""
    assert driver.messages == []


def test_content_refused_when_its_end_was_read_already(driver: Driver) -> None:
    driver.say(OPENED)
    driver.machine.receive(b"one\r\n.\r\nNOOP\r\n")
    assert driver.machine.next_action() == ContentChunk(b"one\r\n")
    driver.machine.refuse_content(Reply(451, ("4.3.0 Not now",)))
    driver.run()
    assert driver.written.endswith(b"451 4.3.0 Not now\r\n250 2.0.0 Ok\r\n")
    assert driver.messages == []


# Line ends and what hides behind them


@pytest.mark.parametrize(
    "false_end",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\n\n.\r\n",
        b"\r\n.\r\r\n",
        b"\r\n\0.\r\n",
    ],
)
def test_only_crlf_dot_crlf_ends_the_content(driver: Driver, false_end: bytes) -> None:
    smuggled = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nevil"
    codes = driver.codes(OPENED + b"innocent" + false_end + smuggled + b"\r\n.\r\n")
    assert codes == [250, 250, 250, 354, 550]
    assert driver.messages == []
    assert len([q for q in driver.questions if isinstance(q, ConsiderSender)]) == 1
    assert driver.codes(b"NOOP\r\n") == [250]


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        (b"a\nb\r\n", "550 5.6.11 Bare"),
        (b"a\rb\r\n", "550 5.6.11 Bare"),
        (b"\n\r\n", "550 5.6.11 Bare"),
        (b".\rx\r\n", "550 5.6.11 Bare"),
        (b"a\0b\r\n", "550 5.6.11 NUL"),
        (b"x" * 999 + b"\r\n", "550 5.6.0 A line"),
        (b"ok\r\n" + b"x" * 100_000 + b"\r\n", "550 5.6.0 A line"),
        ((b"x" * 98 + b"\r\n") * 2000, "552 5.3.4"),
    ],
)
def test_defective_content_is_read_and_refused(content: bytes, reply: str) -> None:
    big = Driver(ServerMachine(Limits(message_size=150_000), "relay.test"))
    lines = big.say(OPENED + content + b".\r\nNOOP\r\n")
    assert lines[-2].startswith(reply)
    assert lines[-1] == "250 2.0.0 Ok"
    assert big.messages == []
    assert big.abandoned == 1


def test_lines_of_998_octets_and_stuffed_dots_are_fine(driver: Driver) -> None:
    longest = b"." + b"x" * 997 + b"\r\n"
    assert driver.codes(OPENED + b"." + longest + longest.replace(b".", b"y") + b".\r\n")[-1] == 250
    assert driver.messages[0][1] == longest + longest.replace(b".", b"y")


def test_a_message_of_exactly_the_limit_is_accepted(driver: Driver) -> None:
    line = b"x" * 98 + b"\r\n"
    assert driver.codes(OPENED + line * 100 + b".\r\n")[-1] == 250
    assert driver.messages[0][0].size == 10_000
    refused = driver.codes(OPENED + line * 100 + b"\r\n.\r\n")[-1]
    assert refused == 552


def test_content_without_end_is_cut_off(driver: Driver) -> None:
    driver.say(OPENED)
    line = b"x" * 98 + b"\r\n"
    for _ in range((2 * 10_000 + SURPLUS) // 100_000 + 2):
        lines = driver.say(line * 1000)
        if lines:
            break
    assert lines == ["552 5.3.4 The message is far too large"]
    assert driver.closed is not None
    assert driver.abandoned == 1


def test_a_bare_line_feed_ends_the_session(driver: Driver) -> None:
    assert driver.say(b"NOOP\nQUIT\r\n") == ["500 5.5.2 Lines must end with CRLF"]
    assert driver.closed is not None


def test_a_long_line_is_refused_and_the_session_goes_on(driver: Driver) -> None:
    exact = b"NOOP " + b"x" * (MAX_COMMAND - 7) + b"\r\n"
    assert driver.codes(exact) == [250]
    assert driver.codes(b"NOOP " + b"x" * (MAX_COMMAND - 6) + b"\r\nNOOP\r\n") == [500, 250]
    for _ in range(20):
        assert driver.say(b"x" * 3000) == []
    assert driver.codes(b"\r\nNOOP\r\n") == [500, 250]


def test_an_endless_line_ends_the_session(driver: Driver) -> None:
    assert driver.codes(b"x" * (MAX_DISCARD + 1)) == [421]
    assert driver.closed == "endless command line"


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"POST /mail HTTP/1.1",
        b"BDAT many",
        b"BDAT 10 FIRST",
        b"get /",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 3 4",
    ],
)
def test_other_protocols_are_cut_off_before_their_content_is_read_as_commands(
    driver: Driver, line: bytes
) -> None:
    assert driver.codes(line + b"\r\nHost: x\r\n\r\n" + OPENED) == [421]
    assert driver.questions == []
    assert driver.closed is not None


# Limits and ends


def test_too_many_errors_end_the_session(driver: Driver) -> None:
    assert driver.codes(b"XYZZY\r\n" * 10) == [500] * 5 + [421]
    assert driver.closed == "too many errors"


def test_bad_addresses_are_not_counted_as_errors(driver: Driver) -> None:
    driver.say(PATHS_TO_STATE[State.SENDER])
    assert driver.codes(b"RCPT TO:<root>\r\n" * 50 + b"RCPT TO:<b@example.net>\r\n") == [553] * 50 + [250]


def test_refusals_by_policy_are_counted() -> None:
    driver = Driver(refusals={ConsiderRecipient: Reply(550, ("5.7.1 Relaying denied",))})
    driver.say(PATHS_TO_STATE[State.SENDER])
    assert driver.codes(b"RCPT TO:<b@example.net>\r\n" * 10) == [550] * 5 + [421]


def test_idling_is_limited_and_messages_start_the_count_again(driver: Driver) -> None:
    driver.say(OPENED + b".\r\n")
    assert driver.codes(b"NOOP\r\n" * 20) == [250] * 10 + [421]
    assert driver.closed == "too many idle commands"


def test_the_end_of_the_stream_in_content_abandons_it(driver: Driver) -> None:
    driver.say(OPENED + b"half of it\r\n.")
    driver.say(b"")
    assert (driver.abandoned, driver.messages) == (1, [])
    assert driver.closed is not None


def test_the_end_of_the_stream_elsewhere(driver: Driver) -> None:
    assert driver.say(b"") == []
    assert driver.closed == "the client closed the connection without QUIT"
    assert driver.abandoned == 0


def test_close_says_goodbye_once(driver: Driver) -> None:
    driver.say(OPENED + b"half of it\r\n")
    driver.machine.close(Reply(421, ("4.3.2 Shutting down",)), "shutdown")
    driver.machine.close(Reply(421, ("4.3.2 Shutting down",)), "shutdown")
    driver.run()
    assert driver.written.endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n421 4.3.2 Shutting down\r\n")
    assert (driver.abandoned, driver.closed) == (1, "shutdown")


def test_replies_are_one_safe_line_each() -> None:
    assert encode(Reply(250, ("2.0.0 a\r\n250 b", "2.0.0 é"))) == b"250-2.0.0 a??250 b\r\n250 2.0.0 \\xe9\r\n"
    assert len(encode(Reply(550, ("x" * 5000,)))) <= 512
    assert encode(Reply(250, ())) == b"250 \r\n"
