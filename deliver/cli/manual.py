"""`outrider manual`: the manual page in roff, written from the commands themselves.

`docs/outrider.1` is its output; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

SECTIONS = """\
.SH EXIT STATUS
Statuses follow
.BR sysexits.h :
0 success, 64 usage, 65 unusable message, 69 some recipient failed for good, 70 internal error,
75 try again later, 78 configuration.
.SH FILES
.TP
.I /etc/outrider/outrider.toml
Settings, unless
.B --config
or
.B OUTRIDER_CONFIG
names another file.
.TP
.I /var/lib/outrider
State: queue, hints, events, unless
.B state_dir
says otherwise.
.SH ENVIRONMENT
.TP
.B OUTRIDER_CONFIG
The settings file.
.TP
.B OUTRIDER_DEBUG
With the value 1, errors come with a traceback.
.TP
.B CREDENTIALS_DIRECTORY
Where systemd puts the credentials that settings name as
.BR credential:NAME .
.SH SEE ALSO
.BR unbound (8),
RFC 5321, RFC 7671, RFC 7672
"""


@click.command("manual")
@click.pass_context
def manual(context: click.Context) -> None:
    """Print this manual page in roff, for `man -l -`."""
    root = context.find_root().command
    assert isinstance(root, click.Group)
    click.echo(page(root), nl=False)


def page(root: click.Group) -> str:
    """The manual page of the whole command, in roff."""
    context = click.Context(root, info_name="outrider", **root.context_settings)
    lines = [
        '.TH OUTRIDER 1 "" Outrider "User commands"',
        ".SH NAME",
        r"outrider \- carry mail to its exchanger over verified TLS",
        ".SH SYNOPSIS",
        r"\fBoutrider\fR [\fIOPTIONS\fR] \fIVERB\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        _text(root.help or ""),
        ".SH OPTIONS",
        *_options(root, context),
        ".SH VERBS",
        *_verbs(root, context, ()),
    ]
    return "\n".join(lines) + "\n" + SECTIONS


def _verbs(group: click.Group, context: click.Context, path: tuple[str, ...]) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        words = (*path, name)
        if isinstance(command, click.Group):
            yield from _verbs(command, below, words)
            continue
        usage = " ".join(command.collect_usage_pieces(below))
        yield f".SS {' '.join(words)} {_text(usage)}".rstrip()
        yield _text(command.help or "")
        yield from _options(command, below)
        if command.epilog:
            yield from (".PP", ".nf", _text(command.epilog.replace("\b", "").strip("\n")), ".fi")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield from (".TP", rf"\fB{_text(record[0])}\fR", _text(record[1]))


def _text(text: str) -> str:
    """Plain text safe in roff: no escape and no request at the start of a line."""
    lines = (
        line.strip() for line in text.replace("\b", "").replace("\\", r"\e").replace("-", r"\-").splitlines()
    )
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in lines if line)
