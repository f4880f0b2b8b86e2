"""The `outrider` command: one module per verb, imported only when that verb is called.

Importing this package loads click and nothing else of weight. `main` is the entry point of the installed
script and of `python -m deliver`.
"""

from __future__ import annotations

from typing import NoReturn

from deliver.cli.frame import outrider

__all__ = ["main", "outrider"]


def main() -> NoReturn:
    """Run the command line of this process and exit with its status (sysexits.h)."""
    outrider.main(prog_name="outrider")
    raise AssertionError("the frame exits")
