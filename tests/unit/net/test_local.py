"""UNIX sockets of ours: whose the path is, and what stands in the way."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from deliver.errors import ConfigurationError
from deliver.net.local import LocalSocket, place_of


def bind(path: Path) -> LocalSocket:
    return LocalSocket.bind(path, mode=0o660, group="", key="lmtp.listen")


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def test_it_listens_with_its_mode_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lmtp.sock"
    ours = bind(path)
    assert path.stat().st_mode & 0o777 == 0o660
    assert place_of(ours.socket) == f"unix:{path}"
    assert not ours.socket.getblocking()
    assert connects(path)
    ours.close()
    assert not path.exists()


def test_a_path_belongs_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    ours = bind(path)
    with pytest.raises(ConfigurationError, match=r"another process listens there.*lmtp\.listen"):
        bind(path)
    assert connects(path)
    ours.close()
    bind(path).close()


def test_what_was_left_there_is_replaced_but_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    bind(path).close()
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="File exists"):
        bind(path)
    assert path.read_text() == "precious"


def test_an_unknown_group_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no group nonesuch"):
        LocalSocket.bind(tmp_path / "s", mode=0o600, group="nonesuch", key="lmtp.listen")
    bind(tmp_path / "s").close()  # the lock was given back


def test_who_shares_it_leaves_the_path_alone(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    ours = bind(path)
    pid = os.fork()
    if pid == 0:
        ours.share()
        ours.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert connects(path)
    ours.close()


def test_the_lock_goes_with_the_first_process(tmp_path: Path) -> None:
    """Another that was forked from it and still serves does not keep the next service from starting."""
    path = tmp_path / "lmtp.sock"
    ours = bind(path)
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        ours.share()
        there.send(b"shared")
        there.recv(1)  # the end of the test
        os._exit(0)
    there.close()
    with here:
        here.recv(10)
        ours.share()  # as if we had died
        bind(path).close()
    os.waitpid(pid, 0)
    ours.socket.close()
