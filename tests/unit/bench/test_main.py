"""The dispatcher of the measurements."""

from __future__ import annotations

import pytest

from bench.__main__ import names, run


def test_measurements_are_found() -> None:
    assert "dnssec" in names()


def test_unknown_measurement_is_an_error_that_names_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nothing"]) == 2
    assert "dnssec" in capsys.readouterr().err


def test_help_measures_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(name: str, arguments: object) -> int:
        raise AssertionError(f"{name} was run")

    monkeypatch.setattr("bench.__main__._run", measured)
    assert run(["--help"]) == 0
    assert "dnssec" in capsys.readouterr().out
