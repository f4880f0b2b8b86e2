"""Our judgements beside those of `openssl verify` and `openssl ocsp`, on every combination of a few properties.

Each case is one certificate chain, or one OCSP response, at one time. Where the two disagree the table
DIFFERENCES must say why; a difference that it names and that is not there is an error as well.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest
from cryptography.x509 import ocsp as made

from deliver.tls import dane, ocsp, pkix
from deliver.tls.pkix import TrustStore
from tests.unit.tls.certificates import CLIENT_ONLY, DAY, SERVER, Issued, Wish, issue, new_key
from tests.unit.tls.responder import Answer, delegate, respond

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl command")

NOW = float(int(datetime.now(UTC).timestamp()))  # `openssl ocsp` looks at the clock
NAME = "mx.example.org"
DAYS = {"now": 0.0, "before": -40 * DAY, "after": 40 * DAY}

# Why, for which cases, and what we do in contrast to openssl.
DIFFERENCES: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    (
        "RFC 9525 2: a common name is no name of a server; openssl takes it where there is no dNSName",
        lambda label: label.startswith("pkix common-name"),
        "we refuse",
    ),
    (
        "RFC 9525 6.3: a wildcard is a whole label; openssl takes a part of one",
        lambda label: label.split()[1] == "inner-wildcard",
        "we refuse",
    ),
    (
        "RFC 6960 4.2.2.1: without nextUpdate newer information is always to be had; openssl believes it for ever",
        lambda label: label.startswith("ocsp") and label.endswith("endless-old"),
        "we refuse",
    ),
)


@dataclass(frozen=True)
class Case:
    """`ours` judges in Python, `theirs` is the command of openssl and what it says if it accepts."""

    label: str
    ours: bool
    command: tuple[str, ...]
    accepted: Callable[[str], bool]


@dataclass(frozen=True)
class Written:
    """Certificates and responses as files."""

    directory: Path

    def file(self, label: str, *content: bytes) -> str:
        path = self.directory / label.replace(" ", "_")
        path.write_bytes(b"".join(content))
        return str(path)


def wish(name: str, **changes: object) -> Wish:
    plain = Wish(name, not_before=NOW - 30 * DAY, not_after=NOW + 30 * DAY)
    return replace(plain, **changes)  # type: ignore[arg-type]


ROOT = issue(wish("Root", authority=True))
STRANGER = issue(wish("Stranger", authority=True))
LEAVES: dict[str, dict[str, object]] = {
    "plain": {"dns_names": (NAME,)},
    "wildcard": {"dns_names": ("*.example.org",)},
    "inner-wildcard": {"dns_names": ("m*.example.org",)},
    "two-names": {"dns_names": ("other.example", "MX.Example.ORG")},
    "wrong-name": {"dns_names": ("other.example",)},
    "common-name": {"common_name": NAME},
    "client-only": {"dns_names": (NAME,), "purpose": CLIENT_ONLY},
    "server": {"dns_names": (NAME,), "purpose": SERVER},
    "short-lived": {"dns_names": (NAME,), "not_after": NOW - DAY},
    "authority": {"dns_names": (NAME,), "authority": True},
}
MIDDLES: dict[str, dict[str, object] | None] = {
    "plain": {"authority": True},
    "no-authority": {},
    "expired": {"authority": True, "not_after": NOW - DAY},
    "constrained": {"authority": True, "permitted": ("other.example",)},
    "fitting": {"authority": True, "permitted": ("example.org",)},
    "for-clients": {"authority": True, "purpose": CLIENT_ONLY},
    "missing": None,
}


def chains(written: Written) -> Iterator[Case]:
    """PKIX with the root trusted, and DANE-TA with the intermediate as anchor."""
    roots = TrustStore.from_pem(ROOT.pem, "root")
    trusted = written.file("root.pem", ROOT.pem)
    for (kind, leaf_wish), (above, middle_wish) in product(LEAVES.items(), MIDDLES.items()):
        middle = issue(wish("Middle", **({"authority": True} if middle_wish is None else middle_wish)), ROOT)
        leaf = issue(replace(wish("leaf"), **leaf_wish), middle)  # type: ignore[arg-type]
        others = () if middle_wish is None else (STRANGER, middle)
        leaf_file = written.file(f"{kind}-{above}.pem", leaf.pem)
        others_file = written.file(
            f"{kind}-{above}-others.pem", *(each.pem for each in (STRANGER, middle)[: len(others)])
        )
        untrusted = ("-untrusted", others_file) if others else ()
        presented = (leaf.der, *(each.der for each in others))
        for when, shift in DAYS.items():
            at = NOW + shift
            judged = ("verify", "-attime", str(int(at)), "-purpose", "sslserver", "-verify_hostname", NAME)
            yield Case(
                f"pkix {kind} {above} {when}",
                pkix.verify(presented, roots, (NAME,), at).ok,
                (*judged, "-CAfile", trusted, *untrusted, leaf_file),
                lambda said: said.rstrip().endswith(": OK"),
            )
            anchor = written.file(f"{kind}-{above}-anchor.pem", middle.pem)
            yield Case(
                f"dane-ta {kind} {above} {when}",
                dane.verify(presented, (middle.tlsa(2, 0, 0),), (NAME,), at).ok,
                (*judged, "-partial_chain", "-trusted", anchor, leaf_file),
                lambda said: said.rstrip().endswith(": OK"),
            )


def responses(written: Written) -> Iterator[Case]:
    """OCSP: signer, time, id and status."""
    leaf, other = issue(wish("leaf"), ROOT), issue(wish("other"), ROOT)
    middle = issue(wish("Middle", authority=True), ROOT)
    period = {"not_before": NOW - 30 * DAY, "not_after": NOW + 30 * DAY}
    signers: dict[str, Issued | None] = {
        "issuer": None,
        "delegate": delegate(ROOT, **period),
        "delegate-server": delegate(ROOT, **{**period, "purpose": SERVER}),
        "delegate-plain": delegate(ROOT, **{**period, "purpose": None}),
        "delegate-expired": delegate(ROOT, not_before=NOW - 30 * DAY, not_after=NOW - DAY),
        "delegate-of-stranger": delegate(STRANGER, **period),
        "delegate-of-middle": delegate(middle, **period),
        "itself": leaf,
        "pretender": replace(issue(wish("Root", authority=True, key=new_key()))),
    }
    times = {
        "current": (NOW - DAY, NOW + DAY),
        "old": (NOW - 2 * DAY, NOW - DAY),
        "future": (NOW + DAY, NOW + 2 * DAY),
        "endless": (NOW - 3600, None),
        "endless-old": (NOW - 20 * DAY, None),
    }
    root, middle_file = written.file("ocsp-root.pem", ROOT.pem), written.file("ocsp-middle.pem", middle.pem)
    certificate = written.file("ocsp-leaf.pem", leaf.pem)
    by = ocsp.Issuer.of(ROOT.der)
    about = {"right": leaf, "other": other}
    for (who, signer), (when, (begin, end)), (which, subject), status in product(
        signers.items(), times.items(), about.items(), made.OCSPCertStatus
    ):
        answer = Answer(subject, status, this_update=begin, next_update=end, signer=signer)
        response = respond(answer)
        label = f"ocsp {who} {which} {status.name.lower()} {when}"
        file = written.file(label, response)
        word = status.name.lower()
        found = ocsp.check(response, leaf.der, by, NOW)
        assert found.status in (ocsp.Status(word), ocsp.Status.INVALID), label
        command = ("ocsp", "-respin", file, "-issuer", root, "-cert", certificate, "-CAfile", root)
        yield Case(
            label,
            found.status is not ocsp.Status.INVALID,
            (*command, "-verify_other", middle_file, "-no_nonce"),
            lambda said, word=word: (  # type: ignore[misc]
                "Response verify OK" in said and f": {word}" in said and "invalid" not in said
            ),
        )


def openssl(case: Case) -> bool:
    assert OPENSSL is not None
    ran = subprocess.run((OPENSSL, *case.command), capture_output=True, text=True, timeout=20, check=False)
    return case.accepted(ran.stdout + ran.stderr)


def explained(label: str, ours: bool) -> str | None:
    """The entry of the table that expects us to differ."""
    said = "we accept" if ours else "we refuse"
    return next((why for why, fits, who in DIFFERENCES if fits(label) and who == said), None)


def test_the_matrix(tmp_path: Path) -> None:
    written = Written(tmp_path)
    cases = [*chains(written), *responses(written)]
    assert len(cases) >= 600
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(openssl, cases))
    differing = [(case, said) for case, said in zip(cases, theirs, strict=True) if case.ours != said]
    unexplained = [
        f"{case.label}: we say {case.ours}, openssl {said}"
        for case, said in differing
        if explained(case.label, case.ours) is None
    ]
    assert not unexplained, "\n".join(unexplained)
    used = {explained(case.label, case.ours) for case, _ in differing}
    assert used == {why for why, _, _ in DIFFERENCES}
    accepted = sum(case.ours for case in cases)
    assert len(cases) // 20 < accepted < len(cases)  # the matrix must not be all of one kind
