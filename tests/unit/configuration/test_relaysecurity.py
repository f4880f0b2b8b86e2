"""What the settings refuse of the relay's TLS and AUTH."""

from __future__ import annotations

from pathlib import Path

import pytest

from deliver.configuration import load
from deliver.configuration.problem import InvalidSettings
from tests.unit.tls.certificates import Wish, issue

OURS = issue(Wish("relay", dns_names=("relay.test",)))
CERTIFICATE = '[[relay.tls.certificate]]\nchain_file = "mail.pem"\nkey_file = "mail.key"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, content in (("mail.pem", OURS.pem), ("mail.key", OURS.key_pem), ("passwords", b"# nobody\n")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def refusals(directory: Path, text: str) -> str:
    file = directory / "outrider.toml"
    file.write_text(f'state_dir = "{directory}"\n{text}')
    try:
        load(file, environ={})
    except InvalidSettings as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "text",
    [
        CERTIFICATE,
        CERTIFICATE + '[relay.auth]\npassword_file = "passwords"\n',
        CERTIFICATE + '[relay.auth]\ndovecot = "unix:/run/dovecot/auth-client"\n',
        CERTIFICATE + '[relay.auth]\ndovecot = "127.0.0.1:12345"\n',
        CERTIFICATE + '[relay.auth]\ndovecot = "[::1]:12345"\n',
        CERTIFICATE + '[relay.auth]\ndovecot = "localhost:12345"\n',
        CERTIFICATE
        + '[relay.auth]\ndovecot = "auth.example.org:12345"\ndovecot_tls = true\nfailure_delay = "0s"\n',
        CERTIFICATE + 'ocsp_file = "later.ocsp"\nocsp_fetch = true\n',
    ],
)
def test_what_belongs_together_is_taken(directory: Path, text: str) -> None:
    assert refusals(directory, text) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            CERTIFICATE + '[relay.tls]\nclient_names = ["a.example.org"]\n',
            "relay.tls.client_names: client_ca is not set",
        ),
        (CERTIFICATE + '[relay.tls]\nclient_ca = "mail.pem"\n', "relay.tls.client_ca: client_names is empty"),
        (
            '[relay.auth]\npassword_file = "passwords"\n',
            "relay.auth.password_file: the relay has no certificate",
        ),
        ('[relay.auth]\ndovecot = "unix:/a"\n', "relay.auth.dovecot: the relay has no certificate"),
        (
            CERTIFICATE + '[relay.auth]\npassword_file = "passwords"\ndovecot = "unix:/a"\n',
            "relay.auth.dovecot: password_file is set too",
        ),
        (
            CERTIFICATE + '[relay.auth]\ndovecot = "unix:/a"\nmechanisms = []\n',
            "relay.auth.mechanisms: it is empty",
        ),
        (
            CERTIFICATE + '[relay.auth]\ndovecot = "192.0.2.1:1"\n',
            "passwords would go to 192.0.2.1 in clear text",
        ),
        (
            CERTIFICATE + '[relay.auth]\ndovecot = "a.example:1"\n',
            "passwords would go to a.example in clear text",
        ),
        (CERTIFICATE + '[relay.auth]\ndovecot = "a.example"\n', "it has no port"),
        (CERTIFICATE + '[relay.auth]\ndovecot = "192.0.2.1:1"\ndovecot_tls = true\n', "TLS needs the name"),
        (CERTIFICATE + '[relay.auth]\ndovecot = "unix:/a"\ndovecot_tls = true\n', "TLS needs the name"),
        (
            CERTIFICATE + '[relay.auth]\ndovecot_ca = "mail.pem"\n',
            "relay.auth.dovecot_ca: dovecot_tls is false",
        ),
        (CERTIFICATE + "[relay.auth]\nclient_failures = 2\n", "it is less than max_failures"),
        (CERTIFICATE.replace("mail.pem", "none.pem"), "chain_file: "),
        (CERTIFICATE.replace("mail.key", "none.key"), "key_file: "),
        (CERTIFICATE + 'ocsp_file = "none.ocsp"\n', "ocsp_file: "),
        (CERTIFICATE + '[relay.auth]\npassword_file = "none"\n', "password_file: "),
        ("[[relay.tls.certificate]]\nchain_file = 'mail.pem'\n", "key_file: it is missing"),
    ],
)
def test_what_does_not_is_refused(directory: Path, text: str, said: str) -> None:
    parts = text.split("[relay.tls]\n")
    if len(parts) == 2:  # the table itself comes before its tables
        text = f"[relay.tls]\n{parts[1]}{parts[0]}"
    assert said in refusals(directory, text)


def test_a_password_file_that_everybody_can_read_is_refused(directory: Path) -> None:
    (directory / "passwords").chmod(0o644)
    assert "is open to every user" in refusals(
        directory, CERTIFICATE + '[relay.auth]\npassword_file = "passwords"\n'
    )
    (directory / "passwords").chmod(0o600)
    (directory / "mail.key").chmod(0o604)
    assert "is open to every user" in refusals(directory, CERTIFICATE)


def test_a_key_of_another_certificate_is_refused(directory: Path) -> None:
    (directory / "mail.key").write_bytes(issue(Wish("other")).key_pem)
    assert "relay.tls.certificate[0].key_file: " in refusals(directory, CERTIFICATE)
    assert "mismatch" in refusals(directory, CERTIFICATE)


def test_a_line_of_the_password_file_that_cannot_be_used_is_refused(directory: Path) -> None:
    (directory / "passwords").write_text("# people\nalice:secret\n")
    said = refusals(directory, CERTIFICATE + '[relay.auth]\npassword_file = "passwords"\n')
    assert "line 2" in said
    assert "secret" not in said
