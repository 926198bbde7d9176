"""What a server counts, as Prometheus reads it: requests by code, how long they take, batches, the queue."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# What stands for all paths that there are not, so that nobody can make the tables grow.
OTHER = "other"


class Counters:
    """The numbers of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "jtl_requests",
            "Requests answered, by path and status.",
            ["path", "code"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "jtl_request_seconds",
            "From the head of a request to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "jtl_batch_items", "Items of a batch.", buckets=SIZES, registry=self._registry
        )
        self._model = Histogram(
            "jtl_batch_seconds", "What a batch takes in the model.", buckets=SECONDS, registry=self._registry
        )
        self._items = Counter(
            "jtl_items", "Items predicted, explained, or refused.", ["outcome"], registry=self._registry
        )
        self._queue = Gauge(
            "jtl_queue_items", "Items being read, waiting, or in the model.", registry=self._registry
        )
        self._ready = Gauge("jtl_ready", "1 where requests are answered.", registry=self._registry)
        ProcessCollector(registry=self._registry)

    def watch(self, num_held: Callable[[], int], is_ready: Callable[[], bool]) -> None:
        """Read the queue and whether the server is ready whenever somebody asks."""
        self._queue.set_function(num_held)
        self._ready.set_function(is_ready)

    def answered(self, path: str, code: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(code)).inc()
        self._seconds.labels(path).observe(seconds)

    def computed(self, num_items: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(num_items)
        self._model.observe(seconds)

    def item(self, outcome: str) -> None:
        """Count an item that was predicted, explained or refused."""
        self._items.labels(outcome).inc()

    def by_code(self) -> dict[str, int]:
        """Return how many requests were answered with each status."""
        found: dict[str, int] = {}
        for metric in self._requests.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    code = sample.labels["code"]
                    found[code] = found.get(code, 0) + int(sample.value)
        return dict(sorted(found.items()))

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)
