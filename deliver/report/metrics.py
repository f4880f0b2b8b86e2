"""Counts of what happens, for Prometheus: see docs/operation.md for what they mean.

A `Meter` counts in one process. Its snapshot is plain data, so that the supervisor can add up those of all
workers: counters and histograms of workers that have ended stay in the sum, their gauges do not. No name of a
recipient, sender or host becomes a label: labels are few words of ours.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from deliver.outcome import AttemptResult
from deliver.queue.execution import Attempt
from events.catalogue import Event, Scalar

Append = Callable[[Connection, str | None, Iterable[Event]], None]
Snapshot = dict[str, dict[str, float]]  # metric: labels as JSON: value
Kind = Literal["counter", "gauge", "histogram"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
SUM: Final = "sum"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, without the `_total` of counters. `words`: values of its label, there from the start."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


FAMILIES: Final[Mapping[str, Family]] = {
    "outrider_messages_accepted": Family("counter", "Messages that became ours."),
    "outrider_deliveries": Family(
        "counter",
        "Recipients whom an attempt settled (delivered, failed) or put off (deferred).",
        ("result",),
        ("delivered", "deferred", "failed"),
    ),
    "outrider_deliveries_by_security": Family(
        "counter", "Recipients delivered, by what authenticated the server.", ("security",)
    ),
    "outrider_in_doubt": Family("counter", "Recipients whose message a server may hold without a reply."),
    "outrider_bounces": Family("counter", "Reports to senders."),
    "outrider_tls_failures": Family("counter", "Handshakes that failed."),
    "outrider_tls_fallbacks": Family("counter", "Times that mail went on in clear text after TLS failed."),
    "outrider_servers_refused": Family("counter", "Servers whose certificate, or DANE, was refused."),
    "outrider_attempt_seconds": Family("histogram", "How long attempts take, from claim to result."),
    "outrider_attempts_running": Family("gauge", "Attempts under way."),
    "outrider_queue_recipients": Family(
        "gauge", "Recipients in the queue.", ("state",), ("queued", "leased", "held")
    ),
    "outrider_queue_messages": Family("gauge", "Messages in the queue."),
    "outrider_queue_standstill": Family("gauge", "Shards whose storage has failed."),
    "outrider_sessions_idle": Family("gauge", "Open sessions that wait for a message."),
    "outrider_events_waiting": Family("gauge", "Events that wait for the databases of their actions."),
    "outrider_events_dropped": Family("counter", "Diagnostic events dropped because too many wait."),
    "outrider_workers": Family("gauge", "Worker processes that serve."),
    "outrider_worker_restarts": Family("counter", "Worker processes that ended and were started again."),
}


class Meter:
    """The counts of one process. `gauges` are asked when a snapshot is taken."""

    def __init__(self) -> None:
        self._counts: Snapshot = {}
        self._lock = Lock()  # events are counted in the databases' threads
        self.gauges: list[Callable[[], Snapshot]] = []

    def count(self, metric: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter of FAMILIES."""
        key = _key(labels)
        with self._lock:
            samples = self._counts.setdefault(metric, {})
            samples[key] = samples.get(key, 0.0) + amount

    def observe(self, metric: str, seconds: float) -> None:
        """Add to a histogram."""
        place = bisect_left(SECONDS, seconds)
        limit = "+Inf" if place == len(SECONDS) else str(SECONDS[place])
        self.count(metric, le=limit)
        self.count(metric, seconds, part=SUM)

    def tell(self, events: Iterable[Event]) -> None:
        """Count what the events of the catalogue say."""
        for event in events:
            counted = _COUNTED.get(event.name)
            if counted is not None:
                counted(self, event.fields)

    def snapshot(self) -> Snapshot:
        """All counts, and the gauges as they are now."""
        with self._lock:
            counts = merged([self._counts])
        return merged([counts, *(gauge() for gauge in self.gauges)])


@dataclass(frozen=True, slots=True)
class Timed:
    """An attempt whose time is measured; see `deliver.queue.execution.Attempt`."""

    attempt: Attempt
    meter: Meter
    now: Callable[[], float]

    async def run(self) -> None:
        """Deliver."""
        began = self.now()
        try:
            await self.attempt.run()
        finally:
            self.meter.observe("outrider_attempt_seconds", self.now() - began)

    def result(self) -> AttemptResult:
        """What is known."""
        return self.attempt.result()

    def progress(self) -> int:
        """Grows with what was found out."""
        return self.attempt.progress()


def metered(append: Append, meter: Meter) -> Append:
    """An `events.outbox.append` that counts what passes."""

    def counting(conn: Connection, message_id: str | None, events: Iterable[Event]) -> None:
        known = tuple(events)
        append(conn, message_id, known)
        meter.tell(known)

    return counting


def gauge(metric: str, value: float, **labels: str) -> Snapshot:
    """A snapshot of one gauge."""
    return {metric: {_key(labels): value}}


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for metric, samples in snapshot.items():
            into = total.setdefault(metric, {})
            for key, value in samples.items():
                into[key] = into.get(key, 0.0) + value
    return total


def lasting(snapshot: Snapshot) -> Snapshot:
    """What stays true after the process has ended: everything but gauges."""
    return {
        metric: samples
        for metric, samples in snapshot.items()
        if (family := FAMILIES.get(metric)) is not None and family.kind != "gauge"
    }


def rendered(snapshot: Snapshot) -> bytes:
    """The text form of Prometheus; every metric of FAMILIES is there, also while it is 0."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry)


class _Snapshot(Collector):
    """Hands a snapshot to the library."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """One family after the other."""
        for name, family in FAMILIES.items():
            yield _family(name, family, self._snapshot.get(name, {}))


def _family(name: str, family: Family, samples: dict[str, float]) -> Metric:
    if family.kind == "histogram":
        return _histogram(name, family, samples)
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = made(name, family.help, labels=family.labels)
    known = [{family.labels[0]: word} for word in family.words] if family.labels else [{}]
    samples = {_key(labels): 0.0 for labels in known} | samples
    for key, value in sorted(samples.items()):
        labels = dict(json.loads(key))
        metric.add_metric([labels.get(label, "") for label in family.labels], value)
    return metric


def _histogram(name: str, family: Family, samples: dict[str, float]) -> Metric:
    metric = HistogramMetricFamily(name, family.help)
    total, buckets = 0.0, []
    for limit in (*(str(each) for each in SECONDS), "+Inf"):
        total += samples.get(_key({"le": limit}), 0.0)
        buckets.append((limit, total))
    metric.add_metric([], buckets, samples.get(_key({"part": SUM}), 0.0))
    return metric


def _key(labels: Mapping[str, str]) -> str:
    return json.dumps(sorted(labels.items()), separators=(",", ":"))


# What events say

Fields = Mapping[str, Scalar]


def _accepted(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_messages_accepted")


def _delivered(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_deliveries", result="delivered")
    security = "clear" if not fields.get("tls_version") else str(fields.get("tls_verified_by") or "none")
    meter.count("outrider_deliveries_by_security", security=security)


def _deferred(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_deliveries", result="deferred")
    if fields.get("in_doubt"):
        meter.count("outrider_in_doubt")


def _failed(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_deliveries", result="failed")


def _bounced(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_bounces")


def _refused(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_servers_refused")


def _fell_back(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_tls_fallbacks")


def _tls_failed(meter: Meter, fields: Fields) -> None:
    meter.count("outrider_tls_failures")


_COUNTED: Final[Mapping[str, Callable[[Meter, Fields], None]]] = {
    "msg:accept": _accepted,
    "msg:delivery": _delivered,
    "msg:rcpt:defer": _deferred,
    "msg:fail:delivery": _failed,
    "msg:fail:internal": _failed,
    "msg:bounce": _bounced,
    "tls:fail:connect": _tls_failed,
    "tls:fail:verify": _refused,
    "dane:fail": _refused,
    "tls:fallback": _fell_back,
}
