"""The `outrider` command: one module per verb, imported only when that verb is called.

Importing this package loads nothing of weight: `main` first tries to hand a call of `outrider send` over to a
running service, and one of `outrider sendmail` to the relay; it loads click only where that is not to be.
`main` is the entry point of the installed script and of `python -m deliver`. Called through a link named
sendmail, mailq or newaliases it is that program.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it, which takes longer to load than a call that is handed over
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from deliver.cli.frame import outrider

__all__ = ["main", "outrider"]

EX_DATAERR, EX_UNAVAILABLE, EX_TEMPFAIL = 65, 69, 75


def main() -> NoReturn:
    """Run the command line of this process and exit with its status (sysexits.h)."""
    if not any(word.startswith("--queue-id") for word in sys.argv):
        _run()
    try:
        _run()
    except SystemExit as ended:
        sys.exit(_for_a_queue(ended.code))
    except BaseException:  # not even what comes before the frame may end with the interpreter's own status
        sys.excepthook(*sys.exc_info())
        sys.exit(EX_TEMPFAIL)


def _run() -> NoReturn:
    name = sys.argv[0].rpartition("/")[2]
    if name in ("sendmail", "mailq", "newaliases"):
        sys.argv[1:] = ["sendmail", *{"mailq": ["-bp"], "newaliases": ["-bi"]}.get(name, []), *sys.argv[1:]]
    if "sendmail" in sys.argv[1:4]:
        status = _sendmail(sys.argv[1:])
        if status is not None:
            sys.exit(status)
    elif "send" in sys.argv[1:4]:
        from deliver.handover.client import hand_over

        status = hand_over(sys.argv[1:])
        if status is not None:
            sys.exit(status)
    from deliver.cli.frame import outrider

    outrider.main(prog_name="outrider")
    raise AssertionError("the frame exits")


def _sendmail(words: list[str]) -> int | None:
    """`[--config FILE] sendmail …` without click; None for help, or what needs the whole program."""
    config = None
    if words[0] == "--config":
        config, words = words[1], words[2:]
    elif words[0].startswith("--config="):
        config, words = words[0].removeprefix("--config="), words[1:]
    if words[:1] != ["sendmail"] or "--help" in words:
        return None
    from deliver.submission.command import run

    return run(words[1:], config)


def _for_a_queue(status: int | str | None) -> int | str | None:
    """A calling MTA bounces on most statuses: it may on those that speak of the message, else it waits."""
    return status if status in (None, 0, EX_DATAERR, EX_UNAVAILABLE) else EX_TEMPFAIL


def __getattr__(name: str) -> Any:
    if name == "outrider":
        from deliver.cli import frame

        return frame.outrider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
