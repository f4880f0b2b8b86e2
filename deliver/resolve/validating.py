"""The `Resolver` port with DNSSEC validated by ourselves, over any recursive resolver (`validate`).

Queries carry DO and CD: the resolver passes on what it has, the judgement is that of `deliver.dnssec`. Its
generators say what to ask next; identical questions in flight are asked once, and keys that were validated
are kept, so that a warm lookup costs one question and one signature. A judgement that is expected to take
longer than OFF_LOOP runs in a worker thread.

    Secure, Insecure   Found, NoData, NxDomain with `secure` accordingly
    Bogus              Bogus, with the rule and its RFC section
    Indeterminate      Unreachable: no answer, no anchor, or a bound on the work was reached
"""

from __future__ import annotations

from collections.abc import Callable

import dns.exception
import dns.flags
import dns.rcode
import dns.rdatatype
import trio

from deliver.dnssec.algorithm import Policy
from deliver.dnssec.anchors import TrustAnchors
from deliver.dnssec.budget import expected_seconds
from deliver.dnssec.chain import judge
from deliver.dnssec.evidence import Security, findings
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.names import named
from deliver.dnssec.verdict import Absence, Ask, Failure, Judged, Lookup, Reply
from deliver.resolve.answer import Answer, Bogus, Found, NoData, NxDomain, Query, Unreachable
from deliver.resolve.exchange import Request
from deliver.resolve.transport import (
    MAX_RECORDS,
    MAX_WHY,
    NoReply,
    Recursor,
    failure_in_words,
    name_of,
    not_a_name,
    records_of,
)

OFF_LOOP = 0.005  # seconds of expected work from which on it leaves the event loop
THREADS = 2  # judgements at a time outside the event loop

_ANSWERS = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
_FLAGS = int(dns.flags.RD | dns.flags.CD)


class _Flight:
    """A question under way; `reply` stays None when the task that asked was cancelled."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.reply: Reply | None = None


class ValidatingResolver:
    """See the module. `now` gives seconds since the epoch; `evidence`: answers carry what they rest on."""

    def __init__(
        self,
        recursor: Recursor,
        anchors: TrustAnchors,
        *,
        now: Callable[[], float],
        policy: Policy | None = None,
        keys: KeyCache | None = None,
        evidence: bool = False,
    ) -> None:
        self._recursor = recursor
        self._anchors = anchors
        self._now = now
        self._policy = policy or Policy()
        self._evidence = evidence
        self._keys = keys if keys is not None else KeyCache()
        self._flights: dict[Ask, _Flight] = {}
        self._threads = trio.CapacityLimiter(THREADS)

    async def lookup(self, query: Query) -> Answer:
        """Ask, judge, and say it in our terms."""
        try:
            return as_answer(await self.judge(query), evidence=self._evidence)
        except dns.exception.DNSException as error:
            return not_a_name(query, error)

    async def judge(self, query: Query) -> Judged:
        """The verdict with its whole evidence."""
        return await self.judge_ask(Ask(named(f"{query.name}."), dns.rdatatype.RdataType[query.type]))

    async def judge_ask(self, question: Ask) -> Judged:
        """The same for a question of any type."""
        lookup = judge(question, self._anchors, self._keys, now=int(self._now()), policy=self._policy)
        replies: tuple[Reply, ...] | None = None
        while True:
            asks = await self._step(lookup, replies)
            if isinstance(asks, Judged):
                return asks
            replies = await self._ask_together(asks)

    async def _step(self, lookup: Lookup, replies: tuple[Reply, ...] | None) -> tuple[Ask, ...] | Judged:
        """One step of the generator, in a thread when it will take long."""
        if replies is None or expected_seconds(replies) < OFF_LOOP:
            return _advance(lookup, replies)
        return await trio.to_thread.run_sync(_advance, lookup, replies, limiter=self._threads)

    async def _ask_together(self, asks: tuple[Ask, ...]) -> tuple[Reply, ...]:
        if len(asks) == 1:
            return (await self._ask_once(asks[0]),)
        replies: dict[int, Reply] = {}

        async def ask(place: int, question: Ask) -> None:
            replies[place] = await self._ask_once(question)

        async with trio.open_nursery() as nursery:
            for place, question in enumerate(asks[1:], 1):
                nursery.start_soon(ask, place, question)
            await ask(0, asks[0])
        return tuple(replies[place] for place in range(len(asks)))

    async def _ask_once(self, question: Ask) -> Reply:
        """Share the reply with everybody who asks the same meanwhile."""
        while (flight := self._flights.get(question)) is not None:
            await flight.landed.wait()
            if flight.reply is not None:
                return flight.reply
        flight = self._flights[question] = _Flight()
        try:
            flight.reply = await self._ask(question)
        finally:
            del self._flights[question]
            flight.landed.set()
        return flight.reply

    async def _ask(self, question: Ask) -> Reply:
        request = Request(question.name, question.rdtype, _FLAGS, dnssec=True)
        response, said = await self._recursor.ask(request)
        if isinstance(response, NoReply):
            return Failure(response.why)
        if response.rcode not in _ANSWERS:
            return Failure(failure_in_words(response, said))
        return response


def _advance(lookup: Lookup, replies: tuple[Reply, ...] | None) -> tuple[Ask, ...] | Judged:
    try:
        return next(lookup) if replies is None else lookup.send(replies)
    except StopIteration as finished:
        verdict: Judged = finished.value
        return verdict


def as_answer(judged: Judged, *, evidence: bool = False) -> Answer:
    """The verdict as the walks want it."""
    told = findings(judged.evidence) if evidence else ()
    if judged.security in (Security.BOGUS, Security.INDETERMINATE):
        why = str(judged.refusal or f"{judged.question}: {judged.security.value}")[:MAX_WHY]
        kind = Bogus if judged.security is Security.BOGUS else Unreachable
        return kind(why, told)
    secure = judged.security is Security.SECURE
    aliases = tuple(name_of(alias.target) for alias in judged.aliases)
    if judged.absence is Absence.NXDOMAIN:
        return NxDomain(secure, judged.ttl, aliases, told)
    if judged.records is None:
        return NoData(secure, judged.ttl, aliases, told)
    if len(judged.records) > MAX_RECORDS:
        return Unreachable(f"{judged.question}: more than {MAX_RECORDS} records", told)
    try:
        records = records_of(judged.records)
    except ValueError as error:
        return Unreachable(f"{judged.question}: {error}"[:MAX_WHY], told)
    return Found(records, secure, judged.ttl, aliases, told)
