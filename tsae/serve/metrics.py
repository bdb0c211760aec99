"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tsae import __version__

if TYPE_CHECKING:
    from tsae.serve.service import Service

ROUTES = ("images", "latents", "originals", "batch", "sheet", "stats", "healthz", "readyz", "metrics", "openapi.json", "docs")
"""First parts of paths that are told apart; all else is "other", so that clients cannot make names up."""

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of one server."""

    def __init__(self, service: Service) -> None:
        """Starts at zero."""
        self._registry = CollectorRegistry()
        registry = self._registry
        self.at_work = Gauge("tsae_requests_at_work", "Requests that are being answered", registry=registry)
        self._requests = Counter("tsae_requests", "Requests by route and status", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "tsae_request_seconds", "Time until the last byte was handed over", ["route"], registry=registry, buckets=BUCKETS_S
        )
        self._sent = Counter("tsae_sent_bytes", "Bytes of bodies", ["route"], registry=registry)
        registry.register(_ServiceCollector(service))

    def observe(self, path: str, status: int, seconds: float, sent_bytes: int) -> None:
        """Counts a request that has ended; status 0 is one that was cut off."""
        name = path.split("/", 2)[1] if path.startswith("/") else ""
        route = name if name in ROUTES else "other"
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._sent.labels(route).inc(sent_bytes)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return bytes(generate_latest(self._registry))


class _ServiceCollector(Collector):
    """Reads what a service counts itself."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service, state = self._service, self._service.follower.state
        build = GaugeMetricFamily("tsae_build_info", "The program", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        for name, cache in (("images", service.cache), ("row_groups", service.groups.tables)):
            yield GaugeMetricFamily(f"tsae_cache_{name}_bytes", "Bytes that are kept", cache.used_bytes)
            yield CounterMetricFamily(f"tsae_cache_{name}_hits", "Found in the cache", cache.hits)
            yield CounterMetricFamily(f"tsae_cache_{name}_misses", "Not found in the cache", cache.misses)
        yield CounterMetricFamily("tsae_decoder_batches", "Batches that were decoded", service.batcher.batches)
        yield CounterMetricFamily("tsae_decoder_images", "Images that were decoded", service.batcher.items)
        yield GaugeMetricFamily("tsae_decoder_queue", "Images that wait for the decoder", service.batcher.queued)
        yield GaugeMetricFamily("tsae_archive_up", "1 unless the archive is gone or damaged", service.follower.fault is None)
        if state is not None:
            yield GaugeMetricFamily("tsae_archive_images", "Images of the state that is served", len(state.index))
            yield GaugeMetricFamily("tsae_archive_opened_seconds", "When that state was opened, Unix time", state.opened_s)
