"""Publish and listen by topic: in process, in order.

A topic is an event type and an instrument: `Trade`, `binance:BTCUSDT`. Listeners are plain functions, called in the
order they came, before `publish` returns; they must be quick and must not wait.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import structlog

from openoutcry.events import Event

_E = TypeVar("_E")

Listener = Callable[[Any], None]
log = structlog.get_logger()


class Bus:
    """Hands every published event to those who listen to its type, or to its type and instrument."""

    def __init__(self) -> None:
        self._of_type: dict[type, tuple[Listener, ...]] = {}
        self._of_topic: dict[type, dict[str, tuple[Listener, ...]]] = {}
        self.failures = 0

    def publish(self, events: Iterable[Event]) -> None:
        """Deliver each event, in order. A listener that fails is logged and counted; the others still hear it."""
        of_type, of_topic = self._of_type, self._of_topic
        for event in events:
            kind = type(event)
            for listener in of_type.get(kind, ()):
                self._deliver(listener, event)
            topics = of_topic.get(kind)
            if topics:
                for listener in topics.get(event.instrument, ()):
                    self._deliver(listener, event)

    def listen(
        self, kind: type[_E], listener: Callable[[_E], None], instrument: str | None = None
    ) -> Callable[[], None]:
        """Call `listener` for every event of that type (and instrument, if named). Returns the way to stop."""
        if instrument is None:
            self._of_type[kind] = (*self._of_type.get(kind, ()), listener)
        else:
            topics = self._of_topic.setdefault(kind, {})
            topics[instrument] = (*topics.get(instrument, ()), listener)

        def stop() -> None:
            if instrument is None:
                self._of_type[kind] = _without(self._of_type.get(kind, ()), listener)
                return
            left = _without(self._of_topic[kind].get(instrument, ()), listener)
            if left:
                self._of_topic[kind][instrument] = left
            else:
                self._of_topic[kind].pop(instrument, None)

        return stop

    def heard(self, kind: type, instrument: str) -> bool:
        """Whether anybody listens to that type for that instrument in particular."""
        return instrument in self._of_topic.get(kind, {})

    def _deliver(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:  # one listener's fault must not cost the others the event
            self.failures += 1
            log.exception("listener failed", listener=repr(listener), kind=type(event).__name__)


def _without(listeners: tuple[Listener, ...], gone: Listener) -> tuple[Listener, ...]:
    left = list(listeners)
    if gone in left:
        left.remove(gone)
    return tuple(left)
