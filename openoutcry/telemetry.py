"""Logs as events with fields; the counters every part reports."""

import logging
import sys
from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Telemetry:
    """Counters by name, in a registry of their own, so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def counter(self, name: str, says: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows; the same name gives the same counter."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Counter(name, says, labels, namespace="openoutcry", registry=self.registry)
        assert isinstance(made, Counter)
        return made

    def gauge(self, name: str, says: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Gauge(name, says, labels, namespace="openoutcry", registry=self.registry)
        assert isinstance(made, Gauge)
        return made

    def histogram(self, name: str, says: str, labels: Sequence[str] = ()) -> Histogram:
        """How often each size was seen."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Histogram(name, says, labels, namespace="openoutcry", registry=self.registry)
        assert isinstance(made, Histogram)
        return made

    def exposition(self) -> bytes:
        """All of them in the Prometheus text format."""
        return generate_latest(self.registry)


def configure_logs(level: str, *, as_json: bool) -> None:
    """Send every log line to standard error: readable at a terminal, one JSON object a line elsewhere."""
    chain: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries speak when something is wrong; what they say of every request would drown the rest.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
