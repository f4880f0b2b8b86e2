"""Several worker processes: they share the mail and the limits, and no end of any of them loses a message."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deliver.neighbours.choice import MORE
from tests.internet import Behaviour, Delay, LiveInternet, Silence
from tests.interop.relayprocess import Relay
from tests.interop.service import START
from tests.interop.test_reload import free_port
from tests.interop.waiting import until


class Workers(Relay):
    """A relay with two workers."""

    def __init__(self, live: LiveInternet, directory: Path) -> None:
        super().__init__(live, directory)
        self.metrics = free_port()
        self.options.remove("relay.workers=1")
        self.options += ["relay.workers=2", f"metrics.listen=127.0.0.1:{self.metrics}", "pool.max_messages=1"]

    def next_line(self, otherwise: str = "the log is silent") -> dict[str, Any]:
        """The next line of the log; a traceback ends the test with all of it."""
        try:
            return super().next_line(otherwise)
        except ValueError:
            assert self.process is not None
            assert self.process.stderr is not None
            said = os.read(self.process.stderr.fileno(), 1_000_000)
            raise AssertionError(said.decode()) from None

    def workers(self) -> list[int]:
        """The workers' process numbers."""
        assert self.process is not None
        return children(self.process.pid)

    def owner(self, shard: int) -> int:
        """The process that holds the lock of the shard; 0 for nobody."""
        inode = (self.directory / "queue" / f"shard-{shard}.lock").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return int(words[4])
        return 0

    def new_owner(self, shard: int, *, but: tuple[int, ...]) -> int:
        """Wait for another owner of the shard than these; the process."""
        until(lambda: self.owner(shard) not in (0, *but))
        return self.owner(shard)

    def kill_worker(self, pid: int) -> None:
        """kill -9, and wait until the supervisor has noticed."""
        os.kill(pid, signal.SIGKILL)
        self.wait_for("worker ended, it is started again")

    def sample(self, name: str) -> float:
        """One value of the metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=START) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise AssertionError(f"no {name}")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in found.read_text().split()] if found.exists() else []


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, so that another one accepts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def relay(live: LiveInternet, tmp_path: Path) -> Iterator[Workers]:
    relay = Workers(live, tmp_path / "state")
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        left = relay.workers()
        relay.kill()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def arrived(live: LiveInternet) -> Counter[str]:
    return Counter(recipient for message in tuple(live.world.messages) for recipient in message.recipients)


def stored(relay: Workers) -> list[int]:
    """How many recipients each shard has had."""
    found = []
    for shard in (0, 1):
        with contextlib.closing(sqlite3.connect(relay.directory / "queue" / f"shard-{shard}.db")) as queue:
            found.append(queue.execute("SELECT count(*) FROM recipient").fetchone()[0])
    return found


def test_two_workers_accept_and_deliver_and_are_counted_together(live: LiveInternet, relay: Workers) -> None:
    relay.start()
    names = {f"n{number}@plain.test" for number in range(30)}
    for name in names:
        relay.submit(name)
    live.wait_until(lambda world: set(arrived(live)) == names, START)
    assert {relay.owner(0), relay.owner(1)} == set(relay.workers())
    until(lambda: relay.sample('outrider_deliveries_total{result="delivered"}') == 30)
    assert relay.sample("outrider_messages_accepted_total") == 30
    assert relay.sample("outrider_workers") == 2
    assert relay.terminate() == 0
    assert sum(stored(relay)) == 30
    assert set(arrived(live).values()) == {1}
    assert relay.ask("queue", "list") == []


def test_a_worker_delivers_what_others_have_accepted_for_its_domains(
    live: LiveInternet, relay: Workers
) -> None:
    """A domain's mail comes into one shard, whoever accepts it, as long as its worker keeps up."""
    relay.options.append("pool.idle=0s")  # so that no domain ever stays where it comes
    relay.start()
    for number in range(100):  # until the other one knows of it
        relay.submit(f"first{number}@plain.test")
        relay.wait_for("delivered")
        if relay.sample("outrider_messages_led_total"):
            break
    names = {
        f"n{number}@plain.test" for number in range(3 * MORE)
    }  # half of them, did none begin, is too much
    for name in names:
        relay.submit(name)
        relay.wait_for("delivered")
    assert set(arrived(live)) >= names
    assert relay.terminate() == 0
    assert set(arrived(live).values()) == {1}
    there = [names & kept for kept in recipients(relay)]
    assert there == [names, set()]


def recipients(relay: Workers) -> list[set[str]]:
    """Those of each shard."""
    found = []
    for shard in (0, 1):
        with contextlib.closing(sqlite3.connect(relay.directory / "queue" / f"shard-{shard}.db")) as queue:
            rows = queue.execute("SELECT local_part, domain FROM recipient")
            found.append({f"{local_part}@{domain}" for local_part, domain in rows})
    return found


def test_the_queue_of_both_is_one_list(live: LiveInternet, relay: Workers) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"CONNECT": Silence()}))
    relay.start()
    names = [f"n{number}@plain.test" for number in range(8)]
    for name in names[:4]:
        relay.submit(name)
    with standing_still(relay.owner(0)):
        for name in names[4:]:
            relay.submit(name)
    assert sorted(row["recipient"] for row in relay.ask("queue", "list")) == names
    assert stored(relay)[1] >= 4


@pytest.mark.parametrize("point", ["MAIL", "CONTENT"])
def test_kill_9_of_workers_loses_nothing(live: LiveInternet, relay: Workers, point: str) -> None:
    live.behave("mx.plain.test", Behaviour(replies={point: Silence()}))
    relay.start()
    names = {f"n{number}@plain.test" for number in range(10)}
    for name in names:
        relay.submit(name)
    for pid in relay.workers():
        relay.kill_worker(pid)
    live.behave("mx.plain.test", Behaviour())
    until(lambda: len(relay.workers()) == 2)
    live.wait_until(lambda world: set(arrived(live)) == names, START)
    relay.submit("after@plain.test")
    live.wait_until(lambda world: "after@plain.test" in arrived(live), START)
    assert relay.terminate() == 0
    assert live.world.violations == ()


def test_another_worker_works_off_the_shard_of_one_that_keeps_dying(
    live: LiveInternet, relay: Workers
) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Silence()}))
    relay.start()
    steady, dying = relay.owner(0), relay.owner(1)
    names = {f"n{number}@plain.test" for number in range(5)}
    with standing_still(steady):
        for name in names:
            relay.submit(name)  # into shard 1
    live.behave("mx.plain.test", Behaviour())
    relay.kill_worker(dying)
    for _ in range(3):  # the pause before the next start grows to 4 s
        dying = relay.new_owner(1, but=(steady, dying))
        relay.kill_worker(dying)
    until(lambda: relay.owner(1) == steady)
    live.wait_until(lambda world: set(arrived(live)) == names, START)
    relay.new_owner(1, but=(steady,))  # it came back and has its shard again
    assert relay.owner(0) == steady
    assert relay.sample("outrider_worker_restarts_total") == 4
    assert relay.terminate() == 0


def test_kill_9_of_the_supervisor_ends_the_workers_and_the_next_one_goes_on(
    live: LiveInternet, relay: Workers
) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Silence()}))
    relay.start()
    relay.submit("a@plain.test")
    before = relay.workers()
    relay.kill()
    live.behave("mx.plain.test", Behaviour())
    relay.start()  # waits for the shards
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    live.wait_until(lambda world: "a@plain.test" in arrived(live), START)
    assert relay.terminate() == 0


def test_a_limit_holds_over_all_workers(live: LiveInternet, relay: Workers) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Delay(0.2, "250 ok")}))
    relay.options += ["queue.per_domain=1", "queue.per_site=1"]
    relay.start()
    names = {f"n{number}@plain.test" for number in range(12)}
    for shard, some in ((0, sorted(names)[:6]), (1, sorted(names)[6:])):  # both have some
        with standing_still(relay.owner(1 - shard)):
            for name in some:
                relay.submit(name)
    live.wait_until(lambda world: set(arrived(live)) == names, 2 * START)
    assert relay.terminate() == 0
    assert stored(relay) == [6, 6]
    times = sorted(spans(relay.lines))
    assert all(end <= begin + 0.02 for (_, end), (begin, _) in pairwise(times)), times


def spans(lines: list[dict[str, Any]]) -> Iterator[tuple[float, float]]:
    """When each attempt began and ended, by the log."""
    for line in lines:
        if line["message"] == "attempt":
            end = datetime.fromisoformat(line["time"]).timestamp()
            yield end - float(line["seconds"]), end


def test_sighup_reaches_every_worker_and_a_bad_file_reaches_none(
    live: LiveInternet, relay: Workers, tmp_path: Path
) -> None:
    first, second = free_port(), free_port()
    relay.options = [option for option in relay.options if not option.startswith("relay.listen")]
    file = tmp_path / "outrider.toml"
    file.write_text(f'[relay]\nlisten = ["127.0.0.1:{first}"]\n')
    relay.options = [*relay.options]
    relay.command = lambda *verb: [  # type: ignore[method-assign]
        *Relay.command(relay)[:3], "--config", str(file), *Relay.command(relay, *verb)[3:]
    ]  # fmt: skip
    relay.start()
    assert relay.process is not None
    file.write_text(f'[relay]\nlisten = ["127.0.0.1:{first}", "127.0.0.1:{second}"]\nmax_recipients = 1\n')
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for("reloaded")
    relay.port = second
    for pid in relay.workers():  # each of them, while the other stands still
        with standing_still(pid):
            relay.submit("a@plain.test")
    file.write_text("[relay]\nnonsense = 1\n")
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for("new settings refused")
    # what only the workers can find out is refused as a whole too, and the ports are as before
    certificate = '[[relay.tls.certificate]]\nchain_file = "/nonexistent"\nkey_file = "/nonexistent"\n'
    file.write_text(f'[relay]\nlisten = ["127.0.0.1:{first}"]\n{certificate}')
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for("new settings refused")
    relay.submit("b@plain.test")
    for pid in relay.workers():
        relay.kill_worker(pid)  # those that come have the new settings too
    relay.submit("c@plain.test")
    live.wait_for_messages(4, START)
    assert relay.terminate() == 0


def greeting(port: int) -> tuple[socket.socket, str]:
    """A connection, and the code that it begins with."""
    made = socket.create_connection(("127.0.0.1", port), timeout=START)
    return made, made.recv(3).decode()


@pytest.mark.parametrize("limit", ["client_connections", "max_connections"])
def test_connections_are_counted_over_all_workers(live: LiveInternet, relay: Workers, limit: str) -> None:
    relay.options += [f"relay.{limit}=2"]
    relay.start()
    first, second = relay.workers()
    with contextlib.ExitStack() as open_connections:
        for number, other in enumerate((first, second, first, second)):  # two connections, then too many
            with standing_still(other):
                made, code = greeting(relay.port)
            open_connections.enter_context(made)
            assert code == ("220" if number < 2 else "421"), number
        relay.kill_worker(first)  # its connection is gone
        until(lambda: len(relay.workers()) == 2)
        with standing_still(next(pid for pid in relay.workers() if pid != second)):
            made, code = greeting(relay.port)
        open_connections.enter_context(made)
        assert code == "220"
    assert relay.terminate() == 0


def test_what_is_frozen_is_frozen_in_a_shard_that_comes_later(live: LiveInternet, relay: Workers) -> None:
    def queue(*words: str) -> None:
        subprocess.run(relay.command("queue", *words), check=True, capture_output=True, timeout=START)

    relay.options[relay.options.index("relay.workers=2")] = "relay.workers=1"
    relay.start()
    queue("freeze", "domain", "mta-sts.test", "--reason", "so that the next one has number 2")
    queue("thaw", "1")
    queue("freeze", "domain", "plain.test", "--reason", "wait")
    assert relay.terminate() == 0
    relay.options[relay.options.index("relay.workers=1")] = "relay.workers=2"
    relay.start()
    with standing_still(relay.owner(0)):
        relay.submit("a@plain.test")
        relay.submit("b@dane-ee.test")
        live.wait_for_messages(1, START)
    assert list(arrived(live)) == ["b@dane-ee.test"]
    queue("freeze", "domain", "other.test", "--reason", "in both")
    assert [rule["id"] for rule in relay.ask("queue", "freeze", "list")] == [2, 3]
    queue("thaw", "2")
    live.wait_for_messages(2, START)
    assert relay.terminate() == 0


def test_a_mistake_at_the_start_ends_it_with_its_status(live: LiveInternet, relay: Workers) -> None:
    (relay.directory / "queue").mkdir(parents=True)
    (relay.directory / "queue" / "shard-1.db").write_bytes(b"this is no database" * 100)
    ran = subprocess.run(relay.command("relay"), capture_output=True, timeout=START, check=False)
    assert ran.returncode == 75
    assert b"shard-1.db" in ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_given_up_once_the_ports_are_bound(live: LiveInternet, scratch: Path) -> None:
    directory = scratch / "unprivileged"
    directory.mkdir(mode=0o755)
    relay = Workers(live, directory / "state")
    relay.options.append("relay.user=nobody")
    relay.start()
    assert relay.process is not None
    for pid in (relay.process.pid, *relay.workers()):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        ids = {line.split(":")[0]: line.split()[1:] for line in status if line.startswith(("Uid", "Gid"))}
        assert "0" not in (*ids["Uid"], *ids["Gid"])
    relay.submit("a@plain.test")
    live.wait_for_messages(1, START)
    assert relay.directory.stat().st_uid != 0
    assert relay.terminate() == 0


def test_one_worker_works_off_the_shards_of_those_that_there_were(live: LiveInternet, relay: Workers) -> None:
    live.behave("mx.plain.test", Behaviour(replies={"MAIL": Silence()}))
    relay.start()
    before = relay.workers()
    with standing_still(relay.owner(0)):
        relay.submit("a@plain.test")  # into shard 1
    relay.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    live.behave("mx.plain.test", Behaviour())
    relay.options[relay.options.index("relay.workers=2")] = "relay.workers=1"
    relay.start()
    live.wait_until(lambda world: "a@plain.test" in arrived(live), START)
    relay.submit("b@plain.test")
    live.wait_until(lambda world: "b@plain.test" in arrived(live), START)
    assert relay.terminate() == 0


def test_one_process_tells_its_counts_too(live: LiveInternet, relay: Workers) -> None:
    relay.options[relay.options.index("relay.workers=2")] = "relay.workers=1"
    relay.start()
    relay.submit("a@plain.test")
    live.wait_for_messages(1, START)
    until(lambda: relay.sample('outrider_deliveries_total{result="delivered"}') == 1)
    assert relay.sample("outrider_attempt_seconds_count") == 1
    assert relay.sample("outrider_workers") == 1
    assert relay.workers() == []
    assert relay.terminate() == 0
