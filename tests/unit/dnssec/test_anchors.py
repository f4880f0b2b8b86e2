"""Trust anchors: reading them, the closest one, and suspended validation."""

from __future__ import annotations

import dns.name
import pytest

from deliver.dnssec.anchors import NegativeAnchor, parse, root_anchors
from tests.zoo import keys
from tests.zoo.keys import KeyPlan

DIGEST = "AB" * 32


def name(text: str) -> dns.name.Name:
    return dns.name.from_text(text)


def test_the_root_anchors_are_the_published_ones() -> None:
    (anchor,) = root_anchors().anchors.values()
    assert anchor.name == dns.name.root
    assert [(ds.key_tag, ds.algorithm, ds.digest_type) for ds in anchor.ds] == [(20326, 8, 2), (38696, 8, 2)]
    assert anchor.ds[0].digest.hex().startswith("e06d44b80b8f1d39")
    assert anchor.ds[1].digest.hex().startswith("683d2d0acb8c9b71")


def test_comments_parentheses_ttl_and_several_names() -> None:
    key = keys.make(name("example."), KeyPlan()).dnskey.to_text()
    text = (
        f"; ours\n\n. 3600 IN DS 1 8 2 ( ; split\n  {DIGEST[:20]}\n  {DIGEST[20:]} )\nexample. DNSKEY {key}\n"
    )
    anchors = parse(text).anchors
    assert set(anchors) == {dns.name.root, name("example.")}
    assert anchors[dns.name.root].ds[0].digest == bytes.fromhex(DIGEST)
    assert len(anchors[name("example.")].keys) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no DS or DNSKEY"),
        ("; nothing\n", "no DS or DNSKEY"),
        (f". DS 1 8 2 {DIGEST}\n. DS 1 8 nonsense\n", "line 2"),
        ("\n\n. A 192.0.2.1\n", "line 3"),
        (f". DS 1 8 2 (\n{DIGEST}\n", "line 1: a parenthesis is not closed"),
        (". DS 1 8 2 ab)\n", "line 1: a parenthesis"),
        (f"  DS 1 8 2 {DIGEST}\n", "line 1: the record does not name"),
        (". DNSKEY 1 3 13 AAAA\n", "line 1: the DNSKEY is not a zone key"),
        (". DNSKEY 257 4 13 AAAA\n", "line 1: the DNSKEY is not a zone key"),
        (". DNSKEY 385 3 13 AAAA\n", "line 1: the DNSKEY is revoked"),
        (f". CH DS 1 8 2 {DIGEST}\n", "line 1"),
        ("$INCLUDE /etc/passwd\n", "line 1"),
    ],
)
def test_faults_name_their_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_the_closest_anchor_wins() -> None:
    anchors = parse(f". DS 1 8 2 {DIGEST}\nisland.test. DS 2 8 2 {DIGEST}\n")

    def closest(text: str) -> dns.name.Name:
        anchor = anchors.closest(name(text))
        assert anchor is not None
        return anchor.name

    assert closest("mx.test.") == dns.name.root
    assert closest("island.test.") == name("island.test.")
    assert closest("a.b.Island.test.") == name("island.test.")


def test_without_the_root_the_rest_has_no_anchor() -> None:
    assert parse(f"island.test. DS 2 8 2 {DIGEST}\n").closest(name("test.")) is None


def test_a_negative_anchor_ends_and_yields_to_a_closer_positive_one() -> None:
    plain = parse(f". DS 1 8 2 {DIGEST}\nsound.broken.test. DS 2 8 2 {DIGEST}\n")
    anchors = plain.but_not([NegativeAnchor(name("broken.test."), "their signer is down", until=1000)])
    assert anchors.suspended(name("mx.broken.test."), 999) is not None
    assert anchors.suspended(name("broken.test."), 999) is not None
    assert anchors.suspended(name("mx.broken.test."), 1000) is None
    assert anchors.suspended(name("test."), 999) is None
    assert anchors.suspended(name("mx.sound.broken.test."), 999) is None
    assert plain.suspended(name("mx.broken.test."), 999) is None
