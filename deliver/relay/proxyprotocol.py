"""The header by which a load balancer says whom it speaks for (PROXY protocol, versions 1 and 2): pure.

    header                                 means
    -------------------------------------  -------------------------------------------------------
    v1 `PROXY TCP4|TCP6 …`, v2 PROXY       the client is the source address in it
    v1 `PROXY UNKNOWN`, v2 LOCAL, UNSPEC   the balancer itself (a health check), or nobody knows
    anything else, or cut, or too long     ProxyFault: the connection is closed without a word

Only what a listed balancer sends is read so (`relay.proxy`). A header counts as a whole or not at all; no
octet behind it is taken. Source: haproxy.org/download/3.0/doc/proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from deliver.errors import PeerError

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
SHORTEST: Final = b"PROXY UNKNOWN\r\n"  # of all headers
MAX_V1: Final = 107  # octets with CRLF
MAX_V2: Final = 4096  # octets behind the fixed part; addresses need 36, certificates' names some more
_FIXED: Final = 16

_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?|(TCP[46]) ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45})"
    rb" ([1-9]\d{0,4}) ([1-9]\d{0,4}))\r\n\Z"
)
_LENGTHS: Final = {0x11: 12, 0x21: 36}  # family and protocol, octets of the addresses
_CRC32C: Final = 0x03
_AUTHORITY: Final = 0x02
_SSL: Final = 0x20


class ProxyFault(PeerError):
    """What came is no header."""

    def __init__(self, happened: str) -> None:
        super().__init__("reading the PROXY header", happened, "check relay.proxy and the load balancer")


@dataclass(frozen=True, slots=True)
class Proxied:
    """Whom the balancer speaks for: both ends of the connection that it has with the client.

    `authority`: the host name that the client asked for, "" if not told. `tls`: it came by TLS.
    """

    source: str
    source_port: int
    destination: str
    destination_port: int
    authority: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Own:
    """The balancer speaks for itself, or does not say for whom."""


class HeaderReader:
    """Takes octets until the header is complete: never more than `wanted` at a time, so that none is over."""

    def __init__(self) -> None:
        self._read = b""
        self._end = len(SHORTEST)

    @property
    def wanted(self) -> int:
        """How many octets the header has at least from here on."""
        return self._end - len(self._read)

    def feed(self, data: bytes) -> Proxied | Own | None:
        """What the header says, None while octets are missing. Raises ProxyFault; empty: the end came."""
        if not data:
            raise ProxyFault("the connection ended inside it")
        assert len(data) <= self.wanted, "octets that are not the header's"
        self._read += data
        if self._read.startswith(SIGNATURE):
            return self._second()
        if SIGNATURE.startswith(self._read):
            return None
        return self._first()

    def _first(self) -> Proxied | Own | None:
        line = self._read
        if not line.endswith(b"\n"):
            if len(line) >= MAX_V1 or b"\n" in line or not b"PROXY ".startswith(line[:6]):
                raise ProxyFault(f"it begins with {line[:12]!r}")
            self._end = max(self._end, len(line) + 1)
            return None
        found = _V1.match(line)
        if not found:
            raise ProxyFault(f"{line[:60]!r} is none of version 1")
        if found[1] is None:
            return Own()
        kind = ipaddress.IPv4Address if found[1] == b"TCP4" else ipaddress.IPv6Address
        source, destination = (_address(kind, text.decode()) for text in found.group(2, 3))
        ports = [int(port) for port in found.group(4, 5)]
        if max(ports) > 65535:
            raise ProxyFault(f"{max(ports)} is no port")
        return Proxied(source, ports[0], destination, ports[1])

    def _second(self) -> Proxied | Own | None:
        if len(self._read) < _FIXED:
            self._end = _FIXED
            return None
        command, family, length = struct.unpack("!BBH", self._read[12:_FIXED])
        if command not in (0x20, 0x21) or length > MAX_V2:
            raise ProxyFault(f"command {command:#x} with {length} octets is none of version 2")
        self._end = _FIXED + length
        if len(self._read) < self._end:
            return None
        if command == 0x20:
            return Own()
        size = _LENGTHS.get(family)
        if size is None:
            if family == 0x00:
                return Own()
            raise ProxyFault(f"family and protocol {family:#x} are not TCP over IP")
        if length < size:
            raise ProxyFault("its addresses are cut")
        return _proxied(self._read, size)


def _proxied(header: bytes, size: int) -> Proxied:
    addresses, described = header[_FIXED : _FIXED + size], dict(_described(header[_FIXED + size :]))
    wide = (size - 4) // 2
    ports = struct.unpack("!HH", addresses[-4:])
    if 0 in ports:
        raise ProxyFault("0 is no port")
    told = described.get(_CRC32C)
    if told is not None:
        _check_sum(header, told)
    name = described.get(_AUTHORITY, b"")
    ssl = described.get(_SSL, b"\0")
    return Proxied(
        str(ipaddress.ip_address(addresses[:wide])),
        ports[0],
        str(ipaddress.ip_address(addresses[wide : 2 * wide])),
        ports[1],
        authority="".join(char for char in name.decode("ascii", "replace")[:255] if "!" <= char <= "~"),
        tls=bool(ssl[:1] and ssl[0] & 1),
    )


def _described(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values behind the addresses (2.2.7)."""
    at = 0
    while at < len(octets):
        if at + 3 > len(octets):
            raise ProxyFault("what describes the connection is cut")
        kind, length = struct.unpack_from("!BH", octets, at)
        value = octets[at + 3 : at + 3 + length]
        if len(value) < length:
            raise ProxyFault("what describes the connection is cut")
        yield kind, value
        at += 3 + length


def _check_sum(header: bytes, told: bytes) -> None:
    place = header.rfind(bytes((_CRC32C, 0, 4)) + told)
    blanked = header[: place + 3] + bytes(4) + header[place + 7 :]
    if len(told) != 4 or crc32c(blanked) != int.from_bytes(told, "big"):
        raise ProxyFault("its check sum does not fit")


def crc32c(octets: bytes) -> int:
    """The Castagnoli check sum (RFC 9260 appendix A); bit by bit, headers are short and few have one."""
    value = 0xFFFFFFFF
    for octet in octets:
        value ^= octet
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _address(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], text: str) -> str:
    try:
        return str(kind(text))
    except ValueError:
        raise ProxyFault(f"{text[:60]!r} is no address of its family") from None
