"""Accepted mail goes to the worker that keeps its destination, or stays: the intake's `lead`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

import trio

from deliver.message import Envelope
from deliver.neighbours.choice import Choice
from deliver.neighbours.letters import MAX_CONTENT, MAX_RECIPIENTS
from deliver.neighbours.neighbour import Neighbour
from deliver.neighbours.street import House, is_ours
from deliver.net.prompt import PromptStream
from deliver.queue.content import InlineContent, StoredContent
from deliver.relay.intake import Origin
from deliver.report.metrics import Meter
from deliver.settings import Settings

FADE: Final = 5.0  # seconds


class Leading:
    """Of one worker; `run` must be running."""

    def __init__(self, house: House, settings: Settings, meter: Meter) -> None:
        self._house = house
        self._meter = meter
        self._neighbours = {
            number: Neighbour(number, _Caller(address))
            for number, address in enumerate(house.addresses)
            if number != house.number
        }
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Other settings from now on."""
        house = self._house
        self._choice = Choice(
            house.number, house.workers, house.waiting, settings.route, float(settings.pool.idle)
        )

    async def run(self) -> None:
        """Connected with all of them; until cancelled."""
        async with trio.open_nursery() as nursery:
            for neighbour in self._neighbours.values():
                nursery.start_soon(neighbour.run)
            while True:
                await trio.sleep(FADE)
                self._house.fade()

    async def __call__(
        self, envelope: Envelope, origin: Origin, content: StoredContent, company: bool
    ) -> bool:
        """Whether another worker has made it durable; False: it stays here. Raises StorageError.

        `company`: others arrive beside it.
        """
        domain = sole_domain(envelope)
        if domain is None or not isinstance(content, InlineContent) or content.size > MAX_CONTENT:
            return False
        choice, now = self._choice, trio.current_time()
        number = choice.of(domain, now)
        if number is None:
            return False
        led = await self._neighbours[number].hand(envelope, origin, content.data, company=company)
        if led:
            choice.went(domain, now)
            self._meter.count("outrider_messages_led")
        return led


def sole_domain(envelope: Envelope) -> str | None:
    """The domain of all recipients; None where there are several, or very many recipients."""
    recipients = envelope.recipients
    if not 0 < len(recipients) <= MAX_RECIPIENTS:
        return None
    domain = recipients[0].mailbox.domain
    others: Sequence[str] = [each.mailbox.domain for each in recipients[1:]]
    return domain if all(other == domain for other in others) else None


class _Caller:
    """Connects with one address. Raises OSError."""

    def __init__(self, address: bytes) -> None:
        self._address = address

    async def __call__(self) -> PromptStream:
        connecting = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await connecting.connect(self._address)
            stream = PromptStream.instead_of(trio.SocketStream(connecting))
        except BaseException:
            connecting.close()
            raise
        if not is_ours(stream.socket):
            stream.close()
            raise PermissionError("another user listens there")
        return stream
