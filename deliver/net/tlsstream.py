"""TLS over any trio stream: `deliver.tls.engine` pumped, with the peer judged before it learns anything.

A session does, in this order:

    stream = TlsStream(transport, TlsEngine(context_for(policy, min_version), policy.sni))
    handshake = await stream.do_handshake()        # TlsError: the peer or the path failed
    verdict = judge(policy, handshake, clock.now(), trust_store)
    if not verdict.ok: await stream.discard()      # the server never receives our Finished (TLS 1.3)
    else: await stream.send_all(ehlo)              # Finished and EHLO leave in one flight

The last flight of the handshake is held until the first `send_all`, `receive_some` or `flush`, so that a
refused TLS 1.3 server never completes its handshake. In TLS 1.2 the client's Finished has left before the
server's arrives (RFC 5246 7.3); there the verdict still comes before any SMTP octet.

Failures: `do_handshake` raises TlsError whatever went wrong, after the alert was flushed. Later failures
are trio.BrokenResourceError with the TlsError as its cause; an end without close_notify is one of them
(`cause.truncated`), an end with close_notify is b"". A cancelled or failed send has committed an unknown
part of the data: the stream is broken from then on.
"""

from __future__ import annotations

from enum import Enum
from types import TracebackType

import trio

from deliver.net.prompt import IN_A_ROW, PromptStream
from deliver.tls.engine import MAX_WRITE, PIECE, TlsEngine, TlsError
from deliver.tls.verdict import Handshake

CLOSE_PATIENCE = 1.0  # seconds for close_notify; a peer that does not read must not hold us
ALERT_PATIENCE = 1.0  # seconds for the alert after a failed handshake


class _State(Enum):
    OPEN = "open"
    BROKEN = "broken"
    CLOSED = "closed"


class _Exclusive:
    """Raises trio.BusyResourceError when a second task enters."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is already {self._doing} this stream")
        self._busy = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._busy = False


class _Turns:
    """One task at a time, in the order in which they came; whoever finds nobody there does not wait."""

    def __init__(self) -> None:
        self.taken = False
        self._queue = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        if self.taken:
            await self._queue.park()  # until it is handed over
        self.taken = True

    def give(self) -> None:
        if self._queue:
            self._queue.unpark()
        else:
            self.taken = False


class _AsBroken:
    """After the handshake TLS failures are trio's, with the TlsError as cause."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, TlsError):
            self._stream.give_up()
            raise trio.BrokenResourceError(str(error)) from error


class TlsStream(trio.abc.Stream):
    """One TLS connection over `transport`, which it owns from now on."""

    def __init__(self, transport: trio.abc.Stream, engine: TlsEngine) -> None:
        self.transport = transport
        self._engine = engine
        self._state = _State.OPEN
        self._held = b""
        self._facts: Handshake | None = None
        self._sending = _Exclusive("sending on")
        self._receiving = _Exclusive("receiving from")
        self._handshaking = _Turns()
        self._pulling = _Turns()
        self._pulls = 0
        self._out_order = _Turns()
        self._as_broken = _AsBroken(self)
        self._in_a_row = 0  # reads that need not have waited

    @property
    def handshake(self) -> Handshake | None:
        """The facts of the handshake, once it is finished."""
        return self._facts

    @property
    def offered(self) -> bool:
        """Whether an earlier session is offered in the handshake."""
        return self._engine.offered

    def leaf(self) -> bytes | None:
        """The server's certificate in DER, also on a resumed connection."""
        return self._engine.leaf()

    def own_leaf(self) -> bytes | None:
        """The certificate in DER that we have presented as a server."""
        return self._engine.own_leaf()

    def asked_name(self) -> str:
        """The server name that the client asked for; hostile, "" if none."""
        return self._engine.asked_name()

    def keying_material(self, label: bytes, length: int) -> bytes:
        """See `TlsEngine.keying_material`; secret. Once the handshake is finished."""
        return self._engine.keying_material(label, length)

    def session(self) -> bytes | None:
        """The session as it is now, in DER; secret. In TLS 1.3 with a ticket after data was received."""
        return None if self._state is _State.CLOSED else self._engine.session()

    async def do_handshake(self) -> Handshake:
        """Finish the handshake and hold its last flight. Safe to repeat. Raises TlsError."""
        await self._handshaking.take()
        try:
            if self._facts is None:
                self._check()
                self._facts = await self._shake_hands()
            return self._facts
        finally:
            self._handshaking.give()

    async def _shake_hands(self) -> Handshake:
        try:
            await self._negotiate()
        except TlsError:
            await self._send_alert()
            self.give_up()
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.give_up()
            if self._state is _State.CLOSED:
                raise
            raise TlsError(
                "negotiating TLS", f"the connection was lost: {error}".rstrip(": "), truncated=True
            ) from error
        except BaseException:
            self.give_up()
            raise
        return self._engine.facts()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` (after the held flight). Raises trio.BrokenResourceError, ClosedResourceError."""
        with self._sending:
            self._check()
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._facts is None:
                await self._ensure_handshake()
            sent = False
            rest = memoryview(data).cast("B")
            while rest:
                with self._as_broken:
                    self._engine.write(bytes(rest[:MAX_WRITE]))
                rest = rest[MAX_WRITE:]
                sent = await self._flush(with_held=True) or sent
            if not sent:
                await trio.lowlevel.cancel_shielded_checkpoint()

    def send_now(self, data: bytes) -> bytes | None:
        """Send what leaves without waiting; None: everything has left.

        Otherwise what is left for `send_all`, or b"" where only octets of ours are left, for `flush`.
        """
        transport = self.transport
        if type(transport) is not PromptStream or self._facts is None or len(data) > MAX_WRITE:
            return data
        with self._sending:
            self._check()
            if self._out_order.taken:
                return data
            with self._as_broken:
                self._engine.write(data)
            out = self._take(with_held=True)
            try:
                sent = transport.send_now(out)
            except BaseException:
                self.give_up()
                raise
            self._held = out[sent:]
            return b"" if self._held else None

    async def flush(self) -> None:
        """Send the held flight: the verdict accepts the peer, although we have nothing to say yet."""
        with self._sending:
            self._check()
            await self._ensure_handshake()
            if not await self._flush(with_held=True):
                await trio.lowlevel.checkpoint()

    def at_hand(self) -> bytes | None:
        """What has been received already and was not read: None if nothing, b"" after close_notify.

        Without I/O. Raises trio.BrokenResourceError, ClosedResourceError.
        """
        with self._receiving:
            self._check()
            if self._facts is None:
                return None
            with self._as_broken:
                return self._engine.read(PIECE)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        with self._sending:
            self._check()
            await self._ensure_handshake()
            await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one octet, or b"" after close_notify. Raises trio.BrokenResourceError on anything else."""
        with self._receiving:
            self._check()
            if max_bytes is not None and max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
            if self._facts is None:
                await self._ensure_handshake()
            await self._let_others_in()
            while True:
                self._check()
                # A client that waits for an answer has accepted the peer; a server's tickets wait on.
                await self._flush(with_held=not self._engine.server_side)
                with self._as_broken:
                    data = self._engine.read(PIECE if max_bytes is None else max_bytes)
                if data is not None:
                    return data  # no checkpoint from here: a cancellation would lose what was decrypted
                await self._flush(with_held=False)  # reading may have made an answer, such as a key update
                with self._as_broken:
                    await self._pull()

    async def discard(self) -> None:
        """Close at once and say nothing: neither the held flight nor close_notify leaves."""
        self._state = _State.CLOSED
        self._held = b""
        await trio.aclose_forcefully(self.transport)

    async def aclose(self) -> None:
        """Send close_notify, waiting at most CLOSE_PATIENCE seconds for it, and close.

        While the client's last flight is still held nobody accepted the peer: nothing is sent then.
        """
        if self._state is _State.CLOSED:
            await trio.lowlevel.checkpoint()
            return
        speak = self._state is _State.OPEN and self._facts is not None
        speak = speak and (self._engine.server_side or not self._held)
        self._state = _State.CLOSED
        try:
            if speak:
                self._engine.close()
                await self._say_last(self._take(with_held=False))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # the peer is gone already
        finally:
            await self.transport.aclose()

    async def _say_last(self, out: bytes) -> None:
        """Within CLOSE_PATIENCE, of which nearly nobody needs any; nothing where the closing is cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        transport = self.transport
        if type(transport) is PromptStream and not self._out_order.taken:
            out = out[transport.send_now(out) :]
        if out:
            with trio.move_on_after(CLOSE_PATIENCE):
                await self._transmit(out)

    async def _negotiate(self) -> None:
        while True:
            finished = self._engine.handshake()
            if finished and self._engine.holds_last_flight:
                self._held = self._engine.outgoing()
                return
            await self._transmit(self._engine.outgoing())
            if finished:
                return
            await self._pull()

    async def _ensure_handshake(self) -> None:
        if self._facts is None:
            with self._as_broken:
                await self.do_handshake()
        self._check()

    async def _send_alert(self) -> None:
        """Tell the peer why (RFC 8446 6.2), as far as it listens."""
        alert = self._engine.outgoing()
        if not alert:
            return
        with trio.move_on_after(ALERT_PATIENCE):
            try:
                await self.transport.send_all(alert)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                return

    async def _let_others_in(self) -> None:
        """What was received already could be read for ever without waiting."""
        self._in_a_row = (self._in_a_row + 1) % IN_A_ROW
        if self._in_a_row:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def _pull(self) -> None:
        """Feed once from the transport; of several tasks that wait for octets one reads for all."""
        seen = self._pulls
        await self._pulling.take()
        try:
            if seen == self._pulls:
                data = await self.transport.receive_some(PIECE)
                self._pulls += 1
                self._engine.feed(bytes(data))
        finally:
            self._pulling.give()

    def _take(self, *, with_held: bool) -> bytes:
        out = self._engine.outgoing()
        if self._held and (out or with_held):  # records leave in the order in which they were made
            out, self._held = self._held + out, b""
        return out

    async def _flush(self, *, with_held: bool) -> bool:
        out = self._take(with_held=with_held)
        if not out:
            return False
        try:
            await self._transmit(out)
        except BaseException:
            self.give_up()  # an unknown part of `out` has left
            raise
        return True

    async def _transmit(self, out: bytes) -> None:
        if out:
            await self._out_order.take()
            try:
                await self.transport.send_all(out)
            finally:
                self._out_order.give()

    def _check(self) -> None:
        if self._state is _State.CLOSED:
            raise trio.ClosedResourceError("this TLS stream is closed")
        if self._state is _State.BROKEN:
            raise trio.BrokenResourceError("this TLS stream is broken")

    def give_up(self) -> None:
        """Something was lost: nothing more is sent or received."""
        if self._state is _State.OPEN:
            self._state = _State.BROKEN
