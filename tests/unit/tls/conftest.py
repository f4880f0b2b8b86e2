"""Certificates that the TLS tests share; made once."""

from __future__ import annotations

import pytest

from tests.unit.tls.certificates import House, build_house


@pytest.fixture(scope="session")
def house() -> House:
    return build_house()
