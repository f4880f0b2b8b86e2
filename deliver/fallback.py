"""When the hosts of a route's `fallback` are tried: by what came of those before them. Pure.

    what came of the route's own hosts                              fallback_on
    --------------------------------------------------------------  -----------
    no server found or reached, or it spoke no SMTP (4.4.x, HOST)   unreachable
    TLS failed, or proved too little for the policy                 tls
    a server's 4yz reply, to a command or to the message            deferred
    a 5yz reply, an error of ours, anything in doubt                never

Nothing is weakened by it: where a host before was owed TLS, or authenticated TLS, or a password, or could not
be judged because DNS gave no answer, or an enforced MTA-STS policy is known, the fallback is owed the same
(`deliver.tls.policy.at_least`).
"""

from __future__ import annotations

from deliver.errors import Blame
from deliver.outcome import Deferred, Outcome, Phase
from deliver.relay.route import Fallback
from deliver.settings import FallbackOn

_TLS = frozenset({Phase.STARTTLS, Phase.TLS})
_DEAF = frozenset({Phase.CONNECT, Phase.BANNER, Phase.EHLO, None})


def reason(outcome: Outcome | None) -> FallbackOn | None:
    """Which row of the table the outcome is in; None: the last one, or there is no outcome."""
    if not isinstance(outcome, Deferred) or outcome.in_doubt or outcome.blame is Blame.LOCAL:
        return None
    if outcome.phase in _TLS or outcome.blame is Blame.POLICY:
        return "tls"
    if outcome.reply is not None:
        return "deferred"
    if outcome.phase in _DEAF or outcome.blame in (Blame.HOST, Blame.DESTINATION):
        return "unreachable"
    return None


def applies(fallback: Fallback, number: int, outcome: Outcome | None) -> bool:
    """Whether a recipient with this outcome goes on to the fallback in the attempt `number` (from 1)."""
    return number > fallback.after and reason(outcome) in fallback.on
