"""The DANE and PKIX judgements beside those of the `openssl` command, case by case.

`openssl s_server` presents a chain; `openssl s_client` judges it with OpenSSL's own DANE code, and so does
`deliver.tls.dane` on what the engine received from the same server.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deliver.resolve.answer import TlsaRecord
from deliver.tls import dane, pkix
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine
from deliver.tls.pkix import TrustStore
from deliver.tls.verdict import Handshake
from tests.unit.tls.certificates import (
    CLIENT_ONLY,
    DAY,
    NOW,
    SERVER,
    House,
    Issued,
    Wish,
    build_house,
    issue,
    rsa_key,
)
from tests.unit.tls.peers import MAY, NAME

OPENSSL = shutil.which("openssl")
PATIENCE = 20  # seconds

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl command")


@dataclass(frozen=True)
class Case:
    """A server certificate, the certificates sent with it, the records and who is expected to accept."""

    label: str
    server: Issued
    others: tuple[Issued, ...]
    records: tuple[TlsaRecord, ...]
    accepted: bool
    name: str = NAME


def dane_cases(house: House) -> Iterator[Case]:
    root, middle, server, stranger = house.root, house.intermediate, house.server, house.stranger
    for selector in (0, 1):
        for matching in (0, 1, 2):
            kind = f"{selector} {matching}"
            yield Case(f"EE {kind}", server, (middle,), (server.tlsa(3, selector, matching),), True)
            yield Case(f"TA {kind} root", server, (middle, root), (root.tlsa(2, selector, matching),), True)
            yield Case(f"TA {kind} middle", server, (middle,), (middle.tlsa(2, selector, matching),), True)
            other = (stranger.tlsa(2, selector, matching), stranger.tlsa(3, selector, matching))
            yield Case(f"other {kind}", server, (middle, root), other, False)
    yield Case("EE any name", server, (), (server.tlsa(3, 1, 1),), True, "mx.example.com")
    yield Case("TA other name", server, (middle, root), (root.tlsa(2, 0, 1),), False, "mx.example.com")
    yield Case("TA any order", server, (root, stranger, middle), (root.tlsa(2, 0, 1),), True)
    yield Case("TA 2 0 0 absent", server, (middle,), (root.tlsa(2, 0, 0),), True)
    yield Case("TA 2 1 0 absent", server, (middle,), (root.tlsa(2, 1, 0),), True)
    yield Case("TA 2 0 1 absent", server, (middle,), (root.tlsa(2, 0, 1),), False)
    yield Case("leaf as TA", server, (middle, root), (server.tlsa(2, 0, 1),), False)
    yield Case("EE record of TA", server, (middle, root), (root.tlsa(3, 0, 1),), False)
    mixed = (stranger.tlsa(3, 1, 1), root.tlsa(2, 1, 1))
    yield Case("wrong EE, right TA", server, (middle, root), mixed, True)
    expired = issue(Wish(dns_names=(NAME,), not_after=NOW - DAY), root)
    yield Case("EE expired", expired, (root,), (expired.tlsa(3, 1, 1),), True)
    yield Case("TA expired", expired, (root,), (root.tlsa(2, 0, 1),), False)
    yield Case("TA 2 1 0 expired", expired, (), (root.tlsa(2, 1, 0),), False)
    client = issue(Wish(dns_names=(NAME,), purpose=CLIENT_ONLY), root)
    yield Case("TA client purpose", client, (root,), (root.tlsa(2, 0, 1),), False)
    purpose = issue(Wish(dns_names=(NAME,), purpose=SERVER), root)
    yield Case("TA server purpose", purpose, (root,), (root.tlsa(2, 0, 1),), True)
    named = issue(Wish(NAME), root)
    yield Case("TA common name", named, (root,), (root.tlsa(2, 0, 1),), True)
    both = issue(Wish(NAME, dns_names=("other.example",)), root)
    yield Case("TA common name beside a DNS name", both, (root,), (root.tlsa(2, 0, 1),), False)
    wild = issue(Wish(dns_names=("*.example.org",)), root)
    yield Case("TA wildcard", wild, (root,), (root.tlsa(2, 0, 1),), True)
    yield Case("TA wildcard, two labels", wild, (root,), (root.tlsa(2, 0, 1),), False, "a.mx.example.org")
    holder = issue(Wish("holder", dns_names=("holder.example.org",)), root)
    forged = issue(Wish(dns_names=(NAME,)), holder)
    yield Case("TA issuer is no authority", forged, (holder, root), (root.tlsa(2, 0, 1),), False)
    yield Case("TA 2 1 0 issuer is no authority", forged, (holder,), (root.tlsa(2, 1, 0),), False)
    narrow = issue(Wish("Narrow", authority=True, permitted=("example.net",)))
    outside = issue(Wish(dns_names=(NAME,)), narrow)
    yield Case("TA name constraint", outside, (narrow,), (narrow.tlsa(2, 0, 1),), False)
    short = issue(Wish(dns_names=(NAME,), key=rsa_key(2048)), root)
    yield Case("TA RSA", short, (root,), (root.tlsa(2, 0, 1),), True)


HOUSE = build_house()
DANE = tuple(dane_cases(HOUSE))


@pytest.mark.parametrize("case", DANE, ids=[case.label for case in DANE])
def test_dane_beside_openssl(case: Case, tmp_path: Path) -> None:
    with server(case, tmp_path) as port:
        chain = shake_hands(port).chain
        records = [part for record in case.records for part in ("-dane_tlsa_rrdata", str(record))]
        theirs = judged_by_openssl(
            port, "-dane_tlsa_domain", case.name, "-dane_ee_no_namechecks", "-servername", case.name, *records
        )
    assert chain == (case.server.der, *(other.der for other in case.others))
    assert theirs is case.accepted
    assert dane.verify(chain, case.records, (case.name,), NOW).ok is case.accepted


@pytest.mark.parametrize("case", DANE, ids=[case.label for case in DANE])
def test_pkix_beside_openssl(case: Case, tmp_path: Path) -> None:
    """The same certificates against the house's root; only a common name is judged differently (RFC 9525)."""
    roots = tmp_path / "roots.pem"
    roots.write_bytes(HOUSE.root.pem)
    with server(case, tmp_path) as port:
        chain = shake_hands(port).chain
        theirs = judged_by_openssl(port, "-CAfile", str(roots), "-verify_hostname", case.name)
    ours = pkix.verify(chain, TrustStore.from_pem(HOUSE.root.pem, "roots"), (case.name,), NOW).ok
    assert ours is (theirs and case.label != "TA common name")


def shake_hands(port: int) -> Handshake:
    engine = TlsEngine(context_for(MAY), NAME)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        while not engine.handshake():
            connection.sendall(engine.outgoing())
            engine.feed(connection.recv(65536))
        connection.sendall(engine.outgoing())
        return engine.facts()


@contextmanager
def server(case: Case, directory: Path) -> Iterator[int]:
    """`openssl s_server` on a port of its own choice."""
    assert OPENSSL is not None
    (directory / "key.pem").write_bytes(case.server.key_pem)
    (directory / "server.pem").write_bytes(case.server.pem)
    command = [OPENSSL, "s_server", "-accept", "127.0.0.1:0", "-naccept", "2"]
    command += ["-key", str(directory / "key.pem"), "-cert", str(directory / "server.pem"), "-no_cache"]
    if case.others:
        (directory / "others.pem").write_bytes(b"".join(other.pem for other in case.others))
        command += ["-cert_chain", str(directory / "others.pem")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"ACCEPT "):
                    yield int(line.rsplit(b":", 1)[1])
                    break
            else:
                pytest.fail("openssl s_server did not start")
        finally:
            process.kill()


def judged_by_openssl(port: int, *how: str) -> bool:
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-attime", str(int(NOW))]
    command += [
        "-verify_return_error",
        "-no-CAfile",
        "-no-CApath",
        "-no-CAstore",
        "-purpose",
        "sslserver",
        *how,
    ]
    if "-CAfile" in how:
        command.remove("-no-CAfile")
    done = subprocess.run(command, input=b"", capture_output=True, timeout=PATIENCE, check=False)
    said = done.stdout + done.stderr
    assert b"CONNECTED" in said, said
    return done.returncode == 0 and b"Verify return code: 0 (ok)" in said
