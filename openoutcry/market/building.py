"""Runs the aggregates on the bus: what the feed hears becomes slower events, closed by the venues' own time.

Trade, VenueCandle, Gap, Mended, Abandoned ─▶ candles ─▶ Candle ─▶ bus
Positions ─▶ levels ─▶ LiquidationLevels ─▶ bus
OpenInterest, FundingRate, Liquidation, … ─▶ derivatives ─▶ InterestBar, FundingBar, LiquidationBar, LevelsBar ─▶ bus
Candle ─▶ tickers ─▶ Ticker ─▶ bus, once a second for instruments that traded
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog

from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import DerivativeBar, Derivatives
from openoutcry.aggregates.levels import Levels
from openoutcry.aggregates.ticker import Tickers
from openoutcry.bus import Bus
from openoutcry.clock import NS, Clock
from openoutcry.errors import Refusal, Unreadable
from openoutcry.events import (
    INTERVALS_S,
    Abandoned,
    Candle,
    Event,
    FundingRate,
    Gap,
    Liquidation,
    LiquidationBar,
    LiquidationLevels,
    MarkPrice,
    Mended,
    OpenInterest,
    Positions,
    PredictedFunding,
    Side,
    Trade,
    VenueCandle,
    open_of,
)
from openoutcry.instrument import Instrument
from openoutcry.market.outside import Outside
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Ask, Query

BEAT_S = 0.1
TICKERS_S = 1.0
# Minutes asked of the venues again in one beat because trades came too late for them; the others wait for the next.
REPAIRS_MAX = 5
# A venue's clock may run ahead of ours; an event further ahead than this is a fault and moves no candle.
AHEAD_NS_MAX = 3_600 * NS

log = structlog.get_logger()


class Building:
    """Joins the aggregates to the bus from the moment it is made; `run` beats until cancelled."""

    def __init__(
        self,
        *,
        bus: Bus,
        clock: Clock,
        telemetry: Telemetry,
        outside: Outside,
        candles: Candles,
        derivatives: Derivatives,
        tickers: Tickers,
        beat_s: float = BEAT_S,
        tickers_s: float = TICKERS_S,
    ) -> None:
        self._bus, self._clock, self._outside = bus, clock, outside
        self._candles, self._derivatives, self._tickers = candles, derivatives, tickers
        self._levels = Levels()
        self._beat_s, self._tickers_s = beat_s, tickers_s
        self._venue_times: dict[str, _Time] = {}
        self._sample_times: dict[str, _Time] = {}
        self._by_clock: set[str] = set()
        self._times: dict[str, _Time] = {}
        self._repairs: dict[tuple[str, int], None] = {}
        self._repaired = telemetry.counter("candles_repaired", "Minutes asked of the venue again", ("venue",))
        counts = telemetry.gauge("candles", "What became of trades and of the venues' own candles", ("what",))
        for what in ("confirmed", "disagreed", "corrected", "too_late", "seeded", "ahead", "unsummable"):
            counts.labels(what).set_function(partial(candles.counts.__getitem__, what))
        bus.listen(Trade, self._on_trade)
        bus.listen(VenueCandle, lambda heard: self._publish(candles.on_venue_candle(heard.candle)))
        bus.listen(Gap, self._on_gap)
        bus.listen(Mended, lambda mended: self._publish(candles.on_mended(mended)))
        bus.listen(Abandoned, lambda abandoned: self._publish(candles.on_abandoned(abandoned)))
        bus.listen(MarkPrice, self._on_mark)
        bus.listen(OpenInterest, self._on_sample)
        bus.listen(FundingRate, self._on_sample)
        bus.listen(Liquidation, self._on_sample)
        bus.listen(LiquidationLevels, self._on_sample)
        bus.listen(PredictedFunding, self._on_predicted)
        bus.listen(Positions, lambda positions: self._publish(self._levels.on_positions(positions)))
        bus.listen(Candle, tickers.on_candle)

    def follow(self, instrument: Instrument) -> None:
        """Its liquidations are heard from now on, though none came yet."""
        self._derivatives.follow(LiquidationBar, instrument.name, self._clock.now_ns())

    def seed_ticker(self, minutes: Sequence[Candle], since_ns: int) -> None:
        """All closed minutes of one instrument since `since_ns`, so that its 24 hours are whole."""
        self._tickers.seed(minutes, since_ns=since_ns)

    def growing(
        self, instrument: str, interval_s: int, side: Side = Side.BOTH, *, partial: bool = False
    ) -> Candle | None:
        """The candle that is growing now; None where nothing traded in it, or not all of it is known (unless partial)."""
        return self._candles.growing(instrument, interval_s, side, partial=partial)

    def unclosed(self, instrument: str, interval_s: int, side: Side = Side.BOTH) -> Sequence[Candle]:
        """The growing candle, and before it those that are over but may still change: all that is known whole."""
        return self._candles.unclosed(instrument, interval_s, side)

    def bar(
        self, kind: type[DerivativeBar], instrument: str, interval_s: int, side: Side = Side.BOTH
    ) -> DerivativeBar | None:
        """The bar of open interest, funding, … that is growing now; None where nothing was told in it."""
        return self._derivatives.growing(kind, instrument, interval_s, side)

    def begun(self) -> Mapping[tuple[type[DerivativeBar], str], int]:
        """The opening of the first bar that is in memory, by kind and instrument."""
        return self._derivatives.begun()

    def since(self, kind: type[DerivativeBar], instrument: str, side: Side = Side.BOTH) -> int | None:
        """From when on (ns) every sample is heard; None where nobody said so."""
        return self._derivatives.since(kind, instrument, side)

    @property
    def firsts(self) -> int:
        """Changes whenever `begun` tells of another series."""
        return self._derivatives.firsts

    def keep_time(self, venue: str) -> None:
        """Candles and bars of that venue close by our clock: its time is ours, or what it tells is days apart."""
        self._by_clock.add(venue)

    def restate(self, instrument: str, bars: Iterable[DerivativeBar]) -> None:
        """Take these newest bars, growing ones too, in place of what samples made of the instrument."""
        self._derivatives.drop(instrument)
        self._derivatives.seed(bars)

    def drop(self, instrument: str) -> None:
        """Forget an instrument that nobody follows any more."""
        self._candles.drop(instrument)
        self._derivatives.drop(instrument)
        self._tickers.drop(instrument)
        self._times.pop(instrument, None)

    async def run(self) -> None:
        """Close what is due, tell the tickers, and repair, until cancelled."""
        # Apart, because a question to a slow venue must not hold up the closing of candles.
        async with asyncio.TaskGroup() as tasks:
            for act, every_s in ((self.beat, self._beat_s), (self.tell_tickers, self._tickers_s)):
                tasks.create_task(self._repeat(act, every_s))
            tasks.create_task(self._repairing())

    def beat(self) -> None:
        """Close every candle and bar whose venue's time has passed its end."""
        for venue, time in self._venue_times.items():
            self._publish(self._candles.on_time(venue, time.newest_ns))
            self._publish(self._derivatives.on_time(venue, time.newest_ns))
        for venue, time in self._sample_times.items():
            if venue not in self._venue_times:
                self._publish(self._derivatives.on_time(venue, time.newest_ns))
        for venue in self._by_clock:
            self._publish(self._candles.on_time(venue, self._clock.now_ns()))
            self._publish(self._derivatives.on_time(venue, self._clock.now_ns()))

    def tell_tickers(self) -> None:
        """Publish the 24 hours of every instrument that traded since the last call."""
        now_ns = self._clock.now_ns()
        told = []
        for instrument in self._candles.touched():
            growing = self._candles.growing(instrument, INTERVALS_S[0], partial=True)
            ticker = self._tickers.ticker(instrument, now_ns, growing)
            if ticker is not None:
                told.append(ticker)
        self._publish(told)

    async def repair(self) -> None:
        """Ask the venues for what trades came too late to be merged into, a few minutes at a time."""
        for late in self._candles.take_too_late():
            self._repairs[late] = None
        for late in list(self._repairs)[:REPAIRS_MAX]:
            del self._repairs[late]
            await self._ask_again(*late)

    async def _repairing(self) -> None:
        while True:
            await self._clock.sleep(self._beat_s)
            await self.repair()

    async def _repeat(self, act: Callable[[], None], every_s: float) -> None:
        while True:
            await self._clock.sleep(every_s)
            act()

    async def _ask_again(self, instrument: str, minute_ns: int) -> None:
        venue, _, symbol = instrument.partition(":")
        self._repaired.labels(venue).inc()
        served = self._outside.intervals_s(venue)
        for interval_s in INTERVALS_S:
            open_ns = open_of(minute_ns, interval_s)
            end_ns = open_ns + interval_s * NS
            if interval_s not in served or end_ns > self._clock.now_ns():
                continue
            ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=interval_s, start_ns=open_ns, end_ns=end_ns)
            try:
                async for page in self._outside.ask(venue, ask):
                    self._publish([each for each in page.events if isinstance(each, Candle) and each.closed])
            except (Refusal, Unreadable) as e:
                log.warning("late trade not repaired", instrument=instrument, interval_s=interval_s, error=str(e))
                return

    def _on_trade(self, trade: Trade) -> None:
        time = self._times.get(trade.instrument) or self._time(trade.instrument)
        if trade.event_ns > time.newest_ns:
            self._advance(time, trade.event_ns, trade.received_ns)
        closed = self._candles.on_trade(trade)
        if closed:
            self._bus.publish(closed)

    def _on_gap(self, gap: Gap) -> None:
        self._candles.on_gap(gap)
        if gap.of == "liquidations" and gap.end_ns is not None:
            self._derivatives.missed(LiquidationBar, gap.instrument, gap.end_ns)

    def _on_mark(self, mark: MarkPrice) -> None:
        # Where a venue stamps no time, ours stands in its place and says nothing about the venue's.
        if mark.event_ns != mark.received_ns:
            self._advance(
                self._times.get(mark.instrument) or self._time(mark.instrument), mark.event_ns, mark.received_ns
            )

    def _on_sample(self, sample: OpenInterest | FundingRate | Liquidation | LiquidationLevels) -> None:
        # Where nobody follows trades (options that are asked for, files), samples alone tell what time it is there.
        venue = sample.instrument.partition(":")[0]
        if venue not in self._venue_times:
            self._advance(self._sample_times.setdefault(venue, _Time()), sample.event_ns, sample.received_ns)
        self._publish(self._derivatives.on_sample(sample))

    def _on_predicted(self, predicted: PredictedFunding) -> None:
        if predicted.own and predicted.rate is not None:
            self._publish(self._derivatives.on_sample(predicted))

    def _advance(self, time: "_Time", event_ns: int, received_ns: int) -> None:
        if time.newest_ns < event_ns <= received_ns + AHEAD_NS_MAX:
            time.newest_ns = event_ns

    def _time(self, instrument: str) -> "_Time":
        venue = instrument.partition(":")[0]
        time = self._times[instrument] = self._venue_times.setdefault(venue, _Time())
        return time

    def _publish(self, events: Sequence[Event]) -> None:
        if events:
            self._bus.publish(events)


class _Time:
    """The greatest event time seen of a venue, shared by its instruments."""

    __slots__ = ("newest_ns",)

    def __init__(self) -> None:
        self.newest_ns = 0
