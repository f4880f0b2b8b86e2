"""Sessions of real servers, kept by one process and resumed by the next: Exim with GnuTLS, Postfix with OpenSSL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from deliver.outcome import Resumption
from tests.internet.pki import Credentials
from tests.interop.peers.exim import Exim, EximConfig
from tests.interop.peers.factory import Factory
from tests.interop.peers.postfix import Postfix, PostfixConfig
from tests.interop.sending import Send, credentials, domain

TRIES = 8

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


def several(once: Callable[[int], Any], enough: Callable[[list[Any]], bool]) -> list[Any]:
    """What each delivery led to, until it is enough: hints that are late on a busy machine are no hints."""
    found: list[Any] = []
    while len(found) < TRIES and not (found and enough(found)):
        found.append(once(len(found)))
    return found


def offered(facts: dict[str, Any]) -> bool:
    return bool(facts["resumption"] & Resumption.OFFERED)


def test_the_next_process_resumes_what_dane_judges_well_again(place: Place, send: Send) -> None:
    """A ticket of TLS 1.3 is used once (RFC 8446 C.4), and Postfix gives no new one on a resumed connection."""
    name = f"resume-{place.program}-{place.version[-1]}.test"
    own = credentials(name)
    server = place.start(own)
    there = [domain(name, server, own.tlsa(2, 1, 1, place=1))]
    facts = several(
        lambda number: tls_of(send(there, server.port, f"a{number}@{name}")),
        lambda seen: sum(each["resumed"] for each in seen) == 2,
    )
    assert not offered(facts[0])
    assert [each["resumed"] for each in facts] == [offered(each) for each in facts]
    assert sum(each["resumed"] for each in facts) == 2
    assert {each["version"] for each in facts} == {place.version}
    assert {each["verified_by"] for each in facts} == {"dane-ta"}
    assert facts[0]["resumption"] == 1 | 2 | 8  # the server issued a ticket
    for number in range(len(facts)):
        assert len(server.mailbox.to(f"a{number}@{name}")) == 1


@pytest.mark.parametrize("place", [("exim", "TLSv1.2"), ("postfix", "TLSv1.3")], indirect=True)
def test_a_rollover_ends_the_session_and_a_wrong_certificate_is_not_rescued(place: Place, send: Send) -> None:
    """The kept session rests on a key that TLSA does not name any more: nothing is offered, nothing is sent."""
    name = f"rollover-{place.program}-{place.version[-1]}.test"
    own = credentials(name)
    server = place.start(own)
    assert not tls_of(send([domain(name, server, own.tlsa(3, 1, 1))], server.port, f"one@{name}"))["resumed"]
    late = several(
        lambda number: send([domain(name, server, f"3 1 1 {'5a' * 32}")], server.port, f"two@{name}"),
        lambda seen: "session-not-offered" in seen[-1].codes,
    )
    assert "session-not-offered" in late[-1].codes
    for each in late:
        assert each.status == 75
        assert "tlsa-mismatch" in each.codes
    assert f"two@{name}" not in server.log()


@pytest.mark.parametrize("place", [("exim", "TLSv1.2"), ("postfix", "TLSv1.3")], indirect=True)
def test_a_server_that_forgot_the_session_gets_a_full_handshake(place: Place, send: Send) -> None:
    """Another server behind the same name: offered, not taken, delivered all the same."""
    name = f"forgot-{place.program}-{place.version[-1]}.test"
    own = credentials(name)
    first, second = place.start(own), place.start(own, resuming=False)
    records = own.tlsa(2, 1, 1, place=1)
    tls_of(send([domain(name, first, records)], first.port, f"one@{name}"))
    facts = several(
        lambda number: tls_of(send([domain(name, second, records)], second.port, f"two{number}@{name}")),
        lambda seen: offered(seen[-1]),
    )
    assert offered(facts[-1])
    assert not any(each["resumed"] for each in facts)
    assert {each["verified_by"] for each in facts} == {"dane-ta"}
    for number in range(len(facts)):
        assert len(second.mailbox.to(f"two{number}@{name}")) == 1


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
    results: list[dict[str, Any]] = []

    def once(number: int) -> dict[str, Any]:
        sent = send(there, server.port, f"a{number}@{name}")
        results.append(sent.results[0])
        return tls_of(sent)

    def early_and_resumed(seen: list[Any]) -> bool:
        fewer = results[-1]["round_trips"] < results[0]["round_trips"] - 1
        return fewer and sum(each["resumed"] for each in seen) >= 2 and bool(seen[-1]["resumed"])

    facts = several(once, early_and_resumed)
    assert early_and_resumed(facts), [result["round_trips"] for result in results]
    for number in range(len(facts)):
        assert len(server.mailbox.to(f"a{number}@{name}")) == 1
