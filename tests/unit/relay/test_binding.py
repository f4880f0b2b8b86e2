"""Listening sockets, ours and systemd's."""

from __future__ import annotations

import os
import socket

import pytest

from deliver.errors import ConfigurationError
from deliver.relay.binding import bind, bind_all, name_of, passed_by_systemd


def listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_each_place_has_its_socket() -> None:
    bound = bind(["127.0.0.1:0", "[::1]:0"])
    try:
        assert [name_of(each).rpartition(":")[0] for each in bound.values()] == ["127.0.0.1", "[::1]"]
        assert all(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in bound.values())
        assert not any(os.get_inheritable(each.fileno()) for each in bound.values())
    finally:
        for each in bound.values():
            each.close()


def test_all_or_none_and_the_reason() -> None:
    with listening() as taken:
        place = name_of(taken)
        with pytest.raises(
            ConfigurationError, match=r"listening on .*: Address already in use.*relay\.listen"
        ):
            bind(["127.0.0.2:0", place])


def test_what_systemd_has_bound_is_taken_over() -> None:
    passed = listening()
    place = name_of(passed)
    bound = bind([place], [passed])
    assert bound == {place: passed}
    assert not passed.getblocking()
    passed.close()


def test_a_socket_of_systemds_that_nobody_names_is_an_error() -> None:
    passed = listening()
    with pytest.raises(ConfigurationError, match="does not name it"):
        bind([], [passed])
    assert passed.fileno() == -1


def test_only_the_process_that_systemd_means_takes_them() -> None:
    other = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}
    assert passed_by_systemd(other) == passed_by_systemd({}) == []
    assert passed_by_systemd({"LISTEN_PID": "me", "LISTEN_FDS": "x"}) == []


def test_a_name_may_have_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as taken:
        port = taken.getsockname()[1]

        def resolve(host: str, port: int, **about: object) -> list[tuple[object, ...]]:
            assert host == "mail.test"
            both = [(socket.AF_INET, ("127.0.0.2", port)), (socket.AF_INET, ("127.0.0.3", port))]
            return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in [*both, both[0]]]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        opened = bind_all(f"mail.test:{port}", key="lmtp.listen")
        assert [name_of(each) for each in opened] == [f"127.0.0.2:{port}", f"127.0.0.3:{port}"]
        opened[0].close()
        with pytest.raises(ConfigurationError, match=r"Address already in use.*lmtp\.listen"):
            bind_all(
                f"mail.test:{port}", key="lmtp.listen"
            )  # the second is taken, so the first is given back
        opened[1].close()
        for each in bind_all(f"mail.test:{port}", key="lmtp.listen"):
            each.close()
