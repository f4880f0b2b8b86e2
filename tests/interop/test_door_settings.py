"""The doors of the real relay: a reload reaches them, and their deliveries count under the limits of the queue."""

from __future__ import annotations

import signal
import smtplib
from pathlib import Path

import pytest

from tests.internet import LiveInternet
from tests.interop.service import START, Service, send, settings_for

DOORS = """\
[relay]
listen = ["127.0.0.1:0"]
workers = {workers}
{relay}
[lmtp]
listen = ["unix:door.sock"]
{more}
"""
TEXT = b"Subject: hi\r\n\r\nhello\r\n"


def write(live: LiveInternet, directory: Path, workers: int = 1, *, relay: str = "", more: str = "") -> Path:
    return settings_for(live.world, directory, DOORS.format(workers=workers, relay=relay, more=more))


def hand_over(config: Path, content: bytes = TEXT, recipient: str = "a@plain.test") -> tuple[int, bytes]:
    place = str(config.parent / "state" / "door.sock")
    with smtplib.LMTP(place, local_hostname="mta.test", timeout=START) as client:
        client.ehlo()
        assert client.mail("me@sender.test")[0] == 250
        assert client.rcpt(recipient)[0] == 250
        return client.data(content)


@pytest.mark.parametrize(("verb", "workers"), [("relay", 1), ("relay", 2), ("lmtp", 1)])
def test_a_reload_reaches_the_doors(live: LiveInternet, tmp_path: Path, verb: str, workers: int) -> None:
    config = write(live, tmp_path, workers)
    with Service(verb, config, "taking over from outrider send") as service:
        assert hand_over(config)[0] == 250
        assert send(config, "a@plain.test").returncode == 0
        service.wait_for("delivered")
        service.wait_for("delivered")
        write(live, tmp_path, workers, relay='max_message_size = "1kB"', more='[tls]\nlevel = "dane-only"')
        assert send(config, "a@plain.test").returncode == 75, "by itself: the service has other settings"
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("reloaded")
        assert hand_over(config)[0] == 451
        code, said = hand_over(config, TEXT + 100 * b"twenty octets a line\r\n")
        assert (code, said[:5]) == (552, b"5.3.4")
        before = service.wait_for("deferred")["id"]
        called = send(config, "a@plain.test")
        assert called.returncode == 75
        assert service.wait_for("deferred")["id"] != before, "taken over again"
        assert service.terminate() == 0


def test_what_the_queue_has_delivered_counts_at_the_doors(live: LiveInternet, tmp_path: Path) -> None:
    limit = '[[queue.limit]]\nof = "domain"\nmatch = ["plain.test"]\nmessages = 1\nper = "1h"\n'
    config = write(live, tmp_path, more=limit)
    with Service("relay", config, "listening") as service:
        with smtplib.SMTP("127.0.0.1", service.port, "client.test", timeout=START) as client:
            client.sendmail("me@sender.test", ["a@plain.test"], TEXT)
        service.wait_for("delivered")
        code, said = hand_over(config)
        assert code == 451
        assert b"queue.limit" in said
        called = send(config, "a@plain.test")
        assert called.returncode == 75
        assert b"queue.limit" in called.stdout
        assert hand_over(config, recipient="b@dane-ee.test")[0] == 250
        assert service.terminate() == 0


def test_a_site_that_the_queue_could_not_reach_is_left_alone_by_the_doors(
    live: LiveInternet, tmp_path: Path
) -> None:
    config = write(
        live,
        tmp_path,
        more="[[route]]\ndomains = ['dead.test']\nvia = 'smarthost'\nhosts = ['[127.0.0.1]:1']",
    )
    with Service("relay", config, "listening") as service:
        with smtplib.SMTP("127.0.0.1", service.port, "client.test", timeout=START) as client:
            client.sendmail("me@sender.test", ["a@dead.test"], TEXT)
        service.wait_for("site paused")
        code, said = hand_over(config, recipient="b@dead.test")
        assert code == 451
        assert b"left alone" in said
        assert service.terminate() == 0


def test_bad_settings_change_nothing_at_the_doors(live: LiveInternet, tmp_path: Path) -> None:
    config = write(live, tmp_path)
    with Service("lmtp", config, "listening for LMTP") as service:
        config.write_text(config.read_text() + '\n[tls]\nlevel = "no such"\n')
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("new settings refused")
        assert hand_over(config)[0] == 250
        assert service.terminate() == 0
