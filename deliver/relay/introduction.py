"""Before the greeting: the PROXY header of a load balancer, within its time, and who talks too early."""

from __future__ import annotations

import logging
from dataclasses import replace

import trio

from deliver.net.arrived import has_arrived
from deliver.net.prompt import PromptStream
from deliver.relay.access import client_address
from deliver.relay.proxyprotocol import HeaderReader, Own, Proxied, ProxyFault
from deliver.relay.security import Client
from deliver.report.log import say

UNKNOWN = "unknown"  # no address, so that it is in no network

log = logging.getLogger("outrider.relay")


async def introduce(stream: trio.abc.Stream, balancer: Client, timeout: float) -> Client | None:
    """The client behind the balancer; None: no header came in time, and the stream is closed.

    A balancer that speaks for itself may look whether we are there, but has the rights of nobody: it might
    be speaking for somebody whom it cannot name.
    """
    why = "the PROXY header did not come in time"
    try:
        with trio.move_on_after(timeout):
            return _client(await _header(stream), balancer)
    except ProxyFault as fault:
        why = fault.happened
    except trio.BrokenResourceError:
        why = "the connection was lost"
    say(log, logging.WARNING, "no PROXY header", proxy=balancer.address, why=why)
    await trio.aclose_forcefully(stream)
    return None


async def _header(stream: trio.abc.Stream) -> Proxied | Own:
    reader = HeaderReader()
    while True:
        found = reader.feed(bytes(await stream.receive_some(reader.wanted)))
        if found is not None:
            return found


def _client(header: Proxied | Own, balancer: Client) -> Client:
    if isinstance(header, Own):
        return replace(balancer, address=UNKNOWN, port=0, proxy=balancer.address)
    return Client(
        client_address(header.source),
        header.source_port,
        (header.destination, header.destination_port),
        balancer.address,
    )


def has_spoken(stream: trio.abc.Stream) -> bool:
    """Whether octets have come already: a mail server waits for the greeting (RFC 5321 3.1)."""
    return isinstance(stream, trio.SocketStream | PromptStream) and has_arrived(stream)
