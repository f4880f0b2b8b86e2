"""An attacker who changes any octet of any reply never gets other data, or another absence, called secure."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
import trio

from deliver.dnssec import evidence
from deliver.dnssec.keys import KeyCache
from deliver.dnssec.response import MalformedResponse, Response, of_message, read_response
from deliver.dnssec.verdict import Ask, Judged
from deliver.resolve.exchange import Request
from deliver.resolve.transport import NoReply
from tests.zoo import ours
from tests.zoo.animals import ANIMALS
from tests.zoo.recursion import Recursion
from tests.zoo.tree import Zoo, build

_CAUGHT = (evidence.Security.BOGUS, evidence.Security.INDETERMINATE)
_UNDECIDED = ("nsec3-iterations", "nsec3-opt-out")
NOW = int(datetime.now(UTC).timestamp())
# The question, and the reply that is changed (None: the one to the question).
ATTACKS = (
    ("alg13.test. MX", None),
    ("_25._tcp.mx.alg13.test. TLSA", None),
    ("no.such.nsec.test. A", None),
    ("no.such.nsec3.test. A", None),
    ("leaf.nsec3.test. MX", None),
    ("x.y.z.wild.nsec.test. A", None),
    ("x.wild.nsec3.test. A", None),
    ("host.tree-away.alias.test. A", None),
    ("local3.alias.test. A", None),
    ("dark.test. MX", "dark.test. DS"),
    ("alg13.test. MX", "alg13.test. DS"),
    ("alg13.test. MX", "alg13.test. DNSKEY"),
)


class Attacker:
    """A recursor that changes one octet of the reply to one question."""

    def __init__(self, recursion: Recursion, target: Ask) -> None:
        self._recursion = recursion
        self._target = target
        self._known: dict[Ask, bytes] = {}
        self.place: int | None = None
        self.length = 0

    async def ask(self, request: Request) -> tuple[Response | NoReply, str]:
        """The reply as the transport would read it."""
        asked = Ask(request.name, request.rdtype)
        if asked not in self._known:
            self._known[asked] = ours.reply(self._recursion, request).to_wire(max_size=65535)
        octets = bytearray(self._known[asked])
        if asked == self._target:
            self.length = len(octets)
            if self.place is not None:
                octets[self.place] ^= 1 << self.place % 8
        try:
            response = read_response(bytes(octets))
        except MalformedResponse as error:
            return NoReply(str(error)), "the attacker"
        if not request.answered_by(response, 0):
            return NoReply("it answers another question"), "the attacker"
        return response, "the attacker"


class Remover:
    """A recursor that leaves one RRset out of the reply to one question, and last swaps its response code."""

    def __init__(self, recursion: Recursion, target: Ask) -> None:
        self._recursion = recursion
        self._target = target
        self._known: dict[Ask, dns.message.Message] = {}
        self.place = 0
        self.done = False
        self.what = ""

    async def ask(self, request: Request) -> tuple[Response, str]:
        """The reply, with what `place` says done to it."""
        asked = Ask(request.name, request.rdtype)
        if asked not in self._known:
            self._known[asked] = ours.reply(self._recursion, request)
        response = copy(self._known[asked])
        response.sections = [list(section) for section in response.sections]
        if asked == self._target:
            count = len(response.answer) + len(response.authority)
            if self.place < count:
                removed = (*response.answer, *response.authority)[self.place]
                for section in (response.answer, response.authority):
                    section[:] = [rrset for rrset in section if rrset is not removed]
                self.what = f"without {removed.name} {removed.rdtype.name} {removed.covers.name}"
            else:
                self.what, self.done = "the other response code", True
                swapped = response.rcode() == dns.rcode.NOERROR
                response.set_rcode(dns.rcode.NXDOMAIN if swapped else dns.rcode.NOERROR)
        return of_message(response), "the attacker"


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return build(NOW)


@pytest.fixture(scope="module")
def recursion(zoo: Zoo) -> Recursion:
    return Recursion(zoo)


@pytest.mark.parametrize(("question", "changed"), ATTACKS, ids=lambda value: str(value or "itself"))
def test_no_changed_octet_makes_other_data_secure(
    zoo: Zoo, recursion: Recursion, question: str, changed: str | None
) -> None:
    attacker = Attacker(recursion, _ask(changed or question))

    async def attack() -> None:
        truth = await _judge(zoo, attacker, _ask(question))
        assert truth.security in (evidence.Security.SECURE, evidence.Security.INSECURE)
        resolver = ours.validator(zoo, attacker, NOW)
        caught = 0
        for place in range(attacker.length):
            attacker.place = place
            if changed is not None:
                resolver = ours.validator(zoo, attacker, NOW)  # a chain that is known would not be asked for
            judged = await resolver.judge_ask(_ask(question))
            if judged.security is evidence.Security.SECURE:
                assert _said(judged) == _said(truth), f"octet {place}"
            if judged.security is evidence.Security.INSECURE:
                assert truth.security is evidence.Security.INSECURE, f"octet {place}: {judged.refusal}"
            caught += judged.security in _CAUGHT
        assert caught > attacker.length / 2

    trio.run(attack)


def test_no_removed_rrset_or_false_rcode_changes_a_secure_verdict(zoo: Zoo, recursion: Recursion) -> None:
    """Every secure animal, less any one RRset of its reply: the same, or refused.

    Insecure only where the zone itself allows it: with too many iterations or in an opt-out span any name may be an
    insecure delegation (RFC 9276 3.2, RFC 5155 9.2).
    """

    async def attack() -> None:
        keys = KeyCache()
        whole = ours.validator(zoo, ours.InProcess(recursion), NOW, keys)
        for animal in ANIMALS:
            ask = ours.ask_for(animal)
            truth = await whole.judge_ask(ask)
            if truth.security is not evidence.Security.SECURE:
                continue
            remover = Remover(recursion, ask)
            while not remover.done:
                judged = await ours.validator(zoo, remover, NOW, keys).judge_ask(ask)
                if judged.security is evidence.Security.INSECURE:
                    assert ours.code(judged) in _UNDECIDED, f"{animal}: {remover.what}"
                if judged.security is evidence.Security.SECURE:
                    assert _said(judged) == _said(truth), f"{animal}: {remover.what}"
                remover.place += 1

    trio.run(attack)


async def _judge(zoo: Zoo, attacker: Attacker, ask: Ask) -> Judged:
    return await ours.validator(zoo, attacker, NOW).judge_ask(ask)


def _ask(text: str) -> Ask:
    name, rdtype = text.split()
    return Ask(dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def _said(judged: Judged) -> tuple[object, ...]:
    records = frozenset(judged.records) if judged.records is not None else None
    targets = tuple(alias.target for alias in judged.aliases)
    return judged.question, records, judged.absence, targets
