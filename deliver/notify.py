"""Telling systemd how the service is: sd_notify(3), and its watchdog. Does nothing without systemd."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

_log = logging.getLogger("outrider.service")


class Notifier:
    """The socket that systemd has given us; `period` is how often it wants to hear of us, seconds."""

    def __init__(self, address: str = "", period: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.period = period

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int | None = None) -> Notifier:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; the watchdog's may be for another process."""
        address = environment.get("NOTIFY_SOCKET", "")
        meant = environment.get("WATCHDOG_PID", "")
        period = None
        try:
            if not meant or int(meant) == (os.getpid() if pid is None else pid):
                period = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 or None
        except ValueError:
            period = None
        return cls(address if address.startswith(("/", "@")) else "", period)

    def ready(self, status: str) -> None:
        """We serve."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The settings are read again; `ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the settings again")

    def stopping(self) -> None:
        """We take nothing more."""
        self._send("STOPPING=1", "STATUS=finishing what is under way")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """There is progress."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.connect(self._address)
                sender.sendall("\n".join(line.replace("\n", " ") for line in lines).encode())
        except OSError as error:
            _log.debug("systemd does not hear: %s", error)
