"""Logging in at a smarthost through the miniature Internet: what is told to whom, and what a refusal means."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deliver.agent import Agent
from deliver.errors import Blame
from deliver.explanation import explain
from deliver.level import Level
from deliver.outbox import event_gate
from deliver.outcome import AttemptResult, Deferred, Delivered, Outcome, Phase
from deliver.pool import SessionPool
from deliver.settings import Delivery, Duration, EventAction, Events, Pool, Route, Timeouts, Tls
from events.catalogue import vocabulary_problems
from tests.internet import World
from tests.internet.accounts import Accounts, challenge
from tests.internet.behaviour import KEYWORDS, Behaviour, Drop, Silence
from tests.unit.attempts import agent, codes, deliver, events

PASSWORD = "correct horse, battery=staple ✓"
USUAL = "AUTH SCRAM-SHA-256 PLAIN LOGIN"
BINDING = "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"


def smarthost(world: World, tmp_path: Path, host: str = "mx.signed.test", **keys: Any) -> Agent:
    """Everything goes to one host, where ann logs in."""
    secret = tmp_path / "password"
    secret.write_text(keys.pop("password", PASSWORD) + "\n")
    secret.chmod(0o600)
    level = keys.pop("level", Level.DANE)
    route = Route(
        domains=("*",),
        via="smarthost",
        hosts=(host,),
        username="ann@client.test",
        password_file=str(secret),
        **keys,
    )
    store = str(world.write_trust_store(tmp_path))
    return agent(
        world, tmp_path, route=(route,), tls=Tls(trust_store=store, level=level),
        delivery=Delivery(port=world.port, helo="relay.example.org"),
    )  # fmt: skip


def opens(world: World, auth: str = USUAL, host: str = "mx.signed.test", **fields: Any) -> None:
    """The host knows ann and offers `auth` inside TLS, in clear text nothing."""
    accounts = fields.pop("accounts", Accounts({"ann@client.test": PASSWORD}))
    world.server(host).behaviour = Behaviour(
        keywords_tls=(*KEYWORDS, *((auth,) if auth else ())), accounts=accounts, **fields
    )


async def send(ours: Agent) -> tuple[Outcome, AttemptResult]:
    result = await deliver(ours, "bob@anywhere.test")
    ((_, outcome),) = result.outcomes
    check_silence(result)
    return outcome, result


def check_silence(result: AttemptResult, password: str = PASSWORD) -> None:
    """No secret in what is kept of an attempt; no event outside the catalogue."""
    plain = b64encode(f"\0ann@client.test\0{password}".encode()).decode()
    told = repr([finding.as_dict() for finding in result.trace.findings]) + repr(result.trace.events)
    told += repr(result.outcomes)
    for secret in (password, plain, b64encode(password.encode()).decode()):
        assert secret not in told
    for event in result.trace.events:
        assert vocabulary_problems(event.name, event.fields) == ()


@pytest.mark.parametrize(
    ("offered", "used"),
    [
        ("AUTH PLAIN LOGIN SCRAM-SHA-256", "SCRAM-SHA-256"),
        ("auth login plain", "PLAIN"),
        ("AUTH=LOGIN", "LOGIN"),
        ("AUTH CRAM-MD5 LOGIN XOAUTH2", "LOGIN"),
    ],
)
async def test_the_best_common_mechanism_is_used(
    world: World, tmp_path: Path, offered: str, used: str
) -> None:
    opens(world, offered)
    outcome, result = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Delivered), outcome
    server = world.server("mx.signed.test")
    (auth,) = [command for command in server.connections[0].commands if command.verb == "AUTH"]
    assert auth.argument.split()[0] == used
    assert auth.tls
    assert "login" in codes(result)
    if offered.startswith("AUTH "):
        assert server.messages[0].mail_parameters[-1] == "AUTH=<>"
        assert server.violations == []


async def test_scram_is_bound_to_tls_by_what_the_server_knows(world: World, tmp_path: Path) -> None:
    """The server does not know tls-exporter, so that the certificate binds."""
    leaf = world.server("mx.signed.test")
    ours = smarthost(world, tmp_path)
    der = await certificate_of(world, tmp_path)
    known = Accounts({"ann@client.test": PASSWORD}, end_point=sha256(der).digest(), plus=True)
    opens(world, BINDING, accounts=known)
    outcome, _ = await send(ours)
    assert isinstance(outcome, Delivered), outcome
    tries = [
        command.argument.split()[0] for command in leaf.connections[-1].commands if command.verb == "AUTH"
    ]
    assert tries == ["SCRAM-SHA-256-PLUS"] * 2


async def certificate_of(world: World, tmp_path: Path) -> bytes:
    """The server's certificate in DER, by asking it."""
    import socket
    import ssl

    import trio

    address = world.addresses["mx.signed.test"][0]

    def ask() -> bytes:
        with socket.create_connection((address, world.port), 5) as plain:
            reader = plain.makefile("rb")
            reader.readline()
            plain.sendall(b"EHLO c.test\r\n")
            while reader.readline()[3:4] == b"-":
                pass
            plain.sendall(b"STARTTLS\r\n")
            reader.readline()
            context = ssl._create_unverified_context()
            with context.wrap_socket(plain, server_hostname="mx.signed.test") as secured:
                return secured.getpeercert(binary_form=True) or b""

    return await trio.to_thread.run_sync(ask)


async def test_scram_bound_to_another_certificate_fails(world: World, tmp_path: Path) -> None:
    accounts = Accounts({"ann@client.test": PASSWORD}, end_point=b"x" * 32, plus=True)
    opens(world, BINDING, accounts=accounts)
    outcome, result = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.POLICY
    assert "login-forged" in codes(result)
    assert world.messages == ()
    tries = [command.argument.split()[0] for command in world.server("mx.signed.test").connections[0].commands
             if command.verb == "AUTH"]  # fmt: skip
    assert set(tries) == {"SCRAM-SHA-256-PLUS"}  # nothing weaker afterwards


async def test_a_server_that_refuses_to_bind_gets_the_next_mechanism(world: World, tmp_path: Path) -> None:
    no = "535 5.7.8 I know nothing of this channel binding"
    opens(world, BINDING, replies={"AUTH": (no, no, None)})
    outcome, _ = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Delivered)


async def test_an_offer_that_was_taken_away_is_noticed(world: World, tmp_path: Path) -> None:
    """The server would bind, somebody in between hides it: our "y" lets the server refuse (RFC 5802 6)."""
    opens(world, "AUTH SCRAM-SHA-256", accounts=Accounts({"ann@client.test": PASSWORD}, plus=True))
    outcome, _ = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)


async def test_the_level_is_raised_so_that_the_password_has_a_certain_reader(
    world: World, tmp_path: Path
) -> None:
    for level in (Level.NONE, Level.MAY, Level.ENCRYPT, Level.DANE):
        opens(world)
        outcome, result = await send(smarthost(world, tmp_path, level=level))
        assert isinstance(outcome, Delivered), (level, outcome)
        assert outcome.contact.tls is not None
        assert outcome.contact.tls.verified_by == "pkix"
        assert "login-verify" in codes(result)


async def test_a_forged_server_is_told_nothing(world: World, tmp_path: Path) -> None:
    host = "mx.wrong-name.test" if "mx.wrong-name.test" in world.addresses else "mx.plain.test"
    world.server(host).behaviour = Behaviour(keywords=(*KEYWORDS, "AUTH PLAIN"), accounts=Accounts({}))
    outcome, _ = await send(smarthost(world, tmp_path, host))
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.POLICY
    for connection in world.server(host).connections:
        assert "AUTH" not in connection.verbs


@pytest.mark.parametrize("level", [Level.NONE, Level.MAY])
async def test_in_clear_only_where_the_settings_say_so(world: World, tmp_path: Path, level: Level) -> None:
    host = "mx.plain.test"
    known = Accounts({"ann@client.test": PASSWORD})
    world.server(host).behaviour = Behaviour(keywords=(*KEYWORDS, "AUTH PLAIN"), accounts=known)
    outcome, _ = await send(smarthost(world, tmp_path, host, level=level, auth_in_clear=True))
    assert isinstance(outcome, Delivered), outcome
    outcome, _ = await send(smarthost(world, tmp_path, host, level=level))
    assert isinstance(outcome, Deferred)


async def test_a_wrong_password_defers_and_is_not_tried_everywhere(world: World, tmp_path: Path) -> None:
    opens(world, "AUTH PLAIN LOGIN")
    outcome, result = await send(smarthost(world, tmp_path, password="wrong"))
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.phase, str(outcome.enhanced)) == (Blame.LOCAL, Phase.AUTH, "4.7.8")
    assert "password" in outcome.why
    server = world.server("mx.signed.test")
    assert sum(connection.verbs.count("AUTH") for connection in server.connections) == 1
    assert "auth:fail" in events(result)
    (failed,) = [event for event in result.trace.events if event.name == "auth:fail"]
    assert failed.fields["event_data"] == "535 5.7.8 Authentication credentials invalid"
    assert (failed.fields["smtp_code"], failed.fields["enhanced_code"]) == (535, "5.7.8")
    assert world.messages == ()


async def test_an_event_action_may_say_it_in_its_own_words(world: World, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "policy.db") as database:
        database.execute("CREATE TABLE hint (text TEXT)")
        database.execute("INSERT INTO hint VALUES ('ask the provider for a new password')")
    database.close()
    action = EventAction(
        name="hint", events=("auth:fail",), database=f"sqlite:///{tmp_path}/policy.db",
        sql="SELECT text FROM hint WHERE :smtp_code = 535", veto=True,
    )  # fmt: skip
    opens(world, "AUTH PLAIN")
    ours = smarthost(world, tmp_path, password="wrong")
    gate = event_gate(msgspec.structs.replace(ours.settings, events=Events(action=(action,))))
    outcome, result = await send(replace(ours, gate=gate))
    await gate.aclose()
    assert isinstance(outcome, Deferred)
    assert outcome.why.startswith("ask the provider for a new password")
    (failed,) = [event for event in result.trace.events if event.name == "auth:fail"]
    assert failed.fields["smtp_code"] == 535


async def test_for_the_time_being_means_another_host(world: World, tmp_path: Path) -> None:
    opens(world, replies={"AUTH": "454 4.7.0 Temporary authentication failure"})
    outcome, result = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.HOST
    assert "auth:fail" not in events(result)  # as in Exim: for good only


async def test_a_mechanism_that_is_not_taken_after_all_gives_way(world: World, tmp_path: Path) -> None:
    opens(world, "AUTH PLAIN LOGIN", replies={"AUTH": ("504 5.5.4 not this one", None)})
    outcome, _ = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Delivered)


async def test_without_a_common_mechanism_mail_waits(world: World, tmp_path: Path) -> None:
    for offered in ("AUTH CRAM-MD5", ""):
        opens(world, offered)
        outcome, _ = await send(smarthost(world, tmp_path))
        assert isinstance(outcome, Deferred)
        assert (outcome.blame, str(outcome.enhanced)) == (Blame.POLICY, "4.7.4")
        assert world.messages == ()


@pytest.mark.parametrize(
    "reply",
    [
        "334 not base64 at all!",
        "334-Zm9v\n334 YmFy",
        "354 go ahead",
        challenge(b"r=short,s=c2FsdA==,i=4096"),
        challenge(b"e=no-resources"),
        challenge(b"\xff\xfe"),
    ],
)
async def test_a_senseless_challenge_ends_the_exchange(world: World, tmp_path: Path, reply: str) -> None:
    opens(world, "AUTH SCRAM-SHA-256", replies={"AUTH": reply})
    outcome, _result = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)
    assert world.messages == ()
    said = [
        command
        for command in world.server("mx.signed.test").connections[0].commands
        if command.verb == "(response)"
    ]
    assert [command.argument for command in said] in (["*\r\n"], [])


async def test_endless_challenges_end(world: World, tmp_path: Path) -> None:
    opens(world, "AUTH LOGIN", replies={"RESPONSE": lambda argument: "334 VXNlcm5hbWU6"})
    outcome, _ = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)
    commands = world.server("mx.signed.test").connections[0].commands
    assert sum(command.verb == "(response)" for command in commands) == 3  # name, password, and then "*"


@pytest.mark.parametrize("how", ["signature", "silence"])
async def test_a_server_that_does_not_know_the_password_hears_nothing_more(
    world: World, tmp_path: Path, how: str
) -> None:
    accounts = Accounts({"ann@client.test": PASSWORD}, proof=b"\1" + bytes(31) if how == "signature" else b"")
    replies = {} if how == "signature" else {"RESPONSE": "235 2.7.0 come in"}
    opens(world, "AUTH SCRAM-SHA-256", accounts=accounts, replies=replies)
    outcome, result = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.POLICY
    assert "login-forged" in codes(result)
    assert "auth:fail" in events(result)
    connection = world.server("mx.signed.test").connections[0]
    assert connection.verbs[-2:] == ("AUTH", "(response)")  # neither an answer nor QUIT


async def test_a_server_that_repeats_the_password_is_not_quoted(world: World, tmp_path: Path) -> None:
    plain = b64encode(f"\0ann@client.test\0{PASSWORD}".encode()).decode()
    opens(world, "AUTH PLAIN", replies={"AUTH": f"535 5.7.8 wrong: {PASSWORD} {plain}"})
    outcome, _ = await send(smarthost(world, tmp_path))  # looks for it
    assert isinstance(outcome, Deferred)
    assert "wrong: […] […]" in outcome.why


async def test_a_connection_lost_during_the_login_is_no_reason_for_clear_text(
    world: World, tmp_path: Path
) -> None:
    opens(world, replies={"AUTH": Drop()})
    ours = smarthost(world, tmp_path, level=Level.MAY, auth_in_clear=True)
    outcome, _ = await send(ours)
    assert isinstance(outcome, Deferred)
    assert len(world.server("mx.signed.test").connections) == 1


async def test_a_password_that_cannot_be_read_is_our_own_fault(world: World, tmp_path: Path) -> None:
    opens(world)
    ours = smarthost(world, tmp_path)
    (tmp_path / "password").chmod(0o644)
    outcome, _ = await send(ours)
    assert isinstance(outcome, Deferred)
    assert outcome.blame is Blame.LOCAL
    assert "open to every user" in outcome.why


async def test_a_session_serves_only_those_who_logged_in_as_it_did(world: World, tmp_path: Path) -> None:
    opens(world, "AUTH PLAIN", accounts=Accounts({"ann@client.test": PASSWORD, "bea@client.test": PASSWORD}))
    server = world.server("mx.signed.test")
    ours = smarthost(world, tmp_path, "mx.signed.test")
    (route,) = ours.settings.route
    others = [
        msgspec.structs.replace(ours.settings, route=(changed,))
        for changed in (
            route,
            msgspec.structs.replace(route, username="bea@client.test"),
            msgspec.structs.replace(route, username="", password_file=None),
        )
    ]
    logins = []
    async with SessionPool(Pool()).open() as pool:
        for settings in others:
            for _ in range(2):
                outcome, _ = await send(replace(ours, settings=settings, pool=pool))
                assert isinstance(outcome, Delivered), outcome
            logins.append(sum(connection.verbs.count("AUTH") for connection in server.connections))
    assert logins == [1, 2, 2]
    assert [connection.verbs.count("MAIL") for connection in server.connections] == [2, 2, 2]
    assert ["AUTH=<>" in message.mail_parameters for message in server.messages] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("point", ["AUTH", "RESPONSE"])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_login_that_is_cut_off_is_no_login(
    world: World, tmp_path: Path, point: str, reset: bool
) -> None:
    opens(world, "AUTH SCRAM-SHA-256", replies={point: Drop(reset=reset)})
    outcome, _ = await send(smarthost(world, tmp_path))
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.phase) == (Blame.HOST, Phase.AUTH)
    assert world.messages == ()


async def test_a_silent_server_is_given_up(world: World, tmp_path: Path) -> None:
    opens(world, "AUTH SCRAM-SHA-256", replies={"RESPONSE": Silence()})
    ours = smarthost(world, tmp_path)
    smtp = msgspec.structs.replace(ours.settings.smtp, timeouts=Timeouts(ehlo=Duration(0.5)))
    outcome, _ = await send(replace(ours, settings=msgspec.structs.replace(ours.settings, smtp=smtp)))
    assert isinstance(outcome, Deferred)
    assert "nothing for 0.5 s" in outcome.why


async def test_explain_logs_in_as_a_delivery_would(world: World, tmp_path: Path) -> None:
    opens(world, "AUTH PLAIN")
    for password, accepted in ((PASSWORD, True), ("wrong", False)):
        explained = await explain(
            smarthost(world, tmp_path, password=password), "anywhere.test", connect=True
        )
        (host,) = explained.hosts
        assert "login-verify" in [finding.code for finding in host.findings]
        assert [contacted.accepted for contacted in host.contacts] == [accepted]
        assert password not in repr(explained)
