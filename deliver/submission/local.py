"""Where the relay is and who we are: what is needed of the settings file, the rest unread."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

CONFIG = "/etc/outrider/outrider.toml"
STATE_DIR = "/var/lib/outrider"
DEFAULT = "127.0.0.1:2525"
MAX_SIZE = 50 * 1024 * 1024


class BadSettings(Exception):
    """The settings cannot be used; the text says why."""


class Local(NamedTuple):
    """`relay`: host and port; `domain` completes addresses without one; `direct`: deliver here and now.

    `detect_utf8`: a header in UTF-8 needs SMTPUTF8. `queue`: the file that the relay queues in; "" where that
    is not on this machine.
    """

    relay: tuple[str, int]
    helo: str
    domain: str
    direct: bool
    detect_utf8: bool = True
    queue: str = ""


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
    domain, direct = str(ours.get("domain") or helo), ours.get("via") == "direct"
    utf8 = ours.get("detect_utf8") is not False
    return Local(
        endpoint(str(place)), helo, domain, direct, utf8, "" if ours.get("relay") else _queue(settings)
    )


def _queue(settings: dict[str, Any]) -> str:
    queue = _table(settings, "queue")
    if queue.get("url"):
        return ""
    directory = os.path.join(str(settings.get("state_dir", STATE_DIR)), str(queue.get("directory", "queue")))
    return os.path.join(directory, "shard-0.db")


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
