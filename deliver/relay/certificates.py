"""The relay's certificates and their staples, as the files are now (`relay.tls`).

Every connection gets the context of the files as they are; where they cannot be used, the last one that
could, and the log says why. The keys that seal tickets are replaced with the context after
`ticket_rotation`. Staples that we fetch ourselves come into their files, and from there into the context.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import trio
from OpenSSL import SSL

from deliver import stapling
from deliver.configuration.files import secret_path
from deliver.errors import ConfigurationError, OutriderError
from deliver.net.clock import Clock
from deliver.relay.watched import Watched
from deliver.report.log import say
from deliver.settings import RelayCertificate, Settings
from deliver.tls import names, ocsp
from deliver.tls.certificate import looking, parse
from deliver.tls.pkix import TrustStore
from deliver.tls.serving import Identity, Offer, read_chain, read_responses, server_context

MAX_FILE = 1024 * 1024  # octets
DAY = 86400.0
SOON = 7.0  # days before its end at which a certificate is worth a warning
LOOK = 30.0  # seconds between looks at whether a certificate needs another staple

log = logging.getLogger("outrider.relay")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files say. `authorities` issue the certificates of clients; None: nobody is asked."""

    context: SSL.Context
    authorities: TrustStore | None


@dataclass(frozen=True, slots=True)
class Files:
    """Where one certificate lies; `staple` None: it has none."""

    chain: Path
    key: Path
    staple: Path | None
    fetch: bool


class Certificates:
    """The certificates of the settings, of which there is at least one."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Raises ConfigurationError."""
        self._settings = settings.relay.tls
        self._clock = clock
        self._files = tuple(files_of(settings, each) for each in settings.relay.tls.certificate)
        authorities = self._settings.client_ca
        self._authorities = None if authorities is None else settings.path(authorities)
        self._watched = Watched(tuple(self._paths()), self._load)
        self._made_at = trio.current_time()

    def loaded(self) -> Loaded:
        """What holds for a connection that comes now."""
        if trio.current_time() - self._made_at >= self._settings.ticket_rotation:
            self._made_at = trio.current_time()
            self._watched.renew()
        return self._watched.refreshed()

    async def run(self) -> None:
        """Fetch staples; returns if none are to be fetched."""
        async with trio.open_nursery() as nursery:
            for files in self._files:
                if files.fetch and files.staple is not None:
                    nursery.start_soon(_keep_stapled, files, files.staple, self._clock)

    def _paths(self) -> list[Path]:
        found = [
            path
            for files in self._files
            for path in (files.chain, files.key, files.staple)
            if path is not None
        ]
        return found if self._authorities is None else [*found, self._authorities]

    def _load(self) -> Loaded:
        authorities = None
        if self._authorities is not None:
            authorities = TrustStore.from_pem(_read(self._authorities), str(self._authorities))
        identities = [_identity(files) for files in self._files]
        responses = [response for files in self._files for response in _responses(files)]
        tls = self._settings
        offer = Offer(
            tls.min_version,
            tls.ciphers,
            tls.groups,
            tls.tickets,
            int(tls.ticket_rotation),
            authorities,
        )
        context = server_context(identities, responses, offer, self._clock.now)
        for identity in identities:
            self._tell(identity, responses)
        return Loaded(context, authorities)

    def _tell(self, identity: Identity, responses: list[bytes]) -> None:
        """One line about each certificate, and whether it can be stapled."""
        judged = [ocsp.check(each, identity.leaf, identity.issuer, self._clock.now()) for each in responses]
        own = [each for each in judged if "another certificate" not in each.why]
        good = any(each.status is ocsp.Status.GOOD for each in own)
        days = (_end(identity.leaf) - self._clock.now()) / DAY
        level = logging.WARNING if (own and not good) or days < SOON else logging.INFO
        say(
            log, level, "certificate loaded", days_left=round(days, 1),
            names=" ".join(names.presented_names(identity.leaf, common_name=True))[:200],
            staple="good" if good else own[0].why if own else None,
        )  # fmt: skip


def files_of(settings: Settings, certificate: RelayCertificate) -> Files:
    """Where the parts of a certificate lie; a staple that we fetch is below state_dir by default."""
    chain = settings.path(certificate.chain_file)
    staple = None if certificate.ocsp_file is None else settings.path(certificate.ocsp_file)
    if staple is None and certificate.ocsp_fetch:
        mark = sha256(str(chain).encode()).hexdigest()[:16]
        staple = settings.path(f"ocsp/{mark}.der")
    return Files(chain, secret_path(settings, certificate.key_file), staple, certificate.ocsp_fetch)


async def _keep_stapled(files: Files, staple: Path, clock: Clock) -> None:
    """Fetch before half of a response's time is over, and at once for another certificate.

    Another process may do the same: what it has fetched meanwhile counts.
    """
    due, until, about = 0.0, 0.0, b""
    while True:
        try:
            order = _order(files, staple)
            if order is not None and order.certificate != about:
                due, until, about = clock.now(), 0.0, order.certificate
            if order is not None and clock.now() >= due:
                due = clock.now() + stapling.RETRY
                found = _held(order, clock.now())
                if found is None or (found.until or 0.0) <= max(until, clock.now() + 2 * stapling.RETRY):
                    found = await stapling.fetch_and_write(order, clock.now())
                    say(log, logging.INFO, "staple fetched", file=staple, responder=order.url)
                due, until = clock.now() + stapling.next_time(found, clock.now()), found.until or 0.0
        except OutriderError as error:
            log.warning("%s", error)
        await trio.sleep(LOOK)


def _held(order: stapling.Order, now: float) -> ocsp.Result | None:
    """What the file holds already, if it is good."""
    try:
        response = _read(order.output)
    except ConfigurationError:
        return None
    found = ocsp.check(response, order.certificate, ocsp.Issuer.of(order.issuer), now)
    return found if found.status is ocsp.Status.GOOD else None


def _order(files: Files, staple: Path) -> stapling.Order | None:
    """What to fetch; None where the certificate names no responder. Raises ConfigurationError."""
    chain = read_chain(_read(files.chain), str(files.chain))
    url = stapling.responder_of(chain[0])
    if url is None or len(chain) < 2:
        return None
    try:
        staple.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"writing {staple}", error.strerror or str(error), "correct ocsp_file"
        ) from None
    return stapling.Order(chain[0], chain[1], url, staple)


def _end(leaf: bytes) -> float:
    """Seconds since the epoch."""
    with looking():
        return parse(leaf).not_valid_after_utc.timestamp()


def _identity(files: Files) -> Identity:
    return Identity(read_chain(_read(files.chain), str(files.chain)), _read(files.key))


def _responses(files: Files) -> tuple[bytes, ...]:
    """A staple is a help: without it there is still TLS."""
    if files.staple is None or (files.fetch and not files.staple.exists()):
        return ()
    try:
        return read_responses(_read(files.staple))
    except (ConfigurationError, ValueError) as error:
        log.warning("%s", error)
        return ()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"reading {path}", error.strerror or str(error), "correct relay.tls"
        ) from None
    if len(content) > MAX_FILE:
        raise ConfigurationError(
            f"reading {path}", f"it is larger than {MAX_FILE} octets", "correct relay.tls"
        )
    return content
