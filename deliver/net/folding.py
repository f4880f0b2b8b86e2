"""A reply of the server, given to the transaction and to the journal of deliveries."""

from __future__ import annotations

import logging
from collections.abc import Callable

from deliver.message import Recipient
from deliver.outcome import Delivered, Phase
from deliver.smtp.client import Exchange
from deliver.smtp.pipeconnect import EarlyHello
from deliver.smtp.transaction import Transaction

# Whom the final 2yz has made Delivered.
Journal = Callable[[tuple[Recipient, ...], Delivered], None]

_log = logging.getLogger("outrider.delivery")


class Folding:
    """Gives a reply to the transaction and the journal; no checkpoint may come between reading and this."""

    def __init__(self, transaction: Transaction, on_dot_reply: Journal, early: EarlyHello | None) -> None:
        self._transaction = transaction
        self._on_dot_reply = on_dot_reply
        self._early = early

    def __call__(self, exchange: Exchange) -> None:
        if exchange.phase in (Phase.BANNER, Phase.EHLO):
            assert self._early is not None, "a greeting or EHLO inside a transaction that did not send it"
            self._early.got(exchange)
            return
        delivered = self._transaction.got(exchange)
        if delivered:
            try:
                outcome = self._transaction.delivered
                assert outcome is not None, "somebody was delivered to"
                self._on_dot_reply(delivered, outcome)
            except (
                Exception
            ):  # the message is delivered whatever the journal says; the outcome is settled later
                _log.exception("the journal of deliveries failed")
