"""Candles as they grow: one computation for every (instrument, interval), however many follow it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from openoutcry.aggregates.rollup import base_for, bounds_of, rollup
from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.events import NS, Candle, Side, open_of
from openoutcry.market.listeners import Listeners

PULSE_S = 0.25

Listener = Callable[[Candle], None]


class Growing(Protocol):
    """What is needed of aggregates/candles.py."""

    def growing(
        self, instrument: str, interval_s: int, side: Side = Side.BOTH, *, partial: bool = False
    ) -> Candle | None:
        """The candle that is growing now; None where nothing traded in it, or not all of it is known (unless partial)."""
        ...

    def unclosed(self, instrument: str, interval_s: int, side: Side = Side.BOTH) -> Sequence[Candle]:
        """The growing candle, and before it those that are over but may still change: all that is known whole."""
        ...

    def drop(self, instrument: str) -> None:
        """Forget an instrument."""
        ...


class Live:
    """Tells followers of the candle that grows, when it changed, once a `pulse_s`; and of each closed one, at once.

    `known` says whether the closed candles of (instrument, interval_s) are whole in [start_ns, end_ns).
    """

    def __init__(
        self,
        bus: Bus,
        growing: Growing,
        clock: Clock,
        known: Callable[[str, int, int, int], bool],
        *,
        pulse_s: float = PULSE_S,
    ) -> None:
        self._bus, self._growing, self._clock, self._known = bus, growing, clock, known
        self._pulse_s = pulse_s
        self._tapes: dict[tuple[str, int], _Tape] = {}

    def follow(self, instrument: str, interval_s: int, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every candle of side BOTH from now on. Returns the way to stop. Raises BadInterval."""
        key = (instrument, interval_s)
        tape = self._tapes.get(key)
        if tape is None:
            tape = _Tape(instrument, interval_s, self._clock.now_ns(), self._known, lambda: self._end(key))
            tape.stop = self._bus.listen(Candle, tape.on_candle, instrument)
            self._tapes[key] = tape
        return tape.listeners.join(listener)

    def _end(self, key: tuple[str, int]) -> None:
        self._tapes.pop(key).stop()

    def needs(self, instrument: str, interval_s: int) -> tuple[int, int] | None:
        """The base interval and the time from which `seed` must be given its closed candles; None where none are."""
        tape = self._tapes.get((instrument, interval_s))
        if tape is None or tape.base_s == interval_s:
            return None
        open_ns, _ = bounds_of(self._clock.now_ns(), interval_s)
        return None if tape.from_ns <= open_ns else (tape.base_s, open_ns)

    def seed(self, instrument: str, interval_s: int, start_ns: int, parts: Sequence[Candle]) -> None:
        """All closed base candles since `start_ns`, so that a rolled-up candle is whole from its opening on."""
        tape = self._tapes.get((instrument, interval_s))
        if tape is not None:
            tape.seed(start_ns, parts)

    def pulse(self) -> None:
        """Tell everybody what grew since the last pulse."""
        for tape in list(self._tapes.values()):
            base = self._growing.growing(tape.instrument, tape.base_s)
            if base is not None:
                tape.grow(base)

    async def run(self) -> None:
        """Pulse until cancelled."""
        while True:
            await self._clock.sleep(self._pulse_s)
            self.pulse()

    @property
    def tapes(self) -> int:
        """How many candles are followed."""
        return len(self._tapes)


class _Tape:
    """One instrument and interval. `parts`: the closed base candles of the bucket, all that came since `from_ns`."""

    def __init__(
        self,
        instrument: str,
        interval_s: int,
        now_ns: int,
        known: Callable[[str, int, int, int], bool],
        ended: Callable[[], None],
    ) -> None:
        self.instrument = instrument
        self.interval_s = interval_s
        self.base_s = base_for(interval_s)
        self.from_ns = self._heard_ns = open_of(now_ns, self.base_s)
        self.listeners: Listeners[Candle] = Listeners(ended)
        self.stop: Callable[[], None] = _nothing
        self._known = known
        self._open_ns, self._end_ns = bounds_of(now_ns, interval_s)
        self._parts: dict[int, Candle] = {}
        self._told: Candle | None = None
        self._closed_ns = -1

    def on_candle(self, candle: Candle) -> None:
        if candle.side is not Side.BOTH or not candle.closed or candle.interval_s != self.base_s:
            return
        if self.base_s == self.interval_s:
            self._tell(candle)
            return
        self._turn(candle.open_ns)
        if candle.open_ns >= self._open_ns:
            self._parts[candle.open_ns] = candle
            if candle.open_ns + self.base_s * NS == self._end_ns:
                self._close()

    def seed(self, start_ns: int, parts: Sequence[Candle]) -> None:
        for part in parts:
            if part.closed and self._open_ns <= part.open_ns < self._end_ns:
                self._parts.setdefault(part.open_ns, part)
        self.from_ns = min(self.from_ns, start_ns)

    def grow(self, base: Candle) -> None:
        candle = base
        if self.base_s != self.interval_s:
            self._turn(base.open_ns)
            if base.open_ns < self._open_ns or not self._whole(base.open_ns):
                return
            candle = self._rolled([*self._sorted(), base], None)
        if candle != self._told and candle.open_ns > self._closed_ns:
            self._tell(candle)

    def _turn(self, at_ns: int) -> None:
        """Begin the next rolled-up candle when its time has come."""
        if at_ns < self._end_ns:
            return
        # Its last part may never have traded, so that nothing said it was over.
        self._close()
        self._open_ns, self._end_ns = bounds_of(at_ns, self.interval_s)
        self._parts.clear()

    def _close(self) -> None:
        if self._parts and self._whole(self._end_ns):
            self._tell(self._rolled(self._sorted(), self._end_ns))

    def _whole(self, end_ns: int) -> bool:
        # What was seeded was looked up whole; of what was heard since, the coverage knows.
        heard_ns = min(max(self._open_ns, self._heard_ns), end_ns)
        return self.from_ns <= self._open_ns and self._known(self.instrument, self.base_s, heard_ns, end_ns)

    def _sorted(self) -> list[Candle]:
        return [self._parts[at] for at in sorted(self._parts)]

    def _rolled(self, parts: Sequence[Candle], end_ns: int | None) -> Candle:
        return rollup(parts, self.interval_s, start_ns=self._open_ns, end_ns=end_ns)[-1]

    def _tell(self, candle: Candle) -> None:
        if candle == self._told:
            return
        if candle.closed:
            self._closed_ns = max(self._closed_ns, candle.open_ns)
        self._told = candle
        self.listeners.tell(candle)


def _nothing() -> None:
    """What a tape does to stop before it listens."""
