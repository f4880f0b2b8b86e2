"""Early commands where we log in: AUTH, and all behind it, waits for this connection's own answer to EHLO."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from deliver.outcome import Deferred, Delivered, Phase
from deliver.relay.route import Login
from deliver.tls.policy import TlsPolicy
from tests.simulate.early import CLEAR, EARLY, SECURE, Ran, run, script
from tests.simulate.memory_server import Script

TEXT = b"Subject: x\r\n\r\nhello\r\n"
PLAIN = "AUTH PLAIN " + b64encode(b"\0ann\0secret").decode()
POLICIES = pytest.mark.parametrize("policy", [SECURE, CLEAR], ids=["tls", "clear"])


@pytest.fixture
def login(tmp_path: Path) -> Login:
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    return Login("ann", str(secret), ("plain", "login"), in_clear=True)


def offering(*mechanisms: str, **changes: object) -> Script:
    words = (*EARLY, "AUTH " + " ".join(mechanisms)) if mechanisms else EARLY
    return script(keywords=words, replies={"AUTH": "235 2.7.0 welcome"}, **changes)


def first_of(ran: Ran, verb: str) -> int:
    return next(n for n, line in enumerate(ran.servers[0].commands) if line.startswith(verb))


@POLICIES
def test_nothing_but_ehlo_leaves_early(login: Login, policy: TlsPolicy) -> None:
    ran = run(TEXT, offering("PLAIN", listens=1), policy=policy, login=login)
    assert isinstance(ran.outcomes["ann"], Delivered)
    starttls = b"STARTTLS\r\n" if policy is SECURE else b""
    assert ran.servers[0].early == b"EHLO us.test\r\n" + starttls
    commands = ran.servers[0].commands
    assert PLAIN in commands
    last_ehlo = max(n for n, line in enumerate(commands) if line.startswith("EHLO"))
    assert last_ehlo < first_of(ran, "AUTH") < first_of(ran, "MAIL")
    assert "login" in ran.codes


@POLICIES
def test_the_mechanism_is_one_that_is_offered_now(login: Login, policy: TlsPolicy) -> None:
    now, before = offering("PLAIN"), offering("LOGIN", "PLAIN")
    prefers_login = Login("ann", login.password_file, ("login", "plain"), in_clear=True)
    ran = run(TEXT, now, learnt=before, policy=policy, login=prefers_login)
    assert isinstance(ran.outcomes["ann"], Delivered)
    assert [line for server in ran.servers for line in server.commands if "AUTH" in line.split()] == [PLAIN]


@POLICIES
def test_the_password_is_not_told_to_a_server_that_does_not_ask_for_it_now(
    login: Login, policy: TlsPolicy
) -> None:
    ran = run(TEXT, offering(), learnt=offering("PLAIN"), policy=policy, login=login)
    outcome = ran.outcomes["ann"]
    assert isinstance(outcome, Deferred)
    assert outcome.phase is Phase.AUTH
    said = [line for server in ran.servers for line in server.commands]
    assert not any(line.startswith(("AUTH", "MAIL")) for line in said)
