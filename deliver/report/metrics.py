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
from functools import lru_cache
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

from events.catalogue import Event, Scalar
from events.outbox import AppendEach

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
    "outrider_messages_led": Family("counter", "Messages that went to the worker that keeps their domain."),
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
        with self._lock:
            self._add(metric, _key(labels), amount)

    def _add(self, metric: str, key: str, amount: float = 1.0) -> None:
        samples = self._counts.setdefault(metric, {})
        samples[key] = samples.get(key, 0.0) + amount

    def observe(self, metric: str, seconds: float) -> None:
        """Add to a histogram."""
        limit = _LIMITS[bisect_left(SECONDS, seconds)]
        with self._lock:
            self._add(metric, limit)
            self._add(metric, _TOTAL, seconds)

    def tell(self, events: Iterable[Event]) -> None:
        """Count what the events of the catalogue say."""
        samples = [each for event in events if event.name in _COUNTED for each in _samples(event)]
        with self._lock:
            for metric, key in samples:
                self._add(metric, key)

    def snapshot(self) -> Snapshot:
        """All counts, and the gauges as they are now."""
        with self._lock:
            counts = merged([self._counts])
        return merged([counts, *(gauge() for gauge in self.gauges)])


def metered(append_each: AppendEach, meter: Meter) -> AppendEach:
    """The same, and what passes is counted."""

    def counting(conn: Connection, told: Iterable[tuple[str | None, Iterable[Event]]]) -> None:
        known = [(message_id, tuple(events)) for message_id, events in told]
        append_each(conn, known)
        meter.tell([event for _, events in known for event in events])

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
    return _key_of(tuple(labels.items())) if labels else "[]"


@lru_cache(maxsize=1024)
def _key_of(labels: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(sorted(labels), separators=(",", ":"))


_LIMITS: Final = (*(_key({"le": str(each)}) for each in SECONDS), _key({"le": "+Inf"}))
_TOTAL: Final = _key({"part": SUM})


# What events say

Sample = tuple[str, str]  # a metric and its labels, as `_key` has them


def _samples(event: Event) -> tuple[Sample, ...]:
    """What an event adds one to."""
    always = _COUNTED[event.name]
    if event.name == "msg:delivery":
        return (*always, _security(event.fields.get("tls_version"), event.fields.get("tls_verified_by")))
    if event.name == "msg:rcpt:defer" and event.fields.get("in_doubt"):
        return (*always, ("outrider_in_doubt", _key({})))
    return always


def _security(version: Scalar, verified_by: Scalar) -> Sample:
    security = "clear" if not version else str(verified_by or "none")
    return ("outrider_deliveries_by_security", _key({"security": security}))


def _result(word: str) -> tuple[Sample, ...]:
    return (("outrider_deliveries", _key({"result": word})),)


_COUNTED: Final[Mapping[str, tuple[Sample, ...]]] = {
    "msg:accept": (("outrider_messages_accepted", _key({})),),
    "msg:delivery": _result("delivered"),
    "msg:rcpt:defer": _result("deferred"),
    "msg:fail:delivery": _result("failed"),
    "msg:fail:internal": _result("failed"),
    "msg:bounce": (("outrider_bounces", _key({})),),
    "tls:fail:connect": (("outrider_tls_failures", _key({})),),
    "tls:fail:verify": (("outrider_servers_refused", _key({})),),
    "dane:fail": (("outrider_servers_refused", _key({})),),
    "sts:fail": (("outrider_servers_refused", _key({})),),
    "tls:fallback": (("outrider_tls_fallbacks", _key({})),),
}
