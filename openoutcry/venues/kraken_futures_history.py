"""What Kraken Futures' REST side can be asked, and what its symbols mean.

https://docs.kraken.com/api/docs/futures-api/trading/market-data

    GET /derivatives/api/v3/history?symbol=PI_XBTUSD&lastTime=2022-03-18T05:55:37.000Z
    {"result": "success", "serverTime": "2022-03-18T05:55:40.000Z", "history": [{"time": "2022-03-18T05:55:36.999Z",
        "trade_id": 100, "price": 40653, "size": 1000, "side": "sell", "type": "fill", "uid": "6c5da0b0-f1a8-483f-..."}, ...]}

    GET /api/charts/v1/trade/PF_XBTUSD/1m?from=1790265600&to=1790269199
    {"candles": [{"time": 1790265600000, "open": "84406", "high": "84924", "low": "84009", "close": "84476",
        "volume": "250.90500000000"}, ...], "more_candles": false}

    GET /derivatives/api/v4/historicalfundingrates?symbol=PF_XBTUSD
    {"result": "success", "rates": [{"timestamp": "2025-09-24T08:00:00Z", "fundingRate": 1.3285114808978307,
        "relativeFundingRate": 1.1795815277778e-05}, ...]}

    {"status": "BAD_REQUEST", "result": "error", "errors": [{"code": 11, "message": "Argument invalid: symbol"}]}
    {"result": "error", "error": "apiLimitExceeded"}

`history` gives the newest hundred before `lastTime`, newest first, of seven days or since the engine started, whichever is
shorter: fewer than a hundred say that there are no older ones, not that nothing was traded. Its `trade_id` counts the rows
of the answer. Trades are asked upwards by windows narrow enough for one answer (`cursor` is their width), downwards by the
oldest moment told. A candle's volume counts as sizes do: coins, or dollars of inverse contracts, whose coins are estimated
at (high + low + close) / 3, as is the quote volume of the others. At most 2,000 come, though 5,000 are documented; which
end is cut is not told, so no more are asked for. Weekly ones are left out: it is not told when they open. Funding rates
come all at once; each is stamped when its period began and is paid until the next begins. The v3 address of them, and the
running rate, are not served: the ticker stream tells it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import Annotated
from urllib.parse import quote

import msgspec

from openoutcry import errors
from openoutcry.events import NS, Candle, FundingRate, OpenInterest, Ticker, Trade, open_of
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import (
    COIN_STEP,
    MS,
    NUMBER_MAX,
    STEP_UNKNOWN,
    ZERO,
    TimeMs,
    candle_of_row,
    check_traded,
    period_s,
    step_of,
)
from openoutcry.venues.kraken_futures_wire import (
    COINS,
    NAME,
    ON_BOOK,
    SIDES,
    Meaning,
    OrderSide,
    Stamp,
    Symbol,
    TradeId,
    interest_of,
    meaning_of,
    ns_of,
    rate_of,
    size_of,
    stamp_of,
)
from openoutcry.venues.paging import (
    candles_page,
    code_of,
    instruments_of,
    pause_s,
    promised,
    stretch,
    symbol_asked,
)
from openoutcry.venues.venue import Answer, Ask, Page, Query, Rate, Request

TRADES_MAX = 100
CANDLES_MAX = 2_000
# However few are wanted, so many intervals are looked at.
CANDLES_MIN = 200
# A year of hourly rates are some 8,800.
FUNDINGS_MAX = 20_000
# So much of a full answer is aimed at: trades do not come evenly.
TRADES_AIM = 70
WINDOW_GROWTH_MAX = 4
DAY_NS = 86_400 * NS
TRADES_REACH_NS = 7 * DAY_NS
# A candle that is asked for so long after its end will not change.
CLOSED_AFTER_NS = 5 * NS
# The venue's budget of a caller without a key is not published.
WEIGHTS: Mapping[str, Rate] = {"derivatives": Rate(100, 10.0), "charts": Rate(100, 10.0)}
PAUSE_S = 10.0
TOO_FAST = frozenset({"apiLimitExceeded"})
NOT_LISTED = frozenset({"contractNotFound", "notFound", "invalidArgument"})
RESOLUTIONS = {
    60: "1m",
    300: "5m",
    900: "15m",
    1_800: "30m",
    3_600: "1h",
    14_400: "4h",
    43_200: "12h",
    86_400: "1d",
}
TYPES = {"futures_inverse": True, "flexible_futures": False, "futures_vanilla": False}
_V3, _V4, _CHARTS = "/derivatives/api/v3", "/derivatives/api/v4", "/api/charts/v1"
_SPELLING = re.compile(r"(?P<type>P|F)(?P<margin>I|F)_(?P<coin>[A-Z0-9]{1,20})USD(?:_(?P<day>[0-9]{6}))?", re.ASCII)


class _Problem(msgspec.Struct, frozen=True):
    message: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    result: str = ""
    error: str = ""
    errors: list[_Problem] = []
    candles: msgspec.Raw | None = None


class _Trades(msgspec.Struct, frozen=True):
    history: list["_PastTrade"]


class _PastTrade(msgspec.Struct, frozen=True, gc=False):
    time: Stamp
    id: TradeId = msgspec.field(name="uid")
    price: Decimal
    count: Decimal = msgspec.field(name="size")
    side: OrderSide
    type: str


class _Bar(msgspec.Struct, frozen=True, gc=False):
    open_ms: TimeMs = msgspec.field(name="time")
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


class _Bars(msgspec.Struct, frozen=True):
    candles: list[_Bar]
    more: bool = msgspec.field(name="more_candles", default=False)


class _Funding(msgspec.Struct, frozen=True, gc=False):
    began: Stamp = msgspec.field(name="timestamp")
    rate: Decimal = msgspec.field(name="relativeFundingRate")


class _Fundings(msgspec.Struct, frozen=True):
    rates: Annotated[list[_Funding], msgspec.Meta(max_length=FUNDINGS_MAX)]


class _Tickers(msgspec.Struct, frozen=True):
    tickers: list[msgspec.Raw]
    now: Stamp = msgspec.field(name="serverTime")


class _Ticker(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    symbol: Symbol
    mark_price: Decimal | None = None
    open_interest: Decimal | None = None
    last: Decimal | None = None
    open24h: Decimal | None = None
    high24h: Decimal | None = None
    low24h: Decimal | None = None
    vol24h: Decimal | None = None
    volume_quote: Decimal | None = None


class _Listing(msgspec.Struct, frozen=True):
    instruments: list[msgspec.Raw]


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    symbol: Symbol
    type: str
    tick_size: Decimal | None = None
    contract_size: Decimal | None = None
    # Decimal places of a size; below zero it goes by tens, hundreds, ...
    contract_value_trade_precision: Annotated[int, msgspec.Meta(ge=-12, le=12)] = 0
    tradeable: bool = False
    is_expired: bool = False
    base: str = ""
    quote: str = "USD"
    opening_date: Stamp | None = None
    last_trading_time: Stamp | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode
_trades = msgspec.json.Decoder(_Trades).decode
_bars = msgspec.json.Decoder(_Bars).decode
_fundings = msgspec.json.Decoder(_Fundings).decode
_tickers = msgspec.json.Decoder(_Tickers).decode
_ticker = msgspec.json.Decoder(_Ticker).decode
_listing = msgspec.json.Decoder(_Listing).decode
_listed = msgspec.json.Decoder(_Listed).decode


class KrakenFuturesHistory:
    """The REST half: questions and answers, and the listing they need."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {
        Kind.PERPETUAL: (Exchange.CRYPTOFACILITIES,),
        Kind.FUTURE: (Exchange.CRYPTOFACILITIES,),
    }
    rest = "https://futures.kraken.com"
    queries = frozenset(
        {
            Query.INSTRUMENTS,
            Query.CANDLES,
            Query.TRADES,
            Query.OPEN_INTEREST,
            Query.FUNDING_HISTORY,
            Query.TICKERS,
            Query.TIME,
        }
    )
    intervals_s = frozenset(RESOLUTIONS)
    page_max: Mapping[Query, int] = {
        Query.CANDLES: CANDLES_MAX,
        Query.TRADES: TRADES_MAX,
        Query.FUNDING_HISTORY: FUNDINGS_MAX,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._meanings: dict[str, Meaning] = {}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean, contract sizes."""
        self._listing = {i.symbol: i for i in instruments}
        self._meanings = {symbol: meaning_of(i) for symbol, i in self._listing.items()}

    def assume(self, symbol: str) -> Instrument | None:
        """The prefix tells what it is and how it counts; inverse contracts are worth a dollar. When one ends is not told."""
        said = _SPELLING.fullmatch(symbol)
        if said is None or (said["type"] == "F") != (said["day"] is not None):
            return None
        coin, inverse = COINS.get(said["coin"], said["coin"]), said["margin"] == "I"
        return Instrument(
            venue=NAME,
            symbol=symbol,
            kind=Kind.PERPETUAL if said["type"] == "P" else Kind.FUTURE,
            coin=coin,
            quote="USD",
            settle=coin if inverse else "USD",
            tick_size=STEP_UNKNOWN,
            lot_size=Decimal(1) if inverse else STEP_UNKNOWN,
            contract_size=Decimal(1) if inverse else None,
            inverse=inverse,
        )

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{NAME} does not serve {ask.query}")
        if ask.query is Query.TIME or _lacks_now(ask):
            return Request(path=f"{_CHARTS}/", pool="charts")
        if ask.query is Query.INSTRUMENTS:
            return Request(path=f"{_V3}/instruments", pool="derivatives")
        if ask.query in {Query.TICKERS, Query.OPEN_INTEREST}:
            return Request(path=f"{_V3}/tickers", pool="derivatives")
        symbol = symbol_asked(ask, NAME)
        if ask.query is Query.CANDLES:
            path = f"{_CHARTS}/trade/{quote(symbol, safe='')}/{code_of(ask, RESOLUTIONS)}"
            start_ns, end_ns = self._candle_window(ask)
            bounds = (("from", str(-(-start_ns // NS))), ("to", str((end_ns - 1) // NS)))
            return Request(path=path, query=bounds, pool="charts")
        if ask.query is Query.FUNDING_HISTORY:
            return Request(path=f"{_V4}/historicalfundingrates", query=(("symbol", symbol),), pool="derivatives")
        last_ms = _last_ms(ask)
        bound = () if last_ms is None else (("lastTime", stamp_of(last_ms)),)
        return Request(path=f"{_V3}/history", query=(("symbol", symbol), *bound), pool="derivatives")

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        if answer.status != 200 or answer.body[:400].find(b'"error"') >= 0:
            self._refuse(ask, answer)
        try:
            return self._pages(ask, answer.body, answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _refuse(self, ask: Ask, answer: Answer) -> None:
        """Raise what an answer that is no good one means; return where it only looked like one."""
        try:
            told = _envelope(answer.body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            told = _Envelope()
        texts = [told.error, *(problem.message for problem in told.errors)]
        status = answer.status
        if status == 429 or not TOO_FAST.isdisjoint(texts):
            raise errors.RateLimited(NAME, f"{NAME} asks to slow down", pause_s(answer, PAUSE_S))
        if status == 200 and told.result != "error":
            return
        named = any("symbol" in text or text in NOT_LISTED for text in texts)
        # The charts answer in plain text.
        missing = status in {400, 404} and ask.symbol not in self._listing
        if ask.symbol is not None and (named or missing):
            raise errors.UnknownInstrument(f"{NAME} does not list {ask.symbol}")
        why = next((text for text in texts if text), "")
        raise errors.Unavailable(NAME, f"{NAME} answered {status}" + (f": {why[:100]}" if why else ""))

    def _pages(self, ask: Ask, body: bytes, now_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if _lacks_now(ask):
            return Page(events=(), next=msgspec.structs.replace(ask, end_ns=now_ns + 1))
        if ask.query is Query.INSTRUMENTS:
            return _listing_page(body)
        if ask.query in {Query.TICKERS, Query.OPEN_INTEREST}:
            return self._tickers_page(ask, body, now_ns)
        symbol = symbol_asked(ask, NAME)
        meaning = self._known(symbol)
        if meaning is None:
            raise errors.UnknownInstrument(f"{NAME} does not list {symbol}")
        if ask.query is Query.CANDLES:
            return self._candles_page(ask, meaning, _bars(body), now_ns)
        if ask.query is Query.FUNDING_HISTORY:
            return _fundings_page(ask, meaning, _fundings(body).rates, now_ns)
        rows = _in_order(_trades(body).history)
        return _newest_trades(ask, meaning, rows, now_ns) if _newest(ask) else _next_trades(ask, meaning, rows, now_ns)

    def _known(self, symbol: str) -> Meaning | None:
        known = self._meanings.get(symbol)
        if known is not None or self._listing:
            return known
        assumed = self.assume(symbol)
        return None if assumed is None else meaning_of(assumed)

    def _candle_window(self, ask: Ask) -> tuple[int, int]:
        """[start_ns, end_ns) that one answer holds. Intervals without a trade may have no row: a limit narrows it little."""
        rows = CANDLES_MAX if ask.limit is None else min(CANDLES_MAX, max(CANDLES_MIN, ask.limit))
        if not _newest(ask):
            wide = msgspec.structs.replace(ask, limit=rows)
            start_ns, end_ns, _ = stretch(wide, CANDLES_MAX, self._listing.get(ask.symbol or ""))
            assert start_ns is not None
            assert end_ns is not None
            return start_ns, end_ns
        assert ask.end_ns is not None
        assert ask.interval_s is not None
        first_ns = open_of(ask.end_ns - 1, ask.interval_s) - (rows - 1) * ask.interval_s * NS
        return max(first_ns, ask.start_ns or 0, 1), ask.end_ns

    def _candles_page(self, ask: Ask, meaning: Meaning, told: _Bars, now_ns: int) -> Page:
        start_ns, end_ns = self._candle_window(ask)
        interval_s = ask.interval_s or 0
        sure_ns = now_ns - CLOSED_AFTER_NS
        rows = [row for row in told.candles if start_ns <= row.open_ms * MS < end_ns]
        rows.sort(key=lambda row: row.open_ms)
        candles = [_candle(meaning, interval_s, row, now_ns, sure_ns) for row in rows]
        listed = self._listing.get(ask.symbol or "")
        first_ns = max(ask.start_ns or 0, (listed.listed_ns or 0) if listed else 0)
        window = start_ns, end_ns
        page = candles_page(ask, candles, window, first_ns, newest=_newest(ask), now_ns=now_ns, sure_ns=sure_ns)
        return Page(events=page.events, next=page.next) if told.more else page

    def _tickers_page(self, ask: Ask, body: bytes, received_ns: int) -> Page:
        told = _tickers(body)
        event_ns = ns_of(told.now)
        events: list[OpenInterest | Ticker] = []
        unread = 0
        for raw in told.tickers:
            try:
                row = _ticker(raw)
                meaning = self._meanings.get(row.symbol.upper())
                if meaning is None or (ask.symbol is not None and row.symbol.upper() != ask.symbol):
                    continue
                made = _summary(meaning, row, event_ns, received_ns, of=ask.query)
            except (msgspec.MsgspecError, ValueError, ArithmeticError):
                unread += 1  # one bad row must not cost the others
                continue
            if made is not None:
                events.append(made)
        if unread and not events:
            raise ValueError("no ticker can be read")
        if ask.symbol is not None and not events and ask.symbol not in self._meanings:
            raise errors.UnknownInstrument(f"{NAME} does not list {ask.symbol}")
        return Page(events=events, unread=unread)


def _next_trades(ask: Ask, meaning: Meaning, rows: Sequence[_PastTrade], now_ns: int) -> Page:
    """A window upwards: all that was traded in it, or a narrower window where it holds more than an answer."""
    assert ask.start_ns is not None
    start_ns, ask_end_ns = ask.start_ns, now_ns + 1 if ask.end_ns is None else ask.end_ns
    width_ns = ask_end_ns - start_ns if ask.cursor is None else int(ask.cursor)
    end_ns = min(ask_end_ns, start_ns + width_ns)
    first_ns = ns_of(rows[0].time) if rows else end_ns
    full = len(rows) >= TRADES_MAX
    if full and first_ns >= start_ns and width_ns > MS:
        # The oldest rows of the window may be missing. So wide were the newest hundred; older ones may be denser.
        narrower_ns = min((min(end_ns, now_ns) - first_ns) * TRADES_AIM // TRADES_MAX, width_ns // 2)
        return Page(events=(), next=msgspec.structs.replace(ask, cursor=str(max(narrower_ns, MS))))
    if not rows and start_ns < now_ns - TRADES_REACH_NS:
        raise errors.OutOfReach(NAME, f"{NAME} serves the trades of seven days")
    kept = [trade for trade in _past_trades(meaning, rows, now_ns) if start_ns <= trade.event_ns < end_ns]
    cut = ask.limit is not None and len(kept) > ask.limit
    found, kept = len(kept), kept[: ask.limit]
    left = None if ask.limit is None else ask.limit - len(kept)
    until_ns = kept[-1].event_ns if cut else min(end_ns, now_ns)
    following = None
    if left != 0 and end_ns < min(ask_end_ns, now_ns):
        wider_ns = min(width_ns * TRADES_AIM // max(found, 1), width_ns * WINDOW_GROWTH_MAX)
        following = msgspec.structs.replace(ask, start_ns=end_ns, cursor=str(max(wider_ns, MS)), limit=left)
    if full and first_ns >= start_ns:
        # More than an answer holds in one millisecond: what is missing will never be served.
        return Page(events=kept, next=following)
    # An answer that is not full begins where the venue's memory does.
    known_ns = max(start_ns, first_ns)
    return promised(kept, following, known_ns, until_ns)


def _newest_trades(ask: Ask, meaning: Meaning, rows: Sequence[_PastTrade], now_ns: int) -> Page:
    low_ns, end_ns = ask.start_ns or 0, now_ns + 1 if ask.end_ns is None else ask.end_ns
    full = len(rows) >= TRADES_MAX
    first_ns = ns_of(rows[0].time) if rows else end_ns
    one_moment = bool(rows) and rows[0].time == rows[-1].time
    # Of the oldest millisecond of a full answer some may be missing: the next page begins with it.
    whole_ns = first_ns + MS if full and not one_moment else first_ns
    kept = [t for t in _past_trades(meaning, rows, now_ns) if max(low_ns, whole_ns) <= t.event_ns < end_ns]
    if ask.limit is not None:
        kept = kept[max(len(kept) - ask.limit, 0) :]
    left = None if ask.limit is None else ask.limit - len(kept)
    more = full and first_ns >= low_ns and left != 0 and (left is not None or ask.start_ns is not None)
    following = msgspec.structs.replace(ask, newest=True, end_ns=whole_ns, limit=left) if more else None
    if full and one_moment:
        return Page(events=kept, next=following)
    known_ns = kept[0].event_ns + MS if left == 0 and kept else max(low_ns, whole_ns) if first_ns >= low_ns else low_ns
    return promised(kept, following, known_ns, min(end_ns, now_ns))


def _past_trades(meaning: Meaning, rows: Sequence[_PastTrade], received_ns: int) -> list[Trade]:
    trades: list[Trade] = []
    for place, row in enumerate(rows):
        if row.type not in ON_BOOK:
            continue
        check_traded(row.price, row.count)
        size, value, contracts = size_of(meaning, row.count, row.price)
        event_ns, side = ns_of(row.time), SIDES[row.side]
        # Their number is not told here; their place orders those of one moment.
        trades.append(
            Trade(meaning.name, event_ns, received_ns, row.id, place, side, row.price, size, 1, value, contracts)
        )
    return trades


def _in_order(rows: list[_PastTrade]) -> list[_PastTrade]:
    """Oldest first. Sorting is stable: those of one moment keep the order they were made in."""
    ordered = rows[::-1]
    ordered.sort(key=lambda row: row.time)
    return ordered


def _candle(meaning: Meaning, interval_s: int, row: _Bar, received_ns: int, sure_ns: int) -> Candle:
    typical = (row.high + row.low + row.close) / 3
    worth = row.volume if meaning.contract_size is None else row.volume * meaning.contract_size
    other = (worth / typical if meaning.inverse else worth * typical).quantize(COIN_STEP, ROUND_HALF_EVEN)
    volume, quote_volume = (other, worth) if meaning.inverse else (worth, other)
    told = (row.open_ms, row.open, row.high, row.low, row.close, volume, quote_volume)
    closed = row.open_ms * MS + interval_s * NS <= sure_ns
    return candle_of_row(meaning.name, interval_s, told, received_ns, closed=closed)


def _fundings_page(ask: Ask, meaning: Meaning, rows: Sequence[_Funding], now_ns: int) -> Page:
    """Settled rates: each is paid by the time the next one begins; the last is still running."""
    told = sorted((ns_of(row.began), rate_of(row.rate)) for row in rows)
    low_ns, end_ns = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
    events: list[FundingRate] = []
    for (began_ns, rate), (paid_ns, _) in pairwise(told):
        if low_ns <= paid_ns < end_ns and began_ns < paid_ns:
            interval_s = period_s(began_ns // MS, paid_ns // MS)
            events.append(FundingRate(meaning.name, paid_ns, now_ns, rate, paid_ns, interval_s, settled=True))
    reach_ns = told[0][0] + 1 if told else now_ns
    if told and end_ns <= reach_ns:
        raise errors.OutOfReach(NAME, f"{NAME} serves the funding rates of a year")
    cut = ask.limit is not None and len(events) > ask.limit
    if cut:
        events = events[-(ask.limit or 0) :] if _newest(ask) else events[: ask.limit]
    known_ns = events[0].event_ns if cut and _newest(ask) else max(low_ns, reach_ns)
    until_ns = events[-1].event_ns + MS if cut and not _newest(ask) else min(end_ns, told[-1][0] + 1 if told else 0)
    return promised(events, None, known_ns, until_ns)


def _summary(
    meaning: Meaning, row: _Ticker, event_ns: int, received_ns: int, *, of: Query
) -> OpenInterest | Ticker | None:
    """Open interest, or the 24 h summary; None where it was never traded. Raises ValueError, InvalidOperation."""
    if of is Query.OPEN_INTEREST:
        if row.mark_price is None or row.open_interest is None:
            return None
        return interest_of(meaning, row.open_interest, row.mark_price, event_ns, received_ns)
    first, high, low, last, count = row.open24h, row.high24h, row.low24h, row.last, row.vol24h
    if not first or not high or not low or not last or count is None:
        return None
    if not (ZERO < low <= min(first, last) and max(first, last) <= high < NUMBER_MAX and ZERO <= count < NUMBER_MAX):
        raise ValueError("ticker out of range")
    worth = count if meaning.contract_size is None else count * meaning.contract_size
    if meaning.inverse:
        volume, money = (worth / last).quantize(COIN_STEP, ROUND_HALF_EVEN), worth
    else:
        volume, money = worth, worth * last if row.volume_quote is None else row.volume_quote
    if not ZERO <= money < NUMBER_MAX:
        raise ValueError("ticker out of range")
    return Ticker(meaning.name, event_ns, received_ns, first, high, low, last, volume, money, 0)


def _listing_page(body: bytes) -> Page:
    rows = [raw for raw in _listing(body).instruments if _is_contract(raw)]
    instruments, unread = instruments_of(rows, lambda raw: _instrument(_listed(raw)))
    return Page(events=(), instruments=instruments, unread=unread)


def _is_contract(raw: msgspec.Raw) -> bool:
    """False for an index, and for what counts in a way that nobody knows yet."""
    try:
        return _listed(raw).type in TYPES
    except (msgspec.MsgspecError, ValueError):
        return True


def _instrument(row: _Listed) -> Instrument:
    symbol, inverse = row.symbol.upper(), TYPES[row.type]
    # The type says nothing of an end: PF_ and FF_ share theirs.
    _, _, pair = symbol.partition("_")
    spelled = pair.partition("_")[0].removesuffix(row.quote.upper())
    coin = row.base.upper() or COINS.get(spelled, spelled)
    unit = step_of(str(row.contract_size))
    return Instrument(
        venue=NAME,
        symbol=symbol,
        kind=Kind.PERPETUAL if row.last_trading_time is None else Kind.FUTURE,
        coin=COINS.get(coin, coin),
        quote=row.quote.upper(),
        settle=COINS.get(coin, coin) if inverse else row.quote.upper(),
        tick_size=step_of(str(row.tick_size)),
        lot_size=Decimal(1).scaleb(-row.contract_value_trade_precision),
        contract_size=unit if inverse or unit != 1 else None,
        inverse=inverse,
        listed_ns=None if row.opening_date is None else ns_of(row.opening_date),
        expires_ns=None if row.last_trading_time is None else ns_of(row.last_trading_time),
        trading=row.tradeable and not row.is_expired,
    )


def _newest(ask: Ask) -> bool:
    return ask.newest or ask.start_ns is None


def _lacks_now(ask: Ask) -> bool:
    """Whether candles are asked up to now: they are asked for by time, and the smallest answer tells that it is there."""
    return ask.query is Query.CANDLES and _newest(ask) and ask.end_ns is None


def _last_ms(ask: Ask) -> int | None:
    """`lastTime` in milliseconds; None: now."""
    if _newest(ask) or ask.cursor is None:
        end_ns = ask.end_ns
    else:
        assert ask.start_ns is not None
        window_ns = ask.start_ns + int(ask.cursor)
        end_ns = window_ns if ask.end_ns is None else min(window_ns, ask.end_ns)
    # Documented to be left out; if it is not, rows at the end are left out of the page.
    return None if end_ns is None else -(-end_ns // MS)
