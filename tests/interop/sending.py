"""`outrider send` through real name servers, to real mail servers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.internet import MailDomain
from tests.internet.pki import Credentials, authority
from tests.interop.peers.exim import Exim
from tests.interop.peers.postfix import Postfix
from tests.interop.service import PYTHON, ROOT, environment

TEXT = b"From: a@sender.test\nSubject: to the real thing\n\n.a dot\n..two dots\nlast line\n"
CONTENT = TEXT.replace(b"\n", b"\r\n")
TOO_SLOW = 60  # seconds for one delivery, start of the interpreter included

Send = Callable[..., "Sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """What `outrider send --json` said."""

    status: int
    results: tuple[dict[str, Any], ...]
    stderr: str

    @property
    def codes(self) -> list[str]:
        return [reason["code"] for reason in self.results[0]["reasons"]]


def outrider(options: Sequence[str], recipients: Sequence[str], text: bytes = TEXT) -> Sent:
    command = [*PYTHON, *options, "send", "-f", "a@sender.test", "--json", *recipients]
    ran = subprocess.run(
        command, input=text, capture_output=True, timeout=TOO_SLOW, check=False, cwd=ROOT, env=environment()
    )
    results = tuple(json.loads(line) for line in ran.stdout.splitlines())
    return Sent(ran.returncode, results, ran.stderr.decode())


def domain(name: str, server: Exim | Postfix, *tlsa: str, **changes: Any) -> MailDomain:
    """A mail domain whose only exchanger, `mx.` in front of it, is that server."""
    host = f"mx.{name}"
    return MailDomain(
        name,
        mx=((10, host),),
        hosts={host: (server.address,)},
        tlsa=tuple((f"_{server.port}._tcp.{host}", data) for data in tlsa),
        **changes,
    )


def credentials(name: str, **changes: Any) -> Credentials:
    return authority().issue(f"mx.{name}", **changes)
