"""When the relay fetches its staples, and that they are stapled from then on."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import trio
from cryptography.x509 import ocsp as wire
from trio.testing import MockClock

from deliver import stapling
from deliver.net.clock import WallClock
from deliver.relay import certificates
from deliver.relay.certificates import Certificates
from deliver.settings import Relay, RelayCertificate, RelayTls, Settings
from deliver.stapling import FetchFailed, Order
from deliver.tls.ocsp import Result, Status
from tests.unit.cli.test_ocsp import Handler, Responder
from tests.unit.tls.certificates import NOW, Issued, Wish, issue
from tests.unit.tls.responder import HOUR, Answer, respond

ROOT = issue(Wish("Root", authority=True))


class Relayed:
    """The certificate of a relay that fetches its staple; its clock stands at NOW at first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.renew()

    def renew(self) -> Issued:
        issued = issue(Wish("mail", dns_names=("relay.test",)), ROOT)
        (self.directory / "mail.pem").write_bytes(issued.pem + ROOT.pem)
        (self.directory / "mail.key").write_bytes(issued.key_pem)
        self.certificate = issued
        return issued

    def open(self) -> Certificates:
        mine = RelayCertificate(chain_file="mail.pem", key_file="mail.key", ocsp_fetch=True)
        relay = Relay(tls=RelayTls(certificate=(mine,)))
        return Certificates(Settings(state_dir=str(self.directory), relay=relay), WallClock(NOW))

    @property
    def place(self) -> Path:
        """Where the staple goes."""
        mine = RelayCertificate(chain_file="mail.pem", key_file="mail.key", ocsp_fetch=True)
        place = certificates.files_of(Settings(state_dir=str(self.directory)), mine).staple
        assert place is not None
        place.parent.mkdir(exist_ok=True)
        return place

    @property
    def staples(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.directory / "ocsp").glob("*.der")]


@pytest.fixture
def relayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Relayed:
    monkeypatch.setattr(stapling, "responder_of", lambda _: "http://127.0.0.1:1/")
    return Relayed(tmp_path)


class Fetching:
    """Stands for the fetch over HTTP: when it was asked, about what; fails as long as `fails`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, hours: float = 2.0) -> None:
        self.asked: list[tuple[float, bytes]] = []
        self.fails = False
        self._hours = hours
        monkeypatch.setattr(stapling, "fetch_and_write", self)

    async def __call__(self, order: Order, now: float) -> Result:
        await trio.lowlevel.checkpoint()
        self.asked.append((now - NOW, order.certificate))
        if self.fails:
            raise FetchFailed("fetching", "no route")
        return Result(Status.GOOD, "", now, now + self._hours * HOUR)

    @property
    def times(self) -> list[int]:
        return [round(at) for at, _ in self.asked]


async def run_for(opened: Certificates, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await opened.run()


async def test_it_is_fetched_when_half_of_its_time_is_over(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    fetching = Fetching(monkeypatch)
    await run_for(relayed.open(), 2.5 * HOUR)
    assert fetching.times == [0, 3600, 7200]


async def test_a_failure_is_repeated_after_a_while(
    relayed: Relayed,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fetching = Fetching(monkeypatch)
    fetching.fails = True
    await run_for(relayed.open(), 700)
    assert fetching.times == [0, 300, 600]
    assert "no route" in caplog.text


async def test_another_certificate_is_asked_about_at_once(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    fetching = Fetching(monkeypatch)
    first = relayed.certificate
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relayed.open().run)
        await trio.sleep(100)
        second = relayed.renew()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert [about for _, about in fetching.asked] == [first.der, second.der]


async def test_a_good_staple_that_is_there_is_not_fetched_again(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    opened = relayed.open()
    relayed.place.write_bytes(respond(Answer(relayed.certificate, next_update=NOW + 2 * HOUR)))
    fetching = Fetching(monkeypatch)
    await run_for(opened, HOUR + 60)
    assert fetching.times == [3600]
    relayed.place.write_bytes(b"nonsense")
    fetching.asked.clear()
    await run_for(opened, 60)
    assert len(fetching.asked) == 1


async def test_what_another_process_has_fetched_counts(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    fetching = Fetching(monkeypatch)

    async def another() -> None:
        await trio.sleep(0.5 * HOUR)
        response = respond(Answer(relayed.certificate, this_update=NOW, next_update=NOW + 5 * HOUR))
        relayed.place.write_bytes(response)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        await run_for(relayed.open(), 2.9 * HOUR)
    assert fetching.times == [0], "the other's is due at three hours"


async def test_a_staple_that_ends_soon_is_no_reason_to_wait(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    opened = relayed.open()
    relayed.place.write_bytes(respond(Answer(relayed.certificate, next_update=NOW + 400)))
    fetching = Fetching(monkeypatch)
    await run_for(opened, 60)
    assert fetching.times == [0]


async def test_without_a_responder_nothing_is_fetched(
    relayed: Relayed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(stapling, "responder_of", lambda _: None)
    fetching = Fetching(monkeypatch)
    await run_for(relayed.open(), HOUR)
    assert fetching.asked == []


class Until(logging.Handler):
    """Sets `happened` at a line of the log."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self._line = line
        self.happened = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self._line:
            self.happened.set()


async def test_what_a_responder_says_is_stapled(relayed: Relayed, monkeypatch: pytest.MonkeyPatch) -> None:
    with Responder(("127.0.0.1", 0), Handler) as responder:
        thread = threading.Thread(target=responder.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(stapling, "responder_of", lambda _: responder.url)
        responder.says = respond(Answer(relayed.certificate))
        opened = relayed.open()
        before = opened.loaded().context
        until = Until("staple fetched")
        certificates.log.addHandler(until)
        certificates.log.setLevel(logging.INFO)
        try:
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(opened.run)
                    await until.happened.wait()
                    nursery.cancel_scope.cancel()
        finally:
            certificates.log.removeHandler(until)
            certificates.log.setLevel(logging.NOTSET)
            responder.shutdown()
            thread.join()
    assert relayed.staples == [responder.says]
    assert opened.loaded().context is not before, "the staple is a file like the others"
    asked = wire.load_der_ocsp_request(responder.asked)
    assert asked.serial_number == relayed.certificate.certificate.serial_number
