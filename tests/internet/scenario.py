"""What the demonstration does: three messages through the real relay, and what is known about them afterwards.

The third goes to a domain whose TLSA record matches no certificate of its server. RFC 7672 2.2 leaves one
thing to do: not to deliver, and to try again later.

It waits for events: messages and ends of connections at the mail servers, attempts that the queue has settled.
"""

from __future__ import annotations

import json
import smtplib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from tests.internet.live import LiveInternet
from tests.internet.relay import RelayFailed, RelayProcess
from tests.internet.report import Case, Received, Report, Seen, Story
from tests.internet.smtpd import SmtpServer

SENDER = "ada@app.example"
CASES = (
    Case("alice@dane-ee.test", "names its server's own key in DNS (DANE-EE)", "delivered", "dane-ee"),
    Case("bob@dane-ta.test", "names the issuer of its certificates in DNS (DANE-TA)", "delivered", "dane-ta"),
    Case("carol@dane-mismatch.test", "names a key in DNS that its server does not have", "deferred"),
)
PATIENCE = 15.0  # seconds for the deliveries, and again for the queue's record of them
EVENT_ROWS = "10000"

# An event action as an administrator writes it: one SQL statement, run for the events that it names.
_LEDGER = "CREATE TABLE ledger (id PRIMARY KEY, time, domain, event, host, verified_by)"
_LEDGER_ACTION = """
[[events.action]]
name = "ledger"
events = ["msg:delivery", "msg:defer"]
database = {database}
sql = '''
INSERT INTO ledger VALUES (:event_id, :event_time, :domain, :event_name, :host, :tls_verified_by)
ON CONFLICT (id) DO NOTHING'''
"""

Progress = Callable[[str], None]


def run(directory: Path, progress: Progress) -> Report:
    """Deliver the messages and collect what is known about them. Raises RelayFailed.

    `directory` keeps the relay's configuration, log and state. `progress` is told what happens.
    """
    ledger = directory / "ledger.db"
    _create_ledger(ledger)
    action = _LEDGER_ACTION.format(database=json.dumps(f"sqlite:///{ledger}"))
    progress("signing the zones and starting the mail servers of the miniature Internet")
    with LiveInternet() as live:
        progress("starting the relay")
        with RelayProcess(directory, live.world, action) as relay:
            progress("handing three messages to the relay over SMTP")
            contents = [content_of(case, datetime.now(UTC)) for case in CASES]
            ids = [_submit(relay, case, content) for case, content in zip(CASES, contents, strict=True)]
            progress("waiting for the mail servers")
            _await_servers(live, _served)
            progress("waiting for the queue's record")
            shown = _await_attempts(relay, ids)
            progress("stopping the relay")
            relay.stop()  # its idle connections end with it
            _await_servers(live, _left)
            progress("reading the events and the hints")
            events, hints = _both(relay, ("events", "tail", "-n", EVENT_ROWS), ("hints", "list"))
        servers = [live.world.server(case.exchanger) for case in CASES]
        return Report(
            messages=tuple(
                _story(case, content, document, events)
                for case, content, document in zip(CASES, contents, shown, strict=True)
            ),
            hints=hints,
            received=tuple(one for server in servers for one in _received(server)),
            connections=tuple(one for server in servers for one in _seen(server)),
            ledger=_rows(ledger),
            violations=live.world.violations,
        )


def content_of(case: Case, date: datetime) -> bytes:
    """The message as an application writes it, with lines that begin with dots."""
    message = EmailMessage(policy=SMTP)
    message["Date"] = date
    message["From"] = SENDER
    message["To"] = case.recipient
    message["Subject"] = "A demonstration"
    message["Message-ID"] = f"<{case.recipient.replace('@', '.')}@app.example>"
    message.set_content(
        "Hello.\n.A line that begins with a dot,\n..one with two, and a dot alone:\n.\nBye.\n"
    )
    return message.as_bytes()


def _submit(relay: RelayProcess, case: Case, content: bytes) -> str:
    """Hand one message over and return its queue id."""
    with smtplib.SMTP(relay.address, relay.port, "app.example", timeout=PATIENCE) as client:
        client.ehlo()
        _require(client.mail(SENDER))
        _require(client.rcpt(case.recipient))
        return _require(client.data(content)).rpartition(" ")[2]


def _require(reply: tuple[int, bytes]) -> str:
    text = reply[1].decode("ascii", "replace")
    if reply[0] != 250:
        raise RelayFailed(f"the relay did not take a message: {reply[0]} {text}")
    return text


def _await_servers(live: LiveInternet, over: Callable[[SmtpServer], bool]) -> None:
    """Until it is over at each of the servers. A server that nobody calls is found out later."""
    hosts = [case.exchanger for case in CASES]
    with suppress(TimeoutError):
        live.wait_until(lambda world: all(over(world.server(host)) for host in hosts), PATIENCE)


def _served(server: SmtpServer) -> bool:
    """It has the message, or was left without it; a connection that was of use stays open for a while."""
    return bool(server.received) or any(connection.ended for connection in server.connections)


def _left(server: SmtpServer) -> bool:
    return all(connection.ended for connection in server.connections)


def _await_attempts(relay: RelayProcess, ids: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """`outrider queue show` of every message, asked until each attempt is settled or PATIENCE is over."""
    deadline = time.monotonic() + PATIENCE
    with ThreadPoolExecutor() as pool:
        while True:
            answers = pool.map(lambda message: relay.documents("queue", "show", message)[0], ids)
            shown: tuple[dict[str, Any], ...] = tuple(answers)
            if all(_settled(document) for document in shown) or time.monotonic() > deadline:
                return shown


def _settled(document: dict[str, Any]) -> bool:
    attempts = document["attempts"]
    return bool(attempts) and all(attempt["ended_at"] is not None for attempt in attempts)


def _both(relay: RelayProcess, *verbs: tuple[str, ...]) -> tuple[tuple[Any, ...], ...]:
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(lambda verb: relay.documents(*verb), verbs))


def _story(case: Case, content: bytes, document: dict[str, Any], events: Sequence[dict[str, Any]]) -> Story:
    [recipient] = document["recipients"]
    outcome = recipient["last_outcome"] or {"kind": "not tried", "text": "no attempt was settled"}
    contact = outcome.get("contact")
    attempts = document["attempts"]
    due, ended = recipient["next_attempt"], attempts[-1]["ended_at"] if attempts else None
    return Story(
        case=case,
        id=document["id"],
        submitted=content.decode("latin-1"),
        outcome=outcome["kind"],
        why=outcome["text"],
        status=outcome.get("status"),
        server=f"{contact['host']} [{contact['address']}]" if contact else None,
        tls=contact.get("tls") if contact else None,
        next_attempt_in=due - ended if due is not None and ended is not None else None,
        decisions=tuple(finding for attempt in attempts for finding in attempt["findings"]),
        events=tuple(row for row in events if row["fields"].get("message_id") == document["id"]),
    )


def _received(server: SmtpServer) -> list[Received]:
    return [
        Received(
            server=server.name,
            sender=message.sender,
            recipients=message.recipients,
            tls_version=message.tls.version if message.tls else None,
            content=message.content.decode("latin-1"),
            reply=message.reply,
        )
        for message in server.received
    ]


def _seen(server: SmtpServer) -> list[Seen]:
    return [
        Seen(
            server=server.name,
            clear=tuple(command.verb for command in connection.commands if not command.tls),
            inside_tls=tuple(command.verb for command in connection.commands if command.tls),
            ended=connection.ended,
        )
        for connection in server.connections
    ]


def _create_ledger(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(_LEDGER)


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return tuple(dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY time, id"))
