"""Which addresses are one and the same, and which are this machine's."""

from __future__ import annotations

import socket

import pytest
import trio

from deliver.net import address
from deliver.net.address import is_local, leads_to, places_of, within


@pytest.mark.parametrize(
    ("listening", "to", "expected"),
    [
        (("127.0.0.1", 25), "127.0.0.1", True),
        (("127.0.0.1", 25), "::ffff:127.0.0.1", True),
        (("127.0.0.1", 25), "::ffff:7f00:1", True),
        (("127.0.0.1", 25), "0.0.0.0", True),
        (("127.0.0.1", 25), "127.0.0.2", False),
        (("127.0.0.1", 26), "127.0.0.1", False),
        (("::1", 25), "::", True),
        (("0.0.0.0", 25), "127.0.0.1", True),
        (("0.0.0.0", 25), "127.255.0.9", True),
        (("0.0.0.0", 25), "::ffff:127.0.0.1", True),
        (("0.0.0.0", 25), "0.0.0.0", True),
        (("0.0.0.0", 25), "::1", False),
        (("0.0.0.0", 26), "127.0.0.1", False),
        (("::", 25), "::1", True),
        (("::", 25), "127.0.0.1", False),
        (("0.0.0.0", 25), "192.0.2.1", True),
        (("0.0.0.0", 25), "::ffff:192.0.2.1", True),
        (("0.0.0.0", 25), "192.0.2.9", False),
        (("::", 25), "2001:db8::1", True),
        (("0.0.0.0", 25), "2001:db8::1", False),
        (("192.0.2.7", 25), "192.0.2.1", False),
    ],
)
def test_what_leads_to_ourselves(listening: tuple[str, int], to: str, expected: bool) -> None:
    ours = {"192.0.2.1", "2001:db8::1"}
    assert leads_to(frozenset({listening}), to, 25, ours.__contains__) is expected


def test_only_where_we_listen_is_the_machine_asked() -> None:
    def never(text: str) -> bool:
        raise AssertionError(text)

    places = frozenset({("0.0.0.0", 587), ("192.0.2.1", 25)})
    assert not leads_to(places, "192.0.2.9", 25, never)


@pytest.mark.parametrize("others", [False, True], ids=["only its own", "any address can be bound"])
def test_what_this_machine_has(monkeypatch: pytest.MonkeyPatch, others: bool) -> None:
    monkeypatch.setattr(address, "_binds_to_others", lambda family: others)
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.254")
    assert not is_local("2001:db8::254")


async def test_where_sockets_listen() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both,
        socket.create_server(("::", 0), family=socket.AF_INET6) as six,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        wrapped = [trio.socket.from_stdlib_socket(each.dup()) for each in (one, both, six, unix)]
        ports = [each.getsockname()[1] for each in (one, both, six)]
        assert places_of(wrapped) == {
            ("127.0.0.1", ports[0]), ("::", ports[1]), ("0.0.0.0", ports[1]), ("::", ports[2]),
        }  # fmt: skip
        for each in wrapped:
            each.close()


def test_networks() -> None:
    assert within("::ffff:0.0.0.1", ("0.0.0.0/8",))
    assert within("ff02::1%eth0", ("0.0.0.0/8", "ff00::/8"))
    assert not within("::1", ("0.0.0.0/8", "::/128"))
