"""`outrider ocsp fetch` against a responder on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.x509 import ocsp as wire

from deliver import stapling
from deliver.cli import outrider
from deliver.tls.ocsp import Result as Judged, Status
from tests.unit.tls.certificates import DAY, Issued, Wish, issue
from tests.unit.tls.responder import Answer, refusal, respond

NOW = datetime.now(UTC).timestamp()
VALID = {"not_before": NOW - DAY, "not_after": NOW + DAY}
CA = issue(Wish("CA", authority=True, **VALID))  # type: ignore[arg-type]
SERVER = issue(Wish("server", **VALID), CA)  # type: ignore[arg-type]


def answer(status: wire.OCSPCertStatus, certificate: Issued = SERVER) -> bytes:
    return respond(Answer(certificate, status, this_update=NOW - 60, next_update=NOW + 3600))


GOOD = answer(wire.OCSPCertStatus.GOOD)


class Responder(HTTPServer):
    """Answers every request with `says`; keeps the last request."""

    says: bytes | int = GOOD
    asked: bytes = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/ocsp"


class Handler(BaseHTTPRequestHandler):
    server: Responder

    def do_POST(self) -> None:
        self.server.asked = self.rfile.read(int(self.headers["Content-Length"]))
        says = self.server.says
        self.send_response(says if isinstance(says, int) else 200)
        self.end_headers()
        if isinstance(says, bytes):
            self.wfile.write(says)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def responder() -> Iterator[Responder]:
    with Responder(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(directory: Path, *words: str) -> Result:
    (directory / "mail.pem").write_bytes(SERVER.pem + CA.pem)
    return CliRunner().invoke(
        outrider, ["ocsp", "fetch", str(directory / "mail.pem"), "--output", str(directory / "o"), *words]
    )


def test_a_good_response_is_written(responder: Responder, tmp_path: Path) -> None:
    ran = fetch(tmp_path, "--url", responder.url)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "o").read_bytes() == GOOD
    assert (tmp_path / "o").stat().st_mode & 0o777 == 0o644
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mail.pem", "o"]
    asked = wire.load_der_ocsp_request(responder.asked)
    assert asked.serial_number == SERVER.certificate.serial_number
    assert "good, until" in ran.stdout


@pytest.mark.parametrize(
    "says",
    [
        answer(wire.OCSPCertStatus.REVOKED),
        answer(wire.OCSPCertStatus.UNKNOWN),
        answer(wire.OCSPCertStatus.GOOD, issue(Wish("other", **VALID), CA)),  # type: ignore[arg-type]
        refusal(wire.OCSPResponseStatus.TRY_LATER),
        b"garbage",
        b"",
        bytes(200_000),
        404,
    ],
)
def test_anything_else_leaves_the_file_alone(responder: Responder, tmp_path: Path, says: bytes | int) -> None:
    (tmp_path / "o").write_bytes(b"old")
    responder.says = says
    ran = fetch(tmp_path, "--url", responder.url)
    assert ran.exit_code == 69
    assert "fetching from" in ran.stderr
    assert (tmp_path / "o").read_bytes() == b"old"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:1/"])
def test_urls_that_are_no_responder(tmp_path: Path, url: str) -> None:
    assert fetch(tmp_path, "--url", url).exit_code == 69


def test_a_certificate_that_names_no_responder(tmp_path: Path) -> None:
    ran = fetch(tmp_path)
    assert ran.exit_code == 64
    assert "--url" in ran.stderr


def test_a_directory_that_is_not_there(responder: Responder, tmp_path: Path) -> None:
    (tmp_path / "mail.pem").write_bytes(SERVER.pem + CA.pem)
    words = ["--output", "/nowhere/o", "--url", responder.url]
    ran = CliRunner().invoke(outrider, ["ocsp", "fetch", str(tmp_path / "mail.pem"), *words])
    assert ran.exit_code == 64


def test_it_is_fetched_again_when_half_of_the_time_is_over() -> None:
    def until(seconds: float) -> float:
        return stapling.next_time(Judged(Status.GOOD, "", 0.0, 1000.0 + seconds), 1000.0)

    assert until(7200.0) == 3600.0
    assert until(10.0) == stapling.RETRY
    assert until(30 * DAY) == DAY
