"""What a text in the settings must be: one check for each kind of `deliver.sections.kinds`, and examples."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from urllib.parse import parse_qsl, urlsplit

from deliver import endpoint
from deliver.errors import UsageError
from deliver.message import domain_name
from deliver.pattern import canonical

Fault = tuple[str, str]  # what is wrong, remedy

_CREDENTIAL = re.compile(r"credential:[A-Za-z0-9_.-]+\Z", re.ASCII)
_PASSWORD_PARAMETERS = frozenset({"password", "passwd", "pwd", "passfile", "sslpassword"})


def _path(value: str) -> Fault | None:
    return ("it is empty", "write a path") if not value else None


def _secret_file(value: str) -> Fault | None:
    if value.startswith("credential:") and not _CREDENTIAL.match(value):
        return "the name of the credential has unusual characters", 'write "credential:NAME"'
    return _path(value)


def _database_url(value: str) -> Fault | None:
    try:
        parts = urlsplit(value)
        secret = bool(parts.password) or any(
            name.lower() in _PASSWORD_PARAMETERS for name, _ in parse_qsl(parts.query)
        )
    except ValueError:
        return "it is not a database URL", _DATABASE_REMEDY
    if "://" not in value or not parts.scheme:
        return "it is not a database URL", _DATABASE_REMEDY
    if secret:
        return (
            "a password stands in the URL",
            "put it in a file of its own: password_file = … of the event action, or of the queue",
        )
    return None


_DATABASE_REMEDY = 'write "sqlite:///file.db" or "postgresql+psycopg://user@host/name"'


def _hints_url(value: str) -> Fault | None:
    return None if value == "memory" else _database_url(value)


def _host_name(value: str) -> Fault | None:
    if not value:
        return None
    try:
        domain_name(value)
    except UsageError as error:
        return f"{value[:60]!r} is not a host name: {error.happened}", 'write it as "mail.example.org"'
    return None


def _pattern(value: str) -> Fault | None:
    try:
        canonical(value)
    except UsageError:
        return (
            f"{value[:60]!r} is not a pattern of names",
            'write "example.org", "*.example.org" (all below it) or "*"',
        )
    return None


def _endpoint(value: str) -> Fault | None:
    remedy = 'write "mail.example.org", "mail.example.org:587" or "[192.0.2.1]:25"'
    try:
        host, port = endpoint.split(value)
    except ValueError as error:
        return str(error), remedy
    if port == 0:
        return "0 is not a port", remedy
    return None if endpoint.is_address(host) else _host_name(host)


def _address_endpoint(value: str) -> Fault | None:
    remedy = 'write "127.0.0.1", "127.0.0.1:53" or "[::1]:53"'
    try:
        host, port = endpoint.split(value)
    except ValueError as error:
        return str(error), remedy
    if not endpoint.is_address(host):
        return f"{host[:60]!r} is not an IP address", remedy
    return ("0 is not a port", remedy) if port == 0 else None


def _listen_endpoint(value: str) -> Fault | None:
    remedy = 'write "127.0.0.1:2525" or "[::1]:2525"'
    try:
        host, port = endpoint.split(value)
    except ValueError as error:
        return str(error), remedy
    if not endpoint.is_address(host):
        return f"{host[:60]!r} is not an IP address", remedy
    return ("it has no port", remedy) if port is None else None


def _local_endpoint(value: str) -> Fault | None:
    if not value.startswith("unix:"):
        return _listen_endpoint(value)
    length = len(value.removeprefix("unix:").encode())
    return None if 0 < length <= 100 else ("a socket's path has 1 to 100 octets", 'write "unix:lmtp.sock"')


def _service_endpoint(value: str) -> Fault | None:
    if not value:
        return None
    if value.startswith("unix:"):
        return _local_endpoint(value)
    remedy = 'write "unix:/run/dovecot/auth-client", "auth.example.org:12345" or "[192.0.2.1]:12345"'
    try:
        _, port = endpoint.split(value)
    except ValueError as error:
        return str(error), remedy
    return ("it has no port", remedy) if port is None else _endpoint(value)


def _file_mode(value: str) -> Fault | None:
    return None if re.fullmatch(r"0?[0-7]{3}", value) else (f"{value[:9]!r} is no file mode", 'write "0660"')


def _network(value: str) -> Fault | None:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            meant = ipaddress.ip_network(value, strict=False)
        except ValueError:
            return f"{value[:60]!r} is not an IP network", 'write "192.0.2.0/24" or "2001:db8::/32"'
        return f"{value!r} has bits set behind its prefix", f"write {str(meant)!r}"
    return None


def _ipv4(value: str) -> Fault | None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return f"{value[:60]!r} is not an IPv4 address", 'write it as "192.0.2.1"'
    return None


def _ipv6(value: str) -> Fault | None:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return f"{value[:60]!r} is not an IPv6 address", 'write it as "2001:db8::1"'
    return None


def _date(value: str) -> Fault | None:
    try:
        date.fromisoformat(value)
    except ValueError:
        return f"{value[:60]!r} is not a date", 'write it as "2026-12-31"'
    return None


def _cipher_list(value: str) -> Fault | None:
    from OpenSSL import SSL  # loaded only where a list is set

    try:
        if value:
            SSL.Context(SSL.TLS_CLIENT_METHOD).set_cipher_list(value.encode())
    except (SSL.Error, ValueError):
        return f"OpenSSL knows no cipher in {value[:60]!r}", 'write for instance "HIGH:!kRSA"'
    return None


def _group_list(value: str) -> Fault | None:
    from OpenSSL import SSL  # loaded only where a list is set

    from deliver.tls.openssl import set_groups

    if value and not set_groups(SSL.Context(SSL.TLS_CLIENT_METHOD), value):
        return (
            f"OpenSSL does not know the groups {value[:60]!r}",
            'write for instance "X25519MLKEM768:X25519:P-256"',
        )
    return None


KINDS: dict[str, Callable[[str], Fault | None]] = {
    "path": _path,
    "secret file": _secret_file,
    "database url": _database_url,
    "hints url": _hints_url,
    "host name": _host_name,
    "date": _date,
    "cipher list": _cipher_list,
    "group list": _group_list,
    "pattern": _pattern,
    "endpoint": _endpoint,
    "address endpoint": _address_endpoint,
    "listen endpoint": _listen_endpoint,
    "local endpoint": _local_endpoint,
    "service endpoint": _service_endpoint,
    "file mode": _file_mode,
    "network": _network,
    "ipv4 address": _ipv4,
    "ipv6 address": _ipv6,
}

EXAMPLES = {
    "pattern": "example.org",
    "host name": "mail.example.org",
    "endpoint": "mail.example.org:587",
    "address endpoint": "127.0.0.1:53",
    "listen endpoint": "127.0.0.1:2525",
    "local endpoint": "unix:lmtp.sock",
    "network": "192.0.2.0/24",
    "database url": "sqlite:///events.db",
}
