"""The relay's front in conversations: TLS and AUTH through their ports, PROXY, rules by address, PRDR, limits."""

from __future__ import annotations

import logging
from base64 import b64encode
from dataclasses import dataclass, field

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from deliver.dsn import Notify, Ret
from deliver.errors import PeerError
from deliver.message import Mailbox
from deliver.net.clock import WallClock
from deliver.relay.binding import bind
from deliver.relay.connection import Connection
from deliver.relay.limits import Allowance, ClientLimits
from deliver.relay.listener import listeners_on
from deliver.relay.security import Challenge, Client, LoggedIn, LoginRefused, Secured
from deliver.relay.terms import terms_of
from deliver.settings import Duration, RecipientLimit, Relay, RelayListener, RelayTls, Route, Size
from deliver.smtp.reply import Reply
from deliver.smtp.server import ServerMachine
from tests.doorstep import EPOCH, OPENED, Memory, connect, listener

ENVELOPE = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
LOGIN = "AUTH PLAIN " + b64encode(b"\0ann\0secret").decode() + "\r\n"


@dataclass
class Exchange:
    security: FakeSecurity

    async def respond(self, response: bytes | None) -> Challenge | LoggedIn | LoginRefused:
        if response is None:
            return Challenge(b"")
        if response == b"\0ann\0secret":
            return LoggedIn("ann")
        await trio.sleep(2)
        return LoginRefused(Reply(535, ("5.7.8 Wrong",)))

    def abandon(self) -> None:
        self.security.abandoned += 1


@dataclass
class FakeSecurity:
    """TLS that is no TLS; the client's certificate has `names`, the handshake may fail."""

    tls: bool = True
    names: tuple[str, ...] = ()
    fault: str = ""
    abandoned: int = 0
    secured: list[Client] = field(default_factory=list)

    async def secure(self, stream: trio.abc.Stream, client: Client) -> Secured:
        if self.fault:
            raise PeerError("TLS with the client", self.fault)
        self.secured.append(client)
        return Secured(stream, "TLSv1.3", "TLS_AES_256_GCM_SHA384", names=self.names)

    def mechanisms(self, client: Client) -> tuple[str, ...]:
        return ("PLAIN",) if client.secured else ()

    def begin(self, mechanism: str, client: Client) -> Exchange:
        assert client.secured
        return Exchange(self)


def door(**keys: object) -> Relay:
    return Relay(listener=(RelayListener(listen=("192.0.2.25:587",), **keys),))  # type: ignore[arg-type]


PLACE = "192.0.2.25:587"


async def test_tls_login_and_a_message(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    memory, security = Memory(), FakeSecurity()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory, security=security), "198.51.100.9")
        await client.send("EHLO client.test\r\nSTARTTLS\r\n")
        assert await client.replies(2) == [250, 220]
        await client.send("EHLO client.test\r\n" + LOGIN + ENVELOPE + "Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n")
        assert await client.replies(7) == [250, 235, 250, 250, 354, 250, 221]
        await client.stream.aclose()
    ((envelope, content),) = memory.accepted
    assert envelope.authenticated == "ann"
    assert b"with ESMTPSA id id1 (TLSv1.3 TLS-AES-256-GCM-SHA384)" in content.replace(b"_", b"-")
    assert memory.origins[0].protocol == "ESMTPSA"
    said = next(record for record in caplog.records if record.message == "message accepted")
    assert said.facts["user"] == "ann"  # type: ignore[attr-defined]
    assert said.facts["tls"] == "TLSv1.3"  # type: ignore[attr-defined]


async def test_strangers_may_not_relay_nor_after_a_wrong_password(autojump_clock: MockClock) -> None:
    memory, security = Memory(), FakeSecurity()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory, security=security), "198.51.100.9")
        await client.send("EHLO c\r\nSTARTTLS\r\n")
        assert await client.replies(2) == [250, 220]
        began = trio.current_time()
        await client.send("EHLO c\r\nAUTH PLAIN\r\n" + b64encode(b"\0ann\0wrong").decode() + "\r\n")
        assert await client.replies(3) == [250, 334, 535]
        assert trio.current_time() - began == 2
        await client.send("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nAUTH PLAIN\r\n")
        assert await client.replies(3) == [250, 550, 503]
        await client.stream.aclose()
    assert memory.accepted == []


async def test_a_login_that_is_cut_is_given_up(autojump_clock: MockClock) -> None:
    security = FakeSecurity()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory(), security=security), "198.51.100.9")
        await client.send("EHLO c\r\nSTARTTLS\r\n")
        assert await client.replies(2) == [250, 220]
        await client.send("EHLO c\r\nAUTH PLAIN\r\n")
        assert await client.replies(2) == [250, 334]
        await client.stream.aclose()
    assert security.abandoned == 1


async def test_a_failed_handshake_ends_the_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory(), security=FakeSecurity(fault="no shared cipher")))
        await client.send("EHLO c\r\nSTARTTLS\r\n")
        assert await client.replies(2) == [250, 220]
        assert await client.line() == ""
    assert "TLS failed: no shared cipher" in str(caplog.records[-1].facts)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("names", "code"), [(("app.example.org",), 250), (("other.test",), 550), ((), 550)])
async def test_a_certificate_may_relay(autojump_clock: MockClock, names: tuple[str, ...], code: int) -> None:
    settings = Relay(tls=RelayTls(client_names=("*.example.org",)))
    async with trio.open_nursery() as nursery:
        client = await connect(
            nursery, listener(Memory(), settings, security=FakeSecurity(names=names)), "198.51.100.9"
        )
        await client.send("EHLO c\r\nSTARTTLS\r\n")
        assert await client.replies(2) == [250, 220]
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
        assert await client.replies(3) == [250, 250, code]
        await client.stream.aclose()


async def test_tls_before_the_greeting(autojump_clock: MockClock) -> None:
    security = FakeSecurity()
    async with trio.open_nursery() as nursery:
        to = listener(Memory(), door(tls_on_connect=True, require_tls=True), security=security)
        client = await connect(nursery, to, place=PLACE)
        assert [who.address for who in security.secured] == ["127.0.0.1"]
        await client.send("EHLO c\r\n")
        lines = [await client.line()]
        while lines[-1][3:4] == "-":
            lines.append(await client.line())
        assert not any("STARTTLS" in line for line in lines)
        assert any("AUTH PLAIN" in line for line in lines)
        await client.send("MAIL FROM:<a@example.org>\r\n")
        assert await client.replies(1) == [250 if not to._terms[PLACE].require_auth else 530]
        await client.stream.aclose()


async def test_nothing_before_tls_where_the_address_demands_it(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await connect(
            nursery, listener(Memory(), door(require_tls=True), security=FakeSecurity()), place=PLACE
        )
        await client.send("EHLO c\r\n" + ENVELOPE)
        assert await client.replies(4) == [250, 530, 530, 530]
        await client.stream.aclose()


async def test_a_client_of_an_address_that_is_no_more_has_nobodys_rights(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = listener(Memory(), Relay(listen=("127.0.0.1:25",)))
        gone = "421 4.3.2 Nothing is served here any more"
        refused = await connect(nursery, to, place="192.0.2.1:587", expect=gone)
        assert await refused.line() == ""
        served = await connect(nursery, to, place="127.0.0.1:25")
        await served.stream.aclose()


# REQUIRETLS

REQUIRETLS = "MAIL FROM:<a@example.org> REQUIRETLS\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"


@pytest.mark.parametrize("place", ["", PLACE])
async def test_requiretls_inside_tls_reaches_the_envelope(autojump_clock: MockClock, place: str) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        to = listener(memory, door(mode="submission"), security=FakeSecurity())
        client = await connect(nursery, to, place=place)
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org> REQUIRETLS\r\nSTARTTLS\r\n")
        assert await client.replies(3) == [250, 530, 220]
        await client.send("EHLO c\r\n" + LOGIN + REQUIRETLS + "hi\r\n.\r\n" + ENVELOPE + "hi\r\n.\r\n")
        assert await client.replies(10) == [250, 235, 250, 250, 354, 250, 250, 250, 354, 250]
        await client.stream.aclose()
    assert [envelope.requires_tls for envelope, _ in memory.accepted] == [True, False]


@pytest.mark.parametrize("place", ["", PLACE])
async def test_without_the_setting_requiretls_is_not_known(autojump_clock: MockClock, place: str) -> None:
    settings = structs.replace(door(), requiretls=False)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory(), settings, security=FakeSecurity()), place=place)
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org> REQUIRETLS\r\nSTARTTLS\r\n")
        assert await client.replies(3) == [250, 555, 220]
        await client.send("EHLO c\r\n")
        lines = [await client.line()]
        while lines[-1][3:4] == "-":
            lines.append(await client.line())
        assert not any("REQUIRETLS" in line for line in lines)
        await client.send(REQUIRETLS)
        assert (await client.reply()).startswith("555 5.5.4 ")
        await client.stream.aclose()


# Submission


async def test_submission_adds_what_is_missing_and_is_for_users(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        to = listener(memory, door(mode="submission"), security=FakeSecurity())
        client = await connect(nursery, to, place=PLACE)
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org>\r\nSTARTTLS\r\n")
        assert await client.replies(3) == [250, 530, 220]
        await client.send("EHLO c\r\n" + LOGIN + ENVELOPE + "Subject: x\r\n\r\nhi\r\n.\r\n")
        assert await client.replies(6) == [250, 235, 250, 250, 354, 250]
        await client.stream.aclose()
    ((envelope, content),) = memory.accepted
    _, found, rest = content.partition(b"Subject: x\r\n")
    assert found
    assert rest == (b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <id1@relay.test>\r\n\r\nhi\r\n")
    assert envelope.size == len(content)


async def test_submission_with_networks_needs_no_login(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        to = listener(memory, door(mode="submission", networks=("192.0.2.0/24",)))
        client = await connect(nursery, to, "192.0.2.77", place=PLACE)
        await client.send("EHLO c\r\n" + ENVELOPE + "hi\r\n.\r\n")
        assert await client.replies(5) == [250, 250, 250, 354, 250]
        other = await connect(nursery, to, "127.0.0.1", place=PLACE)
        await other.send("EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
        assert await other.replies(3) == [250, 250, 550]
        await client.stream.aclose()
        await other.stream.aclose()
    assert len(memory.accepted) == 1


# PROXY


@pytest.mark.parametrize(("source", "code"), [("127.0.0.9", 250), ("198.51.100.7", 550)])
async def test_the_client_behind_a_balancer_counts(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, source: str, code: int
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    memory = Memory()
    header = f"PROXY TCP4 {source} 192.0.2.25 5000 25\r\n".encode()
    async with trio.open_nursery() as nursery:
        to = listener(memory, Relay(proxy=("203.0.113.0/24",)))
        client = await connect(nursery, to, "203.0.113.4", header=header)
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nQUIT\r\n")
        assert await client.replies(4) == [250, 250, code, 221]
        await client.stream.aclose()
    facts = caplog.records[-1].facts  # type: ignore[attr-defined]
    assert (facts["client"], facts["proxy"]) == (source, "203.0.113.4")


async def test_a_message_through_a_balancer_names_the_client(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        to = listener(memory, Relay(proxy=("203.0.113.4",)))
        client = await connect(
            nursery, to, "203.0.113.4", header=b"PROXY TCP4 127.0.0.9 192.0.2.25 5000 25\r\n"
        )
        await client.send("EHLO c\r\n" + ENVELOPE + ".\r\n")
        assert await client.replies(5) == [250, 250, 250, 354, 250]
        await client.stream.aclose()
    assert (memory.origins[0].client, memory.origins[0].proxy) == ("127.0.0.9", "203.0.113.4")
    assert b"([127.0.0.9])" in memory.accepted[0][1]


async def test_headers_of_others_are_not_believed(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory(), Relay(proxy=("203.0.113.4",))), "198.51.100.7")
        await client.send("PROXY TCP4 127.0.0.1 192.0.2.25 5000 25\r\nEHLO c\r\n")
        assert (await client.line()).startswith("421 ")
        assert await client.line() == ""


async def test_a_balancer_that_speaks_for_itself_gets_answers_but_no_rights(
    autojump_clock: MockClock,
) -> None:
    """Even where it is in relay.networks: it may be speaking for somebody whom it cannot name."""
    async with trio.open_nursery() as nursery:
        to = listener(Memory(), Relay(proxy=("127.0.0.1",)))
        client = await connect(nursery, to, "127.0.0.1", header=b"PROXY UNKNOWN\r\n")
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nQUIT\r\n")
        assert await client.replies(4) == [250, 250, 550, 221]
        await client.stream.aclose()


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 1", b"EHLO c\r\n" * 20, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"])
async def test_no_header_no_greeting(autojump_clock: MockClock, sent: bytes) -> None:
    ours, theirs = memory_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        to = listener(Memory(), Relay(proxy=("203.0.113.4",), proxy_timeout=Duration(5)))
        nursery.start_soon(to.handle, theirs, "203.0.113.4")
        if sent:
            await ours.send_all(sent)
        assert await ours.receive_some() == b""
    assert trio.current_time() - began <= 5
    assert to._introducing == 0


# Limits by client and by recipient


async def test_connections_at_a_time_of_one_client(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = listener(Memory(), Relay(client_connections=1))
        first = await connect(nursery, to)
        await connect(nursery, to, expect="421 4.7.0 Too many connections from your address")
        other = await connect(nursery, to, "198.51.100.1")
        await first.send("QUIT\r\n")
        assert await first.replies(1) == [221]
        await first.stream.aclose()
        await wait_all_tasks_blocked()
        again = await connect(nursery, to)
        for client in (other, again):
            await client.stream.aclose()


async def test_messages_and_recipients_a_minute(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        to = listener(Memory(), Relay(client_messages=2, client_recipients=3))
        client = await connect(nursery, to)
        await client.send("EHLO c\r\nMAIL FROM:<a@example.org>\r\n" + "RCPT TO:<x@example.net>\r\n")
        assert await client.replies(3) == [250, 250, 250]
        await client.send("".join(f"RCPT TO:<b{n}@example.net>\r\n" for n in range(4)))
        assert await client.replies(4) == [250, 250, 450, 450]
        await client.send("RSET\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n")
        assert await client.replies(4) == [250, 250, 250, 450]
        await trio.sleep(30)
        await client.send("MAIL FROM:<>\r\n")
        assert await client.replies(1) == [250]
        await client.stream.aclose()


SMALL = Relay(recipient_limit=(RecipientLimit(recipients=("*@pager.test",), max_message_size=Size(10)),))


TAKES = {
    "max_hops": {"max_hops": 1},
    "eight_bit": {"eight_bit": False},
    "refuse_headers": {"refuse_headers": ("Content-Type: multipart/*", "Subject: *lottery*")},
}


@pytest.mark.parametrize(
    ("what", "content", "refused"),
    [
        ("max_hops", b"Received: a\r\n\r\nx\r\n", ""),
        ("max_hops", b"Received: a\r\nReceived: b\r\n\r\nx\r\n", "5.4.6"),
        ("eight_bit", b"Subject: x\r\n\r\nReceived: b\r\n", ""),
        ("eight_bit", b"Subject: x\r\n\r\n\xfc\r\n", "5.6.1"),
        ("refuse_headers", b"Subject: hello\r\n\r\nSubject: lottery\r\n", ""),
        ("refuse_headers", b"Subject: your LOTTERY\r\n ticket\r\n\r\nx\r\n", "5.7.1"),
        ("refuse_headers", b"Subject: =?utf-8?b?bG90dGVyeQ==?=\r\n\r\nx\r\n", "5.7.1"),
        ("refuse_headers", b"content-type: Multipart/mixed\r\n\r\nx\r\n", "5.7.1"),
        ("refuse_headers", b"Subject: x\r\n" * 101 + b"\r\nx\r\n", "5.6.0"),
    ],
)
@pytest.mark.parametrize("prdr", [True, False])
async def test_content_that_some_recipients_do_not_take(
    autojump_clock: MockClock, what: str, content: bytes, refused: str, prdr: bool
) -> None:
    memory = Memory()
    limit = RecipientLimit(recipients=("*@pager.test",), **TAKES[what])  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory, Relay(recipient_limit=(limit,))))
        parameter = " PRDR" if prdr else ""
        await client.send(f"EHLO c\r\nMAIL FROM:<a@example.org>{parameter}\r\n")
        await client.send("RCPT TO:<a@pager.test>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
        assert await client.replies(5) == [250, 250, 250, 250, 354]
        for start in range(0, len(content), 7):
            await client.send(content[start : start + 7])
        await client.send(".\r\n")
        said = [await client.reply() for _ in range(4 if prdr else 1)]
        await client.stream.aclose()
    if not refused:
        assert {each[:3] for each in said} <= {"353", "250"}
    elif prdr:
        assert said[1].startswith(f"554 {refused} <a@pager.test> takes no message")
        assert [each[:3] for each in said] == ["353", "554", "250", "250"]
    else:
        assert said[0].startswith(f"554 {refused} <a@pager.test> takes no message")
    taken = [str(each.mailbox) for envelope, _ in memory.accepted for each in envelope.recipients]
    both = ["a@pager.test", "b@example.net"]
    assert taken == (both if not refused else both[1:] if prdr else [])
    assert memory.abandoned == (1 if refused and not prdr else 0)


@pytest.mark.parametrize(
    ("parameters", "recipients", "codes", "accepted"),
    [
        (" SIZE=11", ("a@pager.test", "b@example.net"), [550, 250, 354, 250], ["b@example.net"]),
        (" PRDR", ("a@pager.test", "b@example.net"), [250, 250, 354, 353, 552, 250, 250], ["b@example.net"]),
        ("", ("a@PAGER.test", "b@example.net"), [250, 250, 354, 552], None),
        (" PRDR", ("a@pager.test", "c@pager.test"), [250, 250, 354, 552], None),
        (" PRDR", ("b@example.net", "c@example.net"), [250, 250, 354, 353, 250, 250, 250], ["b", "c"]),
    ],
)
async def test_what_some_recipients_take(
    autojump_clock: MockClock,
    parameters: str,
    recipients: tuple[str, ...],
    codes: list[int],
    accepted: list[str] | None,
) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory, SMALL))
        named = "".join(f"RCPT TO:<{each}>\r\n" for each in recipients)
        await client.send(f"EHLO c\r\nMAIL FROM:<a@example.org>{parameters}\r\n{named}DATA\r\n")
        await client.send("eleven oct\r\n.\r\nNOOP\r\n")
        assert await client.replies(len(codes) + 3) == [250, 250, *codes, 250]
        await client.stream.aclose()
    if accepted is None:
        assert (memory.accepted, memory.open, memory.abandoned) == ([], 0, 1)
    else:
        ((envelope, _),) = memory.accepted
        taken = [str(recipient.mailbox) for recipient in envelope.recipients]
        assert [one.startswith(other) for one, other in zip(taken, accepted, strict=True)] == [True] * len(
            taken
        )
        assert [recipient.ordinal for recipient in envelope.recipients] == [*range(len(taken))]


# What comes with the envelope


async def test_the_envelope_has_what_was_asked(autojump_clock: MockClock) -> None:
    memory = Memory()
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(memory))
        await client.send(
            "EHLO c\r\nMAIL FROM:<é@example.org> SMTPUTF8 RET=FULL ENVID=x+2Dy\r\n"
            "RCPT TO:<ü@example.net> NOTIFY=NEVER\r\nBDAT 4 LAST\r\nhi\r\n".encode()
        )
        assert await client.replies(4) == [250, 250, 250, 250]
        await client.stream.aclose()
    ((envelope, content),) = memory.accepted
    assert (envelope.smtputf8, envelope.ret, envelope.envid) == (True, Ret.FULL, "x-y")
    assert envelope.recipients[0].mailbox == Mailbox("ü", "example.net")
    assert envelope.recipients[0].notify == {Notify.NEVER}
    assert b"with UTF8SMTP id" in content
    assert b"for <" not in content
    assert content.endswith(b"\r\nhi\r\n")


async def test_a_route_that_rejects_some_senders(autojump_clock: MockClock) -> None:
    routes = (Route(domains=("*",), senders=("*@blocked.example",), via="reject", reason="not you"),)
    async with trio.open_nursery() as nursery:
        client = await connect(nursery, listener(Memory(), routes=routes))
        await client.send("EHLO c\r\nMAIL FROM:<a@Blocked.example>\r\nRCPT TO:<b@example.net>\r\nRSET\r\n")
        assert await client.replies(4) == [250, 250, 550, 250]
        await client.send("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
        assert await client.replies(2) == [250, 250]
        await client.stream.aclose()


# Unusual ends


class Truncated(trio.abc.Stream):
    """A TLS stream whose end comes without close_notify."""

    def __init__(self) -> None:
        self.sent = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        fault = PeerError("TLS", "the stream ended")
        fault.truncated = True  # type: ignore[attr-defined]
        raise trio.BrokenResourceError from fault

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_missing_close_notify_is_a_detail(caplog: pytest.LogCaptureFixture, wanted: bool) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    terms = terms_of(Relay(), "relay.test", protocol_detail=wanted)[""]
    machine = ServerMachine(terms.limits, "relay.test")
    connection = Connection(
        Truncated(), Client("127.0.0.1"), machine, terms, Memory(), WallClock(EPOCH), lambda: None,  # type: ignore[arg-type, return-value]
        limits=ClientLimits(Allowance(), trio.current_time),
    )  # fmt: skip
    await connection.run()
    details = [record for record in caplog.records if record.message == "protocol detail"]
    assert [record.facts["what"] for record in details] == ["closed without close_notify"] * wanted  # type: ignore[attr-defined]
    assert all(record.levelno == logging.INFO for record in caplog.records)
    assert "without QUIT" in caplog.records[-1].facts["why"]  # type: ignore[attr-defined]


# Over real sockets


@pytest.mark.parametrize("pipeconnect", [True, False])
async def test_who_speaks_before_the_greeting(pipeconnect: bool) -> None:
    to = listener(Memory(), Relay(pipeconnect=pipeconnect))
    (socket_listener,) = listeners_on(bind(["127.0.0.1:0"]))
    port = socket_listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all((OPENED + "hi\r\n.\r\nQUIT\r\n").encode())
        nursery.start_soon(to.serve, [socket_listener])
        said = b""
        while data := await stream.receive_some():
            said += data
        await stream.aclose()
        to.stop(1)
    if pipeconnect:
        assert b"PIPECONNECT\r\n" in said
        assert b"queued as id1" in said
    else:
        assert said == b"554 5.5.0 You spoke before the greeting\r\n"
