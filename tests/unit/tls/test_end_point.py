"""The channel binding of a server's certificate, whatever the certificate is."""

from hashlib import sha256

import pytest

from deliver.tls.certificate import end_point
from tests.unit.tls.certificates import Wish, issue

LEAF = issue(Wish("leaf", dns_names=("mx.example.org",))).der


def test_it_is_the_digest_of_the_signature_algorithm() -> None:
    assert end_point(LEAF) == sha256(LEAF).digest()


@pytest.mark.parametrize(
    "der", [b"", b"garbage", LEAF.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07")]
)
def test_a_certificate_that_cannot_be_read_has_none(der: bytes) -> None:
    assert der != LEAF
    assert end_point(der) is None
