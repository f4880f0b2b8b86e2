"""`outrider tlsa` on certificate files and on the servers of the miniature Internet."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deliver.cli import outrider
from tests.internet import LiveInternet
from tests.unit.tls.certificates import House, build_house


@pytest.fixture(scope="module")
def live() -> Iterator[LiveInternet]:
    with LiveInternet() as live:
        yield live


@pytest.fixture(scope="module")
def house() -> House:
    return build_house()


def run(*words: str) -> Result:
    return CliRunner().invoke(outrider, ["tlsa", *words])


def test_records_of_a_chain_in_pem(house: House, tmp_path: Path) -> None:
    file = tmp_path / "mail.pem"
    file.write_bytes(house.server.pem + house.intermediate.pem)
    ran = run(str(file), "--name", "mx.example.org:587")
    assert ran.exit_code == 0
    first, comment, second = ran.stdout.splitlines()
    assert first == f"_587._tcp.mx.example.org. IN TLSA {house.server.tlsa(3, 1, 1)}"
    assert comment.startswith(";")
    assert second == f"_587._tcp.mx.example.org. IN TLSA {house.intermediate.tlsa(2, 1, 1)}"


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_every_form_of_a_record(house: House, tmp_path: Path, selector: int, matching: int) -> None:
    file = tmp_path / "mail.der"
    file.write_bytes(house.server.der)
    ran = run(str(file), "--usage", "3", "--selector", str(selector), "--matching", str(matching), "--json")
    assert json.loads(ran.stdout)["records"] == [str(house.server.tlsa(3, selector, matching))]


def test_the_digest_is_what_openssl_computes(house: House, tmp_path: Path) -> None:
    file = tmp_path / "mail.pem"
    file.write_bytes(house.server.pem)
    script = "openssl x509 -in mail.pem -noout -pubkey | openssl pkey -pubin -outform DER | openssl sha256"
    said = subprocess.run(script, shell=True, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    assert run(str(file)).stdout.split()[-1] == said.split()[-1]


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_without_a_certificate(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mail.pem"
    file.write_bytes(content)
    ran = run(str(file))
    assert ran.exit_code == 64
    assert "holds no certificate" in ran.stderr


def test_a_file_that_is_not_there() -> None:
    assert run("/nowhere/mail.pem").exit_code == 64


@pytest.mark.parametrize(
    ("host", "status", "result"),
    [
        ("mx.dane-ee.test", 0, "1 of 1 usable records fit"),
        ("mx.dane-ta.test", 0, "1 of 1 usable records fit"),
        ("mx.dane-mismatch.test", 69, "0 of 1 usable records fit"),
        ("mx.signed.test", 0, "0 of 0 usable records fit"),
        ("mx.plain.test", 69, "cannot be asked"),
    ],
)
def test_a_live_host(live: LiveInternet, tmp_path: Path, host: str, status: int, result: str) -> None:
    settings = [
        f'dns.resolvers=["{live.world.resolver.endpoint}"]',
        f"dns.trust_anchors={live.world.write_trust_anchor(tmp_path)}",
        f"state_dir={tmp_path}",
    ]
    flags = [word for setting in settings for word in ("-o", setting)]
    ran = CliRunner().invoke(outrider, [*flags, "tlsa", f"{host}:{live.world.port}", "--json"])
    assert ran.exit_code == status, ran.output
    (server,) = json.loads(ran.stdout)["servers"]
    assert server["result"].startswith(result)
    in_words = CliRunner().invoke(outrider, [*flags, "tlsa", f"{host}:{live.world.port}"])
    assert result in in_words.stdout
