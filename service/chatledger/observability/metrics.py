"""What /metrics shows, in the Prometheus text format. Plain counters, collected only when somebody asks."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LARGEST = frozenset(
    f"chatledger_{name}"
    for name in (
        "workers",
        "position",
        "projection_lag_events",
        "rebuild_running",
        "unscrubbed_erasures",
        "scrub_overdue",
        "wal_held_pages",
        "ledger_bytes",
        "ledger_wal_bytes",
        "views_bytes",
        "views_wal_bytes",
    )
)
"""What is one for all workers; of everything else they have parts, which are added up."""
LOG_LINES_DROPPED = "Log lines that could not be written."
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """How often what was observed, in buckets up to each of *bounds*. Written by one thread, read by any."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._sum += value
        self._buckets[bisect_left(self._bounds, value)] += 1

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets as Prometheus has them, each with the ones before it; and the sum."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._buckets, strict=True):
            total += count
            found.append((bound, float(total)))
        return found, self._sum


class HttpMetrics:
    """Requests by method, route template and status: never by an id. Touched by the event loop only."""

    def __init__(self) -> None:
        self.problems: dict[str, int] = {}
        """How many requests were answered with each problem, by its name."""
        self._series: dict[tuple[str, str, int], Histogram] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Histogram(SECONDS)
        series.observe(seconds)

    def count_problem(self, name: str) -> None:
        """Count one refusal or fault."""
        self.problems[name] = self.problems.get(name, 0) + 1

    def collect(self) -> Metric:
        """The histogram."""
        family = HistogramMetricFamily(
            "chatledger_http_request_seconds",
            "Time from the request's head to the end of its answer.",
            labels=["method", "route", "status"],
        )
        # A copy: the port of its own is served by another thread.
        for (method, route, status), series in list(self._series.items()):
            family.add_metric([method, route, str(status)], *series.cumulative())
        return family


class Reading(NamedTuple):
    """One number of the service's state; or one for each label; or a histogram."""

    name: str
    help: str
    value: float | Mapping[str, float] | Histogram
    counts: bool = False
    label: str = ""

    def metric(self) -> Metric:
        """As Prometheus has it."""
        name = f"chatledger_{self.name}"
        if isinstance(self.value, Histogram):
            return HistogramMetricFamily(name, self.help, *self.value.cumulative())
        kind = CounterMetricFamily if self.counts else GaugeMetricFamily
        if not isinstance(self.value, Mapping):
            return kind(name, self.help, value=self.value)
        family = kind(name, self.help, labels=[self.label])
        for label, value in list(self.value.items()):
            family.add_metric([label], value)
        return family


class _ServiceCollector(Collector):
    def __init__(self, http: HttpMetrics, readings: Callable[[], Iterable[Reading]]) -> None:
        self._http = http
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        yield self._http.collect()
        for reading in self._readings():
            yield reading.metric()


def registry_of(http: HttpMetrics, readings: Callable[[], Iterable[Reading]]) -> CollectorRegistry:
    """A registry that collects *http* and *readings* when it is rendered."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ServiceCollector(http, readings))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The text that Prometheus scrapes."""
    return generate_latest(registry)


class Family(msgspec.Struct, frozen=True):
    """A metric with its samples, as one worker reports it: each with its name, labels and value."""

    name: str
    help: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


def report(registry: CollectorRegistry) -> list[Family]:
    """What *registry* collects now."""
    return [_family(metric) for metric in registry.collect()]


def family_of(reading: Reading) -> Family:
    """*reading* as a worker would report it."""
    return _family(reading.metric())


def _family(metric: Metric) -> Family:
    samples = [(sample.name, sample.labels, float(sample.value)) for sample in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, samples)


def counting(families: Iterable[Family]) -> list[Family]:
    """Those that must not go back when the worker that has reported them is gone."""
    return [family for family in families if family.kind in ("counter", "histogram")]


def together(reports: Iterable[Sequence[Family]]) -> list[Family]:
    """The *reports* of several workers as one: what they count or have is added up, what is the ledger's stays one."""
    found: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for families in reports:
        for family in families:
            _, values = found.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                key = name, tuple(labels.items())
                before = values.get(key, 0.0)
                values[key] = max(before, value) if family.name in LARGEST else before + value
    return [
        Family(
            family.name,
            family.help,
            family.kind,
            [(name, dict(labels), value) for (name, labels), value in values.items()],
        )
        for family, values in found.values()
    ]


class _Families(Collector):
    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families():
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


def registry_of_families(families: Callable[[], Iterable[Family]]) -> CollectorRegistry:
    """A registry that has *families* when it is rendered."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return registry
