"""SIGHUP where there are several workers: new settings count when every one of them has taken them.

read and opened here    a file with mistakes, or a port that cannot be had, reaches nobody
offered to all          each tries them; they hold there at once
one refuses             all get the old ones back
all have taken them     they hold, also for workers that come later
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deliver import channel
from deliver.errors import OutriderError
from deliver.notify import Notifier
from deliver.portion import packed
from deliver.relay.binding import Bound, bind, name_of
from deliver.relay.terms import terms_of
from deliver.reload import Change, Reread, change
from deliver.report.log import say
from deliver.settings import Settings
from deliver.slot import Slot

_log = logging.getLogger("outrider.service")


@dataclass(slots=True)
class Offer:
    """New settings on their way: to whom, who has not answered, and why somebody refused.

    `once_more`: another SIGHUP came meanwhile.
    """

    change: Change
    opened: Bound
    offered: set[int]
    awaited: set[int]
    refused: str | None = None
    once_more: bool = False


class Changeover:
    """`settings` and `sockets` are what holds now."""

    def __init__(
        self,
        settings: Settings,
        sockets: Bound,
        slots: Sequence[Slot],
        *,
        digest: str | None,
        reread: Reread | None,
        notifier: Notifier,
        listens: bool = True,
    ) -> None:
        """`digest` stands for the settings. Without `reread` they wait for a restart.

        `listens`: the places of the relay are this service's.
        """
        self.settings = settings
        self.digest = digest
        self.sockets = sockets
        self._slots = slots
        self._reread = reread
        self._notifier = notifier
        self._listens = listens
        self._offer: Offer | None = None
        self._stopped = False

    def stop(self) -> None:
        """The service ends: nothing changes any more."""
        self._stopped = True

    def begin(self) -> None:
        """Offer new settings to all workers."""
        if self._stopped:
            return
        if self._reread is None:
            say(
                _log, logging.WARNING, "the settings are read at the start only", remedy="restart the service"
            )
            return
        if self._offer is not None:
            self._offer.once_more = True
            return
        self._notifier.reloading()
        try:
            read = self._reread()
            new = change(self.settings, read.settings, read.digest)
            if not self._listens:
                new = replace(new, opened=(), closed=())
            terms_of(new.settings.relay, "")
            opened = bind(new.opened)
        except OutriderError as error:
            self._refuse(str(error))
            return
        except Exception:
            _log.exception("the new settings cannot be read")
            self._refuse("")
            return
        ready = {slot.number for slot in self._slots if slot.ready}
        self._offer = Offer(new, opened, ready, set(ready))
        self._give(ready, new.settings, opened, new.digest)
        self.answered(None, None)

    def answered(self, worker: int | None, refused: str | None) -> None:
        """A worker has answered, or died; the last one decides."""
        offer = self._offer
        if offer is None:
            return
        if worker is not None:
            offer.awaited.discard(worker)
        offer.refused = offer.refused or refused
        if offer.awaited:
            return
        self._offer = None
        if offer.refused:
            self._take_back(offer)
        else:
            self._commit(offer)
        if offer.once_more:
            self.begin()

    def _give(self, workers: Iterable[int], settings: Settings, opened: Bound, digest: str | None) -> None:
        content = channel.in_memory(packed(settings))
        try:
            files = (content, *(each.fileno() for each in opened.values()))
            for number in workers:
                self._slots[number].tell("reload", {"opened": list(opened), "digest": digest}, files)
        finally:
            os.close(content)

    def _commit(self, offer: Offer) -> None:
        new = offer.change
        self.settings, self.digest = new.settings, new.digest
        late = {slot.number for slot in self._slots if slot.pid is not None} - offer.offered
        self._give(late, new.settings, offer.opened, new.digest)
        for place in new.closed:
            say(_log, logging.INFO, "listening no more", on=name_of(self.sockets[place]))
            self.sockets.pop(place).close()
        self.sockets.update(offer.opened)
        for each in offer.opened.values():
            say(_log, logging.INFO, "listening", on=name_of(each), workers=len(self._slots))
        if new.waiting:
            say(_log, logging.WARNING, "wait for a restart", keys=", ".join(new.waiting))
        say(_log, logging.INFO, "reloaded", opened=len(offer.opened), closed=len(new.closed))
        self._announce_again()

    def _take_back(self, offer: Offer) -> None:
        """Somebody cannot use the new settings: nobody has them."""
        again = {place: self.sockets[place] for place in offer.change.closed}
        self._give(offer.offered, self.settings, again, self.digest)
        for each in offer.opened.values():
            each.close()
        self._refuse(offer.refused or "")

    def _refuse(self, why: str) -> None:
        for line in why.splitlines():
            _log.error("%s", line)
        say(_log, logging.ERROR, "new settings refused", effect="the old ones hold")
        self._announce_again()

    def _announce_again(self) -> None:
        self._notifier.ready(f"{sum(slot.ready for slot in self._slots)} workers")
