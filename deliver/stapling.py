"""Fetching the OCSP response about one's own certificate, for a server's staple file (RFC 6960 A.1).

The response is judged by the code that judges the staples of others (`deliver.tls.ocsp`); only a good one
replaces the file, by a rename, so that a server never reads half of one. No nonce is sent: a staple has none.
The request is HTTP POST in a thread; the answer is bounded by `ocsp.MAX_RESPONSE`, redirects are followed by
the standard library only to http and https.
"""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as wire
from cryptography.x509.oid import AuthorityInformationAccessOID

from deliver.errors import PeerError, UsageError
from deliver.tls import ocsp
from deliver.tls.certificate import looking, parse

PATIENCE = 30.0  # seconds for one request
RETRY = 300.0  # seconds until the next try after a failure
LONGEST_WAIT = 86400.0


class FetchFailed(PeerError):
    """No response that can be stapled."""

    exit_status = 69


@dataclass(frozen=True, slots=True)
class Order:
    """Certificates in DER, the responder's URL, and where its answer goes."""

    certificate: bytes
    issuer: bytes
    url: str
    output: Path


def responder_of(certificate: bytes) -> str | None:
    """The first http(s) OCSP responder that a DER certificate names (RFC 5280 4.2.2.1)."""
    try:
        with looking():
            access = parse(certificate).extensions.get_extension_for_class(x509.AuthorityInformationAccess)
            for each in access.value:
                if each.access_method == AuthorityInformationAccessOID.OCSP and isinstance(
                    each.access_location, x509.UniformResourceIdentifier
                ):
                    return each.access_location.value
    except (ValueError, x509.ExtensionNotFound):
        return None
    return None


async def fetch_and_write(order: Order, now: float) -> ocsp.Result:
    """Fetch, verify at `now`, replace the file. Raises FetchFailed, UsageError: the file is untouched."""
    request = _request(order)
    response = await trio.to_thread.run_sync(_post, order.url, request)
    result = ocsp.check(response, order.certificate, ocsp.Issuer.of(order.issuer), now)
    if result.status is not ocsp.Status.GOOD:
        raise FetchFailed(f"fetching from {order.url}", f"the response is {result.status}: {result.why}")
    await trio.to_thread.run_sync(replace_file, order.output, response)
    return result


def next_time(result: ocsp.Result, now: float) -> float:
    """Seconds until the response should be fetched again: half of what is left of it, at most a day."""
    left = (result.until or now) - now
    return min(max(left / 2, RETRY), LONGEST_WAIT)


def replace_file(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename over it. Raises UsageError."""
    name = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        raise UsageError(
            f"writing {path}", error.strerror or str(error), "choose another --output"
        ) from error


def _request(order: Order) -> bytes:
    try:
        with looking():
            builder = wire.OCSPRequestBuilder().add_certificate(
                parse(order.certificate),
                parse(order.issuer),
                hashes.SHA1(),  # noqa: S303  what responders know
            )
            return builder.build().public_bytes(Encoding.DER)
    except ValueError as error:
        raise UsageError("asking about the certificate", str(error), "give certificates") from None


def _post(url: str, body: bytes) -> bytes:
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchFailed(f"fetching from {url[:80]}", "it is no http or https URL")
    request = urllib.request.Request(url, body, {"Content-Type": "application/ocsp-request"})  # noqa: S310 (the scheme was looked at)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 (the scheme was looked at)
            response: bytes = answer.read(ocsp.MAX_RESPONSE + 1)
            return response
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise FetchFailed(f"fetching from {url[:200]}", str(why)) from error
