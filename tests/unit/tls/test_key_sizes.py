"""A key whose use would take too long signs nothing."""

from __future__ import annotations

import pytest

from deliver.tls import chain
from tests.unit.tls.certificates import Wish, issue, rsa_key


def test_a_signature_by_too_large_a_key_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    root = issue(Wish("root", authority=True, key=rsa_key(2048)))
    server = issue(Wish("server"), root)
    assert chain.signed_by(server.der, root.spki)
    monkeypatch.setattr(chain, "_MAX_RSA", 2047)
    assert not chain.signed_by(server.der, root.spki)
