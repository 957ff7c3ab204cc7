"""What Coinbase Exchange's REST side can be asked, and what its symbols mean.

https://docs.cdp.coinbase.com/exchange/rest-api/pagination

    GET /products
    [{"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.01", "base_increment":
        "0.00000001", "status": "online", "trading_disabled": false, ...}, ...]
    GET /products/BTC-USD/trades?after=75&limit=2
    [{"time": "2014-11-07T22:19:28.578544Z", "trade_id": 74, "price": "10.00000000", "size": "0.01000000", "side": "buy"},
     {"time": "2014-11-07T01:08:43.642366Z", "trade_id": 73, ...}]
    GET /products/BTC-USD/candles?granularity=60&start=2026-11-20T13:00:00Z&end=2026-11-20T14:00:00Z
    [[1795183200, 64000.01, 64103.5, 64003.2, 64100, 12.0402], ...]
    GET /products/stats
    {"BTC-USD": {"stats_30day": {"volume": "310.2"}, "stats_24hour": {"open": "64000", "high": "64500", "low": "63100.5",
        "volume": "9120.40", "last": "64100"}}, ...}
    {"message": "NotFound"}

Trades come newest first: `after` gives the newest with lower ids (the header `cb-after` repeats the lowest id of the
answer), `before` the newest of all with higher ones, which are not those next to it and so of no use for going on. Ids run
without holes, so the thousand that follow an id are those before `after` = id + 1001; there is no asking by time, the id
of a moment is searched for (`cursor`: what was found out so far). `side` is the maker's.

A candle is [time in seconds, low, high, open, close, volume], newest first; both ends are counted in, more than 300 are
refused, a minute without a trade has none, and the quote volume is not told: (high + low + close) / 3 estimates it, as
the last price does for the 24 hours. No stats of all products are documented; the venue's own page lives on them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec

from openoutcry import errors
from openoutcry.events import NS, Candle, Side, Ticker, Trade, open_of
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import (
    COIN_STEP,
    NUMBER_MAX,
    STEP_UNKNOWN,
    ZERO,
    Number,
    candle_of_row,
    check_traded,
    step_of,
)
from openoutcry.venues.paging import (
    candles_page,
    code_of,
    id_asked,
    instruments_of,
    pause_s,
    promised,
    stretch,
    symbol_asked,
)
from openoutcry.venues.stamps import Stamp, ns_of, stamp_of
from openoutcry.venues.venue import Answer, Ask, Page, Query, Request

NAME = "coinbase"
SYMBOL_CHARS_MAX = 64
TRADES_MAX = 1_000
CANDLES_MAX = 300
# Fewer are not asked for: minutes without a trade have no row.
CANDLES_MIN = 60
SECONDS_END = 9_000_000_000
# A candle that is asked for so long after its end will not change.
CLOSED_AFTER_NS = 5 * NS
PAUSE_S = 1.0
# A search moves by at least this part of what is left of it, so that it ends however unevenly trades came.
SEARCH_PART = 8
GRANULARITIES = {seconds: str(seconds) for seconds in (60, 300, 900, 3_600, 21_600, 86_400)}
AGAINST = {"buy": Side.SELL, "sell": Side.BUY}
MakerSide = Literal["buy", "sell"]
Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=SYMBOL_CHARS_MAX)]
_SPELLING = re.compile(r"(?P<coin>[A-Z0-9]{1,20})-(?P<quote>[A-Z0-9]{1,20})", re.ASCII)


class _PastTrade(msgspec.Struct, frozen=True, gc=False):
    time: Stamp
    id: Number = msgspec.field(name="trade_id")
    price: Decimal
    size: Decimal
    maker: MakerSide = msgspec.field(name="side")

    @property
    def ns(self) -> int:
        """When it was made."""
        return ns_of(self.time)


class _Bar(msgspec.Struct, frozen=True, gc=False, array_like=True):
    open_s: Annotated[int, msgspec.Meta(gt=0, lt=SECONDS_END)]
    low: Decimal
    high: Decimal
    open: Decimal
    close: Decimal
    volume: Decimal


class _Listed(msgspec.Struct, frozen=True):
    id: Symbol
    base_currency: Symbol
    quote_currency: Symbol
    base_increment: str
    quote_increment: str
    status: str = ""
    trading_disabled: bool = False


class _Day(msgspec.Struct, frozen=True):
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    last: Decimal | None = None
    volume: Decimal | None = None


class _Stats(msgspec.Struct, frozen=True):
    day: _Day = msgspec.field(name="stats_24hour", default=_Day())


class _Problem(msgspec.Struct, frozen=True):
    message: str = ""


class _Search(msgspec.Struct, frozen=True):
    """For the id of a moment: trades up to `low` are before it (0: not known), those from `high` on are not (0: not known)."""

    low: int
    high: int
    after: int


_trades = msgspec.json.Decoder(list[_PastTrade]).decode
_bars = msgspec.json.Decoder(list[_Bar]).decode
_products = msgspec.json.Decoder(list[msgspec.Raw]).decode
_product = msgspec.json.Decoder(_Listed).decode
_all_stats = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_stats = msgspec.json.Decoder(_Stats).decode
_problem = msgspec.json.Decoder(_Problem).decode


class CoinbaseHistory:
    """The REST half: questions and answers, and the listing they need."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.SPOT: (Exchange.COINBASE, Exchange.COINBASE_PRO)}
    rest = "https://api.exchange.coinbase.com"
    queries = frozenset({Query.INSTRUMENTS, Query.CANDLES, Query.TRADES, Query.TICKERS, Query.TIME})
    intervals_s = frozenset(GRANULARITIES)
    page_max: Mapping[Query, int] = {Query.CANDLES: CANDLES_MAX, Query.TRADES: TRADES_MAX}

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._names: dict[str, str] = {}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing."""
        self._listing = {i.symbol: i for i in instruments}
        self._names = {symbol: i.name for symbol, i in self._listing.items()}

    def assume(self, symbol: str) -> Instrument | None:
        """Both currencies stand in the symbol."""
        said = _SPELLING.fullmatch(symbol)
        if said is None:
            return None
        return Instrument(
            venue=NAME,
            symbol=symbol,
            kind=Kind.SPOT,
            coin=said["coin"],
            quote=said["quote"],
            settle=said["quote"],
            tick_size=STEP_UNKNOWN,
            lot_size=STEP_UNKNOWN,
        )

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{NAME} does not serve {ask.query}")
        if ask.query is Query.TIME or _lacks_now(ask):
            return Request(path="/time", pool="public")
        if ask.query is Query.INSTRUMENTS:
            return Request(path="/products", pool="public")
        if ask.query is Query.TICKERS:
            return Request(path="/products/stats", pool="public")
        path = f"/products/{quote(symbol_asked(ask, NAME), safe='')}"
        if ask.query is Query.TRADES:
            after, rows = _after(ask), _rows(ask)
            bound = () if after is None else (("after", str(after)),)
            return Request(path=f"{path}/trades", query=(*bound, ("limit", str(rows))), pool="public")
        granularity = code_of(ask, GRANULARITIES)
        start_ns, end_ns = self._candle_window(ask)
        bounds = (("start", stamp_of(start_ns)), ("end", stamp_of(end_ns - 1)))
        return Request(path=f"{path}/candles", query=(("granularity", granularity), *bounds), pool="public")

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, Unavailable, Unreadable."""
        if answer.status != 200:
            _refuse(ask, answer)
        try:
            return self._pages(ask, answer.body, answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _pages(self, ask: Ask, body: bytes, now_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if _lacks_now(ask):
            return Page(events=(), next=msgspec.structs.replace(ask, newest=True, end_ns=now_ns + 1))
        if ask.query is Query.INSTRUMENTS:
            instruments, unread = instruments_of(_products(body), lambda raw: _instrument(_product(raw)))
            return Page(events=(), instruments=instruments, unread=unread)
        if ask.query is Query.TICKERS:
            return self._tickers_page(ask, body, now_ns)
        name = self._known(symbol_asked(ask, NAME))
        if ask.query is Query.CANDLES:
            return self._candles_page(ask, name, _bars(body), now_ns)
        rows = sorted(_trades(body), key=lambda row: row.id)
        return _trades_page(ask, name, rows, now_ns)

    def _known(self, symbol: str) -> str:
        """The instrument's name. Without a listing every well-spelled symbol is known."""
        known = self._names.get(symbol)
        if known is None and not self._listing and (assumed := self.assume(symbol)) is not None:
            known = assumed.name
        if known is None:
            raise errors.UnknownInstrument(f"{NAME} does not list {symbol}")
        return known

    def _candle_window(self, ask: Ask) -> tuple[int, int]:
        """[start_ns, end_ns) that one answer holds."""
        rows = CANDLES_MAX if ask.limit is None else min(CANDLES_MAX, max(CANDLES_MIN, ask.limit))
        if not _newest(ask):
            start_ns, end_ns, _ = stretch(msgspec.structs.replace(ask, limit=rows), CANDLES_MAX, None)
            assert start_ns is not None
            assert end_ns is not None
            return start_ns, end_ns
        assert ask.end_ns is not None
        assert ask.interval_s is not None
        interval_ns = ask.interval_s * NS
        lowest_ns = _lowest_ns(ask)
        first_ns = open_of(ask.end_ns - 1, ask.interval_s) - (rows - 1) * interval_ns
        return max(first_ns, lowest_ns), max(ask.end_ns, lowest_ns + 1)

    def _candles_page(self, ask: Ask, name: str, bars: Sequence[_Bar], now_ns: int) -> Page:
        start_ns, end_ns = self._candle_window(ask)
        interval_s, sure_ns = ask.interval_s or 0, now_ns - CLOSED_AFTER_NS
        rows = sorted((row for row in bars if start_ns <= row.open_s * NS < end_ns), key=lambda row: row.open_s)
        candles = [_candle(name, interval_s, row, now_ns, sure_ns) for row in rows]
        # When it was listed is not told.
        first_ns = _lowest_ns(ask)
        window = start_ns, end_ns
        return candles_page(ask, candles, window, first_ns, newest=_newest(ask), now_ns=now_ns, sure_ns=sure_ns)

    def _tickers_page(self, ask: Ask, body: bytes, now_ns: int) -> Page:
        events: list[Ticker] = []
        unread = 0
        for symbol, raw in _all_stats(body).items():
            name = self._names.get(symbol)
            if name is None or (ask.symbol is not None and symbol != ask.symbol):
                continue
            try:
                made = _summary(name, _stats(raw).day, now_ns)
            except (msgspec.MsgspecError, ValueError, ArithmeticError):
                unread += 1  # one bad row must not cost the others
                continue
            if made is not None:
                events.append(made)
        if unread and not events:
            raise ValueError("no ticker can be read")
        if ask.symbol is not None and ask.symbol not in self._names:
            raise errors.UnknownInstrument(f"{NAME} does not list {ask.symbol}")
        return Page(events=events, unread=unread)


def _trades_page(ask: Ask, name: str, rows: Sequence[_PastTrade], now_ns: int) -> Page:
    """`rows` by id, lowest first."""
    full = len(rows) >= _rows(ask)
    if ask.from_id is not None:
        upto_id = id_asked(ask.from_id, NAME) + _rows(ask)
        newer = [row for row in rows if row.id > id_asked(ask.from_id, NAME)]
        return _onwards(ask, name, newer, now_ns, head=not newer or newer[-1].id < upto_id)
    moment_ns = ask.end_ns if _newest(ask) else ask.start_ns
    if moment_ns is None or _walks_down(ask):
        return _downwards(ask, name, rows, now_ns, full=full)
    head = ask.cursor is None
    if not (rows or head) or (rows and _beside(rows, moment_ns, head=head, full=full)):
        return Page(events=(), next=_search_on(ask, rows, moment_ns))
    # The moment lies in this answer, or before the first trade ever, or after the last.
    if _newest(ask):
        return _downwards(ask, name, [row for row in rows if row.ns < moment_ns], now_ns, full=full)
    return _onwards(ask, name, [row for row in rows if row.ns >= moment_ns], now_ns, head=head)


def _beside(rows: Sequence[_PastTrade], moment_ns: int, *, head: bool, full: bool) -> bool:
    """Whether what was traded around the moment lies in another answer."""
    return (rows[0].ns >= moment_ns and full) or (rows[-1].ns < moment_ns and not head)


def _search_on(ask: Ask, rows: Sequence[_PastTrade], moment_ns: int) -> Ask:
    """Where to look next, after an answer that lies wholly before or after the moment, or that is empty."""
    search = _search(ask)
    pace_ns = max((rows[-1].ns - rows[0].ns) // len(rows), 1) if rows else 1
    if not rows:
        # There are none so low: ids do not begin at one.
        low, high = search.after - 1, search.high
        aim = (low + high) // 2
    elif rows[0].ns >= moment_ns:
        low, high = search.low, rows[0].id
        aim = high - (rows[0].ns - moment_ns) // pace_ns
    else:
        low, high = rows[-1].id, search.high
        aim = low + (moment_ns - rows[-1].ns) // pace_ns
    if high and low + 1 >= high:
        # The moment lies between two answers.
        if _newest(ask):
            return msgspec.structs.replace(ask, newest=True, cursor=f"down {high}")
        return msgspec.structs.replace(ask, from_id=low, cursor=None)
    if low and high:
        step = (high - low) // SEARCH_PART
        aim = min(max(aim, low + step), high - step)
    after = max(aim + TRADES_MAX // 2, low + 2)
    return msgspec.structs.replace(ask, cursor=f"{low} {high} {min(after, high) if high else after}")


def _onwards(ask: Ask, name: str, rows: Sequence[_PastTrade], now_ns: int, *, head: bool) -> Page:
    """Trades that follow each other, lowest id first; `head`: there are no newer ones."""
    start_ns, end_ns = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
    past_end = ask.end_ns is not None and any(row.ns >= ask.end_ns for row in rows)
    kept = [row for row in rows if start_ns <= row.ns and (ask.end_ns is None or row.ns < ask.end_ns)]
    cut = ask.limit is not None and len(kept) > ask.limit
    kept = kept[: ask.limit]
    left = None if ask.limit is None else ask.limit - len(kept)
    # Those that share the last one's time may follow.
    until_ns = kept[-1].ns if cut and kept else min(end_ns, now_ns) if head or past_end else rows[-1].ns
    following = None
    if not head and not past_end and left != 0:
        begin_ns = None if ask.start_ns is None else max(start_ns, rows[-1].ns)
        following = msgspec.structs.replace(ask, from_id=rows[-1].id, cursor=None, start_ns=begin_ns, limit=left)
    return promised([_trade(name, row, now_ns) for row in kept], following, ask.start_ns, until_ns)


def _downwards(ask: Ask, name: str, rows: Sequence[_PastTrade], now_ns: int, *, full: bool) -> Page:
    """The newest of what is left, lowest id first; not `full`: there are no older ones."""
    low_ns, end_ns = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
    kept = [row for row in rows if low_ns <= row.ns and (ask.end_ns is None or row.ns < ask.end_ns)]
    cut = ask.limit is not None and len(kept) > ask.limit
    if ask.limit is not None:
        kept = kept[max(len(kept) - ask.limit, 0) :]
    left = None if ask.limit is None else ask.limit - len(kept)
    older = full and bool(rows) and rows[0].ns >= low_ns
    following = None
    if older and left != 0 and (left is not None or ask.start_ns is not None):
        # Those that share the oldest one's time may still come.
        following = msgspec.structs.replace(
            ask, newest=True, end_ns=rows[0].ns + 1, cursor=f"down {rows[0].id}", limit=left
        )
    known_ns = kept[0].ns + 1 if cut and kept else rows[0].ns + 1 if older else low_ns
    return promised([_trade(name, row, now_ns) for row in kept], following, known_ns, min(end_ns, now_ns))


def _trade(name: str, row: _PastTrade, received_ns: int) -> Trade:
    check_traded(row.price, row.size)
    return Trade(name, row.ns, received_ns, row.id, row.id, AGAINST[row.maker], row.price, row.size)


def _candle(name: str, interval_s: int, row: _Bar, received_ns: int, sure_ns: int) -> Candle:
    worth = (row.volume * (row.high + row.low + row.close) / 3).quantize(COIN_STEP, ROUND_HALF_EVEN)
    told = (row.open_s * 1_000, row.open, row.high, row.low, row.close, row.volume, worth)
    closed = (row.open_s + interval_s) * NS <= sure_ns
    return candle_of_row(name, interval_s, told, received_ns, closed=closed)


def _summary(name: str, day: _Day, now_ns: int) -> Ticker | None:
    """None for what was never traded. Raises ValueError, InvalidOperation (NaN)."""
    first, high, low, last, volume = day.open, day.high, day.low, day.last, day.volume
    if not first or not high or not low or not last or volume is None:
        return None
    if not (ZERO < low <= min(first, last) and max(first, last) <= high < NUMBER_MAX and ZERO <= volume < NUMBER_MAX):
        raise ValueError("ticker out of range")
    return Ticker(name, now_ns, now_ns, first, high, low, last, volume, volume * last, 0)


def _instrument(row: _Listed) -> Instrument:
    return Instrument(
        venue=NAME,
        symbol=row.id,
        kind=Kind.SPOT,
        coin=row.base_currency,
        quote=row.quote_currency,
        settle=row.quote_currency,
        tick_size=step_of(row.quote_increment),
        lot_size=step_of(row.base_increment),
        trading=row.status == "online" and not row.trading_disabled,
    )


def _refuse(ask: Ask, answer: Answer) -> None:
    """Raise what an answer that is no good one means."""
    try:
        why = _problem(answer.body).message
    except (msgspec.MsgspecError, ValueError, RecursionError):
        why = ""
    if answer.status == 429:
        raise errors.RateLimited(NAME, f"{NAME} asks to slow down", pause_s(answer, PAUSE_S))
    if answer.status == 404 and ask.symbol is not None:
        raise errors.UnknownInstrument(f"{NAME} does not list {ask.symbol}")
    raise errors.Unavailable(NAME, f"{NAME} answered {answer.status}" + (f": {why[:100]}" if why else ""))


def _newest(ask: Ask) -> bool:
    return ask.newest or (ask.start_ns is None and ask.from_id is None)


def _lacks_now(ask: Ask) -> bool:
    """Whether candles are asked up to now: they are asked for by time, and the smallest answer tells that it is there."""
    return ask.query is Query.CANDLES and _newest(ask) and ask.end_ns is None


def _lowest_ns(ask: Ask) -> int:
    """The first open of what is asked for."""
    interval_ns = (ask.interval_s or 1) * NS
    return -(-(ask.start_ns or 0) // interval_ns) * interval_ns


def _rows(ask: Ask) -> int:
    """How many trades one answer is asked for: all it holds, while their id is searched for."""
    searched = ask.from_id is None and (ask.cursor is not None or ask.end_ns is not None or not _newest(ask))
    return TRADES_MAX if searched or ask.limit is None else max(1, min(TRADES_MAX, ask.limit))


def _after(ask: Ask) -> int | None:
    """The id that the trades asked for are below; None: the newest."""
    if ask.from_id is not None:
        return id_asked(ask.from_id, NAME) + _rows(ask) + 1
    return None if ask.cursor is None else int(ask.cursor.rpartition(" ")[2])


def _walks_down(ask: Ask) -> bool:
    return ask.cursor is not None and ask.cursor.startswith("down ")


def _search(ask: Ask) -> _Search:
    return _Search(0, 0, 0) if ask.cursor is None else _Search(*map(int, ask.cursor.split(" ")))
