"""The server's half of SASL, against our own client's half and against anything."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from deliver.smtp.sasl import Binding, Credentials, Login, LoginBroken, Mechanism, Plain, Scram, ServerForged
from deliver.smtp.saslserver import (
    Accepted,
    Broken,
    Challenge,
    Check,
    Exchange,
    LoginExchange,
    PlainExchange,
    Rejected,
    ScramExchange,
    ScramKeys,
    Step,
    derived_keys,
)

ALICE = Credentials("alice", "the pässword")
KEYS = derived_keys(ALICE.password, b"0123456789abcdef", 4096)
NOBODY = ScramKeys(b"fedcba9876543210", 4096, None, bytes(32))
EXPORTER = {"tls-exporter": b"e" * 32}


def scram(bindings: Mapping[str, bytes] = {}, **more: bool) -> ScramExchange:
    return ScramExchange(lambda name: KEYS if name == "alice" else NOBODY, "ours", bindings, **more)


def converse(client: Mechanism, server: Exchange, *, initial: bool = True) -> Step:
    """The whole exchange; the last step."""
    said = client.initial if initial else None
    if said is not None:
        client.begun()
    step = server.respond(said)
    for _ in range(5):
        if not isinstance(step, Challenge):
            return step
        step = server.respond(client.answer(step.data))
    raise AssertionError("no end")


@pytest.mark.parametrize("initial", [True, False])
def test_plain(initial: bool) -> None:
    step = converse(Plain(ALICE), PlainExchange(), initial=initial)
    assert step == Check("alice", ALICE.password)
    assert ALICE.password not in repr(step)


def test_plain_for_oneself_by_name() -> None:
    assert PlainExchange().respond(b"alice\0alice\0x") == Check("alice", "x")


def test_plain_for_somebody_else_is_refused() -> None:
    assert isinstance(PlainExchange().respond(b"root\0alice\0x"), Rejected)


@pytest.mark.parametrize(
    "said",
    [b"", b"alice", b"\0alice", b"\0\0x", b"\0alice\0", b"\0a\0b\0c", b"\0\xff\0x", b"\0a\0" + b"x" * 4000],
)
def test_plain_that_is_none(said: bytes) -> None:
    assert isinstance(PlainExchange().respond(said), Broken)


def test_login() -> None:
    assert converse(Login(ALICE), LoginExchange()) == Check("alice", ALICE.password)


def test_login_with_the_name_at_once() -> None:
    server = LoginExchange()
    assert server.respond(b"alice") == Challenge(b"Password:")
    assert server.respond(b"secret") == Check("alice", "secret")


@pytest.mark.parametrize("said", [[b""], [b"\xff"], [b"alice", b""], [b"x" * 300], [b"alice", b"x" * 2000]])
def test_login_that_is_none(said: list[bytes]) -> None:
    server = LoginExchange()
    step: Step = server.respond(None)
    for each in said:
        step = server.respond(each)
    assert isinstance(step, Broken)


@pytest.mark.parametrize("initial", [True, False])
def test_scram_proves_both_sides(initial: bool) -> None:
    client = Scram(ALICE, "theirs")
    assert converse(client, scram(), initial=initial) == Accepted("alice")
    assert client.proven


def test_scram_with_a_wrong_password() -> None:
    step = converse(Scram(Credentials("alice", "wrong"), "theirs"), scram())
    assert step == Rejected("wrong user name or password", "alice")


def test_scram_of_somebody_unknown_looks_the_same() -> None:
    step = converse(Scram(Credentials("mallory", "wrong"), "theirs"), scram())
    assert step == Rejected("wrong user name or password", "mallory")


def test_scram_of_somebody_unknown_with_the_key_of_zeros() -> None:
    """Whoever knows that an unknown user has no keys gains nothing by a proof that is made for zeros."""
    import hashlib
    import hmac
    from base64 import b64encode

    server = ScramExchange(lambda _: NOBODY, "ours", {})
    first = server.respond(b"n,,n=mallory,r=theirs")
    assert isinstance(first, Challenge)
    final = f"c={b64encode(b'n,,').decode()},r=theirsours"
    signed = f"n=mallory,r=theirs,{first.data.decode()},{final}".encode()
    proof = hmac.digest(hashlib.sha256(bytes(32)).digest(), signed, "sha256")
    assert isinstance(server.respond(f"{final},p={b64encode(proof).decode()}".encode()), Rejected)
    server = ScramExchange(lambda _: NOBODY, "ours", {})
    server.respond(b"n,,n=mallory,r=theirs")
    proof = hmac.digest(bytes(32), signed, "sha256")
    assert isinstance(server.respond(f"{final},p={b64encode(proof).decode()}".encode()), Rejected)


def test_scram_plus_is_bound_to_the_connection() -> None:
    binding = Binding("tls-exporter", EXPORTER["tls-exporter"])
    assert converse(Scram(ALICE, "theirs", binding), scram(EXPORTER, plus=True)) == Accepted("alice")
    elsewhere = Binding("tls-exporter", b"x" * 32)
    step = converse(Scram(ALICE, "theirs", elsewhere), scram(EXPORTER, plus=True))
    assert step == Rejected("it is bound to another connection", "alice")


def test_scram_plus_with_a_binding_that_is_not_supported() -> None:
    step = scram(EXPORTER, plus=True).respond(b"p=tls-unique,,n=alice,r=theirs")
    assert isinstance(step, Rejected)


@pytest.mark.parametrize(("plus", "header"), [(True, b"n,,"), (True, b"y,,"), (False, b"p=tls-exporter,,")])
def test_flag_and_mechanism_must_agree(plus: bool, header: bytes) -> None:
    assert isinstance(scram(EXPORTER, plus=plus).respond(header + b"n=alice,r=theirs"), Broken)


def test_a_client_that_did_not_see_our_offer_was_deceived() -> None:
    assert isinstance(scram(EXPORTER, offered_plus=True).respond(b"y,,n=alice,r=theirs"), Rejected)
    assert isinstance(scram(EXPORTER, offered_plus=True).respond(b"n,,n=alice,r=theirs"), Challenge)
    assert isinstance(scram().respond(b"y,,n=alice,r=theirs"), Challenge)


def test_scram_with_the_header_changed_on_the_way() -> None:
    class Deceived(ScramExchange):
        def respond(self, said: bytes | None) -> Step:
            return super().respond(said.replace(b"y,,", b"n,,", 1) if said else said)

    server = Deceived(lambda _: KEYS, "ours", EXPORTER, offered_plus=True)
    step = converse(Scram(ALICE, "theirs", could_bind=True), server)
    assert step == Rejected("it is bound to another connection", "alice")


def test_scram_for_somebody_else_is_refused() -> None:
    assert isinstance(scram().respond(b"n,a=root,n=alice,r=theirs"), Rejected)
    assert isinstance(scram().respond(b"n,a=alice,n=alice,r=theirs"), Challenge)


def test_names_with_commas_and_equals_signs() -> None:
    odd = Credentials("a,b=c", ALICE.password)
    server = ScramExchange(lambda name: KEYS if name == "a,b=c" else NOBODY, "ours", {})
    assert converse(Scram(odd, "theirs"), server) == Accepted("a,b=c")
    assert isinstance(scram().respond(b"n,,n=a=b,r=theirs"), Rejected)


def test_a_replayed_final_message_has_the_wrong_nonce() -> None:
    client = Scram(ALICE, "theirs")
    client.begun()
    first = scram().respond(client.initial)
    assert isinstance(first, Challenge)
    final = client.answer(first.data)
    other = ScramExchange(lambda _: KEYS, "another", {})
    other.respond(client.initial)
    assert other.respond(final) == Rejected("it has another nonce", "alice")


def test_our_proof_is_checked_by_the_client() -> None:
    wrong = ScramKeys(KEYS.salt, KEYS.iterations, KEYS.stored, bytes(32))
    with pytest.raises(ServerForged):
        converse(Scram(ALICE, "theirs"), ScramExchange(lambda _: wrong, "ours", {}))


def test_scram_is_over_after_our_proof() -> None:
    server = scram()
    assert converse(Scram(ALICE, "theirs"), server) == Accepted("alice")
    assert isinstance(server.respond(b"more"), Broken)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"n,,",
        b"n,,n=alice",
        b"n,n=alice,r=x",
        b"n,,m=1,n=alice,r=x",
        b"\xff",
        b"n,,n=alice,r=" + b"x" * 600,
    ],
)
def test_first_messages_that_are_none(said: bytes) -> None:
    assert isinstance(scram().respond(said), Broken)


@pytest.mark.parametrize(
    "said", [b"", b"c=biws", b"c=biws,r=theirsours", b"c=b!,r=theirsours,p=AAAA", b"c=biws,r=theirsours,p=A"]
)
def test_final_messages_that_are_none(said: bytes) -> None:
    server = scram()
    server.respond(b"n,,n=alice,r=theirs")
    assert isinstance(server.respond(said), Broken)


@given(
    st.sampled_from(["plain", "login", "scram", "plus"]),
    st.lists(st.none() | st.binary(max_size=80), max_size=6),
)
def test_nothing_that_is_said_logs_anybody_in(which: str, said: list[bytes | None]) -> None:
    server: Exchange = {"plain": PlainExchange, "login": LoginExchange}.get(which, scram)()
    if which == "plus":
        server = scram(EXPORTER, plus=True)
    for each in said:
        step = server.respond(each)
        assert not isinstance(step, Accepted)
        if not isinstance(step, Challenge):
            break


@given(st.text(alphabet="nyp=,ars0\0ü", max_size=40), st.text(alphabet="c=biws,rp0thesou", max_size=60))
def test_nothing_that_looks_like_scram_does(first: str, final: str) -> None:
    server = scram(EXPORTER)
    if isinstance(server.respond(first.encode()), Challenge):
        assert isinstance(server.respond(final.encode()), Broken | Rejected)


def test_the_client_refuses_too_few_iterations() -> None:
    weak = derived_keys(ALICE.password, b"salt", 100)
    with pytest.raises(LoginBroken):
        converse(Scram(ALICE, "theirs"), ScramExchange(lambda _: weak, "ours", {}))
