"""Retry rules: how long a recipient waits after what error, and for how long it is tried at all. Pure.

A rule is chosen by recipient domain, by the server that was spoken to, by sender and by error; all that it
names must match, and the first rule that does counts. Its steps hold until the message has an age:

    kind               the wait
    -----------------  ----------------------------------------------------------------
    fixed              always `wait`
    geometric          `wait` at first, then the wait before times `factor`
    random-geometric   between half of what "geometric" adds to `wait`, and all of it

Beyond the last step the mail has expired. A rule without steps allows no second attempt.

    error word       what happened
    ---------------  ---------------------------------------------------------------
    dns              the destination could not be looked up
    connect          no connection; apart: refused, and timeout for no answer in time
    greeting         a 4yz greeting or EHLO, or none
    tls              STARTTLS or the handshake failed, or was not good enough
    auth             logging in failed
    mail rcpt data   a 4yz reply to MAIL, to RCPT, to DATA or the content;
                     also with a code, whose digits may be x: rcpt-452, mail-4xx
    lost             the connection broke, or no reply came in time, later than that
    timeout          no connection or no reply in time, whenever; beside greeting, auth or lost
    in-doubt         the server may hold the message
    local            something of our own
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from deliver.errors import Blame
from deliver.outcome import Deferred, Phase
from deliver.pattern import any_matches

WORDS: Final = (
    "dns", "connect", "greeting", "tls", "auth", "mail", "rcpt", "data", "lost", "in-doubt", "local",
    "refused", "timeout",
)  # fmt: skip
LONGEST_WAIT: Final = 86400.0  # seconds; what a geometric sequence grows to at most
_WORD: Final = re.compile(
    r"(?:dns|connect|refused|timeout|greeting|tls|auth|lost|in-doubt|local|(?:mail|rcpt|data)(?:-4[0-9x][0-9x])?)\Z"
)
_PHASES: Final = {
    Phase.CONNECT: "connect",
    Phase.BANNER: "greeting",
    Phase.EHLO: "greeting",
    Phase.STARTTLS: "tls",
    Phase.TLS: "tls",
    Phase.AUTH: "auth",
}
_COMMANDS: Final = {
    Phase.MAIL: "mail",
    Phase.RCPT: "rcpt",
    Phase.DATA: "data",
    Phase.BODY: "data",
    Phase.DOT: "data",
}

Kind = Literal["fixed", "geometric", "random-geometric"]


@dataclass(frozen=True, slots=True)
class Step:
    """Until the message is `until` seconds old."""

    until: float
    wait: float
    kind: Kind = "fixed"
    factor: float = 1.5

    @property
    def longest(self) -> float:
        """No wait is longer, in seconds."""
        return self.wait if self.kind == "fixed" else max(self.wait, LONGEST_WAIT)

    def gap(self, previous: float, rng: Random) -> float:
        """Seconds to wait; `previous` is the wait before, 0 for none."""
        if self.kind == "fixed":
            return self.wait
        grown = max(self.wait, min(previous * self.factor, LONGEST_WAIT))
        if self.kind == "geometric":
            return grown
        return self.wait + rng.uniform(0.5, 1.0) * (grown - self.wait)


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `queue.retry_rule`. An empty list matches everything; `senders` are globs."""

    steps: tuple[Step, ...]
    domains: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def expire(self) -> float:
        """The age in seconds at which the mail goes back."""
        return self.steps[-1].until if self.steps else 0.0

    def concerns(self, domain: str, sender: str, outcome: Deferred) -> bool:
        """Whether it is meant for a recipient of `domain`; `sender` is empty for the null reverse path."""
        host = outcome.contact.host if outcome.contact else ""
        return (
            (not self.domains or any_matches(self.domains, domain))
            and (not self.hosts or (bool(host) and any_matches(self.hosts, host)))
            and (not self.senders or any(fnmatch.fnmatchcase(sender.lower(), one) for one in self.senders))
            and (not self.errors or any(_means(one, error_words(outcome)) for one in self.errors))
        )

    def gap(self, age: float, previous: float, rng: Random) -> float:
        """Seconds to wait when the message has that age and waited `previous` seconds before."""
        step = next((step for step in self.steps if age <= step.until), None)
        return 0.0 if step is None else step.gap(previous, rng)


def choose(rules: Iterable[Rule], domain: str, sender: str, outcome: Deferred) -> Rule | None:
    """The first rule that is meant, or None."""
    return next((rule for rule in rules if rule.concerns(domain, sender, outcome)), None)


def known(word: str) -> bool:
    """Whether `errors` of a rule may hold this word."""
    return _WORD.match(word) is not None


def error_words(outcome: Deferred) -> frozenset[str]:
    """The words of the second table that apply."""
    words = {"in-doubt"} if outcome.in_doubt else set()
    phase = outcome.phase
    if outcome.fault is not None:
        words.add(outcome.fault.value)
    if outcome.blame is Blame.LOCAL:
        words.add("local")
    elif phase in _COMMANDS:
        command = _COMMANDS[phase]
        words |= {command, f"{command}-{outcome.reply.code}"} if outcome.reply else {"lost"}
    elif phase is not None:
        words.add(_PHASES.get(phase, "lost"))
    elif outcome.blame is Blame.DESTINATION:
        words.add("dns")
    elif outcome.blame is Blame.POLICY:
        words.add("tls")
    return frozenset(words)


def _means(pattern: str, words: frozenset[str]) -> bool:
    if pattern in words:
        return True
    regular = re.compile(re.escape(pattern).replace("x", "[0-9]") + r"\Z")
    return "-" in pattern and any(regular.match(word) for word in words if word[-1].isdigit())
