"""Early commands, cut and cancelled everywhere: a connection that breaks, or a server that is another one.

An accepted message is never reported as undelivered unless in doubt; nothing is reported as delivered that no
server holds; a second copy exists only where an attempt was in doubt; no envelope in clear text where TLS is
required; every connection is closed.
"""

from __future__ import annotations

import os

import pytest

from deliver.outcome import Deferred, Delivered, Failed
from deliver.smtp.chunking import FIRST_CHUNK
from deliver.tls.policy import TlsPolicy
from tests.simulate.early import CLEAR, EARLY, SECURE, SMTP, Ran, run, script
from tests.simulate.memory_server import Script

SOAK = bool(os.environ.get("OUTRIDER_SOAK"))
SMALL = b"Subject: x\r\n\r\n.dot\r\n"
LARGE = b"Subject: x\r\n\r\n" + b".0123456789\r\n" * (FIRST_CHUNK // 13 + 20)
WITHOUT = {word: tuple(one for one in EARLY if one != word) for word in ("CHUNKING", "PRDR", "PIPECONNECT")}
BDAT = type(SMTP)(
    **{**{name: getattr(SMTP, name) for name in SMTP.__struct_fields__}, "early_bdat_clear": True}
)
FAST = type(SMTP)(**{**{name: getattr(SMTP, name) for name in SMTP.__struct_fields__}, "tcp_fast_open": True})

# What the servers are like on the first connection that is disturbed; the second is as it was remembered.
SERVERS: dict[str, Script] = {
    "as remembered": script(),
    "another": script(name="mx2", keywords=WITHOUT["CHUNKING"]),
    "chunking withdrawn": script(keywords_tls=WITHOUT["CHUNKING"], keywords=EARLY),
    "prdr withdrawn": script(keywords_tls=WITHOUT["PRDR"], keywords=WITHOUT["PRDR"]),
    "refusing": script(replies={"greeting": "554 5.3.2 no"}),
}


def check(ran: Ran, text: bytes, policy: TlsPolicy) -> None:
    in_doubt = any(isinstance(outcome, Deferred) and outcome.in_doubt for outcome in ran.outcomes.values())
    assert all(content == text for server in ran.servers for _, content in server.taken)
    assert len(ran.held) == len(set(ran.held)), "a second copy"
    assert all(stream.closed for stream in ran.streams)
    assert len(ran.servers) <= 2
    for who, outcome in ran.outcomes.items():
        if isinstance(outcome, Delivered):
            assert who in ran.held
            assert who in ran.journal
        elif isinstance(outcome, Failed):
            assert who not in ran.held
        else:
            assert who not in ran.held or outcome.in_doubt, (who, outcome)
    if not in_doubt:
        delivered = {who for who, outcome in ran.outcomes.items() if isinstance(outcome, Delivered)}
        assert set(ran.held) == delivered
    assert sorted(ran.journal) == sorted(set(ran.journal))
    if policy.required:
        for server in ran.servers:
            assert not any(line.startswith(("MAIL", "RCPT", "DATA", "BDAT")) for line in server.in_clear)


def every(name: str) -> int:
    """One by one with the server that is as it was remembered; with the others when there is time."""
    return 1 if SOAK or name == "as remembered" else 4


def places(end: int, dense: int, step: int) -> list[int]:
    """Every place in the last `dense` octets, some of those before."""
    step = 1 if SOAK else step
    return sorted({*range(1, end, step), *range(max(1, end - dense), end + 1)})


@pytest.mark.parametrize("name", SERVERS)
def test_cut_at_every_octet_in_clear_text(name: str) -> None:
    for smtp in (SMTP, BDAT):
        scripts = (SERVERS[name], script())
        whole = run(SMALL, *scripts, policy=CLEAR, smtp=smtp)
        check(whole, SMALL, CLEAR)
        first, step = whole.streams[0], every(name)
        for at in range(1, first.sent + 1, step):
            check(run(SMALL, *scripts, policy=CLEAR, smtp=smtp, out=at), SMALL, CLEAR)
        for at in range(0, first.received + 1, step):
            check(run(SMALL, *scripts, policy=CLEAR, smtp=smtp, into=at), SMALL, CLEAR)


@pytest.mark.parametrize("name", SERVERS)
def test_cut_inside_tls(name: str) -> None:
    scripts = (SERVERS[name], script())
    whole = run(SMALL, *scripts)
    check(whole, SMALL, SECURE)
    first = whole.streams[0]
    for at in places(first.sent, 40, 61):
        check(run(SMALL, *scripts, out=at), SMALL, SECURE)
    for at in places(first.received, 40, 61):
        check(run(SMALL, *scripts, into=at), SMALL, SECURE)


@pytest.mark.parametrize("name", ["as remembered", "another", "refusing"])
def test_cut_where_the_first_commands_left_with_the_syn(name: str) -> None:
    scripts = (SERVERS[name], script())
    whole = run(SMALL, *scripts, smtp=FAST)
    check(whole, SMALL, SECURE)
    first = whole.streams[0]
    for at in {*range(1, 40), *places(first.sent, 5, 97)}:
        check(run(SMALL, *scripts, smtp=FAST, out=at), SMALL, SECURE)
    for at in {*range(40), *places(first.received, 5, 97)}:
        check(run(SMALL, *scripts, smtp=FAST, into=at), SMALL, SECURE)
    for step in range(1, whole.steps + 1, 3):
        check(run(SMALL, *scripts, smtp=FAST, cancel=step), SMALL, SECURE)


@pytest.mark.parametrize("policy", [SECURE, CLEAR], ids=["tls", "clear"])
def test_cut_in_a_large_message(policy: TlsPolicy) -> None:
    scripts = (SERVERS["chunking withdrawn"], script())
    first = run(LARGE, *scripts, policy=policy).streams[0]
    for at in places(first.sent, 20, 9973 if not SOAK else 997):
        check(run(LARGE, *scripts, policy=policy, out=at), LARGE, policy)
    remembered = SERVERS["as remembered"]
    first = run(LARGE, remembered, policy=policy).streams[0]
    for at in places(first.sent, 20, 9973 if not SOAK else 997):
        check(run(LARGE, remembered, policy=policy, out=at), LARGE, policy)


@pytest.mark.parametrize("policy", [SECURE, CLEAR], ids=["tls", "clear"])
@pytest.mark.parametrize("name", SERVERS)
def test_cancelled_at_every_step(name: str, policy: TlsPolicy) -> None:
    scripts = (SERVERS[name], script())
    steps = run(SMALL, *scripts, policy=policy).steps
    assert steps > 10
    for step in range(1, steps + 1, every(name)):
        check(run(SMALL, *scripts, policy=policy, cancel=step), SMALL, policy)
