"""The standard library's SMTP client against one scripted server."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio

from tests.internet.behaviour import Behaviour
from tests.internet.pki import authority
from tests.internet.smtpd import SmtpServer, open_server

NAME = "mx.a.test"
MESSAGE = b"Subject: x\r\n\r\n.one dot\r\n..two\r\n\r\n.\r\nend\r\n"
Result = TypeVar("Result")


def running(
    behaviour: Behaviour | None = None, *, tls: bool = True
) -> AbstractAsyncContextManager[SmtpServer]:
    context = authority().issue(NAME).server_context() if tls else None
    return open_server(behaviour, name=NAME, context=context)


async def converse(server: SmtpServer, use: Callable[[smtplib.SMTP], Result]) -> Result:
    """Run `use` with a connected smtplib client in a thread."""

    def connected() -> Result:
        client = smtplib.SMTP("127.0.0.1", server.port, local_hostname="client.test", timeout=10)
        try:
            return use(client)
        finally:
            client.close()

    return await trio.to_thread.run_sync(connected)


def deliver(client: smtplib.SMTP) -> dict[str, tuple[int, bytes]]:
    refused = client.sendmail("from@b.test", ["to@a.test", "too@a.test"], MESSAGE)
    client.quit()
    return refused


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority().root_pem.decode())
