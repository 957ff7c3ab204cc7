"""Trades to candles of seven intervals and three sides: `python -m bench.candles`.

Live: single trades with exact Decimals through the class the server uses, buy, sell and both, minutes closing as time
passes. The floor is the same loop over the same trades that keeps one plain bar an instrument, of integers made before:
no sides, no minutes, no order, no Decimals. Columns: history as numpy columns; the floor
is numpy's own grouping into minutes, one interval and one side.
"""

import random
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial

import numpy as np

from bench.tables import Row, print_table
from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.columns import Trades, candles_of
from openoutcry.events import NS, Side, Trade

TITLE = "trades to candles of seven intervals and three sides"
UNIT = "trades per CPU second"
LIVE = 200_000
COLUMNS = 1_000_000
ROUNDS = 3
DAY_NS = 86_400 * NS
START_NS = 1_759_968_000 * NS  # a Thursday 00:00 UTC


def table() -> list[Row]:
    """Live with one instrument and with five hundred; columns."""
    rows = []
    for instruments, per_s in ((1, 1_000), (500, 5_000)):
        trades = live_trades(instruments, per_s)
        bare = [(t.instrument, int(t.price * 100), int(t.size * 1_000)) for t in trades]
        ours, floor = best((partial(live, trades), partial(plain, bare)), LIVE)
        rows.append(Row(f"live, {instruments} instruments", ours, floor, UNIT))
    columns = history()
    whole = partial(candles_of, columns, start_ns=START_NS, end_ns=START_NS + DAY_NS)
    ours, floor = best((whole, partial(minutes, columns)), COLUMNS)
    rows.append(Row("from columns of history", ours, floor, UNIT))
    return rows


def live(trades: list[Trade]) -> int:
    """The server's own class, with time told once a second of the venue's."""
    candles = Candles()
    on_trade, closed, next_ns = candles.on_trade, 0, 0
    for trade in trades:
        on_trade(trade)
        if trade.event_ns >= next_ns:
            next_ns = trade.event_ns + NS
            closed += len(candles.on_time("binance", trade.event_ns))
    return closed


def plain(trades: list[tuple[str, int, int]]) -> int:
    """One bar an instrument, of integers: what the loop alone costs."""
    bars: dict[str, list[int]] = {}
    for instrument, price, size in trades:
        bar = bars.get(instrument)
        if bar is None:
            bars[instrument] = [price, price, price, price, size, price * size, 1]
            continue
        if price > bar[1]:
            bar[1] = price
        elif price < bar[2]:
            bar[2] = price
        bar[3] = price
        bar[4] += size
        bar[5] += price * size
        bar[6] += 1
    return len(bars)


def minutes(columns: Trades) -> int:
    """Highest, lowest, volume and quote volume of each minute: one interval, one side, and nobody asks if it fits."""
    at = columns.event_ns // (60 * NS)
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    high, low = np.maximum.reduceat(columns.price, starts), np.minimum.reduceat(columns.price, starts)
    volume = np.add.reduceat(columns.size, starts)
    quote = np.add.reduceat(columns.price * columns.size, starts)
    return int(high[0] + low[0] + volume[0] + quote[0])


def best(contenders: tuple[Callable[[], object], Callable[[], object]], trades: int) -> tuple[float, float]:
    """The best of some rounds for each, in turns, so that a busy neighbour on the machine slows both."""
    fastest = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for at, contender in enumerate(contenders):
            started_s = time.process_time()
            contender()
            fastest[at] = min(fastest[at], time.process_time() - started_s)
    return trades / fastest[0], trades / fastest[1]


def live_trades(instruments: int, per_s: int) -> list[Trade]:
    """A seeded tape: prices walk, times are whole milliseconds, several trades share one."""
    chance = random.Random(7)
    prices = [Decimal(chance.randrange(10_000, 9_000_000)) / 100 for _ in range(instruments)]
    tick, event_ns, trades = Decimal("0.01"), START_NS, []
    for n in range(LIVE):
        at = chance.randrange(instruments)
        prices[at] += tick * chance.randrange(-3, 4)
        event_ns += chance.randrange(2 * NS // per_s)
        stamp_ns = event_ns - event_ns % 1_000_000
        side = Side.BUY if chance.random() < 0.5 else Side.SELL
        size = Decimal(chance.randrange(1, 100_000)) / 1_000
        trades.append(Trade(f"binance:S{at}", stamp_ns, stamp_ns + 5_000_000, n, n, side, prices[at], size))
    return trades


def history() -> Trades:
    """A day of one instrument."""
    chance = np.random.default_rng(7)
    event_ns = np.sort(START_NS + chance.integers(0, DAY_NS, COLUMNS))
    return Trades(
        instrument="binance:BTCUSDT",
        event_ns=event_ns,
        received_ns=event_ns + 5_000_000,
        seq=np.arange(COLUMNS),
        sells=chance.random(COLUMNS) < 0.5,
        price=9_000_000 + np.cumsum(chance.integers(-3, 4, COLUMNS)),
        price_digits=2,
        size=chance.integers(1, 10**6, COLUMNS),
        size_digits=5,
    )


if __name__ == "__main__":
    print_table(TITLE, table())
