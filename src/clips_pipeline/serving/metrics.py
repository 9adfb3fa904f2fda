"""Metrics of the server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server, in a registry of its own. Labels have few values: none comes from a client.

    Args:
        waiting: number of items that wait or are worked on.
        model: digest of the model.
        index_rows: rows of the index; 0 without one.
    """

    def __init__(self, waiting: Callable[[], int], model: str, index_rows: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("clips_requests", "Answered requests", ["endpoint", "status"], registry=self.registry)
        self.seconds = Histogram(
            "clips_request_seconds",
            "Seconds from the header of a request to its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "clips_batch_items", "Items of a forward pass", ["kind"], buckets=_ITEMS, registry=self.registry
        )
        self.refused = Counter("clips_refused_items", "Items without a result", ["reason"], registry=self.registry)
        self.canceled = Counter("clips_canceled_requests", "Requests whose client went away", registry=self.registry)
        Gauge("clips_waiting_items", "Items that wait or are worked on", registry=self.registry).set_function(waiting)
        info = Gauge(
            "clips_model", "Rows of the index; the label is the digest of the model", ["model"], registry=self.registry
        )
        info.labels(model).set(index_rows)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
