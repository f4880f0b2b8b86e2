"""What a server presents in its TLS handshake after STARTTLS; nobody is authenticated, no mail is sent."""

from __future__ import annotations

import trio

from deliver.agent import Agent
from deliver.demands import context_of
from deliver.errors import PeerError
from deliver.net.tlsstream import TlsStream
from deliver.net.wire import Wire
from deliver.settings import Destination
from deliver.tls.engine import TlsEngine
from deliver.tls.policy import Authentication, Level, TlsPolicy
from deliver.tls.verdict import Handshake


async def presented_by(
    agent: Agent, destination: Destination, address: str, port: int, sni: str
) -> Handshake:
    """The facts of one handshake with the server at `address`. Raises PeerError."""
    timeouts = destination.smtp.timeouts
    policy = TlsPolicy(Level.ENCRYPT, True, True, Authentication.NONE, sni)
    connection = await agent.dialer.dial(address, port, source=None, timeout=timeouts.connect)
    wire = Wire(connection.stream, timeouts)
    try:
        for said in (wire.greeting(), wire.ehlo(agent.helo), wire.starttls()):
            reply = await said
            if not reply.positive:
                raise PeerError(f"speaking to [{address}]:{port}", str(reply), "see the server's log")
        engine = TlsEngine(context_of(agent.settings, destination.tls, policy), sni, request_staple=True)
        stream = TlsStream(wire.stream, engine)
        wire.stream = stream
        with trio.move_on_after(timeouts.tls):
            handshake = await stream.do_handshake()
            wire.starttls_done(stream)
            return handshake
        raise PeerError(f"negotiating TLS with [{address}]:{port}", f"nothing for {timeouts.tls:g} s")
    finally:
        await wire.close()
