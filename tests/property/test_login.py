"""Logging in at a server that answers anything: it learns nothing by SCRAM, and nothing but a deferral comes of it."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, cast

import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from deliver.agent import Agent
from deliver.encounter import Target, Unusable
from deliver.level import Level
from deliver.message import Envelope, MessageId
from deliver.net.clock import WallClock
from deliver.net.wire import Wire
from deliver.outcome import Phase
from deliver.relay.route import Login
from deliver.report import testimony
from deliver.report.trace import Trace
from deliver.session import Session
from deliver.settings import Settings, Timeouts
from deliver.smtp.client import State
from deliver.tls.policy import Authentication, TlsPolicy
from hints.memory import MemoryHints

PASSWORD = "correct-horse-battery"
FORMS = (PASSWORD.encode(), b64encode(PASSWORD.encode()), b64encode(f"\0ann\0{PASSWORD}".encode()))
NO_MAIL = Envelope(MessageId("m"), None, (), 0, False, 0.0)
CLEAR = TlsPolicy(Level.NONE, False, False, Authentication.NONE, "mx.test")

reply = st.one_of(
    st.sampled_from(
        [
            b"235 2.7.0 ok\r\n", b"334 \r\n", b"334 VXNlcm5hbWU6\r\n", b"535 5.7.8 no\r\n", b"454 4.7.0 later\r\n",
            b"504 5.5.4 what\r\n", b"421 bye\r\n", b"", b"250-a\r\n250 b\r\n", b"334-YQ==\r\n334 YQ==\r\n",
        ]
    ),
    st.binary(max_size=80).map(lambda octets: b"334 " + b64encode(octets) + b"\r\n"),
    st.sampled_from(["n1", "0" * 48]).map(lambda n: b"334 " + b64encode(f"r={n},s=c2FsdA==,i=4096".encode()) + b"\r\n"),
    st.binary(max_size=60).map(lambda octets: b"v=" + b64encode(octets)).map(lambda v: b"334 " + b64encode(v) + b"\r\n"),
    st.binary(max_size=30).map(lambda octets: octets + b"\r\n"),
)  # fmt: skip


async def converse(
    state: str, mechanisms: tuple[str, ...], answers: list[bytes]
) -> tuple[Session, Any, bytes]:
    """A login at a server with these answers; the session, what it raised, and what the server read."""
    own = Settings(state_dir=state)
    clock = WallClock()
    none = cast(Any, None)
    agent = Agent(own, none, none, MemoryHints(clock=clock.now), clock, Random(1), none, "us", "test")
    target = Target(
        "mx.test", "192.0.2.1", 25, login=Login("ann", f"{state}/password", mechanisms, in_clear=True)
    )
    session = Session(
        agent,
        own.towards("x.test", None),
        target,
        CLEAR,
        testimony.Testimony(Trace(), clock.now, NO_MAIL, "x.test", 1),
    )
    ours, theirs = trio.testing.memory_stream_pair()
    wire = session._wire = Wire(ours, Timeouts())
    read = bytearray()

    async def serve() -> None:
        with suppress(trio.BrokenResourceError):  # the client has enough
            await answer_all()

    async def answer_all() -> None:
        offer = b"250-mx\r\n250 AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"
        for answer in (b"220 mx\r\n", offer, *answers, None):
            if answer is None or answer == b"":
                await theirs.send_eof()
                break
            await theirs.send_all(answer)
            read.extend(await theirs.receive_some() or b"")
        while piece := await theirs.receive_some():
            read.extend(piece)

    raised: Unusable | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await wire.greeting()
        await wire.ehlo("us")
        try:
            await session._log_in()
        except Unusable as unusable:
            raised = unusable
        await wire.close()
    return session, raised, bytes(read)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(reply, max_size=6),
    st.sampled_from([("scram-sha-256",), ("plain",), ("login",), ("scram-sha-256", "login")]),
)
def test_any_answers(answers: list[bytes], mechanisms: tuple[str, ...]) -> None:
    with TemporaryDirectory() as state:
        secret = Path(state) / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        session, raised, read = trio.run(converse, state, mechanisms, answers)
    if mechanisms == ("scram-sha-256",):
        assert raised is not None  # a server that does not know the password is never believed
        assert not any(form in read for form in FORMS)
    if raised is None:
        assert any(answer.startswith(b"2") for answer in answers)
    else:
        assert raised.outcome.phase is Phase.AUTH
        assert not raised.tls_failed
    told = (
        repr(session._trace.findings) + repr(session._trace.events) + (repr(raised.outcome) if raised else "")
    )
    assert not any(form.decode() in told for form in FORMS)
    assert session._open_wire.machine.state is State.BROKEN  # closed
    lines = read.split(b"\r\n")
    assert all(line.startswith((b"EHLO", b"AUTH ", b"QUIT", b"*")) or b" " not in line for line in lines)
