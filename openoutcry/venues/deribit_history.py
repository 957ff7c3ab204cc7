"""What Deribit's REST side can be asked, and what its symbols mean.

https://docs.deribit.com/api-reference/market-data/public-get_last_trades_by_instrument

    GET /api/v2/public/get_last_trades_by_instrument?instrument_name=BTC-PERPETUAL&start_seq=5&end_seq=1004&count=1000
    {"jsonrpc": "2.0", "result": {"trades": [{"trade_seq": 5, ...}, ...], "has_more": false}, "usIn": ..., "usOut": ...}
    GET /api/v2/public/get_tradingview_chart_data?instrument_name=BTC-PERPETUAL&resolution=1&start_timestamp=...
    {..., "result": {"status": "ok", "ticks": [1573645080000], "open": [8791.25], "high": ..., "low": ..., "close": ...,
        "volume": [0.05219351], "cost": [460]}}
    GET /api/v2/public/get_funding_rate_history?instrument_name=BTC-PERPETUAL&start_timestamp=...&end_timestamp=...
    {..., "result": [{"timestamp": 1569888000000, "interest_1h": 5.9e-06, "interest_8h": 2.0e-05, ...}, ...]}
    GET /api/v2/public/get_book_summary_by_currency?currency=BTC&kind=option
    {..., "result": [{"instrument_name": "BTC-25DEC26-64000-C", "open_interest": 12.5, "underlying_price": 64012.1, ...}]}
    {"jsonrpc": "2.0", "error": {"code": -32602, "message": "Invalid params", "data": {"reason": "wrong format",
        "param": "instrument_name"}}, "usIn": ...}

Both bounds of a stretch are included. Trades are asked by number, a page at a time, once the first after a time has
told where to begin: given a start, the venue answers from the earliest on. Of candles and rates never more than a page
is asked, so that it does not matter which end would be cut. Bars longer than two hours are not asked for: whether the
venue's day opens at 00:00 or at its 08:00 is not said. A summary tells by how many per cent the price moved, from which
its opening price is reckoned; summaries of options are left out, since it is not said in what their turnover is told.
Options quoted in dollars are summed up under USDC, whatever their coin.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated

import msgspec

from openoutcry import errors
from openoutcry.events import NS, Candle, Event, FundingRate, OpenInterest, Ticker, open_of
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import MS, NUMBER_MAX, TIME_MS_END, ZERO, TimeMs, step_of
from openoutcry.venues.deribit_wire import (
    DOLLAR,
    HOUR_S,
    NAME,
    Meaning,
    Symbol,
    TickerRow,
    TradeRow,
    assumed,
    candle_of,
    interest_of,
    interests_of,
    marks_of,
    meaning_of,
    rate_of,
    trade_of,
)
from openoutcry.venues.paging import code_of, events_of, instruments_of, promised, read_rows, stretch
from openoutcry.venues.venue import Answer, Ask, Page, Query, Rate, Request

RESOLUTIONS = {
    60: "1",
    180: "3",
    300: "5",
    600: "10",
    900: "15",
    1_800: "30",
    3_600: "60",
    7_200: "120",
}
TRADES_MAX = 1_000
CANDLES_MAX = 1_000
# Hours: somewhat less than the month after which the venue cuts.
RATES_MAX = 700
# A stretch is never asked for in smaller pieces, however few rows are wanted: before the first trade there are none.
ROWS_MIN = 100
# A minute's candle may lack its last trades for a moment.
CANDLE_LATE_NS = 5 * NS
LISTED_KINDS = ("future", "option")
# Under what summaries are told; dollar contracts of all coins stand under their dollar.
CURRENCIES = ("BTC", "ETH", "USDC", "USDT")
COIN_CURRENCIES = frozenset({"BTC", "ETH"})
DOLLARS = "USDC"
# 500 credits a question, 50,000 at most, 10,000 come back each second; listings have a budget of their own.
CREDITS = 500
LISTING_CREDITS = 10_000
WEIGHTS: Mapping[str, Rate] = {"credits": Rate(50_000, 5.0), "listings": Rate(500_000, 50.0)}
# So long after the hour its rate may still be missing.
RATE_LATE_NS = 300 * NS
PAUSE_S = 1.0
PAUSE_S_MAX = 600.0
TOO_FAST = frozenset({10028, 10066})
# What passes by itself: too fast, a settlement, a full queue, a restart, maintenance.
PASSING = TOO_FAST | {10040, 10041, 10047, 11051, 13028, 13888}
NOT_FOUND = frozenset({10020, 13020})
BAD_PARAMETER = -32602
TIME_US_END = TIME_MS_END * 1_000
_HTML = (b"<!", b"<h", b"<H")
_HUNDRED = Decimal(100)
_Moment = Annotated[int, msgspec.Meta(ge=0)]


class _Detail(msgspec.Struct):
    param: str = ""
    reason: str = ""


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Envelope(msgspec.Struct, rename={"made_us": "usOut"}):
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None
    made_us: int = 0


class _Trades(msgspec.Struct):
    trades: list[TradeRow]
    has_more: bool = False


class _Chart(msgspec.Struct):
    ticks: list[TimeMs]
    open: list[Decimal]
    high: list[Decimal]
    low: list[Decimal]
    close: list[Decimal]
    volume: list[Decimal]
    cost: list[Decimal]


class _PastRate(msgspec.Struct, rename={"event_ms": "timestamp"}):
    event_ms: TimeMs
    interest_1h: Decimal


class _Summary(msgspec.Struct, rename={"symbol": "instrument_name", "event_ms": "creation_timestamp"}):
    symbol: Symbol
    event_ms: TimeMs
    open_interest: Decimal = ZERO
    mark_price: Decimal | None = None
    underlying_price: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    last: Decimal | None = None
    price_change: Decimal | None = None
    volume: Decimal = ZERO
    volume_usd: Decimal | None = None
    volume_notional: Decimal | None = None


class _Listed(msgspec.Struct, rename={"symbol": "instrument_name"}):
    symbol: Symbol
    kind: str
    tick_size: Decimal
    min_trade_amount: Decimal
    base_currency: str
    quote_currency: str
    settlement_currency: str = ""
    settlement_period: str = ""
    # Of a future once `future_type`; before that there were reversed ones only.
    instrument_type: str = ""
    future_type: str = "reversed"
    creation_timestamp: _Moment = 0
    expiration_timestamp: _Moment = 0
    is_active: bool = True


class DeribitHistory:
    """The REST half: questions and answers, and the listing they need."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = dict.fromkeys(
        (Kind.PERPETUAL, Kind.FUTURE, Kind.OPTION), (Exchange.DERIBIT,)
    )
    rest = "https://www.deribit.com"
    queries = frozenset(Query) - {
        Query.OPEN_INTEREST_HISTORY,
        Query.PREDICTED_FUNDING,
        Query.POSITIONS,
        Query.DEPTH,
    }
    intervals_s = frozenset(RESOLUTIONS)
    page_max: Mapping[Query, int] = {
        Query.CANDLES: CANDLES_MAX,
        Query.TRADES: TRADES_MAX,
        Query.FUNDING_HISTORY: RATES_MAX,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._meanings: dict[str, Meaning] = {}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean."""
        self._listing = {i.symbol: i for i in instruments}
        self._meanings = {symbol: meaning_of(i) for symbol, i in self._listing.items()}

    def assume(self, symbol: str) -> Instrument | None:
        """What the spelling tells. No size needs the listing: amounts are dollars or coins."""
        return assumed(symbol)

    def _known(self, symbol: str) -> Meaning | None:
        known = self._meanings.get(symbol)
        if known is not None:
            return known
        instrument = self.assume(symbol)
        return None if instrument is None else meaning_of(instrument)

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{self.name} does not serve {ask.query}")
        method, query = self._question(ask)
        said = tuple((key, str(value)) for key, value in query.items() if value is not None)
        listing = ask.query is Query.INSTRUMENTS
        pool, weight = ("listings", LISTING_CREDITS) if listing else ("credits", CREDITS)
        return Request(path=f"/api/v2/public/{method}", query=said, pool=pool, weight=weight)

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.TIME:
            return "get_time", {}
        if ask.query is Query.INSTRUMENTS:
            return "get_instruments", {"currency": "any", "kind": ask.cursor or LISTED_KINDS[0], "expired": "false"}
        if ask.query is Query.TICKERS and ask.symbol is None:
            return "get_book_summary_by_currency", {"currency": ask.cursor or CURRENCIES[0]}
        assert ask.symbol is not None, f"{ask.query} is not asked of all instruments"
        if ask.query is Query.OPTION_INTEREST:
            return "get_book_summary_by_currency", {"currency": _currency(ask), "kind": "option"}
        query: dict[str, str | int | None] = {"instrument_name": ask.symbol}
        if ask.query is Query.TICKERS:
            return "get_book_summary_by_instrument", query
        if ask.query in {Query.OPEN_INTEREST, Query.FUNDING}:
            return "ticker", query
        if ask.query is Query.TRADES:
            method, bounds = _trade_question(ask)
            return method, {**query, **bounds, "include_old": "true"}
        if ask.query is Query.CANDLES:
            query["resolution"] = code_of(ask, RESOLUTIONS)
        if _timeless(ask):
            return "get_time", {}
        if ask.query is Query.CANDLES:
            return "get_tradingview_chart_data", query | self._bounds(ask)
        return "get_funding_rate_history", query | self._bounds(ask)

    def _bounds(self, ask: Ask) -> dict[str, str | int | None]:
        """Both ends, always: the venue asks for them, and includes them."""
        start_ns, end_ns = self._window(ask)
        return {"start_timestamp": -(-start_ns // MS), "end_timestamp": -(-end_ns // MS) - 1}

    def _window(self, ask: Ask) -> tuple[int, int]:
        """[start_ns, end_ns) of one answer."""
        wide = ask if ask.limit is None else msgspec.structs.replace(ask, limit=max(ask.limit, ROWS_MIN))
        start_ns, end_ns, rows = stretch(wide, self.page_max[ask.query], self._listing.get(ask.symbol or ""))
        assert end_ns is not None, "the time is asked first"
        if _backwards(ask) or start_ns is None:
            step_s = HOUR_S if ask.query is Query.FUNDING_HISTORY else ask.interval_s or 1
            start_ns = max(start_ns or 0, end_ns - rows * step_s * NS)
        return start_ns, max(end_ns, start_ns + MS)

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        try:
            result, made_ns = self._result(ask, answer)
            return self._pages(ask, result, made_ns, answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _result(self, ask: Ask, answer: Answer) -> tuple[msgspec.Raw, int]:
        """What was asked for, and when the answer was made."""
        if answer.status == 429:
            raise errors.RateLimited(self.name, "too many requests", _pause_s(answer))
        if answer.status >= 500 or (answer.status != 200 and answer.body.lstrip()[:2] in _HTML):
            raise errors.Unavailable(self.name, f"{self.name} answered {answer.status}")
        envelope = msgspec.json.decode(answer.body, type=_Envelope)
        if envelope.error is not None:
            raise self._refusal(ask, answer, envelope.error)
        if not bytes(envelope.result) or answer.status != 200:
            raise errors.Unavailable(self.name, f"{self.name} answered {answer.status} without a result")
        made_us = envelope.made_us
        return envelope.result, made_us * 1_000 if 0 < made_us < TIME_US_END else answer.received_ns

    def _refusal(self, ask: Ask, answer: Answer, error: _Error) -> errors.Refusal:
        if error.code in TOO_FAST:
            return errors.RateLimited(self.name, f"too many requests ({error.code})", _pause_s(answer))
        about = _param_of(error)
        named = error.code in NOT_FOUND or (error.code == BAD_PARAMETER and about in {"instrument_name", "currency"})
        if named and ask.symbol is not None:
            return errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        text = f"{self.name} answered {answer.status} {error.code}: {error.message[:100]}"
        return errors.Unavailable(self.name, f"{text} {about[:50]}".rstrip())

    def _pages(self, ask: Ask, result: msgspec.Raw, made_ns: int, received_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if ask.query is Query.INSTRUMENTS:
            return _listing_page(ask, result)
        if ask.query is Query.TICKERS:
            return self._tickers_page(ask, result, received_ns)
        if ask.query is Query.OPTION_INTEREST:
            return self._option_interest_page(ask, result, received_ns)
        assert ask.symbol is not None
        meaning = self._known(ask.symbol)
        if meaning is None:
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        if ask.query in {Query.OPEN_INTEREST, Query.FUNDING}:
            row = read_rows(result, TickerRow)
            said = interests_of if ask.query is Query.OPEN_INTEREST else marks_of
            return Page(events=said(meaning, row, received_ns))
        if ask.query is Query.TRADES:
            return self._trades_page(ask, meaning, result, received_ns)
        if _timeless(ask):
            now_ms = msgspec.json.decode(result, type=TimeMs)
            return Page(events=(), next=msgspec.structs.replace(ask, newest=True, end_ns=now_ms * MS + MS))
        if ask.query is Query.CANDLES:
            interval_s = ask.interval_s or 0
            whole_ns = open_of(made_ns - CANDLE_LATE_NS, interval_s)
            candles = _candles(meaning, interval_s, read_rows(result, _Chart), whole_ns, received_ns)
            return self._series(ask, candles, [c.open_ns for c in candles], whole_ns, made_ns)
        past = sorted(read_rows(result, list[_PastRate]), key=lambda row: row.event_ms)
        rates = [_past_rate(meaning, row, received_ns) for row in past]
        return self._series(ask, rates, [rate.funding_ns for rate in rates], made_ns - RATE_LATE_NS, made_ns)

    def _series(self, ask: Ask, events: Sequence[Event], times_ns: Sequence[int], whole_ns: int, now_ns: int) -> Page:
        """A page of rows in time order; nothing after `whole_ns` is known to be final."""
        start_ns, end_ns = self._window(ask)
        low_ns, until_ns = max(start_ns, ask.start_ns or 0), min(end_ns, whole_ns)
        found = [(t, e) for t, e in zip(times_ns, events, strict=True) if low_ns <= t < end_ns]
        left = None if ask.limit is None else ask.limit - len(found)
        following: Ask | None = None
        if _backwards(ask):
            if left is not None and left < 0:
                found = found[-left:]
                low_ns = found[0][0]
            listed = self._listing.get(ask.symbol or "")
            first_ns = max(ask.start_ns or 0, 0 if listed is None else listed.listed_ns or 0)
            # Since intervals without a trade are told too, nothing lies before a stretch of the past that is empty.
            goes_on = bool(found) or end_ns > now_ns
            if goes_on and left is not None and left > 0 and start_ns > first_ns:
                before_ns = min(start_ns, now_ns + MS)
                following = msgspec.structs.replace(ask, newest=True, end_ns=before_ns, limit=left)
            return promised([e for _, e in found], following, low_ns, until_ns)
        assert ask.start_ns is not None
        if left is not None and left < 0:
            until_ns = min(until_ns, found[left][0])
            found = found[:left]
        elif end_ns < (now_ns if ask.end_ns is None else min(ask.end_ns, now_ns)) and left != 0:
            following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left)
        return promised([e for _, e in found], following, ask.start_ns, until_ns)

    def _trades_page(self, ask: Ask, meaning: Meaning, result: msgspec.Raw, now_ns: int) -> Page:
        answer = read_rows(result, _Trades)
        rows = sorted(answer.trades, key=lambda row: row.seq)
        if any(row.symbol != ask.symbol for row in rows):
            raise ValueError("trades of another instrument")
        if _backwards(ask) and ask.from_id is None:
            return _newest_trades(ask, meaning, rows, now_ns)
        low_ns, high_ns = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
        if ask.from_id is None:
            fresh, more = rows, answer.has_more
        else:
            after = int(ask.from_id)
            fresh = [row for row in rows if row.seq > after]
            if fresh and fresh[0].seq != after + 1:
                # Numbers have no holes: those between are no longer served.
                raise errors.OutOfReach(self.name, f"{self.name} no longer serves the trades after {after}")
            more = bool(fresh) and fresh[-1].seq >= after + TRADES_MAX
        kept = [row for row in fresh if low_ns <= row.event_ms * MS < high_ns]
        cut = ask.limit is not None and len(kept) > ask.limit
        kept = kept[: ask.limit] if cut else kept
        events = [trade_of(meaning, row, now_ns) for row in kept]
        left = None if ask.limit is None else ask.limit - len(kept)
        if cut or left == 0:
            return promised(events, None, ask.start_ns, kept[-1].event_ms * MS if kept else low_ns)
        if not more or not fresh or fresh[-1].event_ms * MS >= high_ns:
            return promised(events, None, ask.start_ns, min(high_ns, now_ns))
        # Of the last millisecond some may be in the next page.
        until_ns = fresh[-1].event_ms * MS
        start_ns = None if ask.start_ns is None else max(ask.start_ns, until_ns)
        following = msgspec.structs.replace(ask, start_ns=start_ns, from_id=fresh[-1].seq, limit=left)
        return promised(events, following, ask.start_ns, until_ns)

    def _tickers_page(self, ask: Ask, result: msgspec.Raw, received_ns: int) -> Page:
        def read(raw: msgspec.Raw) -> Sequence[Ticker]:
            row = read_rows(raw, _Summary)
            meaning = self._meanings.get(row.symbol)
            return () if meaning is None else _ticker(meaning, row, self._listing[row.symbol].tick_size, received_ns)

        events, unread = events_of(read_rows(result, list[msgspec.Raw]), read)
        if ask.symbol is not None:
            return Page(events=events, unread=unread)
        rest = CURRENCIES[CURRENCIES.index(ask.cursor or CURRENCIES[0]) + 1 :]
        following = msgspec.structs.replace(ask, cursor=rest[0]) if rest else None
        return Page(events=events, next=following, unread=unread)

    def _option_interest_page(self, ask: Ask, result: msgspec.Raw, received_ns: int) -> Page:
        def read(raw: msgspec.Raw) -> Sequence[OpenInterest]:
            row = read_rows(raw, _Summary)
            meaning = self._meanings.get(row.symbol)
            if meaning is None or meaning.kind is not Kind.OPTION or meaning.coin != ask.symbol:
                return ()
            underlying, event_ns = row.underlying_price or ZERO, row.event_ms * MS
            told = interest_of(meaning, row.open_interest, row.mark_price or ZERO, underlying, event_ns, received_ns)
            return () if told is None else (told,)

        events, unread = events_of(read_rows(result, list[msgspec.Raw]), read)
        following = None if _currency(ask) == DOLLARS else msgspec.structs.replace(ask, cursor=DOLLARS)
        return Page(events=events, next=following, unread=unread)


def _backwards(ask: Ask) -> bool:
    return ask.newest or ask.start_ns is None


def _timeless(ask: Ask) -> bool:
    """The newest of a series are asked for up to a moment, so that the venue's time is asked first."""
    return ask.query in {Query.CANDLES, Query.FUNDING_HISTORY} and _backwards(ask) and ask.end_ns is None


def _currency(ask: Ask) -> str:
    """Of options on a coin, those in the coin first, then those in dollars."""
    assert ask.symbol is not None
    return ask.cursor or (ask.symbol if ask.symbol in COIN_CURRENCIES else DOLLARS)


def _trade_question(ask: Ask) -> tuple[str, dict[str, str | int | None]]:
    """By number where one is known, by time to find the first one, or the newest."""
    by_number, by_time = "get_last_trades_by_instrument", "get_last_trades_by_instrument_and_time"
    if ask.from_id is not None:
        after = int(ask.from_id)
        return by_number, _numbers(after + 1, after + TRADES_MAX)
    rows = TRADES_MAX if ask.limit is None else max(1, min(TRADES_MAX, ask.limit))
    end_ms = None if ask.end_ns is None else -(-ask.end_ns // MS) - 1
    if not _backwards(ask):
        assert ask.start_ns is not None
        start_ms = -(-ask.start_ns // MS)
        return by_time, {"start_timestamp": start_ms, "end_timestamp": end_ms, "count": rows, "sorting": "asc"}
    if ask.cursor is not None:
        before = int(ask.cursor)
        return by_number, _numbers(max(1, before - rows), before - 1)
    if end_ms is not None:
        return by_time, {"end_timestamp": end_ms, "count": rows, "sorting": "desc"}
    return by_number, {"count": rows, "sorting": "desc"}


def _numbers(first: int, last: int) -> dict[str, str | int | None]:
    return {"start_seq": first, "end_seq": last, "count": TRADES_MAX, "sorting": "asc"}


def _newest_trades(ask: Ask, meaning: Meaning, rows: Sequence[TradeRow], now_ns: int) -> Page:
    low_ns = ask.start_ns or 0
    until_ns = now_ns if ask.end_ns is None else min(now_ns, ask.end_ns)
    kept = [
        row for row in rows if low_ns <= row.event_ms * MS and (ask.end_ns is None or row.event_ms * MS < ask.end_ns)
    ]
    if ask.limit is not None:
        kept = kept[len(kept) - min(ask.limit, len(kept)) :]
    events = [trade_of(meaning, row, now_ns) for row in kept]
    left = None if ask.limit is None else ask.limit - len(kept)
    if not rows:
        # Nothing before what was told already, or no longer served: which of both is not known.
        return promised(events, None, ask.start_ns if ask.cursor is None else None, until_ns)
    oldest = rows[0]
    if oldest.seq == 1 or oldest.event_ms * MS < low_ns:
        return promised(events, None, low_ns if ask.start_ns is not None else None, until_ns)
    # Of the oldest millisecond some may still be missing: the next page ends with it.
    known_ns = min(oldest.event_ms * MS + MS, until_ns)
    following = None
    if (left is not None and left > 0) or (left is None and ask.start_ns is not None):
        following = msgspec.structs.replace(ask, newest=True, end_ns=known_ns, cursor=str(oldest.seq), limit=left)
    return promised(events, following, max(low_ns, known_ns), until_ns)


def _candles(meaning: Meaning, interval_s: int, chart: _Chart, whole_ns: int, received_ns: int) -> list[Candle]:
    columns = (chart.ticks, chart.open, chart.high, chart.low, chart.close, chart.volume, chart.cost)
    rows = sorted(zip(*columns, strict=True))
    return [
        candle_of(meaning, interval_s, row, received_ns, closed=row[0] * MS + interval_s * NS <= whole_ns)
        for row in rows
    ]


def _past_rate(meaning: Meaning, row: _PastRate, received_ns: int) -> FundingRate:
    at_ns = row.event_ms * MS
    return FundingRate(meaning.name, at_ns, received_ns, rate_of(row.interest_1h), at_ns, HOUR_S, settled=True)


def _ticker(meaning: Meaning, row: _Summary, tick: Decimal, received_ns: int) -> Sequence[Ticker]:
    high, low, last, change = row.high, row.low, row.last, row.price_change
    quote = row.volume_usd if row.volume_notional is None else row.volume_notional
    if meaning.kind is Kind.OPTION or not high or not low or not last or change is None or quote is None:
        return ()  # not traded yet, or not in units that are known
    if not (ZERO < low <= last <= high < NUMBER_MAX and -_HUNDRED < change < NUMBER_MAX):
        raise ValueError("ticker out of range")
    if not (ZERO <= row.volume < NUMBER_MAX and ZERO <= quote < NUMBER_MAX):
        raise ValueError("volume out of range")
    first = (last / (1 + change / _HUNDRED)).quantize(tick, ROUND_HALF_EVEN)
    first = min(max(first, low), high)
    return (Ticker(meaning.name, row.event_ms * MS, received_ns, first, high, low, last, row.volume, quote, 0),)


def _listing_page(ask: Ask, result: msgspec.Raw) -> Page:
    kind = ask.cursor or LISTED_KINDS[0]
    rows = read_rows(result, list[msgspec.Raw])
    instruments, unread = instruments_of(rows, lambda row: _instrument(read_rows(row, _Listed), kind))
    rest = LISTED_KINDS[LISTED_KINDS.index(kind) + 1 :]
    following = msgspec.structs.replace(ask, cursor=rest[0]) if rest else None
    return Page(events=(), instruments=instruments, next=following, unread=unread)


def _instrument(row: _Listed, kind: str) -> Instrument:
    if row.kind != kind:
        raise ValueError("an instrument of another kind")
    perpetual, option = row.settlement_period == "perpetual", kind == "option"
    inverse = not option and (row.instrument_type or row.future_type) == "reversed"
    return Instrument(
        venue=NAME,
        symbol=row.symbol,
        kind=Kind.OPTION if option else Kind.PERPETUAL if perpetual else Kind.FUTURE,
        coin=row.base_currency,
        quote=row.quote_currency,
        settle=row.settlement_currency or (row.base_currency if inverse or option else row.quote_currency),
        tick_size=step_of(str(row.tick_size)),
        lot_size=step_of(str(row.min_trade_amount)),
        contract_size=DOLLAR if inverse else None,
        inverse=inverse,
        listed_ns=_ns(row.creation_timestamp),
        expires_ns=None if perpetual else _ns(row.expiration_timestamp),
        trading=row.is_active,
    )


def _ns(moment_ms: int) -> int | None:
    if moment_ms >= TIME_MS_END:
        raise ValueError("a time out of range")
    return moment_ms * MS or None


def _param_of(error: _Error) -> str:
    """Which parameter an error is about, where it says so."""
    try:
        return msgspec.json.decode(error.data, type=_Detail).param
    except msgspec.MsgspecError:
        return ""


def _pause_s(answer: Answer) -> float:
    """How long the venue says to wait."""
    try:
        return min(PAUSE_S_MAX, max(PAUSE_S, float(answer.headers["retry-after"])))
    except (KeyError, ValueError):
        return PAUSE_S
