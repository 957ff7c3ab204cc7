"""Binance options (European, settled in USDT): frames and answers in, events out.

https://developers.binance.com/docs/derivatives/options-trading/websocket-market-streams

    {"stream": "btcusdt@optionTrade", "data": {"e": "trade", "E": 1762856064204, "T": 1762856064203,
        "s": "BTC-251123-126000-C", "t": 4, "p": "1300.000", "q": "0.1000", "X": "MARKET", "S": "BUY", "m": false}}
    {"stream": "btc-251123-126000-c@kline_1m", "data": {"e": "kline", "E": 1762856064204, "s": "BTC-251123-126000-C",
        "k": {"t": 1762856040000, "i": "1m", "o": "1300", "c": "1300", "h": "1300", "l": "1300", "v": "0.1", "n": 1,
        "x": false, "q": "130", ...}}}

    GET /eapi/v1/index?underlying=BTCUSDT
    {"time": 1656647305000, "indexPrice": "9200"}
    GET /eapi/v1/openInterest?underlyingAsset=BTC&expiration=251123
    [{"symbol": "BTC-251123-126000-C", "sumOpenInterest": "4.01", "sumOpenInterestUsd": "4880.29", "timestamp": "1762856040000"}]
    GET /eapi/v1/klines?symbol=BTC-251123-126000-C&interval=1m
    [{"open": "950", "high": "1100", "low": "900", "close": "1000", "volume": "100", "amount": "2", "tradeCount": 10,
        "openTime": 1499040000000, "closeTime": 1499644799999, ...}]
    GET /eapi/v1/trades?symbol=BTC-251123-126000-C
    [{"id": 2323857420768529000, "tradeId": 4, "price": "1300", "qty": "-0.1", "side": -1, "time": 1592449455993}]

Sizes are contracts, each of so many coins (`unit`: 1 of BTC and ETH, 1,000 of DOGE), which only the listing tells. One stream
carries the trades of all options on an underlying; BLOCK trades were not matched on the book and are skipped. Open interest of
one expiry comes at a time, without the underlying's price: that is asked first, and both the price and the expiries that remain
stand in the cursor. Trades of the past are the newest 500 and no others; their `qty` is below zero where the aggressor sold.
Whether klines leave out empty minutes, or which end of too long a stretch is cut, is not told: no more are asked for than
come. Candles of REST are objects here, not rows. Quotes, depth and mark prices are left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import field
from msgspec.structs import replace

from openoutcry.errors import UnknownInstrument, Unreadable, Unsupported
from openoutcry.events import NS, Candle, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues import binance_history as history
from openoutcry.venues.binance_wire import (
    INTERVALS,
    MS,
    PRICE_MOST,
    SIZE_MOST,
    STREAMS_PER_SUBSCRIBE,
    UNREADABLE,
    ZERO,
    Binance,
    Channel,
    Count,
    Date,
    Kline,
    RawTrade,
    Says,
    Stamp,
    Symbol,
    amount,
    candle_prices,
    kline,
    ns_of,
    positive,
    raw_trade,
)
from openoutcry.venues.paging import promised
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query, Rate, Request, Stream

NAME = "binance_options"
TRADES_MAX = 500
CANDLES_MAX = 1_500
CANDLES_DAYS_MAX = 200
# Expiries of one underlying; there are about ten.
EXPIRIES_MAX = 100
# 2022-06-01: the options of today's interface began about then.
BORN_NS = 1_654_041_600_000_000_000
# What lies between a trade and the answer that tells it.
TRAILS_NS = 2 * NS


class _Contract(msgspec.Struct, frozen=True):
    underlying: Symbol
    base: Symbol = field(name="baseAsset")
    settle: Symbol = field(name="settleAsset")


class _Option(msgspec.Struct, frozen=True):
    symbol: Symbol
    underlying: Symbol
    quote: Symbol = field(name="quoteAsset")
    unit: Decimal
    expires_ms: Date = field(name="expiryDate")
    filters: list[dict[str, Any]]
    status: str = "TRADING"


class _Listing(msgspec.Struct, frozen=True):
    contracts: list[_Contract] = field(name="optionContracts")
    options: list[msgspec.Raw] = field(name="optionSymbols")


class _Index(msgspec.Struct, frozen=True):
    price: Decimal = field(name="indexPrice")


class _Interest(msgspec.Struct, frozen=True):
    symbol: Symbol
    contracts: Decimal = field(name="sumOpenInterest")
    value: Decimal = field(name="sumOpenInterestUsd")
    at: Stamp = field(name="timestamp")


class _Past(msgspec.Struct, frozen=True):
    price: Decimal
    contracts: Decimal = field(name="qty")
    side: int
    at: Stamp = field(name="time")
    id: Count | None = None
    number: Count | None = field(name="tradeId", default=None)


class _Bar(msgspec.Struct, frozen=True, rename="camel"):
    open_time: Stamp
    open: str
    high: str
    low: str
    close: str
    volume: str
    close_time: Stamp
    amount: str
    trade_count: Count


class _Ticker(msgspec.Struct, frozen=True):
    symbol: Symbol
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal = field(name="lastPrice")
    volume: Decimal
    amount: Decimal
    at: Stamp = field(name="closeTime")
    trades: Count = field(name="tradeCount", default=0)


_listing = msgspec.json.Decoder(_Listing).decode
_option = msgspec.json.Decoder(_Option, strict=False).decode
_index = msgspec.json.Decoder(_Index).decode
_interest = msgspec.json.Decoder(_Interest, strict=False).decode
_pasts = msgspec.json.Decoder(list[_Past], strict=False).decode
_bars = msgspec.json.Decoder(list[_Bar]).decode
_ticker = msgspec.json.Decoder(_Ticker).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


class BinanceOptions(Binance):
    """Binance options."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.OPTION: (Exchange.BINANCE_OPTIONS,)}
    rest = "https://eapi.binance.com"
    sockets: Mapping[str, str] = {
        "public": "wss://fstream.binance.com/public",
        "market": "wss://fstream.binance.com/market",
    }
    limits = Limits(
        streams_per_connection=200,
        streams_per_subscribe=STREAMS_PER_SUBSCRIBE,
        messages=Rate(10, 1.0),
        connections=Rate(300, 300.0),
        lifetime_s=86_400.0,
        weights={"weight": Rate(400, 60.0)},
        weight_header="x-mbx-used-weight-1m",
        silence_s=600.0,  # nothing but pings may come for long
    )
    channels: Mapping[Feed, Channel] = {
        Feed.TRADES: Channel("optionTrade", "public", None),
        Feed.CANDLES: Channel("kline_1m", "market", None),
    }
    intervals_s = frozenset(INTERVALS.values()) - {1, 28_800}

    def __init__(self) -> None:
        # By instrument name. Filled by `learn`.
        self._units: dict[str, Decimal] = {}
        super().__init__(
            says={RawTrade: self._trade, Kline: self._kline},
            questions={
                Query.TIME: history.Time(_endpoint("/eapi/v1/time", 1)),
                Query.INSTRUMENTS: _Instruments(),
                Query.CANDLES: _Candles(self.intervals_s),
                Query.TRADES: _Recent(),
                Query.OPTION_INTEREST: _OptionInterest(),
                Query.TICKERS: _Tickers(),
            },
        )

    def assume(self, symbol: str) -> Instrument | None:  # noqa: ARG002 whatever it is
        """None: how many coins a contract stands for is not in its spelling."""
        return None

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing; an option without a unit is as good as unlisted."""
        super().learn(instrument for instrument in instruments if instrument.contract_size is not None)
        self._units = {listed.name: listed.contract_size or ZERO for listed in self._listing.values()}

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        """Trades come by underlying, candles by option."""
        if feed is not Feed.TRADES:
            return super().streams(feed, symbols)
        channel = self.channels[feed]
        names = {self._underlying(symbol) for symbol in (self._listing if symbols is None else symbols)}
        if not names:
            raise Unsupported(f"{NAME} lists no options")
        return [
            Stream(f"{name.lower()}@{channel.suffix}", channel.endpoint, "*", frozenset({feed}), channel.silence_s)
            for name in sorted(names)
        ]

    def _underlying(self, symbol: str) -> str:
        listed = self._listing.get(symbol)
        return f"{symbol.partition('-')[0]}USDT" if listed is None else f"{listed.coin}{listed.quote}"

    def _trade(self, data: RawTrade, name: str, received_ns: int) -> Says:
        unit = self._units[name]
        return [
            replace(event, size=event.size * unit, contracts=event.size) if isinstance(event, Trade) else event
            for event in raw_trade(data, name, received_ns)
        ]

    def _kline(self, data: Kline, name: str, received_ns: int) -> Says:
        unit = self._units[name]
        return [
            replace(event, volume=event.volume * unit) if isinstance(event, Candle) else event
            for event in kline(data, name, received_ns)
        ]


class _Instruments:
    """The listing. What is settled in what stands beside it, by underlying."""

    page_max = 0

    def __init__(self) -> None:
        self._endpoint = _endpoint("/eapi/v1/exchangeInfo", 1)

    def request(self, ask: Ask) -> Request:  # noqa: ARG002 always all of them
        return self._endpoint.request()

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:  # noqa: ARG002
        told = _listing(self._endpoint.body(ask, answer))
        contracts = {contract.underlying: contract for contract in told.contracts}
        found: list[Instrument] = []
        unread = 0
        for raw in told.options:
            try:
                found.append(_instrument(_option(raw), contracts))
            except (*UNREADABLE, ArithmeticError, Unreadable):
                unread += 1  # one bad entry must not cost the others
        if unread and not found:
            raise Unreadable("a listing of which no entry can be read", answer.body)
        return Page((), instruments=found, unread=unread)


class _Rows(history.Endpoint, frozen=True):
    """An address whose candles are objects, read as the rows that Binance's other markets answer."""

    def body(self, ask: Ask, answer: Answer) -> bytes:
        bars = _bars(super().body(ask, answer))
        return msgspec.json.encode(
            [
                (b.open_time, b.open, b.high, b.low, b.close, b.volume, b.close_time, b.amount, b.trade_count)
                for b in bars
            ]
        )


class _Candles(history.Candles):
    """The venue's candles, whose volume is contracts. No stretch is asked that holds more than a page."""

    def __init__(self, intervals_s: frozenset[int]) -> None:
        endpoint = _Rows(NAME, "/eapi/v1/klines", 1, "weight")
        super().__init__(endpoint, intervals_s, CANDLES_MAX, lambda _: 1, BORN_NS, CANDLES_DAYS_MAX)
        self._sized = endpoint

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        page = super().page(ask, answer, listing)
        unit = self._sized.contract_size(ask, listing)
        return replace(page, events=[replace(e, volume=e.volume * unit) for e in page.events if isinstance(e, Candle)])


class _Recent:
    """The newest trades of an option; older ones are not served without a key."""

    page_max = TRADES_MAX

    def __init__(self) -> None:
        self._endpoint = _endpoint("/eapi/v1/trades", 5)

    def request(self, ask: Ask) -> Request:
        return self._endpoint.request(("symbol", _symbol(ask)), ("limit", TRADES_MAX))

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        rows = _pasts(self._endpoint.body(ask, answer))
        name, unit = self._endpoint.named(ask, listing), self._endpoint.contract_size(ask, listing)
        trades = sorted((_past(row, name, unit, answer.received_ns) for row in rows), key=_moment)
        start_ns, end_ns = ask.start_ns or 0, answer.received_ns if ask.end_ns is None else ask.end_ns
        inside = [trade for trade in trades if start_ns <= trade.event_ns < end_ns]
        # Of a full answer's oldest millisecond some may be missing.
        full = len(rows) >= TRADES_MAX
        whole_ns = max(start_ns, trades[0].event_ns + full * MS) if trades else end_ns
        until_ns = min(end_ns, answer.received_ns - TRAILS_NS)
        if ask.limit is not None and len(inside) > ask.limit:
            forward = not ask.newest and ask.start_ns is not None
            inside = inside[: ask.limit] if forward else inside[-ask.limit :]
            return Page(inside)
        return promised(inside, None, whole_ns, until_ns)


class _OptionInterest:
    """Open interest of all options on one coin: the underlying's price, then each expiry of the listing.

    `cursor` is that price and the expiries that remain, after it: `64000.5 251123,251226`.
    """

    page_max = 0

    def __init__(self) -> None:
        self._prices = _endpoint("/eapi/v1/index", 1)
        self._endpoint = _endpoint("/eapi/v1/openInterest", 1)

    def request(self, ask: Ask) -> Request:
        coin = _symbol(ask)
        if ask.cursor is None:
            return self._prices.request(("underlying", f"{coin}USDT"))
        return self._endpoint.request(("underlyingAsset", coin), ("expiration", _cursor(ask.cursor)[1][0]))

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        body = self._endpoint.body(ask, answer)
        if ask.cursor is None:
            price = positive(_index(body).price, PRICE_MOST)
            now_ns = answer.received_ns
            alive = [i for i in listing.values() if i.coin == ask.symbol and (i.expires_ns or now_ns + 1) > now_ns]
            # BTC-251123-126000-C: the day as the venue spells it.
            days = sorted({i.symbol.split("-")[1] for i in alive if "-" in i.symbol})[:EXPIRIES_MAX]
            if not days:
                raise UnknownInstrument(f"{NAME} lists no options on {ask.symbol}")
            return Page((), next=replace(ask, cursor=f"{price} {','.join(days)}"))
        price, left = _cursor(ask.cursor)
        found, unread = self._read(body, price, answer.received_ns, listing)
        following = replace(ask, cursor=f"{price} {','.join(left[1:])}") if left[1:] else None
        return Page(found, next=following, unread=unread)

    def _read(
        self, body: bytes, price: Decimal, received_ns: int, listing: Mapping[str, Instrument]
    ) -> tuple[list[OpenInterest], int]:
        found: list[OpenInterest] = []
        unread = 0
        for raw in _raws(body):
            try:
                row = _interest(raw)
                size, value = amount(row.contracts), amount(row.value)
                at_ns = ns_of(row.at)
            except (*UNREADABLE, ArithmeticError, Unreadable):
                unread += 1
                continue
            listed = listing.get(row.symbol)
            if listed is not None and listed.contract_size is not None:
                coins = size * listed.contract_size
                found.append(OpenInterest(listed.name, at_ns, received_ns, coins, value, size, price))
        if unread and not found:
            raise Unreadable("open interest of which no row can be read", body)
        return found, unread


class _Tickers:
    """24 h summaries of all options, or of one. Those that were not traded are left out."""

    page_max = 0

    def __init__(self) -> None:
        self._endpoint = _endpoint("/eapi/v1/ticker", 5)

    def request(self, ask: Ask) -> Request:
        return self._endpoint.request(("symbol", ask.symbol))

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        found: list[Ticker] = []
        unread = 0
        body = self._endpoint.body(ask, answer)
        for raw in _raws(body):
            try:
                row = _ticker(raw)
                listed = listing.get(row.symbol)
                if listed is None or not row.volume or (ask.symbol is not None and row.symbol != ask.symbol):
                    continue
                found.append(_summary(row, listed, answer.received_ns))
            except (*UNREADABLE, ArithmeticError, Unreadable):
                unread += 1
        if unread and not found:
            raise Unreadable("tickers of which no row can be read", body)
        return Page(found, unread=unread)


def _instrument(option: _Option, contracts: Mapping[str, _Contract]) -> Instrument:
    """Raises Unreadable, InvalidOperation."""
    contract = contracts.get(option.underlying)
    return Instrument(
        venue=NAME,
        symbol=option.symbol,
        kind=Kind.OPTION,
        coin=option.underlying.removesuffix(option.quote) if contract is None else contract.base,
        quote=option.quote,
        settle=option.quote if contract is None else contract.settle,
        tick_size=history.step("PRICE_FILTER", "tickSize", option.filters),
        lot_size=history.step("LOT_SIZE", "stepSize", option.filters),
        contract_size=positive(option.unit, SIZE_MOST),
        expires_ns=option.expires_ms * MS or None,
        trading=option.status == "TRADING",
    )


def _past(row: _Past, name: str, unit: Decimal, received_ns: int) -> Trade:
    number = row.id if row.number is None else row.number
    if number is None or row.side not in {-1, 1}:
        raise Unreadable("a trade without a number or a side")
    price, contracts = positive(row.price, PRICE_MOST), positive(abs(row.contracts), SIZE_MOST)
    side = Side.BUY if row.side == 1 else Side.SELL
    return Trade(name, ns_of(row.at), received_ns, number, number, side, price, contracts * unit, 1, None, contracts)


def _moment(trade: Trade) -> tuple[int, int]:
    return trade.event_ns, trade.seq


def _summary(row: _Ticker, listed: Instrument, received_ns: int) -> Ticker:
    prices = candle_prices(row.open, row.high, row.low, row.close)
    volume = amount(row.volume) * (listed.contract_size or 1)
    return Ticker(listed.name, ns_of(row.at), received_ns, *prices, volume, amount(row.amount), row.trades)


def _cursor(text: str) -> tuple[Decimal, list[str]]:
    price, _, days = text.partition(" ")
    return Decimal(price), days.split(",")


def _symbol(ask: Ask) -> str:
    if not ask.symbol:
        raise Unsupported(f"{NAME} answers {ask.query} for one at a time")
    return ask.symbol


def _endpoint(path: str, weight: int) -> history.Endpoint:
    return history.Endpoint(NAME, path, weight, "weight")
