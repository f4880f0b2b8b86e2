"""Our own validator put to the zoo: its verdict in the zoo's terms, over any recursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dns.message
import dns.name
import dns.rdatatype
import trio

from deliver.dnssec import evidence
from deliver.dnssec.anchors import parse
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.response import Response, read_response
from deliver.dnssec.verdict import Absence, Ask, Judged
from deliver.resolve.exchange import Request
from deliver.resolve.validating import ValidatingResolver
from tests.internet.resolver import message
from tests.zoo.animal import Animal, Kind, Security
from tests.zoo.oracle import Verdict
from tests.zoo.recursion import Recursion
from tests.zoo.tree import Zoo

_SECURITY = {
    evidence.Security.SECURE: Security.SECURE,
    evidence.Security.INSECURE: Security.INSECURE,
    evidence.Security.BOGUS: Security.BOGUS,
    evidence.Security.INDETERMINATE: Security.FAILED,
}
_ABSENCE = {Absence.NODATA: Kind.NODATA, Absence.NXDOMAIN: Kind.NXDOMAIN}


class InProcess:
    """A recursor without sockets; messages take the way through their wire form. `asked` counts the queries."""

    def __init__(self, recursion: Recursion, *, delay: float = 0) -> None:
        self._recursion = recursion
        self._delay = delay
        self.asked = 0

    async def ask(self, request: Request) -> tuple[Response, str]:
        """The response, after the delay (seconds), and who gave it."""
        self.asked += 1
        await trio.sleep(self._delay)
        response = reply(self._recursion, request)
        return read_response(response.to_wire(max_size=65535)), "the zoo"


def reply(recursion: Recursion, request: Request) -> dns.message.Message:
    """What a resolver of the zoo says to our question."""
    return message(dns.message.from_wire(request.wire(0)), recursion.resolve(request.name, request.rdtype))


def validator(zoo: Zoo, recursor: object, now: float, keys: KeyCache | None = None) -> ValidatingResolver:
    """Our resolver with the zoo's anchor, at POSIX time `now`; `recursor` has a Recursor's `ask`."""
    return ValidatingResolver(recursor, parse("\n".join(zoo.anchor_texts)), now=lambda: now, keys=keys)  # type: ignore[arg-type]


async def judge_all(
    resolver: ValidatingResolver, animals: Sequence[Animal], at_a_time: int = 16
) -> Mapping[Animal, Judged]:
    """The verdicts on all animals."""
    verdicts: dict[Animal, Judged] = {}
    limit = trio.CapacityLimiter(at_a_time)

    async def judge(animal: Animal) -> None:
        async with limit:
            verdicts[animal] = await resolver.judge_ask(ask_for(animal))

    async with trio.open_nursery() as nursery:
        for animal in animals:
            nursery.start_soon(judge, animal)
    return verdicts


def ask_for(animal: Animal) -> Ask:
    """The animal as a question."""
    return Ask(dns.name.from_text(animal.name), dns.rdatatype.from_text(animal.type))


def read(judged: Judged) -> Verdict:
    """Our verdict in the zoo's terms."""
    security = _SECURITY[judged.security]
    why = str(judged.refusal or "")
    if security in (Security.BOGUS, Security.FAILED):
        return Verdict(security, Kind.NOTHING, why)
    kind = Kind.FOUND if judged.absence is None else _ABSENCE[judged.absence]
    return Verdict(security, kind, why)


def code(judged: Judged) -> str:
    """The code of the rule that decided."""
    return "" if judged.refusal is None else judged.refusal.rule.code
