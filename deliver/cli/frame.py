"""The frame around every verb: global options, settings on demand, errors as one line and an exit status.

    what ends a verb                      on stderr                     exit status (sysexits.h)
    ------------------------------------  ----------------------------  -------------------------------
    it returns None or an integer         -                             0, or that integer
    an error of deliver.errors            `outrider: …`, one a problem  its own: 64 65 75 78 …
    a group of them (from a nursery)      one each                      the first one's
    a usage error found by click          usage and the reason          64 EX_USAGE
    Ctrl-C                                -                             130
    the reader of our output went away    -                             141, as SIGPIPE would give
    our output cannot be written          one line                      74 EX_IOERR
    anything else                         traceback: it is a bug        70 EX_SOFTWARE

OUTRIDER_DEBUG=1 adds the traceback to the errors of the tree.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deliver.errors import OutriderError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from deliver.configuration import Configuration
    from deliver.settings import Settings

# verb: (where its command lives, its line in the help)
VERBS: dict[str, tuple[str, str]] = {
    "relay": ("deliver.cli.relay:relay", "Accept mail over SMTP, queue it and deliver it."),
    "lmtp": ("deliver.cli.lmtp:lmtp", "Deliver over LMTP for an MTA that keeps the queue."),
    "send": ("deliver.cli.send:send", "Deliver one message now, from standard input or a file."),
    "sendmail": ("deliver.cli.sendmail:sendmail", "Submit a message to the relay as sendmail does."),
    "spool": ("deliver.cli.spool:spool", "Deliver what Exim's queuefile transport left in a directory."),
    "explain": ("deliver.cli.explain:explain", "Say why mail to a domain would go the way it goes."),
    "tlsa": ("deliver.cli.tlsa:tlsa", "Make TLSA records, or compare a host's with what it presents."),
    "ocsp": ("deliver.cli.ocsp:ocsp", "Fetch the OCSP response that a server staples."),
    "password": ("deliver.cli.password:password", "Make a line for those who may log in at the relay."),
    "queue": ("deliver.cli.queue:queue", "See what waits in the queue and why, and change it."),
    "hints": ("deliver.cli.hints:hints", "See what was learned about other servers."),
    "events": ("deliver.cli.events:events", "See and check the events and their SQL actions."),
    "config": ("deliver.cli.config:config", "Check and show the settings."),
    "completion": ("deliver.cli.completion:completion", "Print the completion script for a shell."),
    "manual": ("deliver.cli.manual:manual", "Print the manual page."),
}

EX_USAGE = 64
EX_SOFTWARE = 70
EX_IOERR = 74
INTERRUPTED = 130
BROKEN_PIPE = 141

EPILOG = """\b
Examples:
  outrider config check
  outrider send --help
  outrider --config /etc/outrider/test.toml queue list
  outrider -o tls.level=dane-only -o dns.timeout=5s relay
"""


class Application:
    """What the frame hands to every verb (`@click.pass_obj`): the settings, read when first asked for."""

    def __init__(
        self, config: Path | None = None, overrides: Sequence[str] = (), settings: Settings | None = None
    ) -> None:
        self._config = config
        self._overrides = tuple(overrides)
        self._given = settings

    @cached_property
    def configuration(self) -> Configuration:
        """The settings with their warnings and origins. Raises ConfigurationError or UsageError."""
        return self.read()

    def read(self) -> Configuration:
        """The same as the file is now."""
        from deliver.configuration import Configuration, read  # loads msgspec

        if self._given is not None:
            return Configuration(self._given)
        return read(self._config, self._overrides)

    @property
    def settings(self) -> Settings:
        """The settings tree. Raises ConfigurationError or UsageError."""
        return self.configuration.settings

    @property
    def digest(self) -> str | None:
        """What stands for the settings when `outrider send` hands over; None where that cannot be said."""
        from deliver.handover.frames import digest_of

        file = self.configuration.file
        try:
            content = None if file is None else file.read_bytes()
        except OSError:
            return None
        return None if self._given is not None else digest_of(content, self._overrides)


class Frame(click.Group):
    """The group `outrider`: verbs are loaded when called, every ending has its exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the near spelling in the error."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            raise click.UsageError(
                f"there is no verb {args[0]!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; the verbs are {', '.join(VERBS)}"),
                ctx,
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs from the table, nothing imported."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs from the table and our options, nothing imported."""
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(v, help=text) for v, (_, text) in VERBS.items() if v.startswith(incomplete)]
        return verbs or click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, but a broken pipe reaches the table above."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit with the status of the table above (returns only if `standalone_mode` is false)."""
        run = partial(super().main, args, prog_name, complete_var, False, **extra)
        if not standalone_mode:
            return run()
        sys.exit(_status_of(run))


class _ReaderGone(Exception):
    """Nobody reads our output any more; not an OSError, which click would turn into status 1."""


def _status_of(run: Callable[[], object]) -> int:
    try:
        returned = run()
        if sys.stdout is not None:  # None if it was closed before we started
            sys.stdout.flush()
        return returned if isinstance(returned, int) else 0
    except click.ClickException as error:
        error.show()
        return EX_USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        discard_stdout()
        return BROKEN_PIPE
    except (OutriderError, BaseExceptionGroup) as error:
        return _report(error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            discard_stdout()
            click.echo(f"outrider: writing the output: {error.strerror}", err=True)
            return EX_IOERR
        traceback.print_exc()
        return EX_SOFTWARE


def _report(error: BaseException) -> int:
    leaves = tuple(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return INTERRUPTED
    ours = [leaf for leaf in leaves if isinstance(leaf, OutriderError)]
    if len(ours) < len(leaves) or os.environ.get("OUTRIDER_DEBUG") == "1":
        traceback.print_exception(error)
    for leaf in ours:
        for line in str(leaf).splitlines():
            click.echo(f"outrider: {line}", err=True)
    return ours[0].exit_status if len(ours) == len(leaves) else EX_SOFTWARE


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def discard_stdout() -> None:
    """Keep the interpreter from complaining when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        click.echo(f"outrider {version('outrider')}")
    except PackageNotFoundError:
        click.echo("outrider (not installed: no version recorded)")
    ctx.exit()


@click.group(
    "outrider",
    cls=Frame,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings; without it $OUTRIDER_CONFIG, then /etc/outrider/outrider.toml, then the defaults.",
)
@click.option(
    "-o",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one setting: a dotted key, and a value in TOML or plain text. May be repeated.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def outrider(ctx: click.Context, config: Path | None, overrides: tuple[str, ...]) -> None:
    """Outrider carries mail to the recipient's mail exchanger over verified TLS and records what happened."""
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"reading -o {override}", "it has no '='", "write -o KEY=VALUE")
    if ctx.obj is None:
        ctx.obj = Application(config, overrides)
