"""`make demo`: three messages through a miniature Internet on loopback, and why they went as they did.

    python -m tests.internet.demo [--json] [--keep DIR]

The relay is the real one, a process with a configuration file and a state directory; DNS, certificates and mail
servers are real too, only small. Exit status 0 when two messages were delivered over DANE and the third waits,
1 when anything else happened, and the problems are named.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from tests.internet.relay import RelayFailed, outrider_command
from tests.internet.report import Report, shortcomings
from tests.internet.scenario import Progress, run
from tests.internet.show import console, show, show_verdict

_LOOK = ("queue list", "queue show ID", "hints list", "hints show dane-ee.test", "events tail -n 100")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep configuration, log and state of the relay in this new or empty directory.",
)
def main(as_json: bool, keep: Path | None) -> None:
    """Deliver three messages through a miniature signed mail Internet on loopback, and show why they went so."""
    started = time.monotonic()
    with ExitStack() as stack:
        directory = _directory(stack, keep)
        try:
            with _progress(quiet=as_json) as progress:
                report = run(directory, progress)
        except (RelayFailed, TimeoutError, OSError) as error:
            click.echo(f"demo: {error}", err=True)
            sys.exit(1)
    problems = shortcomings(report)
    if as_json:
        click.echo(json.dumps(_document(report, problems, keep), indent=2))
    else:
        out = console()
        with out.capture() as captured:
            _print(report, problems, keep, time.monotonic() - started, out)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
    sys.exit(1 if problems else 0)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def _directory(stack: ExitStack, keep: Path | None) -> Path:
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-demo-")))
    keep = keep.absolute()
    keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise click.BadParameter(f"{keep} is not empty", param_hint="--keep")
    return keep


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """Tell what happens, on a terminal only; nothing of it stays."""
    err = Console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda _text: None
        return
    with err.status("") as status:
        yield lambda text: status.update(Text(text))


def _document(report: Report, problems: tuple[str, ...], keep: Path | None) -> dict[str, Any]:
    return {
        "ok": not problems,
        "problems": problems,
        "messages": [story.as_dict() for story in report.messages],
        "hints": report.hints,
        "received": [asdict(one) for one in report.received],
        "connections": [asdict(one) for one in report.connections],
        "ledger": report.ledger,
        "kept": str(keep.absolute()) if keep else None,
    }


def _print(
    report: Report, problems: tuple[str, ...], keep: Path | None, seconds: float, out: Console
) -> None:
    title = "Outrider: three messages through a miniature Internet on loopback"
    out.rule(Text(title, "bold"), characters="=")
    show(report, out)
    show_verdict(problems, seconds, out)
    if keep is None:
        out.print(Text("To look around further: make demo DEMO_ARGS='--keep DIR'", "dim"))
        return
    command = outrider_command(keep.absolute() / "outrider.toml")
    out.print(Text(f"Configuration, log and state are kept in {keep}. To look around further:"))
    for verb in _LOOK:
        out.print(Text(f"   {command} {verb.replace('ID', report.messages[-1].id)}"), soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)  # the relay and its directory must not outlive us
    main()
