"""What worker processes know of each other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from deliver.neighbours.street import House, Street, is_ours


@pytest.fixture
def street() -> Iterator[Street]:
    made = Street(2)
    yield made
    made.close()


def in_another_process(street: Street, number: int, say: str) -> None:
    """`say` is done in the house of that number, by a process that was forked."""
    pid = os.fork()
    if pid == 0:
        failed = 1
        with contextlib.suppress(BaseException):
            exec(say, {"house": street.house(number)})
            failed = 0
        os._exit(failed)
    assert os.waitpid(pid, 0)[1] == 0


def test_nobody_is_at_home_before_he_has_moved_in(street: Street) -> None:
    in_another_process(street, 1, "assert house.waiting(1) == float('inf')")
    in_another_process(street, 1, "house.move_in(); house.took(3); house.began()")
    first = street.house(0)
    assert [first.waiting(number) for number in range(first.workers)] == [float("inf"), 2]
    first.move_in()
    assert first.waiting(0) == 0
    street.clear(1)
    assert first.waiting(1) == float("inf")
    first.took(1)
    first.move_out()
    first.took(1)
    first.began()
    first.fade()
    assert first.waiting(0) == float("inf"), "whatever still comes"


def test_what_nobody_begins_with_is_forgotten(street: Street) -> None:
    house: House = street.house(0)
    house.move_in()
    house.took(100)
    house.began()
    house.fade()
    assert house.waiting(0) == 49
    for _ in range(6):
        house.fade()
    assert house.waiting(0) == 0


def test_attempts_of_mail_that_nobody_counted_do_not_count(street: Street) -> None:
    house: House = street.house(0)
    house.move_in()
    for _ in range(5):
        house.began()
    house.took(2)
    assert house.waiting(0) == 2


def test_each_hears_what_is_said_at_his_own_address_only(street: Street) -> None:
    house = street.house(1)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(house.addresses[1])
        heard, _ = house.listening.accept()
        with heard:
            assert is_ours(heard)
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(house.addresses[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_told_apart(street: Street) -> None:
    house = street.house(0)
    pid = os.fork()
    if pid == 0:
        failed = 1
        with contextlib.suppress(BaseException):
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(house.addresses[0])
                caller.recv(1)
            failed = 0
        os._exit(failed)
    heard, _ = house.listening.accept()
    with heard:
        assert not is_ours(heard)
    assert os.waitpid(pid, 0)[1] == 0
