"""The relay's listener with TLS and AUTH on a real socket, in a thread of its own; what it accepts stays in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio
from cryptography.x509.ocsp import OCSPCertStatus

from deliver.message import MessageId
from deliver.net.clock import WallClock
from deliver.relay.binding import bind
from deliver.relay.guard import Guard
from deliver.relay.listener import Listener, listeners_on
from deliver.relay.terms import places
from deliver.settings import Duration, Relay, RelayAuth, RelayCertificate, RelayTls, Settings
from events.catalogue import Event
from tests.doorstep import Memory
from tests.unit.tls.certificates import DAY, Issued, Wish, issue
from tests.unit.tls.responder import Answer, respond

HOST = "127.0.0.1"


@dataclass
class Papers:
    """Certificates of today in a directory: an authority, and what it issued."""

    directory: Path
    authority: Issued = field(init=False)

    def __post_init__(self) -> None:
        self.authority = issue(Wish("Authority", authority=True, **self._around()))
        self.write("ca.pem", self.authority.pem)

    def _around(self) -> dict[str, Any]:
        now = datetime.now(UTC).timestamp()
        return {"not_before": now - DAY, "not_after": now + DAY}

    def write(self, name: str, content: bytes) -> Path:
        """A file that every server may read, replaced by a rename."""
        draft = self.directory / f".{name}"
        draft.write_bytes(content)
        draft.chmod(0o644)
        os.replace(draft, self.directory / name)
        return self.directory / name

    def issue(self, prefix: str, *names: str, **more: Any) -> Issued:
        """A certificate with its chain in PREFIX.pem, its key in PREFIX.key."""
        issued = issue(Wish(prefix, dns_names=names, **self._around(), **more), self.authority)
        self.write(f"{prefix}.pem", issued.pem + self.authority.pem)
        self.write(f"{prefix}.key", issued.key_pem).chmod(0o640)
        return issued

    def staple(
        self, prefix: str, issued: Issued, status: OCSPCertStatus = OCSPCertStatus.GOOD, hours: float = 1
    ) -> bytes:
        """A response in PREFIX.ocsp."""
        now = datetime.now(UTC).timestamp()
        response = respond(Answer(issued, status, this_update=now - DAY / 2, next_update=now + hours * 3600))
        self.write(f"{prefix}.ocsp", response)
        return response


class FrontDoor:
    """A listener that serves until the end of the `with` block."""

    def __init__(self, papers: Papers, **relay: Any) -> None:
        """`relay` are keys of `relay`; without `tls` the certificate `mail` is presented."""
        relay.setdefault("tls", RelayTls(certificate=(certificate(papers, "mail"),)))
        relay.setdefault("networks", ())
        self.settings = Settings(state_dir=str(papers.directory), relay=Relay(listen=(f"{HOST}:0",), **relay))
        self.memory = Memory()
        self.events: list[Event] = []
        self.ports: tuple[int, ...] = ()
        self.failed: BaseException | None = None
        self._ready = threading.Event()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def port(self) -> int:
        """Of the first place to listen on."""
        return self.ports[0]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20)
        if self.failed is not None:
            raise self.failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._thread.join(20)
        assert self.failed is None

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self.failed = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        async def tell(event: Event) -> None:
            self.events.append(event)

        numbers = count(1)
        guard = Guard(self.settings, WallClock(), tell)
        relay = self.settings.relay
        listener = Listener(
            relay,
            "relay.test",
            self.memory,
            WallClock(),
            lambda: MessageId(f"id{next(numbers)}"),
            security=guard,
        )
        sockets = listeners_on(bind(places(relay)))
        self.ports = tuple(each.socket.getsockname()[1] for each in sockets)
        token = trio.lowlevel.current_trio_token()
        self._stop = lambda: token.run_sync_soon(listener.stop, 2.0)
        async with trio.open_nursery() as background:
            background.start_soon(guard.run)
            async with trio.open_nursery() as serving:
                await serving.start(listener.serve, sockets, places(relay))
                self._ready.set()
            background.cancel_scope.cancel()


def certificate(papers: Papers, prefix: str) -> RelayCertificate:
    """The settings of a certificate of these papers."""
    staple = f"{prefix}.ocsp" if (papers.directory / f"{prefix}.ocsp").exists() else None
    return RelayCertificate(chain_file=f"{prefix}.pem", key_file=f"{prefix}.key", ocsp_file=staple)


def auth(**keys: Any) -> RelayAuth:
    """Settings of `relay.auth` in which nobody waits."""
    return RelayAuth(failure_delay=Duration(0), **keys)
