"""What a reload changes, and what waits for a restart."""

from __future__ import annotations

from deliver.reload import change
from deliver.settings import (
    Duration,
    EventAction,
    Events,
    Hints,
    Lmtp,
    Queue,
    Relay,
    RelayListener,
    Rule,
    Send,
    Settings,
    Smtp,
    Tls,
)
from deliver.tls.policy import Level

OLD = Settings(relay=Relay(listen=("127.0.0.1:25", "127.0.0.2:25")))


def test_what_deliveries_and_clients_need_changes() -> None:
    new = Settings(
        tls=Tls(level=Level.VERIFY),
        smtp=Smtp(pipelining=False),
        queue=Queue(workers=7, retry=(Duration(5),)),
        relay=Relay(listen=("127.0.0.2:25", "127.0.0.3:25"), networks=("192.0.2.0/24",)),
    )
    found = change(OLD, new)
    assert found.settings == new
    assert found.waiting == ()
    assert (found.opened, found.closed) == (("127.0.0.3:25",), ("127.0.0.1:25",))


def test_nothing_new_changes_nothing() -> None:
    found = change(OLD, OLD)
    assert (found.settings, found.waiting, found.opened, found.closed) == (OLD, (), (), ())


def test_what_rows_and_files_hang_on_waits_for_a_restart() -> None:
    action = EventAction(name="x", events=("msg:*",), database="sqlite:///x.db", sql="SELECT 1")
    new = Settings(
        state_dir="/srv/other",
        hints=Hints(url="memory"),
        events=Events(backlog=5),
        queue=Queue(directory="elsewhere", url="postgresql://h/d", node="b", connections=3, workers=7),
        rule=(Rule(domains=("a.example",), event_action=(action,)),),
        relay=OLD.relay,
    )
    found = change(OLD, new)
    of_queue = {"queue.directory", "queue.url", "queue.node", "queue.connections"}
    assert set(found.waiting) == {"state_dir", "hints", "events", *of_queue, "rule.event_action"}
    assert (found.settings.queue.url, found.settings.queue.node) == (None, "")
    assert (found.settings.state_dir, found.settings.hints) == (OLD.state_dir, OLD.hints)
    assert (found.settings.queue.directory, found.settings.queue.workers) == ("queue", 7)


def test_listeners_with_rules_of_their_own_come_and_go_too() -> None:
    own = RelayListener(listen=("127.0.0.3:25", "127.0.0.1:25"))
    new = Settings(relay=Relay(listen=("127.0.0.2:25",), listener=(own,)))
    found = change(OLD, new)
    assert (found.opened, found.closed) == (("127.0.0.3:25",), ())
    back = change(new, OLD)
    assert (back.opened, back.closed) == ((), ("127.0.0.3:25",))


def test_the_doors_change_but_for_their_sockets() -> None:
    new = Settings(
        lmtp=Lmtp(listen=("127.0.0.1:2424",), max_connections=7, deadline=Duration(60)),
        send=Send(socket="other.sock", max_connections=3),
        relay=OLD.relay,
    )
    found = change(OLD, new, "digest of the new file")
    assert set(found.waiting) == {"lmtp.listen", "send.socket"}
    assert (found.settings.lmtp.listen, found.settings.lmtp.max_connections) == ((), 7)
    assert (found.settings.send.socket, found.settings.send.max_connections) == (OLD.send.socket, 3)
    assert found.digest is None, "callers with the new file have other settings than we"


def test_callers_with_the_new_file_have_our_settings() -> None:
    new = Settings(tls=Tls(level=Level.VERIFY), relay=OLD.relay)
    assert change(OLD, new, "digest of the new file").digest == "digest of the new file"
