"""What Bybit's REST side can be asked, and what its symbols mean.

https://bybit-exchange.github.io/docs/v5/market/kline

    GET /v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&start=1670601600000&end=1670608799999&limit=1000
    {"retCode": 0, "retMsg": "OK", "result": {"symbol": "BTCUSDT", "category": "linear", "list": [
        ["1670608740000", "17071", "17073", "17027", "17055.5", "268.611", "4580000.1"], ...]}, "time": 1670608800123}
    {"retCode": 10001, "retMsg": "params error: Symbol Is Invalid", "result": {}, "time": 1670608800123}

Lists come newest first, both bounds are included, refusals have status 200; 403 is a ban of at least ten minutes. Recent
trades have no paging. A page is asked for by a stretch that fits it, so that it does not matter from which end the venue
fills it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated

import msgspec

from openoutcry import errors
from openoutcry.events import (
    NS,
    Event,
    FundingRate,
    MarkPrice,
    OpenInterest,
    Ticker,
    Trade,
    open_of,
)
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import (
    MS,
    NUMBER_MAX,
    STEP_UNKNOWN,
    TIME_MS_END,
    ZERO,
    Number,
    TimeMs,
    check_traded,
    period_s,
    step_of,
)
from openoutcry.venues.bybit_wire import (
    CODES,
    HALF,
    TAKER,
    Field,
    Fields,
    Meaning,
    SideWord,
    candle_of,
    meaning_of,
    number_of,
    size_of,
    ticker_events,
)
from openoutcry.venues.paging import code_of, events_of, instruments_of, promised, read_rows, stretch
from openoutcry.venues.venue import (
    Answer,
    Ask,
    Page,
    Query,
    Request,
)

# Categories that tell the kind; of the others each instrument tells its own.
KINDS = {"spot": Kind.SPOT, "option": Kind.OPTION}
INTEREST_CODES = {300: "5min", 900: "15min", 1_800: "30min", 3_600: "1h", 14_400: "4h", 86_400: "1d"}
BAN_S = 600.0
PAUSE_S = 1.0
PAUSE_S_MAX = 600.0
_INVERSE = re.compile(r"(?P<coin>\w+?)USD(?:[FGHJKMNQUVXZ]\d\d)?")
_LINEAR = re.compile(r"(?P<coin>\w+?)(?P<quote>USDT|USDC|USDE|PERP)?(?P<expiry>-\d{1,2}[A-Z]{3}\d\d)?")
Moment = Annotated[int, msgspec.Meta(ge=0, lt=TIME_MS_END)]  # 0: never


class _Envelope(msgspec.Struct, rename="camel"):
    ret_code: int
    ret_msg: str = ""
    result: msgspec.Raw = msgspec.Raw(b"{}")
    time: int = 0


class _CandleList(msgspec.Struct):
    list: list[tuple[TimeMs, Decimal, Decimal, Decimal, Decimal, Decimal, Decimal]]
    symbol: str


class _PastTrade(msgspec.Struct, rename="camel"):
    exec_id: str
    price: Decimal
    size: Decimal
    side: SideWord
    time: TimeMs
    symbol: str = ""
    is_block_trade: bool = False
    seq: Number = 0


class _PastTrades(msgspec.Struct):
    list: list[_PastTrade]


class _PastInterest(msgspec.Struct, rename="camel"):
    open_interest: Decimal
    timestamp: TimeMs
    single_open_interest: Decimal | None = None


class _PastInterests(msgspec.Struct):
    list: list[_PastInterest]


class _PastFunding(msgspec.Struct, rename="camel"):
    funding_rate: Decimal
    funding_rate_timestamp: TimeMs


class _PastFundings(msgspec.Struct):
    list: list[_PastFunding]


class _Tickers(msgspec.Struct):
    list: list[msgspec.Raw]


class _Listed(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_coin: str
    quote_coin: str
    price_filter: dict[str, str]
    lot_size_filter: dict[str, str]
    contract_type: str = ""
    settle_coin: str = ""
    launch_time: Moment = 0
    delivery_time: Moment = 0


class _Listing(msgspec.Struct, rename="camel"):
    list: list[msgspec.Raw]
    next_page_cursor: str = ""


class BybitHistory:
    """The REST half: questions and answers, and the listing they need."""

    name = "bybit"
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.PERPETUAL: (Exchange.BYBIT,), Kind.FUTURE: (Exchange.BYBIT,)}
    rest = "https://api.bybit.com"
    sockets: Mapping[str, str] = {
        "linear": "wss://stream.bybit.com/v5/public/linear",
        "inverse": "wss://stream.bybit.com/v5/public/inverse",
    }
    queries = frozenset(Query) - {Query.PREDICTED_FUNDING, Query.DEPTH, Query.OPTION_INTEREST, Query.POSITIONS}
    intervals_s = frozenset(CODES)
    page_max: Mapping[Query, int] = {
        Query.INSTRUMENTS: 1_000,
        Query.CANDLES: 1_000,
        Query.TRADES: 1_000,
        Query.OPEN_INTEREST_HISTORY: 200,
        Query.FUNDING_HISTORY: 200,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean, contract sizes."""
        self._listing = {i.symbol: i for i in instruments}

    def assume(self, symbol: str) -> Instrument | None:
        """What the spelling tells. Every Bybit contract counts coins (linear) or single dollars (inverse)."""
        inverse = _INVERSE.fullmatch(symbol)
        if inverse:
            dated = not symbol.endswith("USD")
            kind = Kind.FUTURE if dated else Kind.PERPETUAL
            return self._assumed(symbol, kind, inverse["coin"], "USD", inverse["coin"], Decimal(1))
        linear = _LINEAR.fullmatch(symbol)
        if not linear:
            return None
        kind = Kind.FUTURE if linear["expiry"] else Kind.PERPETUAL
        # BTCPERP and BTC-29DEC23 are settled in USDC.
        quote = linear["quote"] if linear["quote"] not in {None, "PERP"} else "USDC"
        return self._assumed(symbol, kind, linear["coin"], quote, quote, None)

    def _assumed(
        self, symbol: str, kind: Kind, coin: str, quote: str, settle: str, contract_size: Decimal | None
    ) -> Instrument:
        return Instrument(
            venue=self.name,
            symbol=symbol,
            kind=kind,
            coin=coin,
            quote=quote,
            settle=settle,
            tick_size=STEP_UNKNOWN,
            lot_size=STEP_UNKNOWN,
            contract_size=contract_size,
            inverse=contract_size is not None,
        )

    def _known(self, symbol: str) -> Instrument | None:
        return self._listing.get(symbol) or self.assume(symbol)

    def _category(self, symbol: str) -> str:
        instrument = self._known(symbol)
        return next(iter(self.sockets)) if instrument is None else meaning_of(instrument).category

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{self.name} does not serve {ask.query}")
        path, query = self._question(ask)
        return Request(path=f"/v5/market/{path}", query=tuple((k, str(v)) for k, v in query.items() if v is not None))

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.TIME:
            return "time", {}
        part, _, cursor = (ask.cursor or "").partition("|")
        query: dict[str, str | int | None]
        if ask.symbol is None:
            query = {**self._of_part(part or self._parts[0])}
        else:
            query = {"category": self._category(ask.symbol), "symbol": ask.symbol}
        if ask.query is Query.INSTRUMENTS:
            # Spot tells all in one answer and knows no cursor.
            paged = query["category"] != "spot"
            return "instruments-info", {**query, "limit": 1_000 if paged else None, "cursor": cursor or None}
        if ask.query in {Query.TICKERS, Query.OPEN_INTEREST, Query.FUNDING}:
            return "tickers", query
        assert ask.symbol is not None, f"{ask.query} is asked of one instrument"
        if ask.query is Query.TRADES:
            return "recent-trade", {**query, "limit": self.page_max[Query.TRADES]}
        return self._series_question(ask, query)

    @property
    def _parts(self) -> Sequence[str]:
        """What a listing and tickers are asked for by, in turn."""
        return list(self.sockets)

    def _of_part(self, part: str) -> dict[str, str]:
        return {"category": part}

    def _series_question(self, ask: Ask, query: dict[str, str | int | None]) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.CANDLES:
            query["interval"] = code_of(ask, CODES)
        elif ask.query is Query.OPEN_INTEREST_HISTORY:
            query["intervalTime"] = code_of(ask, INTEREST_CODES)
            if query["category"] == "inverse":
                raise errors.Unsupported("bybit tells past open interest of inverse contracts in USD, without a price")
        start_ns, end_ns, rows = self._window(ask)
        start = None if start_ns is None else start_ns // MS
        end = None if end_ns is None else -(-end_ns // MS) - 1  # the venue's end is inclusive
        if ask.query is Query.CANDLES:
            return "kline", {**query, "start": start, "end": end, "limit": rows}
        if ask.query is Query.OPEN_INTEREST_HISTORY:
            return "open-interest", {**query, "startTime": start, "endTime": end, "limit": rows}
        if end is None:
            start = None  # alone it is an error; the page drops what is older
        return "funding/history", {**query, "startTime": start, "endTime": end, "limit": rows}

    def _window(self, ask: Ask) -> tuple[int | None, int | None, int]:
        return stretch(ask, self.page_max[ask.query], self._listing.get(ask.symbol or ""))

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        try:
            envelope = self._envelope(ask, answer)
            now_ns = envelope.time * MS if 0 < envelope.time < TIME_MS_END else answer.received_ns
            return self._pages(ask, envelope.result, now_ns, answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _envelope(self, ask: Ask, answer: Answer) -> _Envelope:
        if answer.status == 403:
            # Also what a blocked country gets: asking again soon helps in neither case.
            raise errors.RateLimited(self.name, "bybit refuses this address (403)", BAN_S, banned=True)
        if answer.status == 429:
            raise errors.RateLimited(self.name, "too many requests", _pause_s(answer))
        if answer.status != 200:
            raise errors.Unavailable(self.name, f"{self.name} answered {answer.status}")
        envelope = msgspec.json.decode(answer.body, type=_Envelope, strict=False)
        code, text = envelope.ret_code, envelope.ret_msg
        if code == 0:
            return envelope
        if code in {10006, 10018, 10429}:
            raise errors.RateLimited(self.name, f"too many requests ({code})", _pause_s(answer))
        if code == 10001 and ask.symbol is not None and "symbol" in text.lower():
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        raise errors.Unavailable(self.name, f"{self.name} answered {code}: {text[:100]}")

    def _pages(self, ask: Ask, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if ask.query is Query.INSTRUMENTS:
            return self._listing_page(ask, result)
        if ask.query in {Query.TICKERS, Query.OPEN_INTEREST, Query.FUNDING}:
            return self._tickers_page(ask, result, now_ns, received_ns)
        assert ask.symbol is not None
        instrument = self._known(ask.symbol)
        if instrument is None:
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        meaning = meaning_of(instrument)
        if ask.query is Query.TRADES:
            return self._trades_page(ask, meaning, result, received_ns)
        if ask.query is Query.CANDLES:
            return self._candles_page(ask, meaning, result, now_ns, received_ns)
        if ask.query is Query.OPEN_INTEREST_HISTORY:
            past = read_rows(result, _PastInterests).list
            past.sort(key=lambda row: row.timestamp)
            events = [_past_interest(meaning, row, received_ns) for row in past]
            return self._series(ask, events, [e.event_ns for e in events], now_ns)
        settled = read_rows(result, _PastFundings).list
        settled.sort(key=lambda row: row.funding_rate_timestamp)
        rates = _past_fundings(meaning, settled, received_ns)
        return self._series(ask, rates, [r.funding_ns for r in rates], now_ns)

    def _candles_page(self, ask: Ask, meaning: Meaning, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        answer = read_rows(result, _CandleList)
        if answer.symbol and answer.symbol != ask.symbol:
            raise ValueError("candles of another symbol")
        interval_s = ask.interval_s or 0
        events = [
            candle_of(meaning, interval_s, row, received_ns, closed=row[0] * MS + interval_s * NS <= now_ns)
            for row in sorted(answer.list)
        ]
        return self._series(ask, events, [e.open_ns for e in events], open_of(now_ns, interval_s), now_ns)

    def _series(
        self, ask: Ask, events: Sequence[Event], times_ns: Sequence[int], whole_ns: int, now_ns: int | None = None
    ) -> Page:
        """A page of rows in time order; nothing after `whole_ns` is known to be final."""
        start_ns, end_ns, rows = self._window(ask)
        low = max(start_ns or 0, ask.start_ns or 0)
        high = end_ns if end_ns is not None else max(times_ns, default=0) + 1
        kept = [(t, e) for t, e in zip(times_ns, events, strict=True) if low <= t < high]
        found = [e for _, e in kept]
        left = None if ask.limit is None else ask.limit - len(found)
        following: Ask | None = None
        if ask.newest or ask.start_ns is None:
            full = len(events) >= rows
            known_ns = kept[0][0] if kept and (full or ask.start_ns is None) else ask.start_ns
            if kept and full and left is not None and left > 0 and kept[0][0] > (ask.start_ns or 0):
                following = msgspec.structs.replace(ask, newest=True, end_ns=kept[0][0], limit=left)
        else:
            known_ns = ask.start_ns
            last_ns = min(ask.end_ns, now_ns or whole_ns) if ask.end_ns is not None else (now_ns or whole_ns)
            if high < last_ns and (left is None or left > 0):
                following = msgspec.structs.replace(ask, start_ns=high, limit=left)
        until_ns = whole_ns if end_ns is None else min(end_ns, whole_ns)
        return promised(found, following, known_ns, until_ns)

    def _trades_page(self, ask: Ask, meaning: Meaning, result: msgspec.Raw, received_ns: int) -> Page:
        past = read_rows(result, _PastTrades).list
        if any(row.symbol not in {"", ask.symbol} for row in past):
            raise ValueError("trades of another symbol")
        full = len(past) >= self.page_max[Query.TRADES]
        # Newest first, and several of one millisecond in that order too: turned round, not sorted.
        past.reverse()
        known_ns = past[0].time * MS + MS if full else (ask.start_ns or 0)
        after = next((n for n, row in enumerate(past) if row.exec_id == ask.from_id), None)
        if after is not None:
            known_ns = past[after].time * MS
            past = past[after + 1 :]
        # An answer is complete up to when it was made, whatever the venue's clock says.
        end_ns = received_ns + NS if ask.end_ns is None else ask.end_ns
        low = ask.start_ns or 0
        kept = [row for row in past if low <= row.time * MS < end_ns and not row.is_block_trade]
        known_ns = max(known_ns, low)
        if full and after is None and ask.start_ns is not None and known_ns >= end_ns:
            raise errors.OutOfReach(self.name, f"{self.name} serves only the newest {len(past)} trades")
        until_ns = min(end_ns, received_ns)
        if ask.limit is not None and len(kept) > ask.limit:
            kept = kept[-ask.limit :] if ask.newest else kept[: ask.limit]
            known_ns = kept[0].time * MS + MS if ask.newest else known_ns
            until_ns = until_ns if ask.newest else kept[-1].time * MS
        events = [_past_trade(meaning, row, received_ns) for row in kept]
        return promised(events, None, known_ns, until_ns)

    def _tickers_page(self, ask: Ask, result: msgspec.Raw, now_ns: int, received_ns: int) -> Page:
        def read(raw: msgspec.Raw) -> Sequence[Event]:
            row = read_rows(raw, dict[str, Field])
            instrument = self._known(str(row.get("symbol", "")))
            return () if instrument is None else self._told(ask.query, instrument, row, now_ns, received_ns)

        events, unread = events_of(read_rows(result, _Tickers).list, read)
        return Page(events=events, next=None if ask.symbol else self._next_part(ask), unread=unread)

    def _told(
        self, query: Query, instrument: Instrument, row: Fields, now_ns: int, received_ns: int
    ) -> Sequence[Event]:
        """What a row of the tickers says to that question."""
        meaning = meaning_of(instrument)
        if query is Query.TICKERS:
            summary = _summary(meaning, row, now_ns, received_ns)
            return () if summary is None else (summary,)
        wanted = OpenInterest if query is Query.OPEN_INTEREST else (FundingRate, MarkPrice)
        said = ticker_events(meaning, row, row.keys(), now_ns, received_ns)
        return [e for e in said if isinstance(e, wanted)]

    def _listing_page(self, ask: Ask, result: msgspec.Raw) -> Page:
        listing = read_rows(result, _Listing)
        part = (ask.cursor or "").partition("|")[0] or self._parts[0]
        category = self._of_part(part)["category"]
        instruments, unread = instruments_of(
            listing.list, lambda row: self._instrument(read_rows(row, _Listed), category)
        )
        if listing.next_page_cursor:
            following: Ask | None = msgspec.structs.replace(ask, cursor=f"{part}|{listing.next_page_cursor}")
        else:
            following = self._next_part(ask)
        return Page(events=(), instruments=instruments, next=following, unread=unread)

    def _next_part(self, ask: Ask) -> Ask | None:
        parts = self._parts
        part = (ask.cursor or "").partition("|")[0] or parts[0]
        rest = parts[parts.index(part) + 1 :]
        return msgspec.structs.replace(ask, cursor=rest[0]) if rest else None

    def _instrument(self, row: _Listed, category: str) -> Instrument:
        inverse = category == "inverse"
        kind = KINDS.get(category) or (Kind.PERPETUAL if "Perpetual" in row.contract_type else Kind.FUTURE)
        lot = row.lot_size_filter.get("qtyStep") or row.lot_size_filter["basePrecision"]
        return Instrument(
            venue=self.name,
            symbol=row.symbol,
            kind=kind,
            coin=row.base_coin,
            quote=row.quote_coin,
            settle=row.settle_coin or row.quote_coin,
            tick_size=step_of(row.price_filter["tickSize"]),
            lot_size=step_of(lot),
            contract_size=Decimal(1) if inverse else None,
            inverse=inverse,
            listed_ns=row.launch_time * MS or None,
            expires_ns=row.delivery_time * MS or None,
            trading=row.status == "Trading",
        )


def _past_trade(meaning: Meaning, row: _PastTrade, received_ns: int) -> Trade:
    check_traded(row.price, row.size)
    size, value, contracts = size_of(meaning, row.size, row.price)
    side = TAKER[row.side]
    return Trade(
        meaning.name, row.time * MS, received_ns, row.exec_id, row.seq, side, row.price, size, 1, value, contracts
    )


def _summary(meaning: Meaning, row: Fields, event_ns: int, received_ns: int) -> Ticker | None:
    keys = ("prevPrice24h", "highPrice24h", "lowPrice24h", "lastPrice", "volume24h", "turnover24h")
    first, high, low, last, volume, turnover = (number_of(row, key) for key in keys)
    if not first or not high or not low or not last or volume is None or turnover is None:
        return None  # not traded yet
    if min(first, high, low, last) < 0 or min(volume, turnover) < 0:
        raise ValueError("negative ticker")
    if meaning.inverse:
        volume, turnover = turnover, volume
    return Ticker(meaning.name, event_ns, received_ns, first, high, low, last, volume, turnover, 0)


def _past_interest(meaning: Meaning, row: _PastInterest, received_ns: int) -> OpenInterest:
    size = row.open_interest * HALF if row.single_open_interest is None else row.single_open_interest
    if not ZERO <= size < NUMBER_MAX:
        raise ValueError("open interest out of range")
    return OpenInterest(meaning.name, row.timestamp * MS, received_ns, size)


def _past_fundings(meaning: Meaning, rows: Sequence[_PastFunding], received_ns: int) -> list[FundingRate]:
    """Settled rates. A period began where the one before it ended; the first of a page does not tell."""
    events: list[FundingRate] = []
    before_ms: int | None = None
    for row in rows:
        if not abs(row.funding_rate) < NUMBER_MAX:
            raise ValueError("funding rate out of range")
        at_ms = row.funding_rate_timestamp
        interval_s = period_s(before_ms, at_ms)
        at_ns = at_ms * MS
        events.append(FundingRate(meaning.name, at_ns, received_ns, row.funding_rate, at_ns, interval_s, settled=True))
        before_ms = at_ms
    return events


def _pause_s(answer: Answer) -> float:
    """How long the venue says to wait."""
    try:
        if "retry-after" in answer.headers:
            return min(PAUSE_S_MAX, max(PAUSE_S, float(answer.headers["retry-after"])))
        reset_ms = int(answer.headers["x-bapi-limit-reset-timestamp"])
        return min(PAUSE_S_MAX, max(PAUSE_S, (reset_ms - answer.received_ns // MS) / 1_000))
    except (KeyError, ValueError):
        return PAUSE_S
