"""From a frame to the bus: decode, count, drop what was seen, say what is missing. The hot path of the whole server.

Counts are plain ints, written to Telemetry once a second: an increment there costs more than a frame does here.
"""

from collections.abc import Sequence

import structlog

from openoutcry.bus import Bus
from openoutcry.clock import NS, Clock
from openoutcry.errors import Unreadable
from openoutcry.events import Candle, Event, Liquidation, Trade, VenueCandle
from openoutcry.feed.backfill import Mender, Watch
from openoutcry.feed.dedupe import Recent
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Signal, Skipped, Venue

LIQUIDATIONS_RECENT_MAX = 8_192
# A bad frame is logged once in so long; all are counted.
COMPLAINT_S = 60.0
# Reasons for skipping come from venue files; so many are counted apart.
WHYS_MAX = 64

log = structlog.get_logger()


class Intake:
    """All frames and pages of one venue pass here."""

    def __init__(
        self, venue: Venue, watches: dict[str, Watch], mender: Mender, *, bus: Bus, clock: Clock, telemetry: Telemetry
    ) -> None:
        self.received_ns: int | None = None
        self._venue = venue
        self._watches = watches
        self._mender = mender
        self._publish = bus.publish
        self._clock = clock
        self._liquidations = Recent(LIQUIDATIONS_RECENT_MAX)
        self._complained_ns = 0
        self._frames = 0
        self._duplicates = 0
        self._events: dict[type, int] = {}
        self._skipped: dict[str, int] = {}
        self._unreadable = 0
        self._faults = 0
        self._counters = _Counters(telemetry)

    def hear(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """What the frame says; nothing where it cannot be read, which is counted and told once a minute."""
        self._frames += 1
        self.received_ns = received_ns
        try:
            return self._venue.decode(frame, received_ns)
        except Unreadable as e:
            self.unreadable(e.why, frame)
        except Exception:  # a fault in a translator costs its frame, not the session
            self.fault("fault in the translator", frame)
        return ()

    def unreadable(self, why: str, frame: bytes) -> None:
        """Count a frame (or an answer) that cannot be read; say so once a minute."""
        self._unreadable += 1
        self._complain(why, frame)

    def fault(self, why: str, frame: bytes) -> None:
        """The same for one on which our translator failed; called while its exception is handled."""
        self._faults += 1
        self._complain(why, frame, trace=True)

    def events(self, events: Sequence[Event]) -> None:
        """Publish what is new of them."""
        counts = self._events
        out: list[Event] = []
        for event in events:
            kind = type(event)
            if kind is Trade:
                watch = self._watches.get(event.instrument)
                if watch is None:
                    self._count_skipped("unfollowed")
                    continue
                new = watch.seen.admit(event)  # type: ignore[arg-type]
                if new is False:
                    self._duplicates += 1
                    continue
                if new is not True:
                    out.extend(self._mender.missed(watch, new, event))  # type: ignore[arg-type]
                watch.took(event)  # type: ignore[arg-type]
            elif kind is Liquidation and not self._liquidations.add((event.instrument, event.id)):  # type: ignore[union-attr]
                self._duplicates += 1
                continue
            counts[kind] = counts.get(kind, 0) + 1
            out.append(VenueCandle(event) if kind is Candle else event)  # type: ignore[arg-type]
        if out:
            self._publish(out)

    def repaired(self, watch: Watch, events: Sequence[Event]) -> int:
        """Publish what is new of a page that mends a gap, and say how much that was."""
        out: list[Event] = []
        for event in events:
            if isinstance(event, Trade):
                if event.instrument != watch.name:
                    continue
                if watch.seen.admit(event) is False:
                    self._duplicates += 1
                    continue
                watch.learned(event)
            out.append(VenueCandle(event) if isinstance(event, Candle) else event)
            self._events[type(event)] = self._events.get(type(event), 0) + 1
        if out:
            self._publish(out)
        return len(out)

    def skipped(self, skipped: Skipped) -> None:
        """Count what is not for us."""
        self._count_skipped(skipped.why)

    def left_out(self, rows: int) -> None:
        """Count rows of an answer that could not be read and were left out, so that the others could be had."""
        if rows:
            self._count_skipped("unreadable_row", rows)

    def flush(self) -> None:
        """Write the counts to Telemetry."""
        name, to = self._venue.name, self._counters
        if self.received_ns is not None:
            to.received.labels(name).set(self.received_ns / NS)
        to.frames.labels(name).inc(self._frames)
        to.duplicates.labels(name).inc(self._duplicates)
        to.unreadable.labels(name).inc(self._unreadable)
        to.faults.labels(name).inc(self._faults)
        for kind, count in self._events.items():
            to.events.labels(name, kind.__name__).inc(count)
        for why, count in self._skipped.items():
            to.skipped.labels(name, why).inc(count)
        self._frames = self._duplicates = self._unreadable = self._faults = 0
        # The names stay, so that their number stays bounded over the whole run.
        self._events = dict.fromkeys(self._events, 0)
        self._skipped = dict.fromkeys(self._skipped, 0)

    def _count_skipped(self, why: str, count: int = 1) -> None:
        if why not in self._skipped and len(self._skipped) >= WHYS_MAX:
            why = "other"
        self._skipped[why] = self._skipped.get(why, 0) + count

    def _complain(self, why: str, frame: bytes, *, trace: bool = False) -> None:
        now_ns = self._clock.now_ns()
        if self._complained_ns and now_ns - self._complained_ns < COMPLAINT_S * NS:
            return
        self._complained_ns = now_ns
        log.warning("frame unreadable", venue=self._venue.name, why=why, head=repr(frame[:200]), exc_info=trace)


class _Counters:
    def __init__(self, telemetry: Telemetry) -> None:
        one = ("venue",)
        self.frames = telemetry.counter("feed_frames", "Frames received", one)
        self.events = telemetry.counter("feed_events", "Events published, by type", ("venue", "event"))
        self.unreadable = telemetry.counter("feed_unreadable", "Frames that could not be read", one)
        self.faults = telemetry.counter("feed_faults", "Frames on which a translator failed", one)
        self.skipped = telemetry.counter(
            "feed_skipped", "Readable frames or rows that are not for us", ("venue", "why")
        )
        self.duplicates = telemetry.counter("feed_duplicates", "Events dropped because they were seen", one)
        self.received = telemetry.gauge("feed_received_seconds", "When the venue last said anything", one)
