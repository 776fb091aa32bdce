"""What the server counts, in Prometheus' text form. No label holds anything that a client wrote."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One registry a server. places: how many places of the queue are taken."""

    def __init__(self, places: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tagmoe_requests", "Answers by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tagmoe_request_seconds", "Seconds until an answer.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.pictures = Counter("tagmoe_pictures", "Pictures drawn.", registry=self.registry)
        self.batches = Histogram(
            "tagmoe_batch_pictures", "Pictures of a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "tagmoe_batch_seconds", "Seconds of a batch.", buckets=SECONDS, registry=self.registry
        )
        self.left = Counter("tagmoe_clients_left", "Requests whose client left.", registry=self.registry)
        Gauge("tagmoe_queue_places", "Places of the queue that are taken.", registry=self.registry).set_function(
            lambda: float(places())
        )

    def drawn(self, pictures: int, seconds: float) -> None:
        """Count a batch."""
        self.pictures.inc(pictures)
        self.batches.observe(pictures)
        self.batch_seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The metrics, and their content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
