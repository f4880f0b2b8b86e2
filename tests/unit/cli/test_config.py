"""`outrider config check` and `outrider config show`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deliver.cli import outrider


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outrider.toml"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(outrider, [str(arg) for arg in args])


def test_check_says_ok(file: Path) -> None:
    file.write_text('[dns]\ntimeout = "5s"\n')
    result = run("--config", file, "config", "check")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"OK: {file}\n", "")


def test_check_tells_warnings_and_succeeds(file: Path) -> None:
    file.write_text('[dns]\ndnssec = "off"\n')
    result = run("--config", file, "config", "check")
    assert result.exit_code == 0
    assert result.stderr.startswith("outrider: warning: ")


def test_check_lists_every_problem_on_its_line(file: Path) -> None:
    file.write_text('[dns]\ntimeout = 5\n[tls]\nlevel = "dan"\n')
    result = run("--config", file, "config", "check")
    assert result.exit_code == 78
    first, second = result.stderr.splitlines()
    assert first.startswith(f"outrider: {file}:2: dns.timeout: 5 has no unit (")
    assert second.startswith(f"outrider: {file}:4: tls.level: ")
    assert result.stdout == ""


def test_show_is_toml_with_overrides(file: Path) -> None:
    file.write_text("")
    result = run("--config", file, "-o", "dns.timeout=5s", "config", "show")
    assert tomllib.loads(result.stdout)["dns"]["timeout"] == "5s"
    assert 'timeout = "5s"  # -o dns.timeout' in result.stdout


def test_show_json(file: Path) -> None:
    file.write_text("")
    result = run("--config", file, "-o", "tls.level=verify", "config", "show", "--json")
    shown = json.loads(result.stdout)
    assert shown["tls"]["level"] == "verify"
    assert shown["queue"]["retry"][0] == "1m"
    assert shown["tls"]["trust_store"] is None
