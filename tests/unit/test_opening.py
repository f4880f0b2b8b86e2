"""Commands sent early to a server that is, or is not, as it was remembered."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from deliver.agent import Agent
from deliver.attempt import Attempt
from deliver.errors import Blame
from deliver.level import Level
from deliver.message import Envelope, Mailbox, MessageId, Recipient
from deliver.net.clock import WallClock
from deliver.outcome import Deferred, Delivered, Failed, Phase
from deliver.queue.content import InlineContent
from deliver.settings import Route, Settings, Tls
from deliver.tls.pkix import TrustStore
from deliver.tls.policy import Authentication, TlsPolicy
from events.catalogue import Event
from events.fields import Scalar
from events.port import Allow
from hints.memory import MemoryHints
from hints.records import EhloPhase, Word
from tests.simulate.early import CLEAR, EARLY, PLACE, SECURE, SMTP, Network, Ran, run, script

TEXT = b"Subject: x\r\n\r\n.dot\r\n"
COMMANDS = b"Subject: x\r\n\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<eve@evil.test>\r\nDATA\r\nevil\r\n.\r\n"
WITHOUT_CHUNKING = tuple(word for word in EARLY if word != "CHUNKING")
WITHOUT_PIPELINING = tuple(word for word in EARLY if word != "PIPELINING")
WITHOUT_PIPECONNECT = tuple(word for word in EARLY if word != "PIPECONNECT")


def kinds(ran: Ran) -> list[str]:
    return [type(outcome).__name__ for outcome in ran.outcomes.values()]


def trips(ran: Ran) -> int:
    return int(ran.flights[0].split()[0])


def known(ran: Ran) -> tuple[bool | None, Mapping[EhloPhase, tuple[str, ...]]]:
    """Whether early commands work there, and the remembered answers to EHLO."""

    async def look() -> Any:
        return await ran.hints.look(PLACE[0], (PLACE[1],), PLACE[2])

    ran.hints._clock = lambda: 1_700_000_100.0
    (view,) = trio.run(look)
    return view.works(Word.PIPECONNECT), {answer.phase: answer.keywords for answer in view.ehlo}


def delivered_once(ran: Ran) -> None:
    assert kinds(ran) == ["Delivered", "Failed", "Delivered"]
    assert sorted(ran.held) == ["ann", "bob"]
    assert sorted(ran.journal) == ["ann", "bob"]


def test_four_round_trips_with_starttls() -> None:
    ran = run(TEXT, script(listens=1))
    delivered_once(ran)
    assert trips(ran) == 4
    assert "saved: 3 by PIPECONNECT" in ran.flights[0]
    assert ran.servers[0].early == b"EHLO us.test\r\nSTARTTLS\r\n"
    assert ran.events[:3] == ["tcp:connect", "smtp:connect", "smtp:ehlo"]
    assert ran.events.count("smtp:ehlo") == 2
    assert known(ran)[0] is True


def test_three_round_trips_in_clear_text() -> None:
    ran = run(TEXT, script(listens=1), policy=CLEAR)
    delivered_once(ran)
    assert trips(ran) == 3
    assert ran.servers[0].early.startswith(b"EHLO us.test\r\nMAIL FROM:<>")
    assert ran.servers[0].early.endswith(b"DATA\r\n")


def test_two_round_trips_in_clear_text_with_early_content() -> None:
    ran = run(TEXT, script(listens=1), policy=CLEAR, smtp=replaced(early_bdat_clear=True))
    delivered_once(ran)
    assert trips(ran) == 2
    assert ran.servers[0].early.endswith(b"BDAT 20 LAST\r\n" + TEXT)


def replaced(**changes: Any) -> Any:
    return type(SMTP)(**{**{name: getattr(SMTP, name) for name in SMTP.__struct_fields__}, **changes})


def test_nothing_early_without_the_keyword_or_the_setting() -> None:
    silent = script(keywords=WITHOUT_PIPECONNECT, listens=1)
    for ran in (
        run(TEXT, silent),
        run(TEXT, script(listens=1), smtp=replaced(pipeconnect=False)),
        run(TEXT, script(listens=1), smtp=replaced(pipelining=False)),
    ):
        delivered_once(ran)
        assert ran.servers[0].early == b""
        assert len(ran.servers) == 1


@pytest.mark.parametrize("keyword", ["PIPECONNECT", "PIPE_CONNECT", "X_PIPE_CONNECT"])
def test_the_keyword_under_any_of_its_names(keyword: str) -> None:
    ran = run(TEXT, script(keywords=(*WITHOUT_PIPECONNECT, keyword)))
    delivered_once(ran)
    assert trips(ran) == 4


def test_where_tls_only_fell_through_the_envelope_waits() -> None:
    policy = TlsPolicy(Level.MAY, False, False, Authentication.NONE, PLACE[0])
    ran = run(TEXT, script(listens=1), policy=policy)
    delivered_once(ran)
    assert ran.servers[0].early == b"EHLO us.test\r\n"


def test_no_starttls_remembered_and_none_offered() -> None:
    policy = TlsPolicy(Level.MAY, True, False, Authentication.NONE, PLACE[0])
    ran = run(TEXT, script(tls=None, listens=1), policy=policy)
    delivered_once(ran)
    assert ran.servers[0].early == b"EHLO us.test\r\n"
    assert "starttls-missing" in ran.codes


@pytest.mark.parametrize("change", [{"eight_bit": True}, {"smtputf8": True}, {"requires_tls": True}])
def test_what_only_this_connection_may_promise_is_waited_for(change: dict[str, Any]) -> None:
    def needing(envelope: Envelope) -> Envelope:
        return replace(envelope, **change)

    offering = (*EARLY, "SMTPUTF8", "REQUIRETLS")
    ran = run(TEXT, script(keywords=offering, listens=1), envelope=needing)
    assert ran.servers[0].early == b"EHLO us.test\r\nSTARTTLS\r\n"
    assert trips(ran) == 5
    ran = run(TEXT, script(keywords=offering, listens=1), envelope=needing, policy=CLEAR)
    assert ran.servers[0].early == b"EHLO us.test\r\n"


class Watching:
    """Actions that want to see greetings."""

    open = False

    async def consult(self, event: Event) -> Allow:
        return Allow()

    def watches(self, name: str, fields: Mapping[str, Scalar]) -> bool:
        return name == "smtp:connect" and fields["host"] == PLACE[0]


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
def test_an_action_on_the_greeting_wants_to_see_it_first(policy: TlsPolicy) -> None:
    ran = run(TEXT, script(listens=1), policy=policy, gate=Watching())
    delivered_once(ran)
    assert ran.servers[0].early == b""


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
@pytest.mark.parametrize(
    "greeting", ["554 5.5.0 synchronization error", "421 4.3.2 busy", "450 not now", None, "garbage"]
)
def test_a_refused_greeting_costs_one_more_connection(greeting: str | None, policy: TlsPolicy) -> None:
    ran = run(TEXT, script(replies={"greeting": greeting}), script(listens=1), policy=policy)
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert ran.servers[1].early == b""
    assert "pipeconnect-surprise" in ran.codes
    assert ran.servers[0].taken == []
    assert known(ran)[0] is False
    assert trips(ran) == (9 if policy is SECURE else 6), "both connections count"


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
def test_a_host_that_refuses_both_ways_is_refused_once(policy: TlsPolicy) -> None:
    ran = run(TEXT, script(replies={"greeting": "421 4.3.2 busy"}), learnt=script(), policy=policy)
    assert len(ran.servers) == 2
    for outcome in ran.outcomes.values():
        assert isinstance(outcome, Deferred)
        assert (outcome.phase, outcome.blame, outcome.in_doubt) == (Phase.BANNER, Blame.HOST, False)
    works, answers = known(ran)
    assert works is None, "it was busy, that is all"
    assert answers[EhloPhase.CLEAR] == (), "the next attempt begins one by one"


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
@pytest.mark.parametrize("reply", ["550 who are you", "421 bye", None])
def test_a_refused_ehlo_costs_one_more_connection(reply: str | None, policy: TlsPolicy) -> None:
    ran = run(TEXT, script(replies={"EHLO": reply}), script(), policy=policy)
    delivered_once(ran)
    assert len(ran.servers) == 2


def test_a_withdrawn_keyword_is_forgotten() -> None:
    for policy, words in ((SECURE, (*WITHOUT_PIPECONNECT, "STARTTLS", "HELP")), (CLEAR, ())):
        ran = run(TEXT, script(keywords=WITHOUT_PIPECONNECT), learnt=script(), policy=policy)
        delivered_once(ran)
        assert len(ran.servers) == 2
        assert ran.servers[1].early == b""
        assert ran.servers[0].taken == []
        if words:
            assert known(ran)[1][EhloPhase.CLEAR] == words


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
def test_a_server_that_holds_early_commands_against_us_later(policy: TlsPolicy) -> None:
    """Like Postfix's postscreen, which answers RCPT with 550 to whoever spoke before its greeting."""
    offended = script(keywords=WITHOUT_PIPECONNECT, replies={"RCPT": "550 5.5.1 protocol error"})
    ran = run(TEXT, offended, script(keywords=WITHOUT_PIPECONNECT, listens=1), learnt=script(), policy=policy)
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert ran.servers[1].early == b""


def test_a_keyword_withdrawn_inside_tls_only() -> None:
    ran = run(TEXT, script(keywords_tls=WITHOUT_PIPECONNECT), learnt=script())
    delivered_once(ran)
    assert len(ran.servers) == 1, "the last reply counts"
    offended = script(keywords_tls=WITHOUT_PIPECONNECT, replies={"RCPT": "550 5.5.1 protocol error"})
    ran = run(TEXT, offended, script(), learnt=script())
    delivered_once(ran)
    assert len(ran.servers) == 2


def test_another_server_behind_the_address_gets_no_early_envelope() -> None:
    ran = run(TEXT, script(name="mx2"), learnt=script())
    delivered_once(ran)
    assert len(ran.servers) == 1
    assert trips(ran) == 5
    assert ran.servers[0].commands[2:4] == ["EHLO us.test", "MAIL FROM:<> SIZE=20 PRDR"]


def test_starttls_withdrawn_is_asked_for_again_on_a_new_connection() -> None:
    ran = run(TEXT, script(tls=None), script())
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert not any(line.startswith("MAIL") for line in ran.servers[0].commands)


def test_starttls_withdrawn_for_good_is_never_clear_text() -> None:
    ran = run(TEXT, script(tls=None), learnt=script())
    assert len(ran.servers) == 2
    for outcome in ran.outcomes.values():
        assert isinstance(outcome, Deferred)
        assert outcome.blame is Blame.POLICY
    for server in ran.servers:
        assert not any(line.startswith("MAIL") for line in server.commands)


def test_refused_starttls_is_an_answer() -> None:
    ran = run(TEXT, script(replies={"STARTTLS": "454 4.7.0 not now"}), learnt=script())
    assert len(ran.servers) == 1
    assert all(isinstance(outcome, Deferred) for outcome in ran.outcomes.values())


def test_a_server_that_throws_early_commands_away() -> None:
    ran = run(TEXT, script(drains=True), script())
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert ran.seconds < 400, "one deadline of EHLO"


@pytest.mark.parametrize("text", [TEXT, COMMANDS])
def test_chunking_withdrawn_inside_tls(text: bytes) -> None:
    """Only a server that changes its mind between its two answers can be sent content as commands."""
    odd = script(keywords_tls=WITHOUT_CHUNKING)
    ran = run(text, odd, learnt=script())
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert ran.servers[1].commands.count("DATA") == 1
    assert [content for server in ran.servers for _, content in server.taken if b"Subject" in content] == [
        text
    ]


@pytest.mark.parametrize("name", ["mx", "mx2"])
def test_a_server_without_chunking_behind_the_address_never_reads_content_as_commands(name: str) -> None:
    other = script(name=name, keywords=WITHOUT_CHUNKING)
    for policy in (SECURE, CLEAR):
        ran = run(COMMANDS, other, learnt=script(), policy=policy)
        delivered_once(ran)
        for server in ran.servers:
            assert "RSET" not in server.commands
            assert not any("eve@" in line for line in server.commands)


def test_chunking_that_is_offered_inside_tls_only_waits_for_the_answer() -> None:
    only = script(keywords=WITHOUT_CHUNKING, keywords_tls=EARLY)
    ran = run(TEXT, only)
    delivered_once(ran)
    assert trips(ran) == 5
    assert "DATA" in ran.servers[0].commands
    ran = run(COMMANDS, script(keywords=WITHOUT_CHUNKING), learnt=only)
    delivered_once(ran)
    assert not any("eve@" in line for server in ran.servers for line in server.commands)


def test_chunking_withdrawn_with_a_large_message_stops_before_its_end() -> None:
    text = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 20_000
    ran = run(text, script(keywords_tls=WITHOUT_CHUNKING), learnt=script())
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert not any("LAST" in line for line in ran.servers[0].commands)


def test_chunking_withdrawn_in_clear_text_with_early_content() -> None:
    smtp = replaced(early_bdat_clear=True)
    ran = run(TEXT, script(keywords=WITHOUT_CHUNKING), learnt=script(), policy=CLEAR, smtp=smtp)
    delivered_once(ran)
    assert len(ran.servers) == 2


def test_pipelining_withdrawn_inside_tls_but_everything_taken() -> None:
    ran = run(TEXT, script(keywords_tls=WITHOUT_PIPELINING), learnt=script())
    delivered_once(ran)
    assert len(ran.servers) == 1
    assert known(ran)[0] is False


def test_a_changed_answer_stops_the_content_in_clear_text() -> None:
    no_prdr = tuple(word for word in EARLY if word != "PRDR")
    ran = run(TEXT, script(keywords=no_prdr), learnt=script(), policy=CLEAR)
    delivered_once(ran)
    assert len(ran.servers) == 2
    assert ran.servers[0].taken == []
    assert "Subject: x" not in ran.servers[0].commands


def test_a_smaller_limit_of_size_is_found_out() -> None:
    tight = tuple("SIZE 5" if word == "SIZE" else word for word in EARLY)
    ran = run(TEXT, script(keywords_tls=tight, replies={"MAIL": "552 5.3.4 too big"}), learnt=script())
    assert kinds(ran) == ["Failed", "Failed", "Failed"]
    assert len(ran.servers) == 2
    assert not any(line.startswith("MAIL") for line in ran.servers[1].commands)


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
def test_no_message_fails_by_a_remembered_limit(policy: TlsPolicy) -> None:
    tight = tuple("SIZE 5" if word == "SIZE" else word for word in EARLY)
    ran = run(TEXT, script(keywords_tls=EARLY), learnt=script(keywords_tls=tight))
    delivered_once(ran)
    ran = run(TEXT, script(), learnt=script(keywords=tight), policy=CLEAR)
    delivered_once(ran)
    assert len(ran.servers) == 1


def test_fewer_recipients_at_a_time_than_remembered() -> None:
    limited = (*EARLY, "LIMITS RCPTMAX=1")
    ran = run(TEXT, script(keywords=limited), learnt=script(), policy=CLEAR)
    delivered_once(ran)
    assert [len(people) for server in ran.servers for people, _ in server.taken] == [1, 1]


@pytest.mark.parametrize("policy", [SECURE, CLEAR])
def test_replies_octet_by_octet(policy: TlsPolicy) -> None:
    ran = run(TEXT, script(portion=1), policy=policy)
    delivered_once(ran)
    assert len(ran.servers) == 1


@pytest.mark.parametrize("point", ["EHLO-TLS", "MAIL"])
def test_a_server_that_leaves_with_the_whole_message_leaves_it_in_doubt(point: str) -> None:
    ran = run(TEXT, script(replies={point: None}), script(), learnt=script())
    assert len(ran.servers) == 1
    assert all(isinstance(outcome, Deferred) and outcome.in_doubt for outcome in ran.outcomes.values())
    if point == "EHLO-TLS":
        assert known(ran)[0] is False, "the next attempt sends nothing early"


def test_a_server_that_leaves_without_the_whole_message_is_asked_again() -> None:
    ran = run(TEXT, script(replies={"EHLO": None}), script(), policy=CLEAR)
    delivered_once(ran)
    assert len(ran.servers) == 2


def test_a_refused_sender_is_an_answer() -> None:
    ran = run(TEXT, script(replies={"MAIL": "550 5.7.1 not you"}), learnt=script())
    assert len(ran.servers) == 1
    assert kinds(ran) == ["Failed", "Failed", "Failed"]
    assert all(
        isinstance(outcome, Failed) and outcome.phase is Phase.MAIL for outcome in ran.outcomes.values()
    )


def test_many_recipients() -> None:
    who = [f"r{n}" for n in range(250)]
    for policy in (SECURE, CLEAR):
        ran = run(TEXT, script(), who=who, policy=policy)
        assert all(isinstance(outcome, Delivered) for outcome in ran.outcomes.values())
        assert sorted(ran.held) == sorted(who)
        assert len(ran.servers) == 1


@pytest.mark.parametrize("level", [Level.NONE, Level.ENCRYPT])
@pytest.mark.parametrize("second", [None, "421 4.3.2 busy"])
async def test_an_attempt_sees_one_session_that_began_again(
    autojump_clock: trio.testing.MockClock, level: Level, second: str | None
) -> None:
    """Learn, meet a refusal, begin again: what the second connection says is the outcome, told once."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery)
        clock = WallClock(1_700_000_000.0)
        agent = Agent(
            settings=Settings(
                tls=Tls(level=level, resumption=False),
                route=(Route(domains=("*",), via="smarthost", hosts=("[192.0.2.1]:25",)),),
            ),
            resolver=None,  # type: ignore[arg-type]
            dialer=network,
            hints=MemoryHints(clock=clock.now),
            clock=clock,
            rng=Random(1),
            trust=lambda path: TrustStore.empty(),
            helo="us.test",
            learner="test",
        )
        refusing = script(replies={"greeting": "554 5.5.0 early"})
        last = script() if second is None else script(replies={"greeting": second})
        network.scripts = [script(), refusing, last]
        results = []
        for _ in range(2):
            who = (Recipient(0, Mailbox("ann", "early.test")),)
            envelope = Envelope(MessageId("m"), None, who, len(TEXT), False, 0.0)
            story = Attempt(agent, envelope, who, InlineContent(TEXT))
            await story.run()
            results.append(story.result())
        nursery.cancel_scope.cancel()
    ((_, outcome),) = results[1].outcomes
    names = [event.name for event in results[1].trace.events]
    assert len(network.servers) == 3
    assert "pipeconnect-surprise" in [finding.code for finding in results[1].trace.findings]
    if second is None:
        assert isinstance(outcome, Delivered)
        assert names.count("msg:delivery") == 1
        assert names.count("msg:host:defer") == 0, "a surprise is no failed host"
    else:
        assert isinstance(outcome, Deferred)
        assert "421 4.3.2 busy" in outcome.why
        assert names.count("msg:host:defer") == 1
    assert names.count("tcp:connect") == names.count("tcp:close") == 2
