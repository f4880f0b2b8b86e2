"""The matrix at random: deeper chains, other keys, any time, many anchors; `make soak` runs it.

Every case is judged three times, with nothing remembered, with the same remembered from another time, and by
`openssl verify`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from deliver.tls import chain, pkix
from deliver.tls.pkix import TrustStore
from tests.conformance.test_tls_matrix import (
    LEAVES,
    MIDDLES,
    NAME,
    NOW,
    OPENSSL,
    ROOT,
    STRANGER,
    Case,
    Written,
    explained,
    openssl,
    wish,
)
from tests.unit.tls.certificates import DAY, Issued, issue, new_key, rsa_key

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(OPENSSL is None, reason="there is no openssl command"),
]

CASES = int(os.environ.get("OUTRIDER_SOAK_CASES", "1500"))
DEPTH = 4  # certificates between the server's and the root


def a_key(random: Random) -> Any:
    return random.choice(
        (new_key, lambda: ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate)
        + ((lambda: rsa_key(2048),) if random.random() < 0.3 else ())
    )()


def dates(random: Random) -> dict[str, float]:
    if random.random() < 0.8:
        return {}
    begin = NOW + random.uniform(-30, 10) * DAY
    return {"not_before": float(int(begin)), "not_after": float(int(begin + random.uniform(1, 30) * DAY))}


def made(random: Random, store: TrustStore, written: Written, trusted: str, number: int) -> Case:
    """A chain of some depth, shuffled, with strangers in it."""
    top: Issued = random.choice((ROOT, ROOT, ROOT, STRANGER))
    above: list[Issued] = []
    for place in range(random.randint(0, DEPTH)):
        changes = dict(random.choice([one for one in MIDDLES.values() if one is not None]))
        if random.random() < 0.7:
            changes = {"authority": True}
        if random.random() < 0.15:
            changes["path_length"] = random.randint(0, 2)
            changes["authority"] = True
        about = replace(wish(f"Middle {place}", **changes), key=a_key(random), **dates(random))
        top = issue(about, top)
        above.append(top)
    kind = random.choice(list(LEAVES))
    digest = random.choice((hashes.SHA256(), hashes.SHA384(), hashes.SHA512()))
    leaf_wish = replace(wish("leaf"), **{"digest": digest, **LEAVES[kind], **dates(random)})  # type: ignore[arg-type]
    leaf = issue(leaf_wish, top)
    if above and random.random() < 0.1:
        above.pop(random.randrange(len(above)))
    others = [*above, *random.sample([STRANGER, ROOT], random.randint(0, 2))]
    random.shuffle(others)
    presented = (leaf.der, *(one.der for one in others))
    at = NOW + random.choice((0.0, random.uniform(-40, 40) * DAY))
    for moment in (NOW, at + random.uniform(-5, 5) * DAY):
        pkix.verify(presented, store, (NAME,), moment)
    remembered = pkix.verify(presented, store, (NAME,), at)
    chain.forget()
    ours = pkix.verify(presented, store, (NAME,), at)
    assert remembered == ours, f"case {number} at {at}: {remembered} remembered, {ours} anew"
    leaf_file = written.file(f"{number}.pem", leaf.pem)
    others_file = written.file(f"{number}-others.pem", *(one.pem for one in others))
    judged = ("verify", "-attime", str(int(at)), "-purpose", "sslserver", "-verify_hostname", NAME)
    return Case(
        f"pkix {kind} random {number}",
        ours.ok,
        (*judged, "-CAfile", trusted, *(("-untrusted", others_file) if others else ()), leaf_file),
        lambda said: said.rstrip().endswith(": OK"),
    )


@pytest.mark.timeout(1800)
def test_the_matrix_at_random(tmp_path: Path) -> None:
    seed = int(os.environ.get("OUTRIDER_SOAK_SEED", "0")) or Random().getrandbits(32)
    random, written = Random(seed), Written(tmp_path)
    anchors = [ROOT, *(issue(wish(f"Anchor {number}", authority=True)) for number in range(20))]
    pem = b"".join(one.pem for one in anchors)
    store, trusted = TrustStore.from_pem(pem, "anchors"), written.file("anchors.pem", pem)
    cases = [made(random, store, written, trusted, number) for number in range(CASES)]
    with ThreadPoolExecutor(2) as pool:
        theirs = list(pool.map(openssl, cases))
    differing = [
        f"{case.label}: we say {case.ours}, openssl {said}"
        for case, said in zip(cases, theirs, strict=True)
        if case.ours != said and explained(case.label, case.ours) is None
    ]
    assert not differing, f"OUTRIDER_SOAK_SEED={seed}\n" + "\n".join(differing)
    assert 0 < sum(case.ours for case in cases) < len(cases)
