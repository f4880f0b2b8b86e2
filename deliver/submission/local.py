"""Where the relay is and who we are: what is needed of the settings file, the rest unread."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

CONFIG = "/etc/outrider/outrider.toml"
DEFAULT = "127.0.0.1:2525"
MAX_SIZE = 50 * 1024 * 1024


class BadSettings(Exception):
    """The settings cannot be used; the text says why."""


class Local(NamedTuple):
    """`relay`: host and port; `domain` completes addresses without one; `direct`: deliver here and now."""

    relay: tuple[str, int]
    helo: str
    domain: str
    direct: bool


def read(file: str | None) -> Local:
    """From `file`, else $OUTRIDER_CONFIG, else /etc; the defaults where that cannot be read by us.

    Raises BadSettings.
    """
    import tomllib

    path = file or os.environ.get("OUTRIDER_CONFIG") or CONFIG
    try:
        with open(path, "rb") as opened:
            return from_mapping(tomllib.load(opened))
    except (FileNotFoundError, PermissionError) as error:
        if file is not None:
            raise BadSettings(f"reading {path}: {error.strerror}") from None
        return from_mapping({})
    except (OSError, ValueError) as error:
        raise BadSettings(f"reading {path}: {error}") from None


def from_mapping(settings: dict[str, Any]) -> Local:
    """From the tables of a settings file. Raises BadSettings."""
    ours, relay, delivery = (_table(settings, name) for name in ("sendmail", "relay", "delivery"))
    listen = relay.get("listen", [DEFAULT])
    place = ours.get("relay") or (listen[0] if isinstance(listen, list) and listen else DEFAULT)
    helo = str(relay.get("hostname") or delivery.get("helo") or _node())
    return Local(endpoint(str(place)), helo, str(ours.get("domain") or helo), ours.get("via") == "direct")


def endpoint(text: str) -> tuple[str, int]:
    """The host and port in `host:port` or `[address]:port`; every address of a listener: loopback.

    Raises BadSettings.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadSettings(f"sendmail.relay: {text!r} is no host:port")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)  # noqa: S104  # read, not bound


def _table(settings: dict[str, Any], name: str) -> dict[str, Any]:
    found = settings.get(name, {})
    return found if isinstance(found, dict) else {}


def _node() -> str:
    node = os.uname().nodename
    return node if "." in node else f"{node}.localdomain"
