"""Pairs of files as Exim writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

OLD_ID = "1vMGWt-00014q-2K"
NEW_ID = "1vMGWt-0000000ABCD-1xYz"
FIELDS = (
    ("P", "Received: from client.test by mail.test with esmtp\n\tid 1vMGWt\n"),
    (" ", "Subject: spooled\n"),
)
BODY = b".a dot\nlast line\n"


def header_file(
    spool_id: str = OLD_ID,
    *,
    sender: str = "me@sender.test",
    variables: Sequence[str] = ("-received_time_usec .123456", "-local", "-max_received_linelength 20"),
    tree: str = "XX\n",
    recipients: Sequence[str] = ("a@plain.test",),
    fields: Sequence[tuple[str, str]] = FIELDS,
) -> bytes:
    lines = [f"{spool_id}-H", "Debian-exim 110 118", f"<{sender}>", "1763704800 0", *variables]
    text = "".join(f"{line}\n" for line in lines) + tree + f"{len(recipients)}\n"
    text += "".join(f"{one}\n" for one in recipients) + "\n"
    return text.encode() + b"".join(
        f"{len(field.encode()):03}{kind} {field}".encode() for kind, field in fields
    )


def body_file(spool_id: str = OLD_ID, body: bytes = BODY) -> bytes:
    return f"{spool_id}-D\n".encode() + body


def put(
    directory: Path,
    spool_id: str = OLD_ID,
    header: bytes | None = None,
    body: bytes | None = None,
    age: float = 0.0,
) -> None:
    """Both files, `age` seconds old, in the order in which Exim makes them."""
    directory.mkdir(exist_ok=True)
    for letter, content in (
        ("H", header_file(spool_id) if header is None else header),
        ("D", body_file(spool_id) if body is None else body),
    ):
        path = directory / f"{spool_id}-{letter}"
        path.write_bytes(content)
        if age:
            moment = path.stat().st_mtime - age
            os.utime(path, (moment, moment))
