"""Staples of a real Exim (`tls_ocsp_file`), about several certificates each: demanded, missing, resumed.

A staple that says "revoked" is not among them: Exim with GnuTLS refuses to load one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.ocsp import OCSPCertStatus

from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.sending import Send, domain
from tests.interop.test_resumption import several
from tests.unit.tls.certificates import DAY, Wish, issue
from tests.unit.tls.responder import respond_together

_NUMBER = itertools.count()


class Stapler:
    """An Exim of its own that staples a status."""

    def __init__(
        self,
        exim: Factory[EximConfig, Exim],
        scratch: Path,
        tmp_path: Path,
        send: Send,
        status: OCSPCertStatus = OCSPCertStatus.GOOD,
    ) -> None:
        self.name = f"staple{next(_NUMBER)}.test"
        now = datetime.now(UTC).timestamp()
        around: dict[str, Any] = {"not_before": now - DAY, "not_after": now + DAY}
        self.ca = issue(Wish("CA", authority=True, **around))
        self.own = issue(Wish("own", dns_names=(f"mx.{self.name}",), **around), self.ca)
        self.other = issue(Wish("other", dns_names=("other.test",), **around), self.ca)
        self._work, self._send = tmp_path, send
        self._trusted = tmp_path / "ca.pem"
        self._trusted.write_bytes(self.ca.pem)
        self.file = scratch / f"{self.name}.ocsp"
        self._staple(status)
        self.server = exim(
            certificate=self.own.pem + self.ca.pem,
            key=self.own.key_pem,
            main=f"tls_ocsp_file = {self.file}\ntls_resumption_hosts = *\n",
        )

    def _staple(self, status: OCSPCertStatus) -> None:
        """The contrary is said of another certificate; GnuTLS wants the server's own first."""
        other = OCSPCertStatus.GOOD if status is OCSPCertStatus.REVOKED else OCSPCertStatus.REVOKED
        answers = {self.own: status, self.other: other}
        draft = self.file.with_suffix(".new")
        draft.write_bytes(respond_together(self._work, answers))
        draft.chmod(0o644)
        draft.rename(self.file)

    def deliver(self, who: str, *, tlsa: tuple[str, ...] = (), **tls: Any) -> Any:
        options = {"level": "verify", "trust_store": str(self._trusted), **tls}
        words = tuple(
            f"tls.{key}={str(value).lower() if value is True else value}" for key, value in options.items()
        )
        there = domain(self.name, self.server, *tlsa)
        return self._send([there], self.server.port, f"{who}@{self.name}", options=words)


Start = Callable[..., Stapler]


@pytest.fixture
def start(exim: Factory[EximConfig, Exim], scratch: Path, tmp_path: Path, send: Send) -> Start:
    return partial(Stapler, exim, scratch, tmp_path, send)


def tls_of(sent: Any) -> dict[str, Any]:
    assert sent.status == 0, sent.stderr
    return dict(sent.results[0]["tls"])


def test_a_required_staple_is_there_and_serves_the_resumed_session(start: Start) -> None:
    stapler = start()
    facts = several(
        lambda number: tls_of(stapler.deliver(f"a{number}", require_ocsp=True)),
        lambda seen: seen[-1]["resumed"],
    )
    assert facts[-1]["resumed"]
    assert not facts[0]["resumed"]
    assert {each["ocsp"] for each in facts} == {"good"}
    assert {each["verified_by"] for each in facts} == {"pkix"}


def test_what_the_responder_does_not_know_will_do_unless_a_staple_is_required(start: Start) -> None:
    stapler = start(OCSPCertStatus.UNKNOWN)
    assert tls_of(stapler.deliver("one"))["ocsp"] == "unknown"
    sent = stapler.deliver("two", require_ocsp=True)
    assert sent.status == 75
    assert "ocsp-required" in sent.codes
    assert f"two@{stapler.name}" not in stapler.server.log()
