"""What must be known before live candles are right: after a start, or when an instrument is followed anew."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from openoutcry.aggregates.rollup import rollup
from openoutcry.clock import NS, Clock
from openoutcry.errors import Refusal
from openoutcry.events import INTERVALS_S, MINUTE_S, Candle, Side, Trade, open_of
from openoutcry.instrument import Instrument
from openoutcry.market.coverage import Coverage
from openoutcry.market.market import Market
from openoutcry.market.series import Of, Row, Series, SeriesKey, State

DAY_S = 86_400
# How far back minutes are fetched; never less than to 00:00 UTC.
BACK_S = 86_400.0
# A question for the days of a week brings these as well, of which three months and the growing one are folded.
DAYS_BACK = 126

log = structlog.get_logger()


class Seeded(Protocol):
    """What is needed of aggregates/candles.py."""

    def seed(self, candles: Iterable[Candle]) -> None:
        """Take closed candles of before, of any stored interval and side."""
        ...

    def vouch(self, instrument: str, start_ns: int, end_ns: int | None = None, *, sides: bool = True) -> None:
        """All of [start_ns, end_ns) is known: what was not given did not trade. `sides` False: only side BOTH."""
        ...


class Warm:
    """Fills the store and seeds the live candles of instruments, from the store and from their venues."""

    def __init__(self, market: Market, seeded: Seeded, clock: Clock, *, back_s: float = BACK_S) -> None:
        self._market, self._seeded, self._clock, self._back_s = market, seeded, clock, back_s

    async def warm(self, instrument: Instrument) -> bool:
        """Fetch the minutes since the last stored one, and the longer candles that the growing ones are folded from.

        Gives False where the venue did not give all of it: what came is kept, and the candles that lack it are asked of
        the venue later instead of being wrong.
        """
        now_ns = self._clock.now_ns()
        end_ns = open_of(now_ns, MINUTE_S)
        back_ns = min(open_of(now_ns, DAY_S), open_of(now_ns - round(self._back_s * NS), MINUTE_S))
        try:
            await self._closed(instrument, MINUTE_S, Side.BOTH, back_ns, end_ns)
            whole = True
            for interval_s, start_ns, stop_ns in _ladder(now_ns):
                whole = await self._seed(instrument, interval_s, start_ns, stop_ns) and whole
        except Refusal as e:
            log.warning("not warm", instrument=instrument.name, error=e.text)
            return False
        return whole

    async def _seed(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> bool:
        rows = await self._both(instrument, interval_s, start_ns, end_ns)
        if rows is None:
            return False
        self._seeded.seed(rows)
        self._seeded.vouch(instrument.name, start_ns, end_ns, sides=False)
        buys = await self._ours(instrument, interval_s, Side.BUY, start_ns, end_ns)
        sells = await self._ours(instrument, interval_s, Side.SELL, start_ns, end_ns)
        if buys is not None and sells is not None:
            self._seeded.seed([*buys, *sells])
            self._seeded.vouch(instrument.name, start_ns, end_ns)
        return True

    async def _both(
        self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int
    ) -> Sequence[Candle] | None:
        # The minutes of today are had already: folding them spares the venue a question for each length.
        if MINUTE_S < interval_s < DAY_S:
            minutes = await self._closed(instrument, MINUTE_S, Side.BOTH, start_ns, end_ns)
            if minutes is not None:
                return rollup(minutes, interval_s, start_ns=start_ns, end_ns=end_ns) if minutes else []
        if interval_s == DAY_S:
            await self._closed(instrument, DAY_S, Side.BOTH, end_ns - DAYS_BACK * DAY_S * NS, end_ns)
        return await self._closed(instrument, interval_s, Side.BOTH, start_ns, end_ns)

    async def _ours(
        self, instrument: Instrument, interval_s: int, side: Side, start_ns: int, end_ns: int
    ) -> Sequence[Candle] | None:
        """Candles of one side, which no venue gives: only where we kept them whole."""
        key = SeriesKey(instrument.name, Of.CANDLES, interval_s, side)
        if not self._market.coverage(key).whole(start_ns, end_ns):
            return None
        return await self._closed(instrument, interval_s, side, start_ns, end_ns)

    async def _closed(
        self, instrument: Instrument, interval_s: int, side: Side, start_ns: int, end_ns: int
    ) -> Sequence[Candle] | None:
        if start_ns >= end_ns:
            return []
        limit = (end_ns - start_ns) // (interval_s * NS)
        told = await self._market.candles(
            instrument, interval_s, limit=limit, side=side, start_ns=start_ns, end_ns=end_ns
        )  # fmt: skip
        return None if told.missing else told.rows


def last_trade(
    series: Series, coverage: Callable[[SeriesKey], Coverage], clock: Clock, *, back_s: float
) -> Callable[[str], tuple[int | str | None, int] | None]:
    """For the feed to go on from: id (None where unknown) and time (ns) of the last trade before the first hole.

    Trades are stored as they come, whatever is missing before them: after a kill in the middle of a repair the newest
    one says nothing of those. Holes older than `back_s` are left alone; None where nothing is stored since. The function
    reads the store at once: it is meant for starts. Raises Unavailable.
    """

    def of(instrument: str) -> tuple[int | str | None, int] | None:
        key = SeriesKey(instrument, Of.TRADES)
        now_ns = clock.now_ns()
        earliest_ns, known = now_ns - round(back_s * NS), coverage(key)
        begins = [open_of(row.event_ns, MINUTE_S) for row in _trades(series.read(key, start_ns=earliest_ns, limit=1))]
        begins += [span.start_ns for span in known.query(earliest_ns, now_ns) if span.state is not State.MISSING][:1]
        if not begins:
            return None
        begin_ns = max(min(begins), earliest_ns)
        hole_ns = next((start_ns for start_ns, _ in known.missing(begin_ns, now_ns)), now_ns)
        if hole_ns > begin_ns:
            for row in _trades(series.read(key, end_ns=hole_ns, limit=1, newest=True)):
                return row.id, row.event_ns
        return None, hole_ns

    return of


def _trades(rows: Iterable[Row]) -> list[Trade]:
    return [row for row in rows if isinstance(row, Trade)]


def _ladder(now_ns: int) -> list[tuple[int, int, int]]:
    """The stretches that lead from the opening of the week to this minute: days, then 4 h, 1 h, ... (interval, from, to).

    Each is as long as it can be of its interval, so that few candles say all that the growing ones are folded from.
    """
    rungs: list[tuple[int, int, int]] = []
    at_ns = open_of(now_ns, INTERVALS_S[-1])
    for interval_s in reversed(INTERVALS_S[:-1]):
        end_ns = open_of(now_ns, interval_s)
        if at_ns < end_ns:
            rungs.append((interval_s, at_ns, end_ns))
        at_ns = end_ns
    return rungs
