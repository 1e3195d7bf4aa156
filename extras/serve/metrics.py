"""The figures of a server for Prometheus, in a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PICTURES = (1, 2, 4, 8, 16, 32)
MOMENTUM = 0.9  # of the running mean of seconds for a picture


class Metrics:
    """All counters of a server."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        model = {"labelnames": ["model"], "registry": registry}
        self.requests = Counter("serve_requests", "Requests by path and status", ["path", "status"], registry=registry)
        kind = {"buckets": SECONDS, "registry": registry}
        self.seconds = Histogram("serve_request_seconds", "From the request to its answer", ["path"], **kind)
        self.pictures = Counter("serve_pictures", "Pictures that went through a model", **model)
        self.objects = Counter("serve_objects", "Boxes that were returned", **model)
        timed = {"buckets": SECONDS, **model}
        self.queued = Histogram("serve_queue_seconds", "From the decoded picture to its batch", **timed)
        self.batch_seconds = Histogram("serve_batch_seconds", "Inference and NMS of a batch", **timed)
        self.batch_pictures = Histogram("serve_batch_pictures", "Pictures in a batch", buckets=PICTURES, **model)
        self.loaded = Gauge("serve_model_loaded_timestamp_seconds", "When the model file was read", **model)
        self.seconds_per_picture = 0.1  # a running mean; a guess before the first

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a figure that is read when Prometheus asks."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class ModelMetrics:
    """The counters of one model."""

    def __init__(self, metrics: Metrics, name: str):
        self.all = metrics
        for key in ("pictures", "objects", "queued", "batch_seconds", "batch_pictures"):
            setattr(self, key, getattr(metrics, key).labels(name))
        metrics.loaded.labels(name).set_to_current_time()

    def batch(self, queue_seconds: list[float], seconds: float) -> None:
        """Count a batch: how long each of its pictures has waited, and how long it took."""
        for waited in queue_seconds:
            self.queued.observe(waited)
        self.pictures.inc(len(queue_seconds))
        self.batch_pictures.observe(len(queue_seconds))
        self.batch_seconds.observe(seconds)
        each = seconds / len(queue_seconds)
        self.all.seconds_per_picture = MOMENTUM * self.all.seconds_per_picture + (1 - MOMENTUM) * each
