"""Any stored series as it grows: one computation for each, however many follow it.

Candles of every side, and bars of open interest, funding, liquidations and liquidation levels: what grows is told when
it changed, once a `pulse_s` at most, and what closed at once.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from openoutcry.aggregates.derivatives import DerivativeBar
from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.events import Candle, FundingBar, InterestBar, LevelsBar, LiquidationBar, Side
from openoutcry.market.listeners import Listeners
from openoutcry.market.live import Growing
from openoutcry.market.series import Of, Row, SeriesKey

PULSE_S = 1.0
TOLD_MAX = 4

Listener = Callable[[Row], None]
Grown = Candle | InterestBar | FundingBar | LiquidationBar | LevelsBar

BARS: Mapping[Of, type[DerivativeBar]] = {
    Of.INTEREST_BARS: InterestBar,
    Of.FUNDING_BARS: FundingBar,
    Of.LIQUIDATION_BARS: LiquidationBar,
    Of.LEVELS_BARS: LevelsBar,
}


class GrowingBars(Protocol):
    """What is needed of aggregates/derivatives.py."""

    @property
    def firsts(self) -> int:
        """Changes whenever `begun` tells of another series."""
        ...

    def begun(self) -> Mapping[tuple[type[DerivativeBar], str], int]:
        """The opening of the first bar that is in memory, by kind and instrument."""
        ...

    def bar(
        self, kind: type[DerivativeBar], instrument: str, interval_s: int, side: Side = Side.BOTH
    ) -> DerivativeBar | None:
        """The bar that grows now; None where nothing was told in it."""
        ...

    def since(self, kind: type[DerivativeBar], instrument: str, side: Side = Side.BOTH) -> int | None:
        """From when on (ns) every sample is heard; None where nobody said so."""
        ...


class NoBars:
    """Where no bars are built."""

    firsts = 0

    def begun(self) -> Mapping[tuple[type[DerivativeBar], str], int]:
        """None."""
        return {}

    def bar(
        self, kind: type[DerivativeBar], instrument: str, interval_s: int, side: Side = Side.BOTH
    ) -> DerivativeBar | None:  # fmt: skip
        """None."""
        del kind, instrument, interval_s, side
        return None

    def since(self, kind: type[DerivativeBar], instrument: str, side: Side = Side.BOTH) -> int | None:
        """None."""
        del kind, instrument, side
        return None


class Pulse:
    """Follow by series: one of the seven intervals, any side."""

    def __init__(
        self, bus: Bus, growing: Growing, bars: GrowingBars, clock: Clock, *, pulse_s: float = PULSE_S
    ) -> None:
        self._bus, self._growing, self._bars, self._clock, self._pulse_s = bus, growing, bars, clock, pulse_s
        self._tapes: dict[SeriesKey, _Tape] = {}

    def follow(self, key: SeriesKey, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every row of that series from now on. Returns the way to stop."""
        tape = self._tapes.get(key)
        if tape is None:
            kind: type[Grown] = Candle if key.of is Of.CANDLES else BARS[key.of]
            tape = _Tape(key, lambda: self._end(key))
            tape.stop = self._bus.listen(kind, tape.on_row, key.instrument)
            self._tapes[key] = tape
        return tape.listeners.join(listener)

    def _end(self, key: SeriesKey) -> None:
        self._tapes.pop(key).stop()

    def growing(self, key: SeriesKey) -> list[Row]:
        """What is over but may still change, and last what grows now: all that is known whole."""
        if key.of is Of.CANDLES:
            return list(self._growing.unclosed(key.instrument, key.interval_s, key.side))
        bar = self._bars.bar(BARS[key.of], key.instrument, key.interval_s, key.side)
        return [] if bar is None else [bar]

    def heard_since(self, key: SeriesKey) -> int | None:
        """From when on (ns) a bar that is not there means that there was nothing; None where nobody said so."""
        return self._bars.since(BARS[key.of], key.instrument, key.side)

    def pulse(self) -> None:
        """Tell everybody what grew since the last pulse."""
        for key, tape in list(self._tapes.items()):
            for row in self.growing(key):
                tape.grow(row)

    async def run(self) -> None:
        """Pulse until cancelled."""
        while True:
            await self._clock.sleep(self._pulse_s)
            self.pulse()

    @property
    def tapes(self) -> int:
        """How many series are followed."""
        return len(self._tapes)


class _Tape:
    def __init__(self, key: SeriesKey, ended: Callable[[], None]) -> None:
        self._key = key
        # What was told of each bucket that may still change: there are two or three around its end.
        self._told: dict[int, Grown] = {}
        self.listeners: Listeners[Row] = Listeners(ended)
        self.stop: Callable[[], None] = _nothing

    def on_row(self, row: Grown) -> None:
        side = row.side if isinstance(row, Candle | LiquidationBar) else Side.BOTH
        if row.closed and row.interval_s == self._key.interval_s and side is self._key.side:
            self.listeners.tell(row)

    def grow(self, row: Row) -> None:
        assert isinstance(row, Grown)
        if row != self._told.get(row.open_ns):
            self._told[row.open_ns] = row
            if len(self._told) > TOLD_MAX:
                del self._told[min(self._told)]
            self.listeners.tell(row)


def _nothing() -> None:
    """What a tape does to stop before it listens."""
