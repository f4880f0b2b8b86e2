"""What a long-running process asks of the interpreter and the system. Call once, before it serves."""

from __future__ import annotations

import logging
import resource
import sys

SWITCH = 0.0005  # seconds
FILES = 65536

_log = logging.getLogger("outrider.service")


def tune() -> None:
    """Short turns between threads, and as many open files as we may have. Never raises.

    The loop gives up the interpreter at each system call, a database thread then keeps it for a whole turn:
    with the interpreter's own 5 ms a few system calls cost more time than the delivery that they belong to.
    """
    sys.setswitchinterval(SWITCH)
    raise_file_limit()


def raise_file_limit() -> None:
    """As many open files as the hard limit allows, up to FILES; the processes that we start have it too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _log.warning("no more than %d files can be open at a time: %s", soft, error)


def file_limit() -> int:
    """How many files this process may have open at a time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
