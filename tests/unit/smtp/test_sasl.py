"""SASL mechanisms: the RFCs' examples, and what a server may not do."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings, strategies as st
from rich.pretty import pretty_repr

from deliver.errors import ConfigurationError
from deliver.smtp.command import MAX_COMMAND_LINE, Auth, AuthResponse, CommandTooLong, LocalMisuse
from deliver.smtp.reply import Reply
from deliver.smtp.sasl import (
    MAX_ITERATIONS,
    Binding,
    Credentials,
    Login,
    LoginBroken,
    LoginRejected,
    Mechanism,
    Plain,
    Scram,
    ServerForged,
    candidates,
    challenge_of,
)
from deliver.smtp.saslprep import saslprep
from tests.internet.accounts import ACCEPTED, REFUSED, Accounts, Exchange

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
ANN = Credentials("ann", "pencil")
NONCE = "rOprNGfwEbeRWgbNEkqO"
FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def begun(mechanism: Mechanism) -> Mechanism:
    mechanism.begun()
    return mechanism


def test_the_example_of_rfc_7677() -> None:
    scram = Scram(Credentials("user", "pencil"), NONCE)
    assert scram.initial == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    scram.begun()
    assert scram.answer(FIRST) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert not scram.proven
    assert scram.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    assert scram.proven


@pytest.mark.parametrize(
    "final",
    [b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95H4=", b"v=", b"v=AAAA", b"v=" + b64encode(bytes(32))],
)
def test_a_wrong_signature_is_never_believed(final: bytes) -> None:
    scram = begun(Scram(Credentials("user", "pencil"), NONCE))
    scram.answer(FIRST)
    with pytest.raises(LoginBroken):
        scram.answer(final)
    assert not scram.proven
    with pytest.raises(ServerForged):
        scram.answer(b"v=" + b64encode(bytes(32)))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"r=other,s=c2FsdA==,i=4096",
        f"r={NONCE},s=c2FsdA==,i=4096".encode(),  # nothing of the server's own
        f"r={NONCE}x,s=c2FsdA==,i=4095".encode(),
        f"r={NONCE}x,s=c2FsdA==,i={MAX_ITERATIONS + 1}".encode(),
        f"r={NONCE}x,s=c2FsdA==,i=99999999999999999999".encode(),
        f"r={NONCE}x,s=c2FsdA==,i=-1".encode(),
        f"r={NONCE}x,s=,i=4096".encode(),
        f"r={NONCE}x,s=!!!!,i=4096".encode(),
        f"r={NONCE}x,s=c2FsdA=,i=4096".encode(),
        f"m=mandatory,r={NONCE}x,s=c2FsdA==,i=4096".encode(),
        f"r={NONCE}x,s={b64encode(bytes(2000)).decode()},i=4096".encode(),
        f"s=c2FsdA==,r={NONCE}x,i=4096".encode(),
        b"\xff\xfe",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ],
)
def test_a_first_message_without_sense_gets_no_proof(first: bytes) -> None:
    with pytest.raises(LoginBroken):
        begun(Scram(ANN, NONCE)).answer(first)


def test_a_refusal_inside_scram_has_its_word() -> None:
    with pytest.raises(LoginRejected) as rejected:
        begun(Scram(ANN, NONCE)).answer(b"e=unsupported-channel-binding-type")
    assert rejected.value.word == "unsupported-channel-binding-type"


def test_nothing_follows_the_end() -> None:
    scram = begun(Scram(Credentials("user", "pencil"), NONCE))
    scram.answer(FIRST)
    scram.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    for mechanism in (scram, begun(Plain(ANN))):
        with pytest.raises(LoginBroken):
            mechanism.answer(b"")


def test_login_says_two_things_and_no_third() -> None:
    login = Login(ANN)
    assert login.initial is None
    assert [login.answer(b"Username:"), login.answer(b"anything")] == [b"ann", b"pencil"]
    assert login.proven
    with pytest.raises(LoginBroken):
        login.answer(b"once more")


def test_without_an_initial_response_the_first_challenge_is_empty() -> None:
    for mechanism in (Plain(ANN), Scram(ANN, NONCE)):
        assert mechanism.answer(b"") == mechanism.initial
    for mechanism in (Plain(ANN), Scram(ANN, NONCE)):
        with pytest.raises(LoginBroken):
            mechanism.answer(b"surprise")


def converse(mechanism: Mechanism, accounts: Accounts) -> str:
    """The exchange with an independent server; the reply that ends it."""
    server = Exchange(mechanism.name, accounts)
    reply = server.step(mechanism.initial)
    if mechanism.initial is not None:
        mechanism.begun()
    while reply.startswith("334"):
        reply = server.step(mechanism.answer(challenge_of(Reply(334, (reply[4:],)))))
    return reply


def mechanisms(credentials: Credentials, binding: bytes) -> list[Mechanism]:
    return [
        Plain(credentials),
        Login(credentials),
        Scram(credentials, NONCE),
        Scram(credentials, NONCE, Binding("tls-server-end-point", binding)),
    ]


text = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=20)


@QUICK
@given(text, text, text)
def test_an_independent_server_understands_every_mechanism(user: str, password: str, other: str) -> None:
    accounts = Accounts({user: password}, end_point=b"digest")
    for mechanism in mechanisms(Credentials(user, password), b"digest"):
        assert converse(mechanism, accounts) == ACCEPTED
        assert mechanism.proven
    if other != password:
        for mechanism in mechanisms(Credentials(user, other), b"digest"):
            assert converse(mechanism, accounts) == REFUSED
    with pytest.raises(LoginRejected):
        converse(mechanisms(Credentials(user, password), b"another")[3], accounts)


@QUICK
@given(st.lists(st.one_of(st.binary(max_size=60), st.just(FIRST)), max_size=5))
def test_no_challenge_makes_a_mechanism_prove_anything(challenges: list[bytes]) -> None:
    scram = begun(Scram(Credentials("user", "pencil"), NONCE))
    for challenge in challenges:
        with suppress(LoginBroken):
            scram.answer(challenge)
    assert not scram.proven


def nonces() -> Iterator[str]:
    yield from (f"n{number}" for number in range(100))


EVERY = ("scram-sha-256-plus", "scram-sha-256", "plain", "login")
TLS13 = (Binding("tls-exporter", b"e"), Binding("tls-server-end-point", b"p"))


@pytest.mark.parametrize(
    ("wanted", "offered", "bindings", "chosen"),
    [
        (EVERY, ("LOGIN", "PLAIN", "SCRAM-SHA-256"), TLS13, [b"y,,", b"\0ann", None]),
        (EVERY, ("LOGIN", "PLAIN", "SCRAM-SHA-256"), (), [b"n,,", b"\0ann", None]),
        (EVERY, ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"), TLS13,
         [b"p=tls-exporter,,", b"p=tls-server-end-point,,", b"n,,"]),
        (EVERY, ("SCRAM-SHA-256-PLUS",), (), []),
        (("scram-sha-256",), ("SCRAM-SHA-256",), TLS13, [b"n,,"]),
        (("login",), ("PLAIN",), TLS13, []),
        (("plain",), ("XOAUTH2", "PLAIN"), (), [b"\0ann"]),
    ],
)  # fmt: skip
def test_candidates(
    wanted: tuple[str, ...],
    offered: tuple[str, ...],
    bindings: tuple[Binding, ...],
    chosen: list[bytes | None],
) -> None:
    found = list(candidates(wanted, offered, ANN, bindings, nonces()))
    assert len(found) == len(chosen)
    for mechanism, begins in zip(found, chosen, strict=True):
        assert (mechanism.initial or b"").startswith(begins or b"")
        assert (mechanism.initial is None) is (begins is None)
    firsts = [one.initial for one in found if isinstance(one, Scram)]
    assert len({first.rpartition(b"r=")[2] for first in firsts if first}) == len(firsts)


@pytest.mark.parametrize(
    ("given_text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_saslprep_by_the_examples_of_rfc_4013(given_text: str, prepared: str) -> None:
    assert saslprep(given_text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "\u0221", "\ue000", "a\u200eb"])
def test_saslprep_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        saslprep(text)
    with pytest.raises(ConfigurationError):
        Scram(Credentials(text, "x"), NONCE)


def test_commands_hide_what_they_carry_and_keep_their_length() -> None:
    for command in (Auth("PLAIN", b"\0ann\0pencil"), AuthResponse(b"pencil")):
        assert "pencil" not in repr(command)
        assert "pencil" not in pretty_repr(command)
    assert "pencil" not in repr(ANN)
    assert Auth("PLAIN", b"").octets == b"AUTH PLAIN =\r\n"
    assert Auth("PLAIN", b"\0a\0b").octets == b"AUTH PLAIN AGEAYg==\r\n"
    assert AuthResponse(b"").octets == b"\r\n"
    assert AuthResponse(None).octets == b"*\r\n"
    with pytest.raises(CommandTooLong):
        Auth("PLAIN", b"x" * MAX_COMMAND_LINE)
    assert len(AuthResponse(b"x" * 9000).octets) < 12288
    with pytest.raises(CommandTooLong):
        AuthResponse(b"x" * 9300)
    for name in ("PLAIN\r\nMAIL", "", "plain", "A B"):
        with pytest.raises(LocalMisuse):
            Auth(name)


@given(st.binary(max_size=300))
@QUICK
def test_a_response_is_one_line(octets: bytes) -> None:
    line = AuthResponse(octets).octets
    assert line.count(b"\r\n") == 1
    assert b64decode(line) == octets


@pytest.mark.parametrize("secret", ["", "a\0b"])
def test_credentials_that_no_mechanism_can_carry(secret: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Credentials("ann", secret)
    assert not secret or secret not in str(error.value)
