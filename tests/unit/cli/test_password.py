"""`outrider password`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from deliver.cli.frame import outrider
from deliver.cli.password import SCHEMES
from deliver.errors import UsageError
from deliver.relay import passwords
from deliver.relay.passwords import parse


def test_the_schemes_are_those_of_the_file() -> None:
    assert SCHEMES == passwords.SCHEMES


@pytest.mark.parametrize("scheme", ["scram-sha-256", "ARGON2ID"])
def test_the_line_fits_the_password_on_standard_input(scheme: str) -> None:
    ran = CliRunner().invoke(outrider, ["password", "alice", "--scheme", scheme], input="sécret\nmore\n")
    assert ran.exit_code == 0
    found = parse(ran.output, "the output")
    assert found.check("alice", "sécret")
    assert "sécret" not in ran.output


@pytest.mark.parametrize("typed", ["\n", "", "\0\n", "x" * 2000])
def test_passwords_that_cannot_be_used(typed: str) -> None:
    with pytest.raises(UsageError):
        CliRunner().invoke(
            outrider, ["password", "alice"], input=typed, catch_exceptions=False, standalone_mode=False
        )
