"""The examples are settings that the program takes as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.configuration import read

EXAMPLES = Path(__file__).parents[3] / "conf" / "examples"


@pytest.mark.parametrize(
    "name", ["lmtp.toml", "sendmail.toml", "smarthost.toml", "spool.toml", "strict-dane.toml"]
)
def test_an_example_is_accepted_without_a_warning(name: str) -> None:
    found = read(EXAMPLES / name, environ={})
    assert found.warnings == ()
    if name == "lmtp.toml":
        assert found.settings.lmtp.listen == ("127.0.0.1:2424",)
