"""What RFC 7671, 7672, 6960, 6066, 7633 and 9525 demand of a client, one row per requirement.

A row is the section, the requirement in our words and a check that holds only if it is met. Requirements of
servers, of responders and of zone owners are not ours; those on DNS answers stand in `test_policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp as made

from deliver.resolve.answer import TlsaRecord
from deliver.resolve.mx import HostPlan, MxPlan, MxTarget
from deliver.resolve.tlsa import TlsaFailed, TlsaRecords, classify
from deliver.tls import dane, names, ocsp
from deliver.tls.context import context_for
from deliver.tls.engine import TlsEngine
from deliver.tls.judge import judge
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, Demands, Level, Refuse, TlsPolicy, decide
from deliver.tls.verdict import Handshake, TlsVerdict
from tests.unit.tls.certificates import DAY, NOW, Wish, build_house, issue
from tests.unit.tls.peers import MAY
from tests.unit.tls.responder import Answer, delegate, refusal, respond

NAME = "mx.example.org"
HOUSE = build_house()
SERVER, MIDDLE, ROOT, STRANGER = HOUSE.server, HOUSE.intermediate, HOUSE.root, HOUSE.stranger
ROOTS = TrustStore.from_pem(ROOT.pem, "root")
BY = ocsp.Issuer.of(MIDDLE.der)
OLD = issue(Wish("old", dns_names=("elsewhere.example",), not_after=NOW - DAY), MIDDLE)
STRICT = issue(Wish("strict", dns_names=(NAME,), must_staple=True), MIDDLE)
NAMELESS = issue(Wish(NAME), MIDDLE)
BOTH_NAMES = issue(Wish(NAME, dns_names=("other.example",)), MIDDLE)


def fits(*records: TlsaRecord, chain: tuple[bytes, ...] = HOUSE.full_chain, now: float = NOW) -> bool:
    return dane.verify(chain, records, (NAME,), now).ok


def usable(*records: TlsaRecord) -> tuple[TlsaRecord, ...]:
    return classify(NAME, records).usable


def policy(*records: TlsaRecord, secure: bool = True, level: Level = Level.DANE) -> TlsPolicy | Refuse:
    plan = MxPlan("example.org", (MxTarget(NAME),), secure, False, ("example.org", "example.com"))
    return decide(level, plan, HostPlan(NAME, ("192.0.2.1",), True, classify("base.example.net", records)))


def judged(demanded: TlsPolicy, staple: bytes | None, server: bytes = SERVER.der) -> TlsVerdict:
    shown = Handshake("TLSv1.3", "", None, (server, *HOUSE.full_chain[1:]), staple=staple)
    return judge(demanded, shown, NOW, ROOTS)


def by_pkix(**demands: object) -> TlsPolicy:
    return TlsPolicy(
        Level.VERIFY,
        True,
        True,
        Authentication.PKIX,
        NAME,
        (NAME,),
        demands=Demands(**demands),  # type: ignore[arg-type]
    )


def by_dane(*records: TlsaRecord) -> TlsPolicy:
    return TlsPolicy(Level.DANE, True, True, Authentication.DANE, NAME, (NAME,), records)


def status(answer: Answer, now: float = NOW) -> str:
    return ocsp.check(respond(answer), SERVER.der, BY, now).status


def hello(*, request_staple: bool = False) -> bytes:
    engine = TlsEngine(context_for(MAY), NAME, request_staple=request_staple)
    engine.handshake()
    return engine.outgoing()


def in_hello(extension: int, data: bytes) -> bool:
    return extension.to_bytes(2) + len(data).to_bytes(2) + data in hello(request_staple=True)


GOOD = Answer(SERVER)
STATUS_REQUEST = bytes.fromhex("0100000000")  # ocsp, no responder ids, no extensions
EE, TA = SERVER.tlsa(3, 1, 1), ROOT.tlsa(2, 0, 1)

ROWS: tuple[tuple[str, str, Callable[[], bool]], ...] = (
    # --- DANE
    ("RFC 7671 4.1", "records of unknown usage, selector or matching type are unusable, the rest count",
     lambda: usable(EE, replace(EE, usage=7), replace(EE, selector=9), replace(EE, matching_type=9)) == (EE,)),
    ("RFC 7671 4.1", "a digest of the wrong length is unusable", lambda: usable(replace(EE, data=b"\1" * 31)) == ()),
    ("RFC 7671 5.1", "DANE-EE: expiry is ignored", lambda: fits(OLD.tlsa(3, 1, 1), chain=(OLD.der,))),
    ("RFC 7671 5.1", "DANE-EE: names are ignored", lambda: fits(STRANGER.tlsa(3, 0, 1), chain=(STRANGER.der,))),
    ("RFC 7671 5.1", "DANE-EE matches the server's own certificate only", lambda: not fits(ROOT.tlsa(3, 0, 1))),
    ("RFC 7671 5.2", "DANE-TA: the chain up to the anchor must be valid in time",
     lambda: not fits(TA, chain=(OLD.der, MIDDLE.der, ROOT.der))),
    ("RFC 7671 5.2.2", "DANE-TA digest: the anchor must have been presented", lambda: not fits(TA, chain=HOUSE.chain)),
    ("RFC 7671 5.2", "DANE-TA `2 0 0`: the anchor may be absent from the wire",
     lambda: fits(ROOT.tlsa(2, 0, 0), chain=HOUSE.chain)),
    ("RFC 7671 5.2.2", "the anchor need not be self-signed", lambda: fits(MIDDLE.tlsa(2, 0, 1), chain=HOUSE.chain)),
    ("RFC 7671 5.2.3", "`2 1 0`: a bare key is an anchor", lambda: fits(ROOT.tlsa(2, 1, 0), chain=HOUSE.chain)),
    ("RFC 7671 8", "any one matching record is enough", lambda: fits(STRANGER.tlsa(3, 1, 1), EE)),
    ("RFC 7671 9", "digest agility: of one usage and selector the strongest digest counts",
     lambda: usable(EE, SERVER.tlsa(3, 1, 2)) == (SERVER.tlsa(3, 1, 2),)),
    ("RFC 7672 2.2", "usable records: TLS is required and authenticated by DANE",
     lambda: isinstance(found := policy(EE), TlsPolicy) and found.required and found.authentication == "dane"),
    ("RFC 7672 2.2", "records but none usable: TLS is required", lambda: isinstance(
        found := policy(replace(EE, usage=1)), TlsPolicy) and found.required and found.authentication == "none"),
    ("RFC 7672 2.1.2", "a failed TLSA lookup makes the host unusable", lambda: isinstance(decide(
        Level.DANE, MxPlan("example.org", (MxTarget(NAME),), True),
        HostPlan(NAME, (), True, TlsaFailed("bogus"))), Refuse)),
    ("RFC 7672 2.2", "a mismatch is refused, whatever the public authorities say",
     lambda: not judged(by_dane(STRANGER.tlsa(3, 1, 1)), None).ok),
    ("RFC 7672 3.1.3", "usages 0 and 1 are unusable",
     lambda: usable(replace(EE, usage=0), replace(EE, usage=1)) == ()),
    ("RFC 7672 3.2.2", "DANE-TA: names are checked", lambda: not fits(
        TA, chain=(issue(Wish("x", dns_names=("other.example",)), MIDDLE).der, MIDDLE.der, ROOT.der))),
    ("RFC 7672 3.2.2", "references: base domain; with a secure MX the next-hop names too", lambda: isinstance(
        found := policy(TA), TlsPolicy) and found.names == ("base.example.net", "example.org", "example.com")),
    ("RFC 7672 3.2.2", "with an insecure MX the base domain alone", lambda: isinstance(
        found := policy(TA, secure=False), TlsPolicy) and found.names == ("base.example.net",)),
    ("RFC 7672 3.2.2", "a common name counts where there is no dNSName",
     lambda: fits(TA, chain=(NAMELESS.der, MIDDLE.der, ROOT.der))),
    ("RFC 7672 3.2.2", "and only there", lambda: not fits(TA, chain=(BOTH_NAMES.der, MIDDLE.der, ROOT.der))),
    ("RFC 7672 8.1", "SNI is the TLSA base domain",
     lambda: isinstance(found := policy(EE), TlsPolicy) and found.sni == "base.example.net"),
    ("RFC 7672 8.2", "no anonymous cipher where authentication is wanted",
     lambda: not [name for name in _ciphers() if "ADH" in name or "AECDH" in name or "NULL" in name]),
    # --- OCSP
    ("RFC 6960 3.2 (1)", "the certificate in the response is the one in question",
     lambda: status(replace(GOOD, certificate=STRICT)) == "invalid"),
    ("RFC 6960 4.1.1", "the issuer's name and key are compared, with the digest that the response names",
     lambda: status(replace(GOOD, id_digest=hashes.SHA256())) == "good"
     and status(replace(GOOD, name_hash=bytes(20))) == "invalid"),
    ("RFC 6960 3.2 (2)", "the signature is valid", lambda: ocsp.check(
        respond(GOOD)[:-1] + b"\0", SERVER.der, BY, NOW).status == "invalid"),
    ("RFC 6960 3.2 (3)", "the signer is the one that the response names", lambda: status(replace(
        GOOD, signer=(signer := delegate(MIDDLE)), named=issue(Wish("else", key=signer.key)),
        named_by=made.OCSPResponderEncoding.NAME)) == "invalid"),
    ("RFC 6960 4.2.2.2", "a delegate was issued by the issuer itself",
     lambda: status(replace(GOOD, signer=delegate(ROOT))) == "invalid"),
    ("RFC 6960 4.2.2.2", "a delegate has id-kp-OCSPSigning",
     lambda: status(replace(GOOD, signer=delegate(MIDDLE, purpose=None))) == "invalid"),
    ("RFC 6960 4.2.2.2", "and then signs for the issuer",
     lambda: status(replace(GOOD, signer=delegate(MIDDLE))) == "good"),
    ("RFC 6960 3.2 (5)", "thisUpdate is recent: not in the future",
     lambda: status(replace(GOOD, this_update=NOW + 301)) == "invalid"),
    ("RFC 6960 3.2 (6)", "nextUpdate is not past", lambda: status(GOOD, NOW + DAY) == "invalid"),
    ("RFC 6960 2.3", "an error is no answer", lambda: ocsp.check(
        refusal(made.OCSPResponseStatus.TRY_LATER), SERVER.der, BY, NOW).status == "invalid"),
    ("RFC 6960 2.2", "revoked is not acceptable",
     lambda: not judged(by_pkix(), respond(replace(GOOD, status=made.OCSPCertStatus.REVOKED))).ok),
    ("RFC 6066 8", "status_request asks for OCSP, any responder", lambda: in_hello(5, STATUS_REQUEST)),
    ("RFC 6066 8", "without asking there is no extension", lambda: STATUS_REQUEST not in hello()),
    ("RFC 6066 8", "a staple that cannot be relied on is not relied on",
     lambda: not judged(by_pkix(require_ocsp=True), b"garbage").ok),
    ("RFC 6066 3", "SNI carries the name without a trailing dot, as ASCII",
     lambda: NAME.encode() in hello() and (NAME + ".").encode() not in hello()),
    ("RFC 7633 4.3.3", "a certificate that demands a staple is invalid without one",
     lambda: not judged(by_pkix(), None, STRICT.der).ok),
    ("RFC 7633 4.3.3", "where the client did not ask, the server need not answer",
     lambda: judged(by_pkix(request_ocsp=False), None, STRICT.der).ok),
    ("RFC 7633 4.3.3", "and valid with one", lambda: judged(by_pkix(), respond(Answer(STRICT)), STRICT.der).ok),
    ("RFC 7671 5.1", "DANE-EE: neither revocation nor must-staple count", lambda: judged(
        by_dane(STRICT.tlsa(3, 1, 1), STRANGER.tlsa(2, 0, 1)), None, STRICT.der).ok),
    # --- names
    ("RFC 9525 2", "the common name is not used", lambda: isinstance(
        names.check(NAMELESS.der, (NAME,), common_name=False), names.NameMismatch)),
    ("RFC 9525 6.3", "case does not matter", lambda: names.matches("MX.Example.ORG", NAME)),
    ("RFC 9525 6.3", "a wildcard is the whole left-most label",
     lambda: names.matches("*.example.org", NAME) and not names.matches("m*.example.org", NAME)),
    ("RFC 9525 6.3", "and only there", lambda: not names.matches("mx.*.org", NAME)),
    ("RFC 9525 6.3", "it stands for one label", lambda: not names.matches("*.org", NAME)
     and not names.matches("*.example.org", "a.mx.example.org") and not names.matches("*.example.org", "example.org")),
    ("RFC 9525 6.3", "names are compared as A-labels", lambda: names.matches("xn--mnchen-3ya.example", "xn--mnchen-3ya.example")
     and not names.matches("münchen.example", "münchen.example")),
    ("RFC 9525 6.1", "any one reference identifier is enough",
     lambda: isinstance(names.check(SERVER.der, ("other.example", NAME), common_name=False), names.NameMatch)),
    ("RFC 9525 6.6", "no match: the connection is not used",
     lambda: not judged(by_pkix(), None, BOTH_NAMES.der).ok),
)  # fmt: skip


def _ciphers() -> list[str]:
    from OpenSSL import SSL

    return SSL.Connection(context_for(MAY), None).get_cipher_list()


@pytest.mark.parametrize(
    ("section", "requirement", "holds"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS]
)
def test_requirement(section: str, requirement: str, holds: Callable[[], bool]) -> None:
    assert holds(), f"{section}: {requirement}"


def test_no_requirement_stands_twice() -> None:
    assert len({row[:2] for row in ROWS}) == len(ROWS)
    assert isinstance(classify(NAME, (EE,)), TlsaRecords)
