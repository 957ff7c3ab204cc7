"""Bybit v5, options: frames in, events out.

https://bybit-exchange.github.io/docs/v5/websocket/public/trade

    {"topic": "publicTrade.BTC", "ts": 1790373961392, "type": "snapshot", "id": "publicTrade.BTC-76572340339-1790373961392",
     "data": [{"i": "44f06f5c-3628-5a2d-9a1c-0142ddf5e2ab", "T": 1790373961369, "p": "240", "v": "0.1", "S": "Buy",
        "seq": 76572340339, "s": "BTC-25JUN27-106000-C-USDT", "BT": false, "mP": "238.7827077", "iP": "83885.18491835",
        "mIv": "0.1389", "iv": "0.14"}]}
    {"success": true, "conn_id": "aa01fbff", "data": {"failTopics": [], "successTopics": ["publicTrade.BTC"]},
     "type": "COMMAND_RESP"}
    {"args": ["1672916271846"], "op": "pong"}
    GET /v5/market/tickers?category=option&baseCoin=BTC -> {"retCode": 0, "result": {"category": "option", "list": [
        {"symbol": "BTC-25JUN27-106000-C-USDT", "lastPrice": "10", "highPrice24h": "25", "lowPrice24h": "5",
         "underlyingPrice": "16815.1", "openInterest": "49.85", "turnover24h": "446802.8473", "volume24h": "26.55",
         "change24h": "-0.33333334"}]}, "time": 1672917511074}

One topic carries the trades of all options on a coin, and each row says whose it is; sizes are coins, prices USDT (or USDC,
where the symbol ends with the strike's side). An answer to a subscription names the topics, not our number of it; topics
that options do not have (`kline`, `orderbook.1`) are answered as if they had. There are no bars anywhere. `openInterest` is
not a sum of both sides here. `turnover24h` is the underlying's, not the premiums': coins at the last price stand for it. The
price of 24 hours ago is not told, but by how much the last one differs from it, as a part of it. Block trades (`BT`) are left
out, as on Bybit's other markets.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from openoutcry import errors
from openoutcry.events import Event, OpenInterest, Ticker, Trade
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import MS, ZERO, check_traded
from openoutcry.venues.bybit_topics import BybitTopics
from openoutcry.venues.bybit_wire import TAKER, Fields, TradeRow, number_of
from openoutcry.venues.venue import (
    Alive,
    Ask,
    Feed,
    Page,
    Query,
    Refused,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

COINS = ("BTC", "ETH")
TOPIC = "publicTrade."
REASON_CHARS_MAX = 200
_OPTION = re.compile(r"(?P<coin>\w+)-\d{1,2}[A-Z]{3}\d\d-\d+(?:\.\d+)?-[CP](?:-(?P<quote>USDT|USDC))?")


class _Row(TradeRow, gc=False, kw_only=True, rename={"symbol": "s"}):
    symbol: str


class _Topics(msgspec.Struct, rename="camel"):
    success_topics: list[str] = []
    fail_topics: list[str] = []


class _Frame(msgspec.Struct):
    topic: str | None = None
    type: str = ""
    op: str = ""
    success: bool | None = None
    ret_msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


_decode_frame = msgspec.json.Decoder(_Frame).decode
_decode_rows = msgspec.json.Decoder(list[_Row]).decode
_decode_topics = msgspec.json.Decoder(_Topics).decode


class BybitOptions(BybitTopics):
    """Options on a coin, settled in USDT or USDC."""

    name = "bybit_options"
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.OPTION: (Exchange.BYBIT,)}
    sockets: Mapping[str, str] = {"option": "wss://stream.bybit.com/v5/public/option"}
    feeds = frozenset({Feed.TRADES})
    queries = frozenset({Query.INSTRUMENTS, Query.TRADES, Query.TICKERS, Query.OPTION_INTEREST, Query.TIME})
    intervals_s: frozenset[int] = frozenset()
    page_max: Mapping[Query, int] = {Query.INSTRUMENTS: 1_000, Query.TRADES: 1_000}

    def assume(self, symbol: str) -> Instrument | None:
        """The spelling tells all but the steps: sizes are coins."""
        option = _OPTION.fullmatch(symbol)
        if option is None:
            return None
        quote = option["quote"] or "USDC"
        return self._assumed(symbol, Kind.OPTION, option["coin"], quote, quote, None)

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """One topic a coin, for all options on it. Symbols that are none of an option are left out."""
        if feed not in self.feeds:
            raise errors.Unsupported(f"{self.name} has no {feed}")
        if symbols is None:
            coins = dict.fromkeys(COINS)
        else:
            coins = dict.fromkeys(option.coin for symbol in symbols if (option := self._known(symbol)) is not None)
        return [Stream(TOPIC + coin, "option", "*", frozenset({feed}), None) for coin in coins]

    def reset(self, endpoint: str) -> None:
        """Nothing is built on the frames before."""

    def decode(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """What one frame says. Raises Unreadable."""
        try:
            said = _decode_frame(frame)
            if said.topic is None:
                return _answer(said)
            if not said.topic.startswith(TOPIC):
                return [Skipped("unknown_topic", said.topic.partition(".")[0])]
            return [self._trade(row, received_ns) for row in _decode_rows(said.data)]
        except (msgspec.MsgspecError, ValueError, ArithmeticError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", frame) from e

    def _trade(self, row: _Row, received_ns: int) -> Event | Signal:
        check_traded(row.price, row.count)
        option = self._listing.get(row.symbol)
        if option is None:
            return Skipped("unknown_instrument", row.symbol)
        if row.block:
            return Skipped("block", option.name)
        side = TAKER[row.taker]
        return Trade(option.name, row.event_ms * MS, received_ns, row.id, row.seq, side, row.price, row.count)

    def _category(self, symbol: str) -> str:  # noqa: ARG002 - there is one
        return "option"

    @property
    def _parts(self) -> Sequence[str]:
        return COINS

    def _of_part(self, part: str) -> dict[str, str]:
        return {"category": "option", "baseCoin": part}

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is not Query.OPTION_INTEREST:
            return super()._question(ask)
        assert ask.symbol is not None, "option_interest is asked of one coin"
        return "tickers", {**self._of_part(ask.symbol)}

    def _pages(self, ask: Ask, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        if ask.query is Query.OPTION_INTEREST:
            return self._tickers_page(ask, result, now_ns, received_ns)
        return super()._pages(ask, result, now_ns, received_ns)

    def _told(
        self, query: Query, instrument: Instrument, row: Fields, now_ns: int, received_ns: int
    ) -> Sequence[Event]:
        if query is Query.TICKERS:
            summary = _summary(instrument, row, now_ns, received_ns)
            return () if summary is None else (summary,)
        size, price = number_of(row, "openInterest"), number_of(row, "underlyingPrice")
        if size is None or size < 0 or (price is not None and price < 0):
            raise ValueError("open interest or price of the underlying out of range")
        return (OpenInterest(instrument.name, now_ns, received_ns, size, price=price or None),)


def _answer(said: _Frame) -> Sequence[Event | Signal]:
    if said.op in {"ping", "pong", "unsubscribe"}:
        return [Alive()]
    if said.success is None or (said.type != "COMMAND_RESP" and said.op != "subscribe"):
        raise ValueError("neither a topic nor an answer")
    topics = _decode_topics(said.data)
    if "already subscribed" in said.ret_msg:
        return [Subscribed((*topics.success_topics, *topics.fail_topics))]
    reason = said.ret_msg[:REASON_CHARS_MAX] or "refused"
    refused: list[Event | Signal] = [Refused(name, reason) for name in topics.fail_topics]
    if topics.success_topics:
        return [Subscribed(tuple(topics.success_topics)), *refused]
    return refused or [Subscribed() if said.success else Refused(None, reason)]


def _summary(option: Instrument, row: Fields, event_ns: int, received_ns: int) -> Ticker | None:
    keys = ("highPrice24h", "lowPrice24h", "lastPrice", "volume24h", "change24h")
    high, low, last, volume, change = (number_of(row, key) for key in keys)
    if not high or not low or not last or volume is None or change is None:
        return None  # not traded yet
    if min(high, low, last) < 0 or volume < 0 or change <= -1:
        raise ValueError("ticker out of range")
    # The change has eight digits: on the grid of prices it tells the first one exactly.
    first = (last / (1 + change) / option.tick_size).quantize(Decimal(1), ROUND_HALF_EVEN) * option.tick_size
    if first <= ZERO:
        raise ValueError("ticker out of range")
    return Ticker(option.name, event_ns, received_ns, first, high, low, last, volume, volume * last, 0)
