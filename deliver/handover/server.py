"""The service's side of a hand-over: takes messages of `outrider send` by its own user, delivers, answers.

    refused with NO, so that the caller delivers itself   another user, version or configuration, an unusable
                                                          address, far too many calls
    answered with 65                                      a message that nobody could send
    answered with 75                                      our disk; anything unforeseen

A caller that goes away before the end of its message has handed nothing over; one that goes away later
changes nothing, and finds the outcome when it comes again with the same --queue-id.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from deliver.direct import Direct, Limit
from deliver.errors import MessageError, OutriderError, UsageError
from deliver.handover import frames
from deliver.handover.frames import CONTENT, END, GO, NO, OFFER, BadFrame, FrameReader, Offer
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import Clock
from deliver.net.local import user_of
from deliver.relay.received import HopCounter
from deliver.report.log import say
from deliver.report.result import EX_TEMPFAIL, exit_status, rendered
from deliver.settled import Digest, Job
from deliver.smtp.dot import MessageText
from deliver.smtp.utf8header import Utf8Header
from deliver.transient import TransientContent

READ_SIZE = 64 * 1024
OFFER_PATIENCE = 10.0  # seconds
CONTENT_PATIENCE = 300.0  # seconds between two pieces
CONTENT_DEADLINE = 2 * 3600.0  # seconds for the content of one message
LAST_WORDS = 10.0  # seconds for the answer to be read
MOST_WAITING = 2000  # calls that wait for their turn

_log = logging.getLogger("outrider.handover")


@dataclass(frozen=True, slots=True)
class Desk:
    """What holds for every caller. `digest` stands for our settings, sizes in octets."""

    digest: str
    helo: str
    directory: Path
    inline_limit: int
    max_size: int
    max_hops: int
    max_recipients: int
    max_connections: int
    detect_utf8: bool
    room: Callable[[], bool]


class HandoverListener:
    """Serves callers until `stop`."""

    def __init__(self, desk: Desk, direct: Direct, clock: Clock, new_id: Callable[[], MessageId]) -> None:
        self._desk = desk
        self._direct = direct
        self._clock = clock
        self._new_id = new_id
        self._turns = trio.CapacityLimiter(desk.max_connections)
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `stop` was called and the last caller has its answer; closes `listeners`."""
        with self._serving:
            async with trio.open_nursery() as callers:
                with self._accepting:
                    task_status.started()
                    await trio.serve_listeners(self._accepted, list(listeners), handler_nursery=callers)

    def renew(self, desk: Desk) -> None:
        """Other settings for the callers that come; those that are served go on with theirs."""
        self._desk = desk
        self._turns.total_tokens = desk.max_connections

    def stop(self, grace: float) -> None:
        """Accept no more; who was accepted has `grace` seconds."""
        self._accepting.cancel()
        self._serving.deadline = min(self._serving.deadline, trio.current_time() + grace)

    async def handle(self, stream: trio.abc.Stream, uid: int) -> None:
        """Serve one caller that runs as user `uid`; never raises but for cancellation."""
        caller = _Caller(stream, self._desk, self._direct)
        try:
            if uid not in (os.geteuid(), 0):
                await caller.refuse(f"user {uid} is not served here")
            elif not self._desk.room():
                await caller.refuse("too many events wait for their databases")
            elif self._turns.statistics().tasks_waiting >= MOST_WAITING:
                await caller.refuse("too many calls wait")
            else:
                async with self._turns:
                    await caller.serve(self._clock.now, self._new_id)
        except (BadFrame, trio.BrokenResourceError, trio.TooSlowError) as error:
            say(_log, logging.WARNING, "hand-over ended", why=str(error) or type(error).__name__)
        except Exception:
            _log.exception("a hand-over failed unexpectedly")
        finally:
            await trio.aclose_forcefully(stream)

    async def _accepted(self, stream: trio.SocketStream) -> None:
        await self.handle(stream, user_of(stream.socket))


class _Caller:
    """One call."""

    def __init__(self, stream: trio.abc.Stream, desk: Desk, direct: Direct) -> None:
        self._stream = stream
        self._desk = desk
        self._direct = direct
        self._reader = FrameReader(OFFER)

    async def serve(self, now: Callable[[], float], new_id: Callable[[], MessageId]) -> None:
        """Take the offer and the message, deliver, answer.

        Raises BadFrame, BrokenResourceError, TooSlowError.
        """
        with trio.fail_after(OFFER_PATIENCE):
            _, payload = await self._next()
        try:
            offer = Offer.decode(payload)
            sender, boxes = self._accept(offer)
        except (BadFrame, UsageError) as error:
            await self.refuse(str(error))
            return
        await self._send(frames.encode(GO))
        self._reader.expect(CONTENT, END)
        try:
            message = await self._receive()
            recipients = tuple(Recipient(ordinal, box) for ordinal, box in enumerate(boxes))
            utf8 = self._desk.detect_utf8 and not offer.queue_id and message.utf8_header
            size, eight_bit = message.content.size, message.eight_bit
            envelope = Envelope(
                new_id(),
                sender,
                recipients,
                size,
                eight_bit,
                now(),
                utf8,
                requires_tls=offer.requires_tls,
            )
            job = Job(offer.queue_id, message.digest.value(envelope)) if offer.queue_id else None
            results = await self._direct.deliver(envelope, message.content, job, Limit())
        except OutriderError as error:
            await self._answer(error.exit_status, b"", f"outrider: {error}\n".encode(errors="replace"))
        except (BadFrame, trio.BrokenResourceError, trio.TooSlowError):
            raise
        except Exception:
            _log.exception("a hand-over failed unexpectedly")
            await self._answer(EX_TEMPFAIL, b"", b"outrider: the service failed unexpectedly; try again\n")
        else:
            text = rendered(results, as_json=offer.as_json)
            await self._answer(exit_status(tuple(outcome for _, outcome, _ in results)), text.encode(), b"")

    async def refuse(self, why: str) -> None:
        """Say NO."""
        say(_log, logging.INFO, "hand-over refused", why=why)
        await self._send(frames.encode(NO, why.encode(errors="replace")[: frames.LIMITS[NO]]))

    def _accept(self, offer: Offer) -> tuple[Mailbox | None, tuple[Mailbox, ...]]:
        """Sender and recipients. Raises UsageError for whatever the caller should handle itself."""
        if offer.digest != self._desk.digest:
            raise UsageError("taking a message over", "the caller has other settings")
        if len(offer.queue_id) > frames.MAX_QUEUE_ID:
            raise UsageError("taking a message over", "the queue id is too long")
        boxes = tuple(dict.fromkeys(Mailbox.parse(text, utf8=True) for text in offer.recipients))
        if len(boxes) > self._desk.max_recipients:
            raise UsageError("taking a message over", "it has too many recipients")
        if offer.sender == "":
            return None, boxes
        sender = offer.sender if offer.sender is not None else f"{offer.user}@{self._desk.helo}"
        return Mailbox.parse(sender, utf8=True), boxes

    async def _receive(self) -> _Message:
        """The message up to END. Raises MessageError, StorageError, and as `serve`."""
        message = _Message(self._desk)
        with trio.fail_after(CONTENT_DEADLINE):
            while True:
                with trio.fail_after(CONTENT_PATIENCE):
                    kind, payload = await self._next()
                if kind == END:
                    await message.finish()
                    return message
                await message.feed(payload)

    async def _next(self) -> tuple[int, bytes]:
        while (frame := self._reader.next_frame()) is None:
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                raise BadFrame("the caller went away")
            self._reader.feed(bytes(data))
        return frame

    async def _answer(self, status: int, output: bytes, errors: bytes) -> None:
        """Say what became of it; octets left unread would reset the connection before the answer is read."""
        with trio.move_on_after(LAST_WORDS), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_all(frames.answer(status, output, errors))
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            while await self._stream.receive_some(READ_SIZE):
                pass

    async def _send(self, data: bytes) -> None:
        with trio.fail_after(OFFER_PATIENCE):
            await self._stream.send_all(data)


class _Message:
    """The message as it comes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._text = MessageText()
        self._header = Utf8Header()
        self._hops = HopCounter()
        self.digest = Digest()
        self.content = TransientContent(
            desk.directory, inline_limit=desk.inline_limit, max_size=desk.max_size
        )

    @property
    def eight_bit(self) -> bool:
        """Whether any octet is above 127."""
        return self._text.eight_bit

    @property
    def utf8_header(self) -> bool:
        """Whether its header is in UTF-8."""
        return self._header.found

    async def feed(self, piece: bytes) -> None:
        """Take octets with LF or CRLF line ends. Raises MessageError, StorageError."""
        await self._keep(self._text.feed(piece))

    async def finish(self) -> None:
        """No more follows. Raises MessageError, StorageError."""
        await self._keep(self._text.finish())
        await self.content.finish()

    async def _keep(self, content: bytes) -> None:
        self._header.feed(content)
        self._hops.feed(content)
        if self._hops.hops > self._desk.max_hops:
            raise MessageError(
                "taking the message",
                f"it has more than {self._desk.max_hops} Received headers: mail is looping (5.4.6)",
                "find the loop; relay.max_hops is the limit",
            )
        self.digest.feed(content)
        await self.content.write(content)
