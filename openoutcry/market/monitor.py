"""Watches one venue's busiest perpetuals for spikes in open interest and volume, after every bar that closes.

    bar closes ─▶ delay ─▶ TICKERS: the universe ─▶ per instrument: open interest history, candles ─▶ Spike ─▶ bus

What one instrument refuses costs only that instrument; what is asked at once is bounded.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import structlog

from openoutcry.aggregates.spikes import THRESHOLDS, Spikes, Threshold
from openoutcry.bus import Bus
from openoutcry.clock import NS, Clock
from openoutcry.errors import Refusal, Unreadable
from openoutcry.events import Candle, OpenInterest, Spike, Ticker
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.outside import Outside
from openoutcry.venues.venue import Ask, Query

INSTRUMENTS_MAX = 80
AT_ONCE_MAX = 8
BARS = 50
# Venues publish the open interest of a bar some seconds after it closed.
DELAY_S = 20.0
# A spike in an older bar is history, not news: the venue's samples came too late.
BARS_OLD_MAX = 2

AskCandles = Callable[[Instrument, int, int], Awaitable[Sequence[Candle]]]
log = structlog.get_logger()


class Monitor:
    """Publishes a Spike for every bar that is one, once.

    `candles(instrument, interval_s, limit)` answers with the newest candles, oldest first. The universe is the
    `instruments_max` perpetuals quoted in `quote` with the greatest turnover in 24 h. `counts` tells how it went:
    `scans`, `instruments`, `spikes`, `late`, `failures`, `universe_failures`.
    """

    def __init__(
        self,
        *,
        outside: Outside,
        bus: Bus,
        clock: Clock,
        candles: AskCandles,
        venue: str,
        quote: str = "USDT",
        thresholds: Sequence[Threshold] = THRESHOLDS,
        instruments_max: int = INSTRUMENTS_MAX,
        at_once_max: int = AT_ONCE_MAX,
        bars: int = BARS,
        delay_s: float = DELAY_S,
    ) -> None:
        self._outside = outside
        self._bus = bus
        self._clock = clock
        self._candles = candles
        self._venue = venue
        self._quote = quote
        self._spikes = Spikes(thresholds)
        self._instruments_max = instruments_max
        self._bars = bars
        self._delay_ns = round(delay_s * NS)
        self._at_once = asyncio.Semaphore(at_once_max)
        self._universe: Sequence[Instrument] = ()
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Scan after every close, until cancelled. A scan that takes long lets the closes in between pass by."""
        while True:
            close_ns, intervals_s = self._next_close()
            await self._clock.sleep((close_ns + self._delay_ns - self._clock.now_ns()) / NS)
            await self.scan(intervals_s)

    async def scan(self, intervals_s: Sequence[int]) -> Sequence[Spike]:
        """Look at the newest closed bar of these intervals, of every instrument of the universe, and publish."""
        self.counts["scans"] += 1
        universe = await self._busiest()
        looks = [self._look(instrument, interval_s) for interval_s in intervals_s for instrument in universe]
        return [spike for spike in await asyncio.gather(*looks) if spike is not None]

    def _next_close(self) -> tuple[int, Sequence[int]]:
        # The next boundary of any interval whose delay is not over yet, and all intervals that close there.
        since_ns = self._clock.now_ns() - self._delay_ns
        closes = {s: since_ns - since_ns % (s * NS) + s * NS for s in self._spikes.thresholds}
        close_ns = min(closes.values())
        return close_ns, [s for s, at_ns in closes.items() if at_ns == close_ns]

    async def _busiest(self) -> Sequence[Instrument]:
        try:
            listing = await self._outside.listing(self._venue)
            tickers = [
                event
                async for page in self._outside.ask(self._venue, Ask(query=Query.TICKERS))
                for event in page.events
                if isinstance(event, Ticker)
            ]
        except (Refusal, Unreadable) as e:
            # Yesterday's busiest are today's, nearly: better than none.
            self.counts["universe_failures"] += 1
            log.warning("universe unknown", venue=self._venue, error=str(e), kept=len(self._universe))
            return self._universe
        perpetuals = {
            instrument.name: instrument
            for instrument in listing.values()
            if instrument.kind is Kind.PERPETUAL and instrument.quote == self._quote and instrument.trading
        }
        tickers.sort(key=lambda ticker: ticker.quote_volume, reverse=True)
        ranked = [perpetuals[ticker.instrument] for ticker in tickers if ticker.instrument in perpetuals]
        self._universe = ranked[: self._instruments_max]
        return self._universe

    async def _look(self, instrument: Instrument, interval_s: int) -> Spike | None:
        async with self._at_once:
            self.counts["instruments"] += 1
            try:
                interests = await self._interests(instrument, interval_s)
                candles = await self._candles(instrument, interval_s, self._bars)
                spike = self._spikes.check(interests, candles, interval_s, self._clock.now_ns())
            except Exception as e:  # whatever one instrument brings must not cost the others their look
                self.counts["failures"] += 1
                known = isinstance(e, (Refusal, Unreadable))
                log.warning("no look at instrument", instrument=instrument.name, error=str(e), exc_info=not known)
                return None
        if spike is None:
            return None
        if self._clock.now_ns() - spike.open_ns > (BARS_OLD_MAX + 1) * interval_s * NS:
            self.counts["late"] += 1
            return None
        self.counts["spikes"] += 1
        self._bus.publish([spike])
        return spike

    async def _interests(self, instrument: Instrument, interval_s: int) -> Sequence[OpenInterest]:
        ask = Ask(
            query=Query.OPEN_INTEREST_HISTORY,
            symbol=instrument.symbol,
            interval_s=interval_s,
            limit=self._bars,
            newest=True,
        )
        return [
            event
            async for page in self._outside.ask(self._venue, ask)
            for event in page.events
            if isinstance(event, OpenInterest)
        ]
