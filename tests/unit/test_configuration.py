"""Settings from TOML and overrides: every refusal names key, line and remedy."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from deliver.configuration import (
    Configuration,
    InvalidSettings,
    load,
    read,
    read_secret,
    reader as configuration_reader,
)
from deliver.configuration.show import as_data, as_toml, masked
from deliver.configuration.values import section_of, settings_type
from deliver.errors import ConfigurationError, UsageError
from deliver.settings import Settings
from deliver.tls.policy import Level

ROOT = Path(__file__).parents[2]
DS = ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writing(text: str) -> Path:
        file = tmp_path / "outrider.toml"
        file.write_text(text)
        return file

    return writing


def refused(file: Path | None, *overrides: str) -> InvalidSettings:
    with pytest.raises(InvalidSettings) as caught:
        load(file, overrides, environ={})
    assert caught.value.exit_status == 78
    return caught.value


# --- what is accepted


def test_values_with_units_tables_and_enumerations(write: Write) -> None:
    file = write('[dns]\ntimeout = "1m30s"\n[tls]\nlevel = "dane-only"\n[relay]\nmax_message_size = "10MB"\n')
    settings = load(file, environ={})
    assert settings.dns.timeout == 90.0
    assert settings.tls.level is Level.DANE_ONLY
    assert settings.relay.max_message_size == 10_000_000


def test_zero_is_allowed_where_it_means_something(write: Write) -> None:
    assert load(write("[dns]\ncache_max_ttl = 0\n"), environ={}).dns.cache_max_ttl == 0
    assert load(write('[pool]\nidle = "0s"\n'), environ={}).pool.idle == 0


def test_a_rule_read_from_a_file_applies(write: Write) -> None:
    text = '[[rule]]\ndomains = ["example.org"]\n[rule.smtp.timeouts]\ndot = "20m"\n[rule.tls]\nlevel = "verify"\n'
    found = load(write(text), environ={}).towards("example.org", None)
    assert (found.smtp.timeouts.dot, found.tls.level) == (1200, Level.VERIFY)


# --- which file


def test_the_file_given_wins_over_the_environment(write: Write, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[delivery]\nport = 26\n")
    environ = {"OUTRIDER_CONFIG": str(other)}
    assert load(write("[delivery]\nport = 27\n"), environ=environ).delivery.port == 27
    assert load(None, environ=environ).delivery.port == 26


def test_the_system_file_is_read_if_it_exists(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(configuration_reader, "SYSTEM_FILE", tmp_path / "none.toml")
    assert load(None, environ={}) == Settings()
    monkeypatch.setattr(configuration_reader, "SYSTEM_FILE", write("[delivery]\nport = 28\n"))
    assert load(None, environ={}).delivery.port == 28


def test_a_file_named_by_the_environment_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"gone\.toml: No such file.*--config"):
        load(None, environ={"OUTRIDER_CONFIG": str(tmp_path / "gone.toml")})


def test_a_directory_is_no_settings_file(tmp_path: Path) -> None:
    assert "Is a directory" in str(refused(tmp_path))


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "latin1.toml"
    file.write_bytes(b"# one\n# \xe4\n")
    assert f"{file}:2: it is not UTF-8" in str(refused(file))


# --- what is refused, by the file: (text, key, line, part of what is wrong, part of the remedy)

REFUSED = [
    ('[dns]\ntimout = "3s"', "dns.timout", 2, "no such key", "did you mean 'timeout'"),
    ("[dnss]\nx = 1", "dnss", 1, "no such key", "did you mean 'dns'"),
    ("zzzz = 1", "zzzz", 1, "no such key", "known are state_dir"),
    ("[dns]\n\ntimeout = 5", "dns.timeout", 3, "5 has no unit", '"5m"'),
    ('[dns]\ntimeout = "5"', "dns.timeout", 2, "not a duration", '"30s"'),
    ("[dns]\ntimeout = 0", "dns.timeout", 2, "may not be 0", '"30s"'),
    ("[dns]\ntimeout = true", "dns.timeout", 2, "expected a duration", '"30s"'),
    ("[queue]\ninline_limit = 65536", "queue.inline_limit", 2, "no unit", '"64kB"'),
    ('[queue]\nretry = [\n"5m",\n 7]', "queue.retry[1]", 4, "7 has no unit", '"5m"'),
    ('[[queue.limit]]\nof = "all"', "queue.limit[0]", 1, "limits nothing", "at_a_time"),
    ('[[queue.limit]]\nof = "host"\nmessages = 1', "queue.limit[0].of", 2, "'host' is not allowed", '"site"'),
    ('[[queue.retry_rule]]\nsteps = []\nerrors = ["dns", "quota"]', "queue.retry_rule[0].errors[1]", 3, "'quota'", "rcpt-452"),
    ('[[queue.retry_rule]]\nsteps = [{until = "2h", wait = "5m"}, {until = "1h", wait = "5m"}]', "queue.retry_rule[0].steps", 2, "longer", "sort"),
    ("[queue]\nretry = []", "queue.retry", 2, "empty", '["15m"]'),
    ('[queue]\nurl = "sqlite:///q.db"', "queue.url", 2, "only PostgreSQL", "postgresql+psycopg"),
    ('[queue]\nurl = "postgresql+psycopg://u:p@h/d"', "queue.url", 2, "password", "password_file"),
    ('[queue]\npassword_file = "/x"', "queue.password_file", 2, "no queue.url", "remove it"),
    ('[queue]\nurl = "postgresql+psycopg://u@h/d"\npassword_file = "/nowhere/x"', "queue.password_file", 3, "", ""),
    ('[tls]\nlevel = "dan"', "tls.level", 2, "'dan' is not allowed", 'did you mean "dane"? allowed are "none", "may"'),
    ('[tls]\nlevel = "mta-sts"', "tls.level", 2, "no level", "use dane, and tls.mta_sts = true"),
    ("[tls]\nmin_version = 1.2", "tls.min_version", 2, "the number 1.2", '"1.2", "1.3"'),
    ('[smtp]\npipelining = "yes"', "smtp.pipelining", 2, "expected true or false", "without quotes"),
    ('[delivery]\nport = "25"', "delivery.port", 2, "expected a whole number", "without quotes"),
    ("[delivery]\nport = 70000", "delivery.port", 2, "out of range", "from 1 to 65535"),
    ("[delivery]\nmax_hosts = 0", "delivery.max_hosts", 2, "too small", "1 or more"),
    ("[delivery]\nhelo = 25", "delivery.helo", 2, "expected a text", '"25"'),
    ('[delivery]\nhelo = "a b"', "delivery.helo", 2, "not a host name", "mail.example.org"),
    ('[delivery]\nsource_ipv4 = "::1"', "delivery.source_ipv4", 2, "not an IPv4 address", "192.0.2.1"),
    ('[delivery]\nsource_ipv6 = "127.0.0.1"', "delivery.source_ipv6", 2, "not an IPv6 address", "2001:db8::1"),
    ('[delivery]\nfamilies = ["ipv5"]', "delivery.families[0]", 2, "'ipv5'", '"ipv6"'),
    ("[delivery]\nfamilies = []", "delivery.families", 2, "empty", '"ipv6", "ipv4"'),
    ('dns = "x"', "dns", 1, "expected a table", "[section]"),
    ('[dns]\nresolvers = "127.0.0.1"', "dns.resolvers", 2, "expected an array", '["127.0.0.1:53"]'),
    ('[dns]\nresolvers = ["localhost"]', "dns.resolvers[0]", 2, "not an IP address", "127.0.0.1:53"),
    ('[dns]\nresolvers = ["127.0.0.1:0"]', "dns.resolvers[0]", 2, "0 is not a port", "127.0.0.1:53"),
    ('[[dns.negative_trust_anchor]]\nname="x.test"\nreason="y"\nuntil="soon"', "dns.negative_trust_anchor[0].until", 4, "not a date", "2026-12-31"),
    ('[[dns.negative_trust_anchor]]\nname="x.test"\nuntil="2026-12-31"', "dns.negative_trust_anchor[0].reason", 1, "missing", "reason"),
    ('[dns]\ndnssec = "trust-ad"\nresolvers = ["::1", "192.0.2.53"]', "dns.resolvers[1]", 3, "192.0.2.53", "dns.trust_remote_ad = true"),
    ('[dns]\ndnssec = "off"\n[tls]\nlevel = "dane-only"', "tls.level", 4, "dane-only needs DNSSEC", "validate"),
    ('[dns]\ndnssec="off"\n[[rule]]\ndomains=["a.b"]\ntls={level="dane-only"}', "rule[0].tls.level", 5, "needs DNSSEC", "another level"),
    ('[relay]\nlisten = ["127.0.0.1"]', "relay.listen[0]", 2, "no port", "127.0.0.1:2525"),
    ('[relay]\nlisten = ["localhost:25"]', "relay.listen[0]", 2, "not an IP address", "127.0.0.1:2525"),
    ('[relay]\nnetworks = ["10.1.0.0/8"]', "relay.networks[0]", 2, "bits set", "'10.0.0.0/8'"),
    ('[relay]\nnetworks = ["lan"]', "relay.networks[0]", 2, "not an IP network", "192.0.2.0/24"),
    ('[relay]\nnetworks = ["0.0.0.0/0"]\nlisten = ["127.0.0.1:25",\n"0.0.0.0:25"]', "relay.listen[1]", 4, "open relay", "your own networks"),
    ('[relay]\nnetworks = ["0.0.0.0/1", "128.0.0.0/1"]\nlisten = ["192.0.2.1:25"]', "relay.listen[0]", 3, "open relay", "loopback"),
    ('[relay]\nnetworks = ["::/0"]\nlisten = ["[::]:25"]', "relay.listen[0]", 3, "::/0", "loopback"),
    ('[hints]\nurl = "hints.db"', "hints.url", 2, "not a database URL", "sqlite:///"),
    ('[events]\ndatabase = "memory"', "events.database", 2, "not a database URL", "sqlite:///"),
    ('state_dir = "outrider"', "state_dir", 1, "not an absolute path", "/var/lib/outrider"),
    ('[[route]]\ndomains = ["*"]', "route[0].via", 1, "missing", '"smarthost"'),
    ('[[route]]\nvia = "mx"', "route[0].domains", 1, "missing", '["example.org"]'),
    ('[[route]]\nvia = "mx"\ndomains = []', "route[0].domains", 3, "empty", '["*"]'),
    ('[[route]]\nvia="mx"\ndomains=["*"]\n[[route]]\nvia="mx"\ndomains=["a..b"]', "route[1].domains[0]", 6, "not a pattern", "*.example.org"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]', "route[0].hosts", 1, "names no host", "mx ="),
    ('[[route]]\nvia = "reject"\ndomains = ["*"]\nfallback = ["a"]', "route[0].fallback", 4, "has no fallback", "smarthost"),
    ('[[route]]\nvia = "reject"\ndomains = ["*"]\nlevel = "verify"', "route[0].level", 4, "has no level", "smarthost"),
    ('[[route]]\nvia = "mx"\ndomains = ["*"]\nfallback = ["a"]\nfallback_on = []', "route[0].fallback_on", 5, "empty", "remove"),
    ('[[route]]\nvia = "mx"\ndomains = ["*"]\nfallback = ["a"]\nfallback_on = ["never"]', "route[0].fallback_on[0]", 5, "never", "unreachable"),
    ('[[route]]\nvia = "mx"\ndomains = ["*"]\nfallback = ["a b"]', "route[0].fallback[0]", 4, "not a host name", "mail.example.org"),
    ('[relay]\nproxy = ["10.1.0.0/8"]', "relay.proxy[0]", 2, "bits set", "'10.0.0.0/8'"),
    ('[relay]\nproxy = ["::/0"]', "relay.proxy", 2, "claim to be any", "load balancers"),
    ('[[relay.listener]]\nlisten = ["192.0.2.1:25"]\nnetworks = ["0.0.0.0/0"]', "relay.listener[0].listen[0]", 2, "open relay", "loopback"),
    ('[[relay.listener]]\nlisten = ["192.0.2.1"]', "relay.listener[0].listen[0]", 2, "port", "2525"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\nmx = "b"', "route[0].mx", 5, "both", "either"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a:0"]', "route[0].hosts[0]", 4, "not a port", "mail.example.org:587"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a b"]', "route[0].hosts[0]", 4, "not a host name", "mail.example.org"),
    ('[[route]]\nvia = "reject"\ndomains = ["*"]\nhosts = ["a"]', "route[0].hosts", 4, "via reject has no hosts", "remove it"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\nusername = "u"', "route[0].username", 5, "password_file is not set", "set password_file"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\npassword_file = "credential:x"', "route[0].password_file", 5, "username is not set", "set username"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\nauth_in_clear = true', "route[0].auth_in_clear", 5, "nobody logs in", "set username"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\nusername = "u"\npassword_file = "credential:x"\nauth = []', "route[0].auth", 7, "it is empty", "mechanisms"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\nauth = ["cram-md5"]', "route[0].auth[0]", 5, "not allowed", "scram-sha-256"),
    ('[[route]]\nvia = "mx"\ndomains = ["*"]\nusername = "u"', "route[0].username", 4, "via mx has no username", "smarthost"),
    ('[[route]]\nvia = "mx"\ndomains = ["*"]\nport = 26', "route[0].port", 4, "via mx has no port", "smarthost"),
    ('[[rule]]\ntls = { level = "may" }', "rule[0]", 1, "neither domains nor hosts", "domains ="),
    ('[[rule]]\ndomains = ["a.example"]', "rule[0]", 1, "changes nothing", "tls ="),
    ('[[rule]]\nhosts = ["a.example"]\ntls = { levle = "may" }', "rule[0].tls.levle", 3, "no such key", "'level'"),
    ('[[rule]]\nhosts = ["a.example"]\n[rule.smtp.timeouts]\ndot = 5', "rule[0].smtp.timeouts.dot", 4, "no unit", '"5m"'),
    ('[[rule]]\nhosts = ["a.example"]\n[rule.delivery]\nport = 0', "rule[0].delivery.port", 4, "out of range", "65535"),
    ('[[rule]]\nhosts = ["a.example"]\nsmtp = 1', "rule[0].smtp", 3, "expected a table", "[section]"),
    ("route = [1]", "route[0]", 1, "expected a table", "[section]"),
    ("route = 1", "route", 1, "expected an array", "[[…]]"),
]  # fmt: skip

ACTION = '[[events.action]]\nname = "a"\nevents = ["msg:*"]\nsql = "x"\ndatabase = "sqlite:///e.db"\n'

REFUSED_ACTIONS = [
    (ACTION + ACTION, "events.action[1].name", 7, "'a' is the name of 2 actions", "name of its own"),
    (ACTION.replace('["msg:*"]', "[]"), "events.action[0].events", 3, "empty", "msg:delivery"),
    (ACTION.replace("sqlite:///e.db", "mysql://u:secret@h/d"), "events.action[0].database", 5, "password", "password_file"),
    (ACTION.replace("sqlite:///e.db", "mysql://h/d?password=secret"), "events.action[0].database", 5, "password", "password_file"),
    (ACTION + 'password_file = "credential:a/b"', "events.action[0].password_file", 6, "unusual characters", "credential:NAME"),
    (ACTION + 'password_file = "/nonexistent"', "events.action[0].password_file", 6, "No such file", "create the file"),
    ('[[route]]\nvia = "smarthost"\ndomains = ["*"]\nhosts = ["a"]\nusername = "u"\npassword_file = "/nonexistent"', "route[0].password_file", 6, "No such file", "create the file"),
    ('[tls]\ntrust_store = "/nonexistent.pem"', "tls.trust_store", 2, "No such file", "PEM"),
    ('[dns]\ntrust_anchors = "/nonexistent.key"', "dns.trust_anchors", 2, "No such file", "zone-file form"),
    ('[[rule]]\nhosts=["a.b"]\ntls={trust_store="/nonexistent.pem"}', "rule[0].tls.trust_store", 3, "No such file", "PEM"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "line", "what", "remedy"), REFUSED + REFUSED_ACTIONS)
def test_refused(write: Write, text: str, key: str, line: int, what: str, remedy: str) -> None:
    file = write(text)
    (problem,) = refused(file).problems
    assert (problem.key, problem.place.line) == (key, line)
    assert what in problem.what
    assert remedy in problem.remedy
    assert str(problem).startswith(f"{file}:{line}: {key}: ")
    assert "secret@" not in str(problem)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[dns]\ntimeout = 5s", 2),
        ("a = 1\na = 2", 2),
        ('x = """\n\n', 3),
        ("[" * 2000, 1),
        ("x = " + "[" * 3000, 1),
    ],
)
def test_broken_toml_names_the_line(write: Write, text: str, line: int) -> None:
    (problem,) = refused(write(text)).problems
    assert problem.key == ""
    assert problem.place.line in (line, None)
    assert "correct the TOML" in problem.remedy


def test_all_problems_are_told_at_once(write: Write) -> None:
    error = refused(write('[dns]\ntimout = 1\ntimeout = 5\n[tls]\nlevel = "x"\n'))
    assert [problem.key for problem in error.problems] == ["dns.timout", "dns.timeout", "tls.level"]
    assert len(str(error).splitlines()) == 3


# --- overrides


def test_overrides_replace_and_add(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(
        write("[delivery]\nport = 26\nmax_hosts = 3\n"),
        [
            "dns.dnssec=trust-ad",
            "dns.resolvers=['127.0.0.53:5353']",
            "delivery.helo=10",
            "delivery.port=2525",
            "tls.min_version=1.3",
            "dns.timeout=5s",
            "smtp.pipelining=false",
            "hints.url=sqlite:///hints.db",
            "queue.directory=q",
            'route=[{domains = ["*"], via = "smarthost", hosts = ["mail.example:587"]}]',
            'rule=[{hosts = ["a.example"], tls = {level = "may"}}]',
        ],
        environ={},
    )
    assert settings.dns.resolvers == ("127.0.0.53:5353",)
    assert settings.dns.timeout == 5
    assert (settings.delivery.helo, settings.delivery.port, settings.delivery.max_hosts) == ("10", 2525, 3)
    assert settings.tls.min_version == "1.3"
    assert not settings.smtp.pipelining
    assert settings.hints.url == f"sqlite:///{tmp_path}/hints.db"
    assert settings.queue.directory == str(tmp_path / "q")
    assert settings.route[0].hosts == ("mail.example:587",)
    assert settings.rule[0].tls == {"level": "may"}


def test_paths_inside_an_overriding_table_are_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    action = '{name = "a", events = ["msg:*"], database = "sqlite:///e.db", sql = "x", password_file = "credential:p"}'
    settings = load(None, [f"events.action=[{action}]"], environ={})
    assert settings.events.action[0].database == f"sqlite:///{tmp_path}/e.db"
    assert settings.events.action[0].password_file == "credential:p"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("dns.timeout=5", "5 has no unit"),
        ("dns.timout=5s", "no such key"),
        ("delivery.port=x", "expected a whole number"),
        ('dns.resolvers=["127.0.0.1"', "broken TOML"),
        ("delivery.port=25\nhelo = 1", "expected a whole number"),
    ],
)
def test_a_refused_override_is_named_instead_of_a_line(override: str, what: str) -> None:
    (problem,) = refused(None, override).problems
    assert str(problem).startswith(f"-o {override.partition('=')[0]}: {problem.what}")
    assert what in problem.what


def test_an_override_takes_the_blame_from_the_file(write: Write) -> None:
    file = write('[tls]\nlevel = "may"\n')
    assert "-o tls.level: " in str(refused(file, "tls.level=dan"))


def test_an_override_inside_an_array_is_refused(write: Write) -> None:
    file = write('[[route]]\ndomains = ["*"]\nvia = "mx"\n')
    assert "whole list" in str(refused(file, "route.via=mx"))


@pytest.mark.parametrize("override", ["dns.timeout", "=5", "a b=1", "route[0].via=mx"])
def test_what_is_no_override(override: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        load(None, [override], environ={})


# --- warnings, files, secrets


def test_dane_without_dnssec_is_a_warning(write: Write) -> None:
    text = '[dns]\ndnssec = "off"\n[tls]\nlevel = "dane"\n'
    (warning,) = read(write(text), environ={}).warnings
    assert (warning.key, warning.place.line) == ("tls.level", 4)
    assert "validate" in warning.remedy
    assert read(write(""), environ={}).warnings == ()


def test_a_remote_resolver_may_be_trusted_explicitly(write: Write) -> None:
    text = '[dns]\nresolvers = ["192.0.2.53"]\ntrust_remote_ad = true\n'
    assert load(write(text), environ={}).dns.resolvers == ("192.0.2.53",)


def test_everybody_may_relay_over_loopback(write: Write) -> None:
    assert load(write('[relay]\nnetworks = ["0.0.0.0/0"]\n'), environ={}).relay.networks == ("0.0.0.0/0",)


def test_trust_anchors(write: Write, tmp_path: Path) -> None:
    anchors = tmp_path / "root.key"
    file = write(f'[dns]\ntrust_anchors = "{anchors}"\n')
    anchors.write_text("; the root\n" + DS + DS.replace("DS 20326", "DS (\n 20326").replace("8D\n", "8D )\n"))
    assert load(file, environ={}).dns.trust_anchors == str(anchors)
    for text, line in (("\n" + DS + ". IN DS bogus\n", 3), (". IN A 192.0.2.1\n", 1)):
        anchors.write_text(text)
        assert f"{anchors}: line {line}: " in str(refused(file))
    anchors.write_text("; nothing\n")
    assert "no DS or DNSKEY record" in str(refused(file))


def test_a_trust_store_holds_certificates(write: Write, tmp_path: Path) -> None:
    store = tmp_path / "ca.pem"
    file = write(f'[tls]\ntrust_store = "{store}"\n')
    for text in ("no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"):
        store.write_text(text)
        assert "no usable PEM certificates" in str(refused(file))


def test_a_secret_that_everybody_can_read_is_refused(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\nmore\n")
    file = write(ACTION + f'password_file = "{secret}"\n')
    secret.chmod(0o644)
    error = refused(file)
    assert f"chmod o= {secret}" in str(error)
    assert "hunter2" not in str(error)
    secret.chmod(0o640)
    assert read_secret(load(file, environ={}), str(secret), {}) == "hunter2"


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("hunter2")
    (tmp_path / "db").chmod(0o400)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret(Settings(), "credential:db", environ) == "hunter2"
    with pytest.raises(ConfigurationError, match="No such file"):
        read_secret(Settings(), "credential:other", environ)
    with pytest.raises(ConfigurationError, match="CREDENTIALS_DIRECTORY is not set"):
        read_secret(Settings(), "credential:db", {})


# --- the reference file


def uncommented(text: str) -> str:
    return "\n".join(
        line[1:] if line[:1] == "#" and line[1:2] not in ("", " ") else line for line in text.split("\n")
    )


def keys_of_tree(kind: inspect.Type, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every key of the tree with its default; elements of arrays of tables without an index."""
    kind = section_of(kind)
    if isinstance(kind, inspect.VarTupleType):
        kind = section_of(kind.item_type)
    if not isinstance(kind, inspect.StructType):
        return {}
    found: dict[tuple[str, ...], Any] = {}
    for field in kind.fields:
        inner = keys_of_tree(field.type, (*path, field.encode_name))
        found |= inner or {(*path, field.encode_name): field.default}
    return found


def keys_of_document(value: object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if isinstance(value, dict):
        return {found for key, inner in value.items() for found in keys_of_document(inner, (*path, key))}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {found for inner in value for found in keys_of_document(inner, path)}
    return {path}


def test_the_reference_file_states_the_defaults() -> None:
    assert load(ROOT / "conf/outrider.toml", environ={}) == Settings()


def test_the_reference_file_and_the_tree_have_the_same_keys() -> None:
    text = (ROOT / "conf/outrider.toml").read_text()
    in_tree = {path for path in keys_of_tree(settings_type()) if path[0] != "rule" or len(path) == 2}
    in_file = keys_of_document(tomllib.loads(uncommented(text)))
    in_file = {path for path in in_file if path[0] != "rule" or len(path) == 2}
    assert in_tree - in_file == set(), "keys of the tree that the file does not explain"
    assert in_file - in_tree == set(), "keys of the file that the tree does not know"


def test_every_key_with_a_default_stands_uncommented_in_the_reference_file() -> None:
    tables = {"route", "rule"}
    optional = {
            ("events", "action"), ("events", "file"), ("dns", "negative_trust_anchor"), ("queue", "limit"),
            ("queue", "retry_rule"), ("relay", "tls", "certificate"), ("relay", "listener"),
                ("relay", "recipient_limit"),
        }  # fmt: skip
    stated = keys_of_document(tomllib.loads((ROOT / "conf/outrider.toml").read_text()))
    in_tree = keys_of_tree(settings_type())
    with_default = {
        path for path, default in in_tree.items()
        if default is not None and path[0] not in tables and optional.isdisjoint({path[:2], path[:3]})
    }  # fmt: skip
    assert with_default - stated == set()


def test_the_commented_examples_of_the_reference_file_load(write: Write, tmp_path: Path) -> None:
    anchors = tmp_path / "root.key"
    anchors.write_text(DS)
    text = uncommented((ROOT / "conf/outrider.toml").read_text())
    text = text.replace("/etc/outrider/root.key", str(anchors)).replace("trust_store =", "#")
    for file in ("crl =", "client_certificate =", "client_key_file ="):
        text = text.replace(f"\n{file}", "\n#")
    chain = tmp_path / "mail.pem"
    chain.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    text = text.replace("/etc/outrider/mail.pem", str(chain)).replace(
        "/var/lib/outrider/mail.ocsp", str(chain)
    )
    for file in ("client_ca =", 'password_file = "/etc', "dovecot_ca ="):
        text = text.replace(f"\n{file}", "\n#")
    settings = load(write(text), environ={})
    assert [route.via for route in settings.route] == ["smarthost", "smarthost", "reject"]
    assert settings.towards("www.bank.example", None).tls.level is Level.DANE_ONLY


@pytest.mark.parametrize(
    "example", sorted((ROOT / "conf/examples").glob("*.toml")), ids=lambda file: file.name
)
def test_the_examples_load(example: Path) -> None:
    configuration = read(example, environ={})
    assert configuration.settings != Settings()
    assert configuration.warnings == ()


# --- show


def test_shown_settings_read_back_to_the_same_tree(write: Write) -> None:
    text = ACTION + (
        '[dns]\ntimeout = "2500ms"\n[[route]]\ndomains = ["*"]\nvia = "reject"\nreason = "a \\"quoted\\" # word"\n'
        '[[rule]]\nhosts = ["a.example"]\nsmtp = { timeouts = { dot = "20m" }, pipelining = false }\n'
        '[[rule]]\nhosts = ["b.example"]\ntls = { level = "may" }\n'
    )
    configuration = read(write(text), ["delivery.port=26"], environ={})
    shown = as_toml(configuration)
    assert load(write(shown), environ={}) == configuration.settings
    assert 'timeout = "2500ms"  # line 7\n' in shown
    assert "port = 26  # -o delivery.port\n" in shown
    assert "attempts = 3  # default\n" in shown
    assert "# trust_store is not set" in shown


def test_secrets_are_masked() -> None:
    settings = Settings()
    assert masked("mysql://u:p:w@h/d?password=x&y=1") == "mysql://u:********@h/d?password=********&y=1"
    assert masked("sqlite:////var/lib/x.db") == "sqlite:////var/lib/x.db"
    assert as_data(settings)["dns"]["timeout"] == "3s"
    assert Configuration(settings).warnings == ()


# --- what TLS is made of


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('ciphers = "nix"', "knows no cipher"),
        ('groups = "X25519:nix"', "does not know the groups"),
        ('crl = "/nowhere/crl.pem"', "No such file"),
        ("require_crl = true", "crl is not set"),
        ("require_ocsp = true\nrequest_ocsp = false", "no staple would come"),
        ('client_certificate = "/nowhere/c.pem"', "client_key_file is not set"),
        ('client_key_file = "/nowhere/k.pem"', "client_certificate is not set"),
        ('verify_names = ["not a name"]', "is not a host name"),
    ],
)
def test_tls_settings_that_cannot_work(write: Write, text: str, said: str) -> None:
    assert said in str(refused(write(f"[tls]\n{text}\n")))
    rule = f'[[rule]]\ndomains = ["example.org"]\n[rule.tls]\n{text}\n'
    assert said in str(refused(write(rule)))


def test_tls_settings_that_work(write: Write) -> None:
    text = '[tls]\nciphers = "HIGH:!kRSA"\ngroups = "X25519:P-256"\nrequire_ocsp = true\nocsp_skew = "0s"\n'
    tls = load(write(text), environ={}).tls
    assert (tls.groups, tls.require_ocsp, tls.ocsp_skew) == ("X25519:P-256", True, 0)
