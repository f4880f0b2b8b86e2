"""`outrider password`: a line for the file of those who may log in at the relay."""

from __future__ import annotations

import sys

import click

SCHEMES = ("SCRAM-SHA-256", "ARGON2ID")  # of deliver.relay.passwords, which takes long to load

EPILOG = """\b
Examples:
  outrider password alice >> /etc/outrider/passwords
  pwgen 24 1 | tee secret | outrider password app --scheme argon2id

\b
The file belongs to root and the group of the relay, mode 0640; it is relay.auth.password_file.
SCRAM-SHA-256 serves every mechanism, ARGON2ID only PLAIN and LOGIN.
"""


@click.command("password", epilog=EPILOG)
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES, case_sensitive=False),
    default=SCHEMES[0],
    show_default=True,
    help="What is kept of the password.",
)
@click.argument("name")
def password(scheme: str, name: str) -> None:
    """Print the line for NAME, who logs in with the password that is asked for.

    Without a terminal the password is the first line of standard input.
    """
    from deliver.errors import UsageError
    from deliver.relay.passwords import line_for
    from deliver.smtp.saslserver import MAX_PASSWORD

    if sys.stdin.isatty():
        secret = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            secret = sys.stdin.buffer.readline(MAX_PASSWORD + 2).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UsageError("reading the password", "it is not UTF-8", "choose another one") from None
    click.echo(line_for(name, secret, scheme.upper()))
