"""The HTTP listener of `metrics.listen`: GET /metrics, and nothing else. HTTP itself is h11's.

Everything that a client can make us keep or wait for is bounded: its request, its time, and their number.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import h11
import trio

from deliver.report.metrics import CONTENT_TYPE, Snapshot, rendered

REQUEST_OCTETS = 8192
REQUEST_SECONDS = 10.0
CLIENTS = 16  # at a time

log = logging.getLogger("outrider.service")


async def serve_metrics(
    listener: trio.abc.Listener[trio.SocketStream],
    counts: Callable[[], Awaitable[Snapshot]],
) -> None:
    """Answer until cancelled; `counts` gives what is to be told."""
    limiter = trio.CapacityLimiter(CLIENTS)

    async def serve(stream: trio.SocketStream) -> None:
        async with limiter:
            await answer(stream, counts)

    await trio.serve_listeners(serve, [listener])


async def answer(stream: trio.abc.Stream, counts: Callable[[], Awaitable[Snapshot]]) -> None:
    """One request, its response, and the end of the connection."""
    try:
        with trio.move_on_after(REQUEST_SECONDS):
            status, body = await _response(await _request(stream), counts)
            await stream.send_all(_encoded(status, body))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    except Exception:
        log.exception("telling the metrics failed unexpectedly")
    finally:
        await trio.aclose_forcefully(stream)


async def _request(stream: trio.abc.Stream) -> h11.Request | None:
    """None for what is no request, or too large."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_OCTETS)
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(REQUEST_OCTETS)))
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


async def _response(
    request: h11.Request | None, counts: Callable[[], Awaitable[Snapshot]]
) -> tuple[int, bytes]:
    if request is None:
        return 400, b"this is no request\n"
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, b"see /metrics\n"
    if request.method != b"GET":
        return 405, b"GET it\n"
    return 200, rendered(await counts())


def _encoded(status: int, body: bytes) -> bytes:
    """A complete response; its connection ends with it."""
    fresh = h11.Connection(h11.SERVER)
    fresh.receive_data(b"GET / HTTP/1.0\r\n\r\n")
    fresh.next_event()
    kind = CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    head = fresh.send(h11.Response(status_code=status, headers=headers))
    return (head or b"") + (fresh.send(h11.Data(data=body)) or b"")
