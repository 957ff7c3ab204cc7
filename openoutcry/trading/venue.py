"""Our own exchange as a venue among the others: its pairs as instruments, its trades as events, its candles as folds of them.

Exact: ticks, lots and units become the Decimals that they stand for. An event bears the time of the batch that made it.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol

from openoutcry import orders
from openoutcry.aggregates.bars import Bar, bar_of_trade
from openoutcry.events import INTERVALS_S, NS, Candle, Side, Trade, open_of
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.trading.engine import PLACES
from openoutcry.trading.listings import Listings, Pair
from openoutcry.venues.venue import Feed, Limits, Query, Rate

VENUE = "emulator"
EXCHANGES = {Kind.SPOT: (Exchange.EMULATOR,)}
FEEDS = frozenset({Feed.TRADES, Feed.QUOTES, Feed.DEPTH})
QUERIES = frozenset({Query.INSTRUMENTS, Query.CANDLES, Query.TRADES, Query.DEPTH})
SERVED_S = frozenset(INTERVALS_S)
# It has no wire: only how its candles behave means anything here.
LIMITS = Limits(
    streams_per_connection=1,
    streams_per_subscribe=1,
    messages=Rate(1, 1.0),
    connections=Rate(1, 1.0),
    lifetime_s=86_400.0,
    weights={},
    quiet_candles="omitted",
    candles_late_s=0.0,
)


class Tape(Protocol):
    """All that was ever traded. Its methods wait: they are called in threads."""

    def tape(self, pair: str, start_ns: int, end_ns: int, *, after: int, limit: int) -> Sequence[orders.Trade]:
        """The first trades of [start_ns, end_ns) whose place is greater, oldest first. Raises Unavailable."""
        ...

    def listed(self) -> Mapping[str, int]:
        """When each pair was listed first (ns). Raises Unavailable."""
        ...


def instruments_of(listings: Listings, listed_ns: Mapping[str, int]) -> dict[str, Instrument]:
    """Every pair as an instrument, by its id."""
    assets = listings.assets
    return {
        pair.id: Instrument(
            venue=VENUE,
            symbol=pair.id,
            kind=Kind.SPOT,
            coin=assets[pair.base].symbol,
            quote=assets[pair.quote].symbol,
            settle=assets[pair.quote].symbol,
            tick_size=Decimal(1).scaleb(-pair.price_accuracy),
            lot_size=Decimal(1).scaleb(-pair.base_accuracy),
            listed_ns=listed_ns.get(pair.id),
            trading=pair.on,
        )
        for pair in listings.pairs.values()
    }


def place_of(trade: orders.Trade) -> int:
    """Its order among all trades of the exchange: by command, then which one of it."""
    number, _, n = trade.id.partition("-")
    return int(number) * PLACES + int(n)


def trade_of(trade: orders.Trade, pair: Pair) -> Trade:
    """A match as everybody may see it."""
    exact = pair.value_down(trade.lots, trade.ticks) == pair.value_up(trade.lots, trade.ticks) == trade.quote
    return Trade(
        f"{VENUE}:{trade.pair}",
        trade.at_ns,
        trade.at_ns,
        trade.id,
        place_of(trade),
        Side.BUY if trade.taker_buys else Side.SELL,
        pair.price(trade.ticks),
        pair.volume(trade.lots),
        # Else price x size says it; what is paid is rounded to the quote asset's units.
        value=None if exact else pair.worth(trade.quote),
    )


class Fold:
    """Candles of one instrument and length out of its trades, oldest first."""

    def __init__(self, instrument: str, interval_s: int) -> None:
        self._instrument, self._interval_s = instrument, interval_s
        self._bars: dict[int, Bar] = {}

    def add(self, trades: Iterable[Trade]) -> None:
        """Take trades, each once."""
        for trade in trades:
            open_ns = open_of(trade.event_ns, self._interval_s)
            bar = self._bars.get(open_ns)
            if bar is None:
                self._bars[open_ns] = bar_of_trade(trade)
            else:
                bar.add(trade)

    def take(self, before_ns: int, closed_ns: int) -> list[Candle]:
        """Give away those that open before the one time; they are closed if they end by the other."""
        step_ns = self._interval_s * NS
        return [
            self._bars.pop(open_ns).candle(
                self._instrument, Side.BOTH, self._interval_s, open_ns, closed=open_ns + step_ns <= closed_ns
            )
            for open_ns in sorted(self._bars)
            if open_ns < before_ns
        ]
