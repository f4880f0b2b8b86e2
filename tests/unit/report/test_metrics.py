"""Counts: what events say, sums over workers, the text form, and the HTTP listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st
from prometheus_client.parser import text_string_to_metric_families

from deliver.report.exporter import REQUEST_OCTETS, REQUEST_SECONDS, answer
from deliver.report.metrics import (
    FAMILIES,
    SECONDS,
    Meter,
    Snapshot,
    gauge,
    lasting,
    merged,
    metered,
    rendered,
)
from events.catalogue import EVENTS, Event


def samples(snapshot: Snapshot) -> dict[str, float]:
    """What a scraper reads."""
    found = {}
    for family in text_string_to_metric_families(rendered(snapshot).decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def delivery(**fields: str) -> Event:
    return Event("msg:delivery", 0.0, fields)


def test_events_are_counted() -> None:
    meter = Meter()
    meter.tell(
        [
            delivery(tls_version="TLSv1.3", tls_verified_by="dane"),
            delivery(tls_version="TLSv1.3"),
            delivery(),
            Event("msg:rcpt:defer", 0.0, {"in_doubt": 1}),
            Event("msg:fail:internal", 0.0, {}),
            Event("tcp:close", 0.0, {}),
        ]
    )
    found = samples(meter.snapshot())
    assert found["outrider_deliveries_total{result=delivered}"] == 3
    assert found["outrider_deliveries_total{result=deferred}"] == 1
    assert found["outrider_deliveries_total{result=failed}"] == 1
    assert found["outrider_deliveries_by_security_total{security=dane}"] == 1
    assert found["outrider_deliveries_by_security_total{security=none}"] == 1
    assert found["outrider_deliveries_by_security_total{security=clear}"] == 1
    assert found["outrider_in_doubt_total{}"] == 1
    assert found["outrider_bounces_total{}"] == 0


def test_what_is_appended_for_several_messages_is_counted() -> None:
    meter, appended = Meter(), []

    def each(conn: object, told: object) -> None:
        appended.append(told)

    told = [("m1", iter([Event("msg:accept", 0.0), delivery()])), ("m2", (Event("msg:accept", 0.0),))]
    metered(each, meter)(None, told)  # type: ignore[arg-type]
    assert [[(name, len(events)) for name, events in one] for one in appended] == [[("m1", 2), ("m2", 1)]]
    found = samples(meter.snapshot())
    assert found["outrider_messages_accepted_total{}"] == 2
    assert found["outrider_deliveries_total{result=delivered}"] == 1


def test_every_event_that_is_counted_exists() -> None:
    from deliver.report.metrics import _COUNTED

    assert _COUNTED.keys() <= EVENTS.keys()


@given(st.lists(st.floats(0, 5000), max_size=30))
def test_a_histogram_counts_everything_once(seconds: list[float]) -> None:
    meter = Meter()
    for each in seconds:
        meter.observe("outrider_attempt_seconds", each)
    found = samples(meter.snapshot())
    assert found["outrider_attempt_seconds_count{}"] == len(seconds)
    assert found["outrider_attempt_seconds_sum{}"] == pytest.approx(sum(seconds))
    for limit in SECONDS:
        key = f"outrider_attempt_seconds_bucket{{le={limit}}}"
        assert found[key] == sum(each <= limit for each in seconds)


def test_workers_add_up_and_what_an_ended_one_did_stays() -> None:
    one, other = Meter(), Meter()
    one.tell([delivery()])
    other.tell([delivery(), delivery()])
    other.gauges.append(lambda: gauge("outrider_attempts_running", 5))
    both = samples(merged([one.snapshot(), other.snapshot()]))
    assert both["outrider_deliveries_total{result=delivered}"] == 3
    assert both["outrider_attempts_running{}"] == 5
    after = samples(merged([one.snapshot(), lasting(other.snapshot())]))
    assert after["outrider_deliveries_total{result=delivered}"] == 3
    assert after["outrider_attempts_running{}"] == 0


def test_every_metric_is_there_from_the_beginning() -> None:
    text = rendered({}).decode()
    assert all(f"# HELP {name}" in text for name in FAMILIES)


async def none() -> Snapshot:
    return {}


Counts = Callable[[], Awaitable[Snapshot]]


async def asked(request: bytes, counts: Counts = none) -> bytes:
    """What the listener answers to these octets."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, server, counts)
        try:
            await client.send_all(request)
            await client.send_eof()
        except trio.BrokenResourceError:
            pass
        return b"".join([bytes(part) async for part in client])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"EHLO me\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 3 * REQUEST_OCTETS, b"400"),
    ],
)
async def test_one_request_one_answer(request_: bytes, status: bytes) -> None:
    told = await asked(request_)
    assert told.startswith(b"HTTP/1.1 " + status)
    assert (b"# TYPE outrider_workers gauge" in told) == (status == b"200")


async def test_a_slow_client_is_left(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"GET /met")
    await answer(server, none)
    assert trio.current_time() == pytest.approx(REQUEST_SECONDS)
    assert await client.receive_some() == b""


@given(st.binary(max_size=300))
def test_no_octets_disturb_it(octets: bytes) -> None:
    told = trio.run(asked, octets)
    assert told == b"" or told.startswith(b"HTTP/1.1 ")
