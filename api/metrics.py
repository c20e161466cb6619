"""What Prometheus scrapes: this process's requests, and the queue as the database has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tuner import service
from tuner.errors import SchemaOutdated, Unavailable
from tuner.service import Context
from tuner.service.background import Repeated

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The registry of one application; nothing global, so that two applications do not mix."""

    def __init__(self, context: Context, chores: Callable[[], Sequence[Repeated]]) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "tuner_http_request_seconds",
            "Time until an answer begins.",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(ChoreCollector(chores))
        self.registry.register(QueueCollector(context))


class ChoreCollector(Collector):
    """Says when each of the process's jobs last had a turn that ended well."""

    def __init__(self, chores: Callable[[], Sequence[Repeated]]) -> None:
        self.chores = chores

    def describe(self) -> Iterator[Metric]:
        """Names nothing ahead: there are none yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One value a job, once it has had a turn."""
        yield _by(
            "chore",
            "tuner_chore_last_turn_timestamp_seconds",
            "When upkeep of each kind last ended well, in seconds since 1970.",
            {c.name: c.done_at for c in self.chores() if c.done_at is not None},
        )


class QueueCollector(Collector):
    """Reads the queue at each scrape, so that every replica tells the same."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def describe(self) -> Iterator[Metric]:
        """Names nothing ahead: registering must not read the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading of the database; only ``tuner_up 0`` when it cannot be reached."""
        try:
            found = service.gauges(self.context)
        except (Unavailable, SchemaOutdated):
            yield GaugeMetricFamily("tuner_up", "Whether the database answers.", 0)
            return
        yield GaugeMetricFamily("tuner_up", "Whether the database answers.", 1)
        yield _by("state", "tuner_studies", "Studies by state.", found.studies)
        yield _by("state", "tuner_trials", "Trials by state.", found.trials)
        yield GaugeMetricFamily(
            "tuner_queue_depth", "Trials that wait for a worker now.", found.queue_depth
        )
        yield _by("holder", "tuner_leases", "Trials held now, by who holds them.", found.leases)
        yield _by("state", "tuner_workers", "Workers by state.", found.workers)
        yield GaugeMetricFamily(
            "tuner_worker_slots", "Trials that present workers can hold.", found.slots
        )
        yield GaugeMetricFamily(
            "tuner_samples_per_second",
            "Training samples a second, of all present workers.",
            found.samples_per_second,
        )
        yield GaugeMetricFamily(
            "tuner_webhook_messages_waiting",
            "Messages to webhooks that are not delivered yet.",
            found.undelivered,
        )


def _by(label: str, name: str, text: str, counts: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
