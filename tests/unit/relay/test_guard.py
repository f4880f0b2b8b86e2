"""TLS and AUTH behind the relay's ports, over memory streams, with our own client's TLS and SASL on the other side."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from OpenSSL import SSL
from trio.testing import MockClock, memory_stream_pair

from deliver.errors import ConfigurationError, PeerError
from deliver.net.clock import WallClock
from deliver.net.tlsstream import TlsStream
from deliver.relay import passwords
from deliver.relay.failures import MAX_CLIENTS, Failures
from deliver.relay.guard import Guard, Post
from deliver.relay.passwords import line_for
from deliver.relay.security import Challenge, Client, LoggedIn, LoginRefused, Secured
from deliver.settings import Duration, Relay, RelayAuth, RelayCertificate, RelayTls, Settings
from deliver.smtp.sasl import Binding, Credentials, Login, Mechanism, Plain, Scram
from deliver.smtp.saslserver import derived_keys
from deliver.tls.certificate import end_point
from deliver.tls.context import ClientCertificate, context_for
from deliver.tls.engine import TlsEngine, TlsError
from events.catalogue import Event
from tests.unit.tls.certificates import CLIENT_ONLY, DAY, NOW, House, Issued, Wish, build_house, issue
from tests.unit.tls.peers import MAY
from tests.unit.tls.responder import HOUR, Answer, respond

PASSWORD = "a pässword"
ALICE = Credentials("alice", PASSWORD)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "ITERATIONS", 4096)


@dataclass
class Scene:
    """A relay's files and what its guard tells."""

    directory: Path
    house: House
    told: list[Event] = field(default_factory=list)
    tls: dict[str, object] = field(default_factory=dict)
    auth: dict[str, object] = field(default_factory=dict)

    def write(self, name: str, content: bytes) -> Path:
        """A file, replaced by a rename."""
        path = self.directory / name
        path.with_suffix(".new").write_bytes(content)
        path.with_suffix(".new").chmod(0o600)
        os.replace(path.with_suffix(".new"), path)
        return path

    def certify(self, prefix: str = "mail", *names: str, staple: float | None = None) -> Issued:
        issued = issue(Wish("mail", dns_names=names or ("relay.test",)), self.house.intermediate)
        self.write(f"{prefix}.pem", issued.pem + self.house.intermediate.pem)
        self.write(f"{prefix}.key", issued.key_pem)
        if staple is not None:
            self.staple(issued, staple, prefix)
        return issued

    def staple(self, issued: Issued, until: float, prefix: str = "mail") -> bytes:
        response = respond(Answer(issued, next_update=until))
        self.write(f"{prefix}.ocsp", response)
        return response

    def people(self, *lines: str) -> None:
        self.write("passwords", "\n".join(lines).encode())

    def guard(self, *prefixes: str) -> Guard:
        certificates = tuple(
            RelayCertificate(
                chain_file=f"{each}.pem",
                key_file=f"{each}.key",
                ocsp_file=f"{each}.ocsp" if (self.directory / f"{each}.ocsp").exists() else None,
            )
            for each in prefixes or ("mail",)
        )
        tls = RelayTls(certificate=certificates, **self.tls)  # type: ignore[arg-type]
        if (self.directory / "passwords").exists():
            self.auth.setdefault("password_file", "passwords")
        self.auth.setdefault("failure_delay", Duration(0))
        auth = RelayAuth(**self.auth)  # type: ignore[arg-type]
        settings = Settings(state_dir=str(self.directory), relay=Relay(tls=tls, auth=auth))

        async def tell(event: Event) -> None:
            assert event.problems() == ()
            self.told.append(event)

        return Guard(settings, WallClock(NOW), tell)


@pytest.fixture(scope="module")
def house() -> House:
    return build_house()


@pytest.fixture
def scene(tmp_path: Path, house: House) -> Scene:
    return Scene(tmp_path, house)


@asynccontextmanager
async def met(
    guard: Guard, context: SSL.Context | None = None, name: str = "relay.test", address: str = "192.0.2.7"
) -> AsyncIterator[tuple[Client, TlsStream]]:
    """A client inside TLS: as the relay knows it, and its own stream."""
    ours, theirs = memory_stream_pair()
    client = TlsStream(ours, TlsEngine(context or context_for(MAY), name, request_staple=True))
    found: list[Secured] = []

    async def serve() -> None:
        found.append(await guard.secure(theirs, Client(address)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await client.do_handshake()
        await client.flush()
    yield Client(address, secured=found[0]), client
    await client.discard()
    await theirs.aclose()


async def log_in(guard: Guard, client: Client, mechanism: Mechanism) -> LoggedIn | LoginRefused:
    exchange = guard.begin(mechanism.name, client)
    said = mechanism.initial
    if said is not None:
        mechanism.begun()
    answer = await exchange.respond(said)
    while isinstance(answer, Challenge):
        answer = await exchange.respond(mechanism.answer(answer.data))
    return answer


def scram_line(name: str = "alice", password: str = PASSWORD) -> str:
    return line_for(name, password)


# --- TLS


async def test_the_client_gets_the_certificate_and_its_staple(scene: Scene) -> None:
    issued = scene.certify(staple=NOW + HOUR)
    guard = scene.guard()
    assert guard.tls
    async with met(guard) as (client, stream):
        assert stream.handshake is not None
        assert stream.handshake.chain == (issued.der, scene.house.intermediate.der)
        assert stream.handshake.staple is not None
        assert client.secured is not None
        assert (client.secured.version, client.secured.sni) == ("TLSv1.3", "relay.test")
        assert client.secured.names == ()
        await client.secured.stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


async def test_a_renewed_certificate_and_a_renewed_staple_count_at_once(scene: Scene) -> None:
    scene.certify(staple=NOW + HOUR)
    guard = scene.guard()
    renewed = scene.certify()
    async with met(guard) as (_, stream):
        assert stream.handshake is not None
        assert stream.handshake.chain[0] == renewed.der
        assert stream.handshake.staple is None, "the old staple is about another certificate"
    response = scene.staple(renewed, NOW + HOUR)
    async with met(guard) as (_, stream):
        assert stream.handshake is not None
        assert stream.handshake.staple == response


async def test_half_a_renewal_leaves_the_old_certificate_until_it_is_whole(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    old = scene.certify()
    guard = scene.guard()
    new = issue(Wish("mail", dns_names=("relay.test",)), scene.house.intermediate)
    scene.write("mail.pem", new.pem + scene.house.intermediate.pem)
    for _ in range(2):
        async with met(guard) as (_, stream):
            assert stream.leaf() == old.der
    assert caplog.text.count("mismatch") == 1, "said once"
    scene.write("mail.key", new.key_pem)
    async with met(guard) as (_, stream):
        assert stream.leaf() == new.der


async def test_a_staple_that_is_not_good_is_said_and_not_sent(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    scene.certify(staple=NOW - 1000)
    async with met(scene.guard()) as (_, stream):
        assert stream.handshake is not None
        assert stream.handshake.staple is None
    assert "it is out of date" in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(("days", "level"), [(8, logging.INFO), (6, logging.WARNING), (-1, logging.WARNING)])
async def test_a_certificate_in_its_last_week_is_worth_a_warning(
    scene: Scene, caplog: pytest.LogCaptureFixture, days: int, level: int
) -> None:
    caplog.set_level(logging.INFO, "outrider.relay")
    issued = issue(Wish("mail", dns_names=("relay.test",), not_after=NOW + days * DAY), scene.house.root)
    scene.write("mail.pem", issued.pem)
    scene.write("mail.key", issued.key_pem)
    scene.guard()
    (said,) = [record for record in caplog.records if record.getMessage() == "certificate loaded"]
    assert said.levelno == level


async def test_a_staple_file_of_nonsense_is_no_staple(scene: Scene) -> None:
    scene.certify(staple=NOW + HOUR)
    scene.write("mail.ocsp", b"nonsense")
    async with met(scene.guard()) as (_, stream):
        assert stream.handshake is not None
        assert stream.handshake.staple is None


async def test_several_certificates_by_name(scene: Scene) -> None:
    scene.certify("one", "one.test")
    two = scene.certify("two", "two.test")
    async with met(scene.guard("one", "two"), name="two.test") as (client, stream):
        assert stream.leaf() == two.der
        assert client.secured is not None
        assert client.secured.sni == "two.test"


async def test_the_relay_does_not_start_without_its_certificate(scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match=r"mail\.pem: No such file"):
        scene.guard()


async def test_tickets_are_good_until_their_keys_are_replaced(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.certify()
    scene.tls["ticket_rotation"] = Duration(3600)
    guard = scene.guard()

    async def resumed(session: bytes | None) -> tuple[bool, bytes | None]:
        ours, theirs = memory_stream_pair()
        client = TlsStream(ours, TlsEngine(context_for(MAY), "relay.test", resume=session))
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                secured = await guard.secure(theirs, Client("192.0.2.7"))
                await secured.stream.send_all(b"x")

            nursery.start_soon(serve)
            handshake = await client.do_handshake()
            assert await client.receive_some() == b"x"
        return handshake.resumed, client.session()

    _, session = await resumed(None)
    assert (await resumed(session))[0]
    await trio.sleep(3601)
    assert not (await resumed(session))[0]


async def test_a_client_that_never_finishes_the_handshake_is_given_up(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.certify()
    _, theirs = memory_stream_pair()
    with pytest.raises(PeerError, match="too long"):
        await scene.guard().secure(theirs, Client("192.0.2.7"))
    assert trio.current_time() == pytest.approx(60, abs=2)


async def test_a_client_that_does_not_speak_tls(scene: Scene) -> None:
    scene.certify()
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"EHLO client.test\r\n" * 10)
    with pytest.raises(TlsError):
        await scene.guard().secure(theirs, Client("192.0.2.7"))


async def test_the_names_of_a_client_certificate(scene: Scene) -> None:
    scene.certify()
    scene.write("clients.pem", scene.house.root.pem)
    scene.tls["client_ca"] = "clients.pem"
    guard = scene.guard()
    visitor = issue(
        Wish("visitor", dns_names=("app.example.org",), purpose=CLIENT_ONLY), scene.house.intermediate
    )
    certificate = scene.write("visitor.pem", visitor.pem + scene.house.intermediate.pem)
    key = scene.write("visitor.key", visitor.key_pem)
    context = context_for(MAY, client=ClientCertificate(str(certificate), str(key)))
    async with met(guard, context) as (client, _):
        assert client.secured is not None
        assert client.secured.names == ("app.example.org",)
    async with met(guard) as (client, _):
        assert client.secured is not None
        assert client.secured.names == ()
    scene.write("clients.pem", scene.house.stranger.pem)
    async with met(guard, context) as (client, _):
        assert client.secured is not None
        assert client.secured.names == (), "the authority counts no more"


# --- AUTH


async def test_nothing_is_offered_outside_tls(scene: Scene) -> None:
    scene.certify()
    scene.people(scram_line())
    assert scene.guard().mechanisms(Client("192.0.2.7")) == ()


async def test_what_is_offered_follows_the_entries(scene: Scene) -> None:
    scene.certify()
    scene.people(line_for("bob", PASSWORD, "ARGON2ID"))
    guard = scene.guard()
    async with met(guard) as (client, _):
        assert guard.mechanisms(client) == ("PLAIN", "LOGIN")
        scene.people(scram_line())
        assert guard.mechanisms(client) == ("PLAIN", "LOGIN"), "until the file is needed"
        assert isinstance(await log_in(guard, client, Plain(ALICE)), LoggedIn)
        assert guard.mechanisms(client) == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")


async def test_only_what_the_settings_want_is_offered(scene: Scene) -> None:
    scene.certify()
    scene.people(scram_line())
    scene.auth["mechanisms"] = ("login", "scram-sha-256")
    guard = scene.guard()
    async with met(guard) as (client, _):
        assert guard.mechanisms(client) == ("LOGIN", "SCRAM-SHA-256")


async def test_without_a_password_file_there_is_no_auth(scene: Scene) -> None:
    scene.certify()
    guard = scene.guard()
    async with met(guard) as (client, _):
        assert guard.mechanisms(client) == ()


def scram_plus(stream: TlsStream, kind: str) -> Mechanism:
    exporter = stream.keying_material(b"EXPORTER-Channel-Binding", 32)
    leaf = stream.leaf()
    assert leaf is not None
    data = exporter if kind == "tls-exporter" else end_point(leaf)
    assert data is not None
    return Scram(ALICE, "theirs", Binding(kind, data))


@pytest.mark.parametrize(
    "mechanism",
    [
        lambda _: Plain(ALICE),
        lambda _: Login(ALICE),
        lambda _: Scram(ALICE, "theirs"),
        lambda stream: scram_plus(stream, "tls-exporter"),
        lambda stream: scram_plus(stream, "tls-server-end-point"),
    ],
    ids=["plain", "login", "scram", "scram-plus-exporter", "scram-plus-end-point"],
)
async def test_every_mechanism_logs_in(
    scene: Scene, mechanism: Callable[[TlsStream], Mechanism], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scene.certify()
    scene.people(scram_line())
    guard = scene.guard()
    async with met(guard) as (client, stream):
        assert await log_in(guard, client, mechanism(stream)) == LoggedIn("alice")
    assert PASSWORD not in caplog.text
    assert scene.told == []


async def test_scram_bound_to_another_connection_is_refused(scene: Scene) -> None:
    scene.certify()
    scene.people(scram_line())
    guard = scene.guard()
    async with met(guard) as (client, _), met(guard) as (_, elsewhere):
        answer = await log_in(guard, client, scram_plus(elsewhere, "tls-exporter"))
        assert isinstance(answer, LoginRefused)
        assert answer.reply.code == 535


async def test_failures_are_delayed_told_and_end_the_connection(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.certify()
    scene.people(scram_line())
    scene.auth["failure_delay"] = Duration(2)
    guard = scene.guard()
    codes = []
    async with met(guard) as (client, _):
        for _ in range(3):
            wrong = Scram(Credentials("alice", "wrong"), "theirs")  # no thread: the clock jumps
            answer = await log_in(guard, client, wrong)
            assert isinstance(answer, LoginRefused)
            codes.append((answer.reply.code, round(trio.current_time())))
    assert codes == [(535, 2), (535, 4), (421, 6)]
    assert [event.name for event in scene.told] == ["auth:fail"] * 3
    fields = scene.told[0].fields
    assert fields["sender_host_address"] == "192.0.2.7"
    assert fields["event_data"] == "SCRAM-SHA-256: wrong user name or password (alice)"


async def test_a_client_that_failed_too_often_is_not_asked_any_more(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.certify()
    scene.people(scram_line())
    scene.auth.update(client_failures=2, client_memory=Duration(600), max_failures=5)
    guard = scene.guard()
    for address in ("2001:db8::1", "2001:db8::2"):
        async with met(guard, address=address) as (client, _):
            answer = await log_in(guard, client, Scram(Credentials("alice", "wrong"), "theirs"))
            assert isinstance(answer, LoginRefused)
    async with met(guard, address="2001:db8::3") as (client, _):
        answer = await log_in(guard, client, Scram(ALICE, "theirs"))
        assert isinstance(answer, LoginRefused), "not even with the right password"
        assert answer.reply.code == 421
    async with met(guard, address="2001:db8:1::3") as (client, _):
        assert isinstance(await log_in(guard, client, Scram(ALICE, "theirs")), LoggedIn)
    await trio.sleep(601)
    async with met(guard, address="2001:db8::3") as (client, _):
        assert isinstance(await log_in(guard, client, Scram(ALICE, "theirs")), LoggedIn)


async def test_tries_side_by_side_are_no_way_around_the_limit(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.certify()
    scene.people(scram_line())
    scene.auth.update(client_failures=1, max_failures=1)
    guard = scene.guard()
    right = Scram(ALICE, "theirs")
    async with met(guard) as (client, _), met(guard) as (other, _):
        begun = guard.begin(right.name, client)
        right.begun()
        first = await begun.respond(right.initial)
        assert isinstance(first, Challenge)
        await log_in(guard, other, Scram(Credentials("alice", "wrong"), "theirs"))
        answer = await begun.respond(right.answer(first.data))
    assert isinstance(answer, LoginRefused)
    assert answer.reply.code == 421


async def test_a_login_that_is_not_understood_is_no_failure(scene: Scene) -> None:
    scene.certify()
    scene.people(scram_line())
    guard = scene.guard()
    async with met(guard) as (client, _):
        answer = await guard.begin("PLAIN", client).respond(b"nonsense")
        assert isinstance(answer, LoginRefused)
        assert answer.reply.code == 501
    assert scene.told == []


async def test_while_the_file_cannot_be_read_nobody_logs_in_and_all_are_told_to_come_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.certify()
    scene.people(scram_line())
    guard = scene.guard()
    async with met(guard) as (client, _):
        scene.people("alice:{UNKNOWN}secret")
        for _ in range(2):
            answer = await log_in(guard, client, Plain(ALICE))
            assert isinstance(answer, LoginRefused)
            assert answer.reply.code == 454
        assert "secret" not in caplog.text
        scene.people(line_for("alice", "another"))
        answer = await log_in(guard, client, Plain(ALICE))
        assert isinstance(answer, LoginRefused)
        assert answer.reply.code == 535
        assert isinstance(await log_in(guard, client, Plain(Credentials("alice", "another"))), LoggedIn)


async def test_the_relay_does_not_start_with_a_password_file_that_cannot_be_used(scene: Scene) -> None:
    scene.certify()
    scene.people("nonsense")
    with pytest.raises(ConfigurationError, match="line 1"):
        scene.guard()


async def test_another_guard_takes_the_post_and_knows_of_the_failures(
    scene: Scene, autojump_clock: MockClock
) -> None:
    scene.certify()
    scene.people(scram_line())

    async def tell(event: Event) -> None:
        scene.told.append(event)

    def settings(most: int) -> Settings:
        mine = RelayCertificate(chain_file="mail.pem", key_file="mail.key")
        auth = RelayAuth(password_file="passwords", client_failures=most, failure_delay=Duration(0))
        return Settings(
            state_dir=str(scene.directory), relay=Relay(tls=RelayTls(certificate=(mine,)), auth=auth)
        )

    post = Post(settings(9), WallClock(NOW), tell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post.run)
        async with met(post.guard) as (client, _):
            answer = await log_in(post.guard, client, Scram(Credentials("alice", "wrong"), "theirs"))
            assert isinstance(answer, LoginRefused)
        before = post.guard
        after = post.relief(settings(1))
        assert not before.failures.too_many("192.0.2.7", trio.current_time()), "nothing has changed yet"
        post.relieve(after)
        await trio.testing.wait_all_tasks_blocked()
        assert post.guard is after
        async with met(post.guard) as (client, _):
            answer = await log_in(post.guard, client, Scram(ALICE, "theirs"))
            assert isinstance(answer, LoginRefused), "one failure is too many now"
        with pytest.raises(ConfigurationError):
            post.relief(Settings(state_dir="/nowhere", relay=settings(1).relay))
        assert post.guard is after
        nursery.cancel_scope.cancel()


def test_failures_are_forgotten_and_their_number_is_bounded() -> None:
    failures = Failures(1, 10.0)
    for number in range(MAX_CLIENTS + 5):
        failures.add(f"client {number}", 0.0)
    assert not failures.too_many("client 0", 1.0)
    assert failures.too_many(f"client {MAX_CLIENTS}", 1.0)
    assert not failures.too_many(f"client {MAX_CLIENTS}", 10.0)


def test_keys_are_of_the_password_alone() -> None:
    assert derived_keys("a", b"salt", 4096) == derived_keys("a", b"salt", 4096)
    assert derived_keys("a", b"salt", 4096) != derived_keys("b", b"salt", 4096)
