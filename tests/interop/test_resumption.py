"""Sessions of real servers, kept by one process and resumed by the next: Exim with GnuTLS, Postfix with OpenSSL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.internet.pki import Credentials
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.test_delivery import Send, credentials, domain, send

__all__ = ["send"]

_EXIM = {"TLSv1.2": "tls_require_ciphers = NORMAL:-VERS-TLS1.3\n", "TLSv1.3": ""}
_POSTFIX = {"TLSv1.2": "smtpd_tls_protocols = TLSv1.2\n", "TLSv1.3": ""}


@dataclass(frozen=True, slots=True)
class Place:
    """A server of one TLS version, which resumes if `resuming`."""

    program: str
    version: str
    exim: Factory[EximConfig, Exim]
    postfix: Factory[PostfixConfig, Postfix]

    def start(self, own: Credentials, *, resuming: bool = True) -> Exim | Postfix:
        pem = {"certificate": own.chain_pem, "key": own.private_key_pem}
        if self.program == "exim":
            main = "tls_resumption_hosts = *\n" if resuming else ""
            return self.exim(**pem, main=main + _EXIM[self.version])
        main = "" if resuming else "smtpd_tls_session_cache_timeout = 0\n"
        return self.postfix(**pem, main=main + _POSTFIX[self.version])


@pytest.fixture(params=[(who, version) for who in ("exim", "postfix") for version in ("TLSv1.2", "TLSv1.3")])
def place(
    request: pytest.FixtureRequest, exim: Factory[EximConfig, Exim], postfix: Factory[PostfixConfig, Postfix]
) -> Place:
    return Place(*request.param, exim, postfix)


def tls_of(sent: Any) -> dict[str, Any]:
    assert sent.status == 0, sent.stderr
    (result,) = sent.results
    assert result["outcome"] == "delivered"
    return dict(result["tls"])


def test_the_next_process_resumes_what_dane_judges_well_again(place: Place, send: Send) -> None:
    name = f"resume-{place.program}-{place.version[-1]}.test"
    own = credentials(name)
    server = place.start(own)
    there = [domain(name, server, own.tlsa(2, 1, 1, place=1))]
    facts = [tls_of(send(there, server.port, f"a{number}@{name}")) for number in range(3)]
    # A ticket of TLS 1.3 is used once (RFC 8446 C.4), and Postfix gives no new one on a resumed connection.
    renewed = (place.program, place.version) != ("postfix", "TLSv1.3")
    assert [each["resumed"] for each in facts] == [False, True, renewed]
    assert {each["version"] for each in facts} == {place.version}
    assert {each["verified_by"] for each in facts} == {"dane-ta"}
    assert all(each["resumption"] & 2 for each in facts)
    assert facts[0]["resumption"] & 8  # the server issued a ticket
    assert facts[1]["resumption"] & 20 == 20  # offered and used
    for number in range(3):
        assert len(server.mailbox.to(f"a{number}@{name}")) == 1


def test_a_rollover_ends_the_session_and_a_wrong_certificate_is_not_rescued(place: Place, send: Send) -> None:
    """The kept session rests on a key that TLSA does not name any more: nothing is offered, nothing is sent."""
    name = f"rollover-{place.program}-{place.version[-1]}.test"
    own = credentials(name)
    server = place.start(own)
    assert not tls_of(send([domain(name, server, own.tlsa(3, 1, 1))], server.port, f"one@{name}"))["resumed"]
    late = send([domain(name, server, f"3 1 1 {'5a' * 32}")], server.port, f"two@{name}")
    assert late.status == 75
    assert {"session-not-offered", "tlsa-mismatch"} <= set(late.codes)
    assert f"two@{name}" not in server.log()


def test_a_server_that_forgot_the_session_gets_a_full_handshake(place: Place, send: Send) -> None:
    """Another server behind the same name: offered, not taken, delivered all the same."""
    name = f"forgot-{place.program}-{place.version[-1]}.test"
    own = credentials(name)
    first, second = place.start(own), place.start(own, resuming=False)
    records = own.tlsa(2, 1, 1, place=1)
    tls_of(send([domain(name, first, records)], first.port, f"one@{name}"))
    facts = tls_of(send([domain(name, second, records)], second.port, f"two@{name}"))
    assert not facts["resumed"]
    assert facts["verified_by"] == "dane-ta"
    assert facts["resumption"] & 4  # it was offered
    assert len(second.mailbox.to(f"two@{name}")) == 1


def test_resumption_goes_with_early_commands(exim: Factory[EximConfig, Exim], send: Send) -> None:
    """PIPECONNECT: the last EHLO leaves with the first transaction, and the ticket comes behind its answer."""
    name = "resume-early.test"
    own = credentials(name)
    server = exim(
        certificate=own.chain_pem,
        key=own.private_key_pem,
        pipeconnect=True,
        main="tls_resumption_hosts = *\n",
    )
    there = [domain(name, server, own.tlsa(2, 1, 1, place=1))]
    sent = [send(there, server.port, f"a{number}@{name}") for number in range(4)]
    assert [tls_of(each)["resumed"] for each in sent] == [False, True, True, True]
    trips = [each.results[0]["round_trips"] for each in sent]
    assert trips[3] < trips[0]
    for number in range(4):
        assert len(server.mailbox.to(f"a{number}@{name}")) == 1
