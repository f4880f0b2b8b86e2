"""The LMTP door as a real process: real Postfix and Exim keep the queue and hand over, with the examples of conf/examples."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internet import Behaviour, Delay, LiveInternet
from tests.interop.callers import example, start_exim
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.peers.programs import PeerMissing, Programs
from tests.interop.service import START, Service, settings_for
from tests.interop.waiting import until

IMPATIENT = """
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
bounce_notice_recipient = postmaster@plain.test
virtual_mailbox_domains =
"""
TEXT = b"Subject: by another hand\r\n\r\n.a dot\r\n\xff\r\n"


@pytest.fixture
def service(live: LiveInternet, tmp_path: Path) -> Iterator[Service]:
    """The settings of the example, on a free port and for the miniature Internet."""
    shown = example("lmtp.toml", {"127.0.0.1:2424": "127.0.0.1:0", '"8m"': '"4s"'})
    config = settings_for(live.world, tmp_path, shown[shown.index("[lmtp]") :])
    with Service("lmtp", config, "listening for LMTP") as service:
        yield service


def hand_over(
    service: Service, content: bytes, *recipients: str, helo: str = "mta.test"
) -> list[tuple[int, str]]:
    """One reply per recipient."""
    with smtplib.LMTP("127.0.0.1", service.port, helo, timeout=START) as client:
        client.ehlo()
        assert client.mail("me@sender.test", ["BODY=8BITMIME"])[0] == 250
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        assert client.docmd("DATA")[0] == 354
        client.send(content + b".\r\n")
        replies = [client.getreply() for _ in recipients]
    return [(code, text.decode()) for code, text in replies]


def test_one_answer_per_recipient_in_their_order(live: LiveInternet, service: Service) -> None:
    names = ["a@dane-ee.test", "b@null.test", "c@dane-mismatch.test", "a@dane-ee.test", "d@plain.test"]
    replies = hand_over(service, b"Subject: x\r\n\r\nhi\r\n", *names)
    assert [code for code, _ in replies] == [250, 550, 451, 250, 250]
    assert replies[1][1].startswith("5.1.10 ")
    assert replies[2][1].startswith("4.7.5 ")
    assert "TLSA" in replies[2][1]
    assert live.copies() == {"a@dane-ee.test": 1, "d@plain.test": 1}
    assert live.world.violations == ()
    assert service.terminate() == 0


def test_recipients_that_do_not_take_the_content(live: LiveInternet, tmp_path: Path) -> None:
    shown = example("lmtp.toml", {"127.0.0.1:2424": "127.0.0.1:0"})
    limit = '[[relay.recipient_limit]]\nrecipients = ["*@plain.test"]\neight_bit = false\n'
    config = settings_for(live.world, tmp_path, shown[shown.index("[lmtp]") :] + limit)
    with Service("lmtp", config, "listening for LMTP") as service:
        replies = hand_over(service, TEXT, "a@plain.test", "b@dane-ee.test", "a@plain.test")
        refused = (554, "5.6.1 <a@plain.test> takes no message with 8-bit content")
        assert [replies[0], replies[1][0], replies[2]] == [refused, 250, refused]
        assert hand_over(service, TEXT, "a@plain.test") == [refused]
        assert live.copies() == {"b@dane-ee.test": 1}
        assert service.terminate() == 0


def test_what_a_server_says_reaches_the_caller(live: LiveInternet, service: Service) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"RCPT": "554 5.2.2 Mailbox full"}))
    live.behave("mx.dane-ee.test", Behaviour(replies={"DOT": "421 4.3.2 Not now"}))
    full, later = hand_over(service, b"Subject: x\r\n\r\nhi\r\n", "a@plain.test", "b@dane-ee.test")
    assert full[0] == 554
    assert "Mailbox full" in full[1]
    assert full[1].startswith("5.2.2 ")
    assert later[0] == 451
    assert "Not now" in later[1]


def test_the_answer_comes_in_time_and_a_late_reply_prevents_the_second_copy(
    live: LiveInternet, service: Service
) -> None:
    mine = b"Received: from x by mta.test with ESMTP id 4XyZ; today\r\n" + TEXT
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Delay(6, "250 2.0.0 Finally")}))
    began = time.monotonic()
    (first,) = hand_over(service, mine, "a@plain.test")
    assert first[0] == 451
    assert time.monotonic() - began < 6
    (meanwhile,) = hand_over(service, mine, "a@plain.test")
    assert meanwhile == (451, "4.3.0 a delivery of this message from an earlier call is still under way")
    service.wait_for("delivered")
    began = time.monotonic()
    (again,) = hand_over(service, mine, "a@plain.test")
    assert again == (250, "2.0.0 Finally")
    assert time.monotonic() - began < 2
    assert live.copies() == {"a@plain.test": 1}


def test_no_message_is_completed_that_cannot_be_answered_in_time(
    live: LiveInternet, service: Service
) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"DATA": Delay(3.5, "354 go on")}))
    (reply,) = hand_over(service, b"Subject: x\r\n\r\nhi\r\n", "a@plain.test")
    assert reply[0] == 451
    assert "no time is left" in reply[1]
    assert live.copies() == {}


OWN = (  # and how many copies there are of a message that came twice with this
    (b"Received: from x by mta.test with ESMTP id 4XyZ; today\r\n", 1),
    (b"Received: from x by MTA.TEST (Postfix)\r\n\tid 4XyY\r\n for <b@c>; today\r\n", 1),
    (b"Received: from x by other.test with ESMTP id 4XyX; today\r\n", 2),
    (b"Received: from x by mta.test with ESMTP; today\r\n", 2),
    (b"", 2),
)


def test_only_the_callers_own_message_is_recognised(live: LiveInternet, service: Service) -> None:
    for number, (received, _) in enumerate(OWN):
        for _ in range(2):
            assert hand_over(service, received + TEXT, f"a{number}@plain.test")[0][0] == 250
    copies = live.copies()
    assert [copies[f"a{number}@plain.test"] for number in range(len(OWN))] == [copies for _, copies in OWN]


def test_what_is_settled_survives_kill_9(live: LiveInternet, service: Service) -> None:
    mine = b"Received: by mta.test id 4XyZ; today\r\n" + TEXT
    assert hand_over(service, mine, "a@plain.test", "b@null.test")[0][0] == 250
    service.kill()
    service.start()
    codes = [code for code, _ in hand_over(service, mine, "a@plain.test", "b@null.test")]
    assert codes == [250, 550]
    assert live.copies() == {"a@plain.test": 1}


def test_sigterm_answers_who_waits(live: LiveInternet, tmp_path: Path) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Delay(60, "250 ok")}))
    more = '[lmtp]\nlisten = ["unix:door.sock"]\n[queue]\nshutdown_grace = "1s"\n'
    config = settings_for(live.world, tmp_path, more)
    with Service("lmtp", config, "listening for LMTP") as service:
        path = service.place.removeprefix("unix:")
        with smtplib.LMTP(path, local_hostname="mta.test") as client:
            client.ehlo()
            client.mail("me@sender.test")
            client.rcpt("a@plain.test")
            client.docmd("DATA")
            client.send(b"Subject: x\r\n\r\nhi\r\n.\r\n")
            service.wait_for("message taken")
            assert service.terminate() == 0
            code, text = client.getreply()
    assert code == 451
    assert b"stopping" in text
    assert not Path(path).exists()


def test_the_relay_opens_the_door_too(live: LiveInternet, tmp_path: Path) -> None:
    more = '[lmtp]\nlisten = ["127.0.0.1:0"]\n[relay]\nlisten = ["127.0.0.1:0"]\n'
    config = settings_for(live.world, tmp_path, more)
    with Service("relay", config, "listening for LMTP") as service:
        assert hand_over(service, b"Subject: x\r\n\r\nhi\r\n", "a@plain.test")[0][0] == 250
        assert service.terminate() == 0


def sender_postfix(postfix: Factory[PostfixConfig, Postfix], service: Service, hostname: str) -> Postfix:
    shown = example("postfix-lmtp.main.cf", {"127.0.0.1:2424": f"127.0.0.1:{service.port}"})
    return postfix(
        hostname=hostname,
        main=IMPATIENT + shown,
        master="lmtp unix - - n - - lmtp\nshowq unix n - n - - showq\n",
    )


def inject(address: str, port: int, *recipients: str, sender: str = "me@dane-ta.test") -> None:
    with smtplib.SMTP(address, port, "client.test", timeout=START) as client:
        assert client.sendmail(sender, recipients, TEXT) == {}


def test_postfix_keeps_the_queue(
    live: LiveInternet, service: Service, postfix: Factory[PostfixConfig, Postfix]
) -> None:
    server = sender_postfix(postfix, service, "queue.postfix.test")
    live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
    inject(server.address, server.port, "a@dane-ee.test", "b@null.test", "c@signed.test", "d@plain.test")
    live.wait_until(lambda world: len(live.copies()) >= 3, START)
    assert live.copies()["me@dane-ta.test"] == 1  # the bounce that Postfix made
    live.behave("mx.signed.test", Behaviour())
    live.wait_until(lambda world: live.copies()["c@signed.test"] == 1, START)
    assert live.copies()["a@dane-ee.test"] == live.copies()["d@plain.test"] == 1
    (message,) = [m for m in live.world.messages if "a@dane-ee.test" in m.recipients]
    assert message.content.endswith(TEXT)
    assert b"with LMTP id " in message.content
    assert "status=sent (250 2.0.0" in server.log()
    assert "status=bounced" in server.log()
    assert "status=deferred" in server.log()


def test_postfix_tries_again_what_was_in_doubt_and_nobody_gets_a_second_copy(
    live: LiveInternet, service: Service, postfix: Factory[PostfixConfig, Postfix]
) -> None:
    server = sender_postfix(postfix, service, "doubt.postfix.test")
    live.behave("mx.plain.test", Behaviour(replies={"DOT": Delay(6, "250 2.0.0 Finally")}))
    inject(server.address, server.port, "a@plain.test")
    until(lambda: "status=sent (250 2.0.0 Finally" in server.log(), server.log)
    server_log = server.log()
    assert "status=deferred" in server_log
    assert live.copies() == {"a@plain.test": 1}


def test_exim_keeps_the_queue(
    live: LiveInternet, service: Service, programs: Programs, scratch: Path, tmp_path: Path
) -> None:
    directory = scratch / f"exim-{tmp_path.name}"
    directory.mkdir(mode=0o755)
    shown = example("exim-lmtp.conf", {"port = 2424": f"port = {service.port}", "F,1h,5m": "F,1h,1s"})
    shown = shown.replace("127.0.0.1 : ::1", "127.0.0.0/8")
    try:
        exim = start_exim(programs, directory, shown)
    except PeerMissing as missing:
        pytest.skip(str(missing))
    try:
        live.behave("mx.signed.test", Behaviour(replies={"RCPT": "450 4.2.1 Not now"}))
        inject(exim.address, exim.port, "a@dane-ee.test", "b@null.test", "c@signed.test", "d@plain.test")
        live.wait_until(
            lambda world: live.copies()["a@dane-ee.test"] == live.copies()["d@plain.test"] == 1, START
        )
        live.behave("mx.signed.test", Behaviour())
        live.wait_until(lambda world: live.copies()["c@signed.test"] == 1, START)
    except TimeoutError:
        raise AssertionError(exim.log()) from None
    finally:
        exim.stop()
    log = exim.log()
    assert "=> a@dane-ee.test" in log, log
    assert "== c@signed.test" in log
    assert "** b@null.test" in log
    assert live.copies()["a@dane-ee.test"] == 1
