"""`outrider ocsp`: fetch the OCSP response that a server staples, verified, for its staple file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deliver.cli.frame import Application

if TYPE_CHECKING:
    from deliver.tls.ocsp import Result

EPILOG = """\b
Examples:
  outrider ocsp fetch /etc/ssl/mail.pem --output /var/lib/exim/mail.ocsp
  outrider ocsp fetch mail.pem --issuer ca.pem --output mail.ocsp --loop

\b
Exit status: 0 a good response was written   69 none was to be had; FILE is untouched
"""
EX_UNAVAILABLE = 69


@click.group("ocsp")
def ocsp() -> None:
    """OCSP responses for servers to staple."""


@ocsp.command("fetch", epilog=EPILOG)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE")
@click.option(
    "--issuer",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The issuer's certificate; without it the second one in CERT.",
)
@click.option("--url", metavar="URL", help="The responder; without it the one that the certificate names.")
@click.option("--loop", is_flag=True, help="Stay, and fetch again when half of a response's time is over.")
@click.argument("certificate", type=click.Path(path_type=Path, dir_okay=False), metavar="CERT")
@click.pass_obj
def fetch(
    application: Application,
    output: Path,
    issuer: Path | None,
    url: str | None,
    loop: bool,
    certificate: Path,
) -> int:
    """Fetch the OCSP response for CERT, verify it as a client would, and replace FILE in one step.

    FILE gets DER. Only a response that says `good` and can be relied on is written.
    """
    import trio

    from deliver.cli.tlsa import certificates_of
    from deliver.errors import UsageError
    from deliver.stapling import Order, responder_of

    chain = certificates_of(certificate)
    above = certificates_of(issuer)[0] if issuer is not None else chain[1] if len(chain) > 1 else None
    if above is None:
        raise UsageError(
            f"finding the issuer of {certificate}",
            "it is not in the file",
            "give --issuer, or the whole chain",
        )
    where = url or responder_of(chain[0])
    if where is None:
        raise UsageError(f"finding the responder of {certificate}", "it names none", "give --url")
    return trio.run(_fetch, Order(chain[0], above, where, output), loop)


async def _fetch(order: object, loop: bool) -> int:
    import trio

    from deliver.errors import OutriderError
    from deliver.net.clock import WallClock
    from deliver.stapling import RETRY, Order, fetch_and_write, next_time

    assert isinstance(order, Order)
    clock = WallClock()
    while True:
        wait = RETRY
        try:
            result = await fetch_and_write(order, clock.now())
        except OutriderError as error:
            click.echo(f"outrider: {error}", err=True)
            if not loop:
                return error.exit_status
        else:
            click.echo(f"{order.output}: {_in_words(result)}")
            wait = next_time(result, clock.now())
        if not loop:
            return 0
        await trio.sleep(wait)


def _in_words(result: Result) -> str:
    from deliver.cli.output import moment

    return f"{result.status}, until {moment(result.until)}" if result.until else str(result.status)
