"""OKX v5, options: frames in, events out.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-all-trades-channel

    {"arg": {"channel": "trades-all", "instId": "BTC-USD-230224-18000-C"}, "data": [{"instId": "BTC-USD-230224-18000-C",
        "tradeId": "38", "px": "0.045", "sz": "2", "side": "sell", "ts": "1672286551080", "source": "0"}]}
    {"arg": {"channel": "candle1m", "instId": "BTC-USD-230224-18000-C"}, "data": [["1672286520000", "0.0445", "0.045",
        "0.0445", "0.045", "12", "0.12", "0.0054", "0"]]}
    GET /api/v5/market/index-tickers?instId=BTC-USD -> {"code": "0", "data": [{"instId": "BTC-USD", "idxPx": "43350",
        "ts": "1649419644492"}]}
    GET /api/v5/public/open-interest?instType=OPTION&instFamily=BTC-USD -> {"code": "0", "data": [{"instType": "OPTION",
        "instId": "BTC-USD-230224-18000-C", "oi": "125", "oiCcy": "1.25", "oiUsd": "54187.5", "ts": "1649419644500"}]}

A price is the premium in coins, for one coin; a size counts contracts: coins = contracts x ctVal x ctMult, so an option is
only read when it is listed. Trades come from `trades-all`, whose ids are those of the REST history, as of OKX's other
markets; `option-trades` tells the same ones with volatilities, on the other socket. Listings and open interest are asked by
family. In what a bar's turnover is told for options is not said, so that it is estimated.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from openoutcry.events import OpenInterest
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import NUMBER_MAX, ZERO, TimeMs
from openoutcry.venues.okx_frames import CHANNELS, Channel, OkxFrames
from openoutcry.venues.okx_history import DAY_NS
from openoutcry.venues.okx_wire import InterestRow, open_interest_of
from openoutcry.venues.paging import events_of, read_rows
from openoutcry.venues.venue import Ask, Feed, Page, Query

# Those that are settled in the coin.
FAMILIES = ("BTC-USD", "ETH-USD")
# The venue serves the trades of three months, which are no fewer days than these.
TRADED_DAYS = 89


class _Index(msgspec.Struct, rename={"price": "idxPx"}):
    price: Decimal
    ts: TimeMs


class OkxOptions(OkxFrames):
    """Options on a coin, settled in it."""

    name = "okx_options"
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.OPTION: (Exchange.OKEX_OPTIONS,)}
    limits = msgspec.structs.replace(OkxFrames.limits, quote_estimated=True)
    feeds = frozenset({Feed.TRADES, Feed.CANDLES})
    queries = frozenset(
        {Query.INSTRUMENTS, Query.CANDLES, Query.TRADES, Query.OPTION_INTEREST, Query.TICKERS, Query.TIME}
    )
    parts: Sequence[str] = FAMILIES
    # Days may pass without a trade of an option.
    channels: Mapping[Feed, Channel] = {feed: (*CHANNELS[feed][:2], None) for feed in (Feed.TRADES, Feed.CANDLES)}

    def assume(self, symbol: str) -> Instrument | None:  # noqa: ARG002 - none tells it
        """None: the spelling does not tell how much a contract is."""
        return None

    def _part(self, ask: Ask) -> dict[str, str | int | None]:
        return {"instType": "OPTION", "instFamily": ask.cursor or self.parts[0]}

    def _untraded(self, ask: Ask, start_ns: int, now_ns: int) -> bool:
        """Many an option is not traded for weeks: of three months none is missing."""
        return start_ns >= now_ns - TRADED_DAYS * DAY_NS or super()._untraded(ask, start_ns, now_ns)

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is not Query.OPTION_INTEREST:
            return super()._question(ask)
        assert ask.symbol is not None, "option_interest is asked of one coin"
        family = f"{ask.symbol}-USD"
        if ask.cursor is None:
            return "market/index-tickers", {"instId": family}
        return "public/open-interest", {"instType": "OPTION", "instFamily": family}

    def _pages(self, ask: Ask, data: msgspec.Raw, received_ns: int) -> Page:
        if ask.query is not Query.OPTION_INTEREST:
            return super()._pages(ask, data, received_ns)
        if ask.cursor is None:
            # The price of the coin comes first, and goes along to the question for the open interest.
            (index,) = read_rows(data, list[_Index])
            return Page(events=(), next=msgspec.structs.replace(ask, cursor=str(_believed(index.price))))
        price = _believed(Decimal(ask.cursor))

        def read(raw: msgspec.Raw) -> Sequence[OpenInterest]:
            row = read_rows(raw, InterestRow)
            meaning = self._meanings.get(row.inst_id)
            return () if meaning is None else (open_interest_of(meaning, row, received_ns, price),)

        events, unread = events_of(read_rows(data, list[msgspec.Raw]), read)
        return Page(events=events, unread=unread)


def _believed(price: Decimal) -> Decimal:
    if not ZERO < price < NUMBER_MAX:
        raise ValueError("index price out of range")
    return price
