"""`outrider queue export`: messages out of the queue, as files or JSON; the queue is not changed."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from deliver.cli.output import note
from deliver.cli.queue_filters import filters, places_of, selection_of
from deliver.errors import StorageError, UsageError

if TYPE_CHECKING:
    from deliver.cli.frame import Application
    from deliver.queue.export import Exported
    from deliver.queue.reading import Place

BLOCK = 48 * 1024  # octets; a multiple of 3, so that base64 can be written piece by piece

EPILOG = """One message goes to standard output; several need --directory or --json.

\b
Examples:
  outrider queue export 1ABC2DEF > message.eml
  outrider queue export --domain example.org --directory /tmp/saved
  outrider queue export --state held --json | jq -r .sender
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A message and the part of the queue that it is in."""

    place: Place
    message: Exported


@click.command("export", epilog=EPILOG)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filters
@click.option(
    "--directory", type=click.Path(path_type=Path), metavar="DIR", help="One file ID.eml each, 0600."
)
@click.option("--bare", is_flag=True, help="Only the content, without the X-Outrider lines before it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per message, its content in base64.")
@click.pass_obj
def export(
    application: Application,
    /,
    ids: tuple[str, ...],
    directory: Path | None,
    bare: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write messages with their envelopes, as .eml or JSON."""
    selection = selection_of(options, ids)
    if selection.everything:
        raise UsageError("outrider queue export", "nobody is named", "give ids or filters")
    found = list(_found(application, selection))
    missing = set(ids) - {each.message.id for each in found}
    if missing:
        raise UsageError(
            f"exporting {', '.join(sorted(missing)[:10])}", "nothing of it waits", "see `outrider queue list`"
        )
    if not found:
        note("Nothing in the queue matches.")
    if len(found) > 1 and not as_json and directory is None:
        raise UsageError(
            f"exporting {len(found)} messages", "one file cannot hold them", "add --directory DIR or --json"
        )
    for each in found:
        if directory is not None:
            _write_file(directory, each, bare, as_json)
        else:
            _write(sys.stdout.buffer, each, bare, as_json)
    if directory is not None and found:
        note(f"{len(found)} messages written to {directory}")


def _found(application: Application, /, selection: Any) -> Iterator[Found]:
    from deliver.queue import browse, export as exporting
    from deliver.queue.reading import Connected, reading

    now = datetime.now(UTC).timestamp()
    for place in places_of(application):
        with reading(place) as connection:
            keys = browse.matching(Connected(connection), selection, now)
            for message_id in dict.fromkeys(key.message_id for key in keys):
                message = exporting.exported(connection, message_id)
                if message is not None:
                    yield Found(place, message)


def _write_file(directory: Path, found: Found, bare: bool, as_json: bool) -> None:
    import os

    target = directory / f"{found.message.id}.{'json' if as_json else 'eml'}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            _write(file, found, bare, as_json)
    except OSError as error:
        raise StorageError(f"writing {target}", error.strerror or str(error), "choose another DIR") from error


def _write(file: BinaryIO, found: Found, bare: bool, as_json: bool) -> None:
    message = found.message
    if as_json:
        head = json.dumps(message.as_dict(), separators=(",", ":"))
        file.write(f'{head[:-1]},"content":"'.encode())
        for block in _blocks(found):
            file.write(base64.b64encode(block))
        file.write(b'"}\n')
        return
    if not bare:
        file.write("".join(f"{line}\r\n" for line in message.header_lines()).encode())
    for block in _blocks(found):
        file.write(block)


def _blocks(found: Found) -> Iterator[bytes]:
    """The content piece by piece. Raises StorageError when it is gone."""
    from deliver.cli.queue_shards import spool_of
    from deliver.queue import export as exporting
    from deliver.queue.reading import reading

    name = found.message.spool_name
    if name is None or not isinstance(found.place, Path):
        with reading(found.place) as connection:
            blocks = exporting.blocks(connection, found.message.envelope, BLOCK)
            first = next(blocks, None)
            if first is None:
                raise StorageError(
                    f"exporting {found.message.id}", "its content is gone", "it was delivered meanwhile"
                )
            yield first
            yield from blocks
        return
    path = spool_of(found.place) / name
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise StorageError(f"reading {path}", error.strerror or str(error), "restore the file") from error
