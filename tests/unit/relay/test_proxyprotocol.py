"""The PROXY header: what is believed, what is refused, and that nothing behind it is touched."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings, strategies as st

from deliver.relay.proxyprotocol import MAX_V2, SIGNATURE, HeaderReader, Own, Proxied, ProxyFault, crc32c


def read(data: bytes, step: int = 1000) -> tuple[Proxied | Own | None, bytes]:
    """What the header says, and what was left alone."""
    reader = HeaderReader()
    while data:
        size = min(reader.wanted, step, len(data))
        piece, data = data[:size], data[size:]
        found = reader.feed(piece)
        if found is not None:
            return found, data
    return None, b""


def v2(family: int = 0x11, addresses: bytes = b"", tlvs: bytes = b"", command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses + tlvs)) + addresses + tlvs


V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 50000, 25)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
V6 += struct.pack("!HH", 50000, 25)
CLIENT = Proxied("192.0.2.1", 50000, "198.51.100.2", 25)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 25\r\n", CLIENT),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 25\r\n",
            Proxied("2001:db8::1", 50000, "2001:db8::2", 25),
        ),
        (b"PROXY UNKNOWN\r\n", Own()),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Own()),
        (v2(0x11, V4), CLIENT),
        (v2(0x21, V6), Proxied("2001:db8::1", 50000, "2001:db8::2", 25)),
        (v2(0x00), Own()),
        (v2(0x00, command=0x20), Own()),
        (v2(0x11, V4, command=0x20), Own()),
        (v2(0x11, V4, tlv(4, bytes(300))), CLIENT),
        (
            v2(0x11, V4, tlv(2, b"mx.example.org") + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))),
            Proxied("192.0.2.1", 50000, "198.51.100.2", 25, "mx.example.org", tls=True),
        ),
        (
            v2(0x11, V4, tlv(2, b"evil\r\nname\xff")),
            Proxied("192.0.2.1", 50000, "198.51.100.2", 25, "evilname"),
        ),
    ],
)
def test_headers(header: bytes, said: Proxied | Own, step: int) -> None:
    assert read(header + b"EHLO client\r\n", step) == (said, b"EHLO client\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO client.example.org\r\n",
        b"\x16\x03\x01" + bytes(30),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 25\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 0 25\r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.2 50000 25\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 50000 25\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 50000 25\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 50000 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 25 extra\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 50000 25\r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.2 50000 25\r\n",
        b"PROXY UNKNOWN " + b"x" * 200,
        b"PROXY \n" + b"x" * 200,
        v2(0x11, V4[:-1]),
        v2(0x21, V4),
        v2(0x12, V4),
        v2(0x31, bytes(216)),
        v2(0x11, V4, command=0x31),
        v2(0x11, V4, command=0x22),
        v2(0x11, V4[:-4] + struct.pack("!HH", 0, 25)),
        v2(0x11, V4, b"\x02\x00"),
        v2(0x11, V4, b"\x02\x00\x09short"),
        v2(0x11, V4, tlv(3, b"abcd")),
        v2(0x11, V4, tlv(3, b"abc")),
        v2(0x11, V4, bytes(MAX_V2)),
    ],
)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ProxyFault):
        read(data)


def test_a_check_sum_that_fits() -> None:
    blank = v2(0x11, V4, tlv(3, bytes(4)) + tlv(4, b"pad"))
    header = blank.replace(tlv(3, bytes(4)), tlv(3, crc32c(blank).to_bytes(4, "big")))
    assert read(header) == (CLIENT, b"")
    with pytest.raises(ProxyFault):
        read(header.replace(b"pad", b"bad"))


def test_the_check_sum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 25\r\n", v2(0x11, V4)])
def test_a_header_that_is_cut_says_nothing(header: bytes) -> None:
    for length in range(1, len(header)):
        assert read(header[:length]) == (None, b"")
    reader = HeaderReader()
    reader.feed(header[:5])
    with pytest.raises(ProxyFault, match="ended inside"):
        reader.feed(b"")


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=200).map(lambda data: SIGNATURE + data),
        st.binary(max_size=80).map(lambda data: v2(0x11, V4, data)),
        st.binary(max_size=120).map(lambda data: b"PROXY TCP4 " + data),
    ),
    st.integers(1, 50),
)
def test_any_octets_in_any_pieces(data: bytes, step: int) -> None:
    """The same answer however they are cut, and never anything but an answer or a fault."""

    def outcome(step: int) -> object:
        try:
            return read(data, step)
        except ProxyFault as fault:
            return str(fault)

    ours, whole = outcome(step), outcome(1000)
    assert ours == whole or (isinstance(ours, str) and isinstance(whole, str))  # a fault may be seen earlier
