"""The command line of sendmail, as far as programs use it. Pure.

    -t                         recipients from To, Cc and Bcc too      -f, -r ADDR   envelope sender
    -i, -oi                    a line with a single dot is text        -F NAME       full name for From
    -N WHEN, -R WHAT, -V ID    as in RFC 3461                          -bs           SMTP on standard input
    -bm                        a message (as without it)               -bp           what waits in the queue
    -bi                        nothing: there are no aliases

What concerns other programs' insides is read and has no effect: -o… -O… -e… -A -B -C -D -G -h -L -m -M -n -p
-s -S -U -v -x -X. A value stands in the same word or the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

VALUED = frozenset("fFrNRVABCDhLOopXS")  # `-o` alone takes the next word; `-oi` does not
PLAIN = frozenset("tinvmUGsx")
MODES = {"m": "message", "s": "smtp", "p": "queue", "i": "aliases"}


class BadOption(Exception):
    """The command line cannot be obeyed; the text says why."""


class Options(NamedTuple):
    """What was asked for. `sender` None: the calling user; empty: the null sender."""

    mode: str = "message"
    sender: str | None = None
    full_name: str = ""
    from_header: bool = False
    ignore_dots: bool = False
    notify: str = ""
    ret: str = ""
    envid: str = ""
    recipients: tuple[str, ...] = ()


def parse(words: list[str]) -> Options:
    """Read the words after the program's name. Raises BadOption."""
    found: dict[str, Any] = {}
    rest = list(words)
    recipients: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            recipients += rest
            break
        if not word.startswith("-") or word == "-":
            recipients.append(word)
        elif word.startswith("--"):
            raise BadOption(f"unknown option {word}")
        else:
            _cluster(word[1:], rest, found)
    return Options(**found, recipients=tuple(recipients))


def _cluster(letters: str, rest: list[str], found: dict[str, object]) -> None:
    """One word of options, such as `ti`, `fme@example.org` or `oem`."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in PLAIN:
            _switch(letter, found)
        elif letter == "b":
            found["mode"] = _mode(letters)
            return
        elif letter == "I":
            found["mode"] = "aliases"
        elif letter == "q":
            raise BadOption("-q: the relay runs its queue by itself; see `outrider queue retry`")
        elif letter in "eM":  # old spellings of -oe…; -M of a message id
            return
        elif letter in VALUED:
            if not letters and not rest:
                raise BadOption(f"-{letter} has no value")
            _value(letter, letters or rest.pop(0), found)
            return
        else:
            raise BadOption(f"unknown option -{letter}")


def _switch(letter: str, found: dict[str, object]) -> None:
    if letter == "t":
        found["from_header"] = True
    elif letter == "i":
        found["ignore_dots"] = True


def _mode(letter: str) -> str:
    if letter not in MODES:
        raise BadOption(f"-b{letter}: of the modes there are -bm, -bs, -bp and -bi")
    return MODES[letter]


def _value(letter: str, value: str, found: dict[str, object]) -> None:
    if not value.isprintable():
        raise BadOption(f"the value of -{letter} has control characters")
    if letter in "fr":
        found["sender"] = "" if value == "<>" else value.removeprefix("<").removesuffix(">")
    elif letter == "F":
        found["full_name"] = value
    elif letter == "N":
        found["notify"] = _notify(value)
    elif letter == "R":
        if value.lower() not in ("full", "hdrs"):
            raise BadOption("-R is full or hdrs")
        found["ret"] = value.upper()
    elif letter == "V":
        found["envid"] = value
    elif letter in "oO" and value in ("i", "IgnoreDots", "IgnoreDots=true", "IgnoreDots=True"):
        found["ignore_dots"] = True


def _notify(value: str) -> str:
    words = value.upper().split(",")
    known = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
    if not set(words) <= known or ("NEVER" in words and len(words) > 1):
        raise BadOption("-N is never, or some of success,failure,delay")
    return ",".join(words)
