"""What /metrics shows, in the Prometheus text format. Plain counters, collected only when somebody asks."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Series:
    __slots__ = ("buckets", "count", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BUCKETS_S) + 1)
        self.count = 0
        self.sum_s = 0.0


class HttpMetrics:
    """Requests by method, route template and status: never by an id. Touched by the event loop only."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], _Series] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series()
        series.count += 1
        series.sum_s += seconds
        series.buckets[bisect_left(_BUCKETS_S, seconds)] += 1

    def collect(self) -> Metric:
        """The histogram."""
        family = HistogramMetricFamily(
            "chatledger_http_request_seconds",
            "Time from the request's head to the end of its answer.",
            labels=["method", "route", "status"],
        )
        for (method, route, status), series in self._series.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), series.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric([method, route, str(status)], buckets, series.sum_s)
        return family


class Reading(NamedTuple):
    """One number of the service's state."""

    name: str
    help: str
    value: float
    counts: bool = False


class _ServiceCollector(Collector):
    def __init__(self, http: HttpMetrics, readings: Callable[[], Iterable[Reading]]) -> None:
        self._http = http
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        yield self._http.collect()
        for reading in self._readings():
            kind = CounterMetricFamily if reading.counts else GaugeMetricFamily
            yield kind(f"chatledger_{reading.name}", reading.help, value=reading.value)


def registry_of(http: HttpMetrics, readings: Callable[[], Iterable[Reading]]) -> CollectorRegistry:
    """A registry that collects *http* and *readings* when it is rendered."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ServiceCollector(http, readings))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The text that Prometheus scrapes."""
    return generate_latest(registry)
