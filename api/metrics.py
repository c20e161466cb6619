"""What Prometheus scrapes: this process's requests, and the queue as the database has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tuner import service
from tuner.errors import Unavailable
from tuner.service import Context, StudyView

OPEN_STATES = ("queued", "running", "paused", "stopping")
MOST_PAGES = 100
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The registry of one application; nothing global, so that two applications do not mix."""

    def __init__(self, context: Context) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "tuner_http_request_seconds",
            "Time until an answer begins.",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(QueueCollector(context))


class QueueCollector(Collector):
    """Reads the queue at each scrape, so that every replica tells the same."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def describe(self) -> Iterator[Metric]:
        """Names nothing ahead: registering must not read the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One reading of the database; only ``tuner_up 0`` when it cannot be reached."""
        up = GaugeMetricFamily("tuner_up", "Whether the database answers.")
        try:
            studies = [study for state in OPEN_STATES for study in self._studies(state)]
            workers = service.list_workers(self.context)
        except Unavailable:
            up.add_metric((), 0)
            yield up
            return
        up.add_metric((), 1)
        yield up
        held = Counter(dict.fromkeys(OPEN_STATES, 0))
        held.update(study.state for study in studies)
        yield _by_state("tuner_open_studies", "Studies that are not over, by state.", held)
        trials: Counter[str] = Counter()
        for study in studies:
            trials.update(study.counts.model_dump())
        yield _by_state("tuner_open_trials", "Trials of studies that are not over.", trials)
        states = Counter(worker.state for worker in workers)
        yield _by_state("tuner_workers", "Workers by state.", states)
        present = [worker for worker in workers if worker.state != "gone"]
        rate = GaugeMetricFamily("tuner_samples_per_second", "Training samples, all workers.")
        rates = [worker.status.get("samples_per_second") for worker in present]
        rate.add_metric((), sum(value for value in rates if isinstance(value, int | float)))
        yield rate
        slots = GaugeMetricFamily("tuner_worker_slots", "Slots of workers that are present.")
        slots.add_metric((), sum(worker.slots for worker in present))
        yield slots
        leases = GaugeMetricFamily("tuner_leased_trials", "Trials that workers hold now.")
        leases.add_metric((), sum(worker.held for worker in present))
        yield leases

    def _studies(self, state: str) -> Iterator[StudyView]:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = service.list_studies(self.context, state=state, cursor=cursor, limit=1000)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


def _by_state(name: str, text: str, counts: dict[str, int] | Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("state",))
    for state, count in sorted(counts.items()):
        family.add_metric((state,), count)
    return family
