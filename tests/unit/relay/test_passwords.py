"""The file of passwords: what is kept, what is refused, and that nobody is told who exists."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from deliver.errors import ConfigurationError, UsageError
from deliver.relay import passwords
from deliver.relay.passwords import SCHEMES, Passwords, line_for, parse
from deliver.smtp.sasl import Credentials, Scram
from deliver.smtp.saslserver import Accepted, Challenge, ScramExchange

SECRET = "correct hörse"
# Of the password "secret", by Dovecot 2.3.19: doveadm pw -s SCHEME.
DOVECOT_SCRAM = (
    "{SCRAM-SHA-256}4096,alh8eUY9+e2+Rxa3ByJMPQ==,N7ZfLAol7zh3J7nAHDra5fcRmZ6Cq9zy0Scj8j1nUOU=,"
    "gDk4HzCnAjL9wf5zVvV4vM4UX0MqJ+0iIUOcssI4LPA="
)
DOVECOT_ARGON = (
    "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$KkpHw5GOZecRgw1vRWwWUA$"
    "3o6bMSsYwt+V3I+VRadkVmtGH/w6H6MGnaXbp8Ch+bk"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "ITERATIONS", 4096)


def file(*lines: str) -> Passwords:
    return parse("\n".join(lines), "the file")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_entry_fits_its_password_and_no_other(scheme: str) -> None:
    line = line_for("alice", SECRET, scheme)
    found = file(line)
    assert found.check("alice", SECRET)
    assert not found.check("alice", "correct horse")
    assert not found.check("Alice", SECRET)
    assert not found.check("bob", SECRET)
    assert SECRET not in line
    assert "argon" not in repr(found)


@pytest.mark.parametrize("entry", [DOVECOT_SCRAM, DOVECOT_ARGON])
def test_entries_that_dovecot_made_fit_too(entry: str) -> None:
    found = file(f"alice:{entry}")
    assert found.check("alice", "secret")
    assert not found.check("alice", "Secret")


def test_every_entry_has_a_salt_of_its_own() -> None:
    assert line_for("alice", SECRET) != line_for("alice", SECRET)


def test_names_and_passwords_are_compared_in_one_form() -> None:
    found = file(line_for("al\u00adice", "a\u00a0b"))
    assert found.check("alice", "a b")


def test_comments_empty_lines_and_further_fields() -> None:
    found = file("# people", "", line_for("alice", SECRET) + ":1000:1000::/home/alice", line_for("bob", "x"))
    assert found.check("alice", SECRET)
    assert set(found.entries) == {"alice", "bob"}


def test_scram_entries_log_in_by_scram() -> None:
    found = file(line_for("alice", SECRET))
    assert found.scram
    client = Scram(Credentials("alice", SECRET), "theirs")
    client.begun()
    server = ScramExchange(found.keys_of, "ours", {})
    first = server.respond(client.initial)
    assert isinstance(first, Challenge)
    second = server.respond(client.answer(first.data))
    assert isinstance(second, Challenge)
    assert server.respond(client.answer(second.data)) == Accepted("alice")
    assert client.proven


def test_an_argon_entry_does_not_make_scram_possible() -> None:
    found = file(line_for("alice", SECRET, "ARGON2ID"))
    assert not found.scram
    assert found.keys_of("alice").stored is None


def test_the_keys_of_nobody_look_like_those_of_somebody() -> None:
    found = file(line_for("alice", SECRET))
    made_up = found.keys_of("mallory")
    assert made_up == found.keys_of("mallory")
    assert made_up.salt != found.keys_of("trudy").salt
    assert (len(made_up.salt), made_up.iterations) == (16, found.keys_of("alice").iterations)
    assert made_up.stored is None


def test_the_made_up_salt_is_not_to_be_computed_from_outside() -> None:
    one, other = file(line_for("alice", SECRET)), file(line_for("alice", SECRET))
    assert one.keys_of("mallory").salt != other.keys_of("mallory").salt


def test_nobody_can_log_in_by_an_empty_file() -> None:
    assert not file().check("", "")
    assert not file().check("alice", "")
    assert not file().scram


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:secret",
        "alice:{PLAIN}secret",
        ":{ARGON2ID}x",
        "alice:{ARGON2ID}secret",
        "alice:{ARGON2ID}$argon2id$v=19$m=99999999,t=3,p=4$c2FsdHNhbHRzYWx0$aGFzaA",
        "alice:{SCRAM-SHA-256}secret",
        "alice:{SCRAM-SHA-256}4096,c2FsdA==,c2hvcnQ=,c2hvcnQ=",
        "alice:{SCRAM-SHA-256}100," + DOVECOT_SCRAM.partition(",")[2],
        "alice:{SCRAM-SHA-256}2000000000," + DOVECOT_SCRAM.partition(",")[2],
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(ConfigurationError, match="line 2") as caught:
        file("# first", line)
    assert "secret" not in str(caught.value)


def test_a_user_twice() -> None:
    with pytest.raises(ConfigurationError, match="line 2: the user is there already"):
        file(line_for("alice", "x"), line_for("alice", "y"))


@pytest.mark.parametrize(
    ("name", "password"), [("", "x"), ("a:b", "x"), ("#a", "x"), ("a", ""), ("a", "x\0"), ("a" * 256, "x")]
)
def test_entries_that_cannot_be_made(name: str, password: str) -> None:
    with pytest.raises(UsageError):
        line_for(name, password)


@given(
    st.text(max_size=120) | st.builds("alice:{{{}}}{}".format, st.sampled_from(SCHEMES), st.text(max_size=60))
)
def test_any_file_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text, "the file")
    except ConfigurationError:
        return
    assert not found.scram
