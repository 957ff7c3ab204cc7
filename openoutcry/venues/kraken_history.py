"""What Kraken's REST side can be asked, and what its symbols mean.

https://docs.kraken.com/api/docs/rest-api/get-recent-trades

    GET /0/public/AssetPairs
    {"error": [], "result": {"XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "pair_decimals": 1, "lot_decimals": 8,
        "tick_size": "0.1", "status": "online", ...}, "XETHXXBT.d": {"altname": "ETHXBT.d", ...}, ...}}
    GET /0/public/Trades?pair=XBTUSD&since=1688669597000000000
    {"error": [], "result": {"XXBTZUSD": [["30243.40000", "0.34507674", 1688669597.8277369, "b", "m", "", 61044952], ...],
        "last": "1688671969993150842"}}
    GET /0/public/OHLC?pair=XBTUSD&interval=60
    {"error": [], "result": {"XXBTZUSD": [[1688671200, "30306.1", "30306.2", "30305.7", "30305.7", "30306.1", "3.39243896",
        23], ...], "last": 1688672160}}
    {"error": ["EQuery:Unknown asset pair"]}                                                          with status 200

A pair is asked for by its `altname`, which is its `wsname` without the bar; both say XBT and XDG where everybody, and the
socket of today, says BTC and DOGE. Pairs without a `wsname` are dark pools, which nobody streams.

`Trades` gives the thousand that follow `since` (a moment in nanoseconds, itself left out), oldest first, or the newest
thousand: the only way back in time. `last` is the exact moment of the newest told, the rows say it with fewer digits, so
that the next page begins just before it and is told apart by id. What is asked by id, or newest first, is walked by windows
(`cursor`: since when, or how wide).

`OHLC` gives the 720 newest candles whatever `since` says; the newest still grows, and those of 0 trades are left out here.
Its rows are time in seconds, open, high, low, close, vwap, volume, trades. Weeks open on Thursday and are left out. The
`Ticker` of 24 hours tells the opening price of today, not of 24 hours ago, and is not asked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal

import msgspec

from openoutcry import errors
from openoutcry.events import NS, Candle, Side, Trade, open_of
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import (
    COIN_STEP,
    STEP_UNKNOWN,
    ZERO,
    Number,
    candle_of_row,
    check_traded,
    step_of,
)
from openoutcry.venues.paging import code_of, id_asked, instruments_of, pause_s, promised, symbol_asked
from openoutcry.venues.venue import Answer, Ask, Page, Query, Request

NAME = "kraken"
SYMBOL_CHARS_MAX = 64
TRADES_MAX, CANDLES_MAX = 1_000, 720
SECONDS_END = 9_000_000_000
TIME_END = Decimal(SECONDS_END)
# Rows say their moment with fewer digits than `since` has: so much earlier is asked.
ROUNDED_NS = 1_000
# Before the first trade of the venue.
BEGAN_NS = 1_300_000_000 * NS
# The first window, and how much wider the next may be.
WINDOW_NS, WINDOW_GROWTH_MAX = 600 * NS, 16
# So much of a full answer is aimed at: trades do not come evenly.
TRADES_AIM = 700
# A candle that is asked for so long after its end will not change.
CLOSED_AFTER_NS = 5 * NS
PAUSE_S = 5.0
CODES = {60: "1", 300: "5", 900: "15", 1_800: "30", 3_600: "60", 14_400: "240", 86_400: "1440"}
TOO_FAST = frozenset({"EAPI:Rate limit exceeded", "EGeneral:Too many requests", "EService:Throttled"})
# The venue says XBT and XDG.
COINS = {"XBT": "BTC", "XDG": "DOGE"}
ITS_COINS = {ours: theirs for theirs, ours in COINS.items()}
SIDES = {"b": Side.BUY, "s": Side.SELL}
Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=SYMBOL_CHARS_MAX)]
_SPELLING = re.compile(r"(?P<coin>[A-Za-z0-9.]{1,20})/(?P<quote>[A-Za-z0-9.]{1,20})", re.ASCII)


class _PastTrade(msgspec.Struct, frozen=True, gc=False, array_like=True):
    price: Decimal
    size: Decimal
    time: Decimal
    side: Literal["b", "s"]
    type: str
    misc: str
    id: Number


class _Row(msgspec.Struct, frozen=True, gc=False):
    """A past trade with its moment read."""

    ns: int
    id: int
    told: _PastTrade


class _Bar(msgspec.Struct, frozen=True, gc=False, array_like=True):
    open_s: Annotated[int, msgspec.Meta(gt=0, lt=SECONDS_END)]
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    vwap: Decimal
    volume: Decimal
    trades: Number


class _Listed(msgspec.Struct, frozen=True):
    wsname: Symbol
    pair_decimals: Annotated[int, msgspec.Meta(ge=0, le=18)]
    lot_decimals: Annotated[int, msgspec.Meta(ge=0, le=18)]
    tick_size: str | None = None
    status: str = "online"


class _Spelled(msgspec.Struct, frozen=True):
    wsname: str | None = None


class _Envelope(msgspec.Struct, frozen=True):
    error: list[str]
    # Empty where there is none.
    result: msgspec.Raw = msgspec.Raw(b"")


_envelope = msgspec.json.Decoder(_Envelope).decode
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_trades = msgspec.json.Decoder(list[_PastTrade]).decode
_bars = msgspec.json.Decoder(list[_Bar]).decode
_listed = msgspec.json.Decoder(_Listed).decode
_spelled = msgspec.json.Decoder(_Spelled).decode
_moment = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)], strict=False).decode


class KrakenHistory:
    """The REST half: questions and answers, and the listing they need."""

    name = NAME
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {Kind.SPOT: (Exchange.KRAKEN,)}
    rest = "https://api.kraken.com"
    queries = frozenset({Query.INSTRUMENTS, Query.CANDLES, Query.TRADES, Query.TIME})
    intervals_s = frozenset(CODES)
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
        if said is None or symbol_of(symbol) != symbol:
            return None
        return _instrument(symbol, STEP_UNKNOWN, STEP_UNKNOWN, trading=True)

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{NAME} does not serve {ask.query}")
        if ask.query is Query.TIME:
            return Request(path="/0/public/Time", pool="public")
        if ask.query is Query.INSTRUMENTS:
            return Request(path="/0/public/AssetPairs", pool="public")
        pair = ("pair", pair_of(symbol_asked(ask, NAME)))
        if ask.query is Query.CANDLES:
            return Request(path="/0/public/OHLC", query=(pair, ("interval", code_of(ask, CODES))), pool="public")
        since_ns = _since_ns(ask)
        bound = () if since_ns is None else (("since", str(max(since_ns, 0))),)
        return Request(path="/0/public/Trades", query=(pair, *bound), pool="public")

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        try:
            told = _envelope(answer.body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as e:
            if answer.status != 200:
                _refuse(ask, answer, [])
            raise errors.Unreadable(str(e), answer.body) from e
        # Beside a result an error is a warning (`W`).
        if answer.status != 200 or not bytes(told.result):
            _refuse(ask, answer, told.error)
        try:
            return self._pages(ask, told.result, answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _pages(self, ask: Ask, result: msgspec.Raw, now_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        parts = _parts(result)
        if ask.query is Query.INSTRUMENTS:
            streamed = [raw for raw in parts.values() if _is_streamed(raw)]
            instruments, unread = instruments_of(streamed, lambda raw: _instrument_of(_listed(raw)))
            return Page(events=(), instruments=instruments, unread=unread)
        name = self._known(symbol_asked(ask, NAME))
        last = parts.pop("last", None)
        if len(parts) != 1 or last is None:
            raise ValueError("an answer about none or several pairs")
        (raw,) = parts.values()
        if ask.query is Query.CANDLES:
            return _candles_page(ask, name, _bars(raw), now_ns)
        rows = [_Row(ns_of_seconds(row.time), row.id, row) for row in _trades(raw)]
        rows.sort(key=lambda row: row.id)
        if ask.from_id is not None:
            return _onwards(ask, name, rows, _moment(last), now_ns)
        if _newest(ask):
            return _downwards(ask, name, rows, now_ns)
        return _onwards(ask, name, rows, _moment(last), now_ns)

    def _known(self, symbol: str) -> str:
        """The instrument's name. Without a listing every well-spelled symbol is known."""
        known = self._names.get(symbol)
        if known is None and not self._listing and (assumed := self.assume(symbol)) is not None:
            known = assumed.name
        if known is None:
            raise errors.UnknownInstrument(f"{NAME} does not list {symbol}")
        return known


def symbol_of(wsname: str) -> str:
    """The symbol of today's socket: BTC/USD of XBT/USD."""
    return "/".join(COINS.get(part, part) for part in wsname.split("/"))


def pair_of(symbol: str) -> str:
    """What REST calls it: XBTUSD of BTC/USD."""
    return "".join(ITS_COINS.get(part, part) for part in symbol.split("/"))


def ns_of_seconds(seconds: Decimal) -> int:
    """Nanoseconds of seconds with decimals. Raises ValueError, InvalidOperation (NaN)."""
    if not ZERO < seconds < TIME_END:
        raise ValueError("time out of range")
    return int(seconds * NS)


def _onwards(ask: Ask, name: str, rows: Sequence[_Row], last_ns: int, now_ns: int) -> Page:
    """Trades that follow a moment or an id, lowest id first."""
    full = len(rows) >= TRADES_MAX
    after_id = -1 if ask.from_id is None else id_asked(ask.from_id, NAME)
    searched = ask.from_id is not None and (ask.cursor is None or ask.cursor.startswith("back "))
    # At the beginning of all there is nothing further back, whatever id was asked for.
    if searched and full and rows[0].id > after_id + 1 and (_since_ns(ask) or now_ns) > BEGAN_NS:
        return Page(events=(), next=_further_back(ask, rows, after_id, now_ns))
    newer = [row for row in rows if row.id > after_id]
    start_ns, end_ns = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
    past_end = ask.end_ns is not None and any(row.ns >= ask.end_ns for row in newer)
    kept = [row for row in newer if start_ns <= row.ns and (ask.end_ns is None or row.ns < ask.end_ns)]
    cut = ask.limit is not None and len(kept) > ask.limit
    kept = kept[: ask.limit]
    left = None if ask.limit is None else ask.limit - len(kept)
    # More trades at one moment than an answer holds: the moment must be left behind, and no promise is made for it.
    stuck = full and not newer and rows[0].ns == rows[-1].ns
    # Those that share the last one's time may follow.
    until_ns = kept[-1].ns if cut and kept else min(end_ns, now_ns) if past_end or not full else rows[-1].ns
    following = None
    # The newest thousand are followed by nothing.
    if full and not past_end and left != 0 and not (searched and ask.cursor is None):
        begin_ns = None if ask.start_ns is None else max(start_ns, rows[-1].ns + stuck)
        following = msgspec.structs.replace(
            ask,
            from_id=max(rows[-1].id, after_id),
            cursor=f"since {last_ns if stuck else last_ns - 1}",
            start_ns=begin_ns,
            limit=left,
        )
    events = [_trade(name, row, now_ns) for row in kept]
    return Page(events=events, next=following) if stuck else promised(events, following, ask.start_ns, until_ns)


def _further_back(ask: Ask, rows: Sequence[_Row], after_id: int, now_ns: int) -> Ask:
    """Where a page begins that has the id: twice as far as if trades had come as densely, and as far again as so far."""
    pace_ns = max((rows[-1].ns - rows[0].ns) // len(rows), ROUNDED_NS)
    begin_ns = _since_ns(ask) or rows[0].ns
    back_ns = max(2 * pace_ns * (rows[0].id - after_id), now_ns - begin_ns)
    return msgspec.structs.replace(ask, cursor=f"back {max(begin_ns - back_ns, BEGAN_NS)}")


def _downwards(ask: Ask, name: str, rows: Sequence[_Row], now_ns: int) -> Page:
    """The newest thousand, or those of a window; lowest id first."""
    full, window = len(rows) >= TRADES_MAX, _window(ask)
    first_ns = ask.start_ns or BEGAN_NS
    if window is None:
        # Of the oldest moment of a full answer some may be missing: what comes next begins with it.
        low_ns = rows[0].ns + 1 if full and rows[0].ns < rows[-1].ns else rows[0].ns if full else first_ns
        low_ns, end_ns, width_ns = max(low_ns, first_ns), now_ns, 0
        torn = full and rows[0].ns == rows[-1].ns
        if full:
            width_ns = rows[-1].ns - rows[0].ns + 1
    else:
        low_ns, end_ns = window
        width_ns = end_ns - low_ns
        torn = full and rows[-1].ns < end_ns
        if torn and width_ns > ROUNDED_NS:
            # More than an answer: the newest of the window were not told, nor how densely they came.
            return Page(events=(), next=msgspec.structs.replace(ask, newest=True, cursor=f"width {width_ns // 2}"))
    kept = [row for row in rows if low_ns <= row.ns and (ask.end_ns is None or row.ns < ask.end_ns)]
    found = len(kept)
    cut = ask.limit is not None and found > ask.limit
    if ask.limit is not None:
        kept = kept[max(found - ask.limit, 0) :]
    left = None if ask.limit is None else ask.limit - len(kept)
    following = None
    # Without a bound at either end it is as many as one answer tells.
    if low_ns > first_ns and left != 0 and (left is not None or ask.start_ns is not None):
        wider_ns = min(width_ns * TRADES_AIM // max(found, 1), width_ns * WINDOW_GROWTH_MAX)
        following = msgspec.structs.replace(
            ask, newest=True, end_ns=low_ns, cursor=f"width {max(wider_ns, 1)}", limit=left
        )
    events = [_trade(name, row, now_ns) for row in kept]
    if torn:
        return Page(events=events, next=following)
    known_ns = kept[0].ns + 1 if cut and kept else low_ns
    return promised(events, following, known_ns, min(end_ns, now_ns))


def _window(ask: Ask) -> tuple[int, int] | None:
    """[low_ns, end_ns) of an answer newest first; None: the newest of all."""
    if ask.end_ns is None:
        return None
    width_ns = WINDOW_NS if ask.cursor is None else int(ask.cursor.rpartition(" ")[2])
    return max(ask.end_ns - width_ns, ask.start_ns or BEGAN_NS), ask.end_ns


def _since_ns(ask: Ask) -> int | None:
    """The moment after which trades are asked for; None: the newest."""
    if ask.from_id is not None:
        id_asked(ask.from_id, NAME)
        return None if ask.cursor is None else int(ask.cursor.rpartition(" ")[2])
    if _newest(ask):
        window = _window(ask)
        return None if window is None else window[0] - ROUNDED_NS
    return (ask.start_ns or 0) - ROUNDED_NS


def _candles_page(ask: Ask, name: str, bars: Sequence[_Bar], now_ns: int) -> Page:
    interval_s, sure_ns = ask.interval_s or 0, now_ns - CLOSED_AFTER_NS
    low_ns, end_ns = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
    rows = sorted(bars, key=lambda row: row.open_s)
    # An answer that is not full begins where the pair does.
    reach_ns = rows[0].open_s * NS if len(rows) >= CANDLES_MAX else 0
    wanted_first = ask.limit is not None and not _newest(ask)
    if reach_ns and (end_ns <= reach_ns or (wanted_first and low_ns < reach_ns)):
        raise errors.OutOfReach(NAME, f"{NAME} serves the last {CANDLES_MAX} candles only")
    candles = [
        _candle(name, interval_s, row, now_ns, sure_ns)
        for row in rows
        # One without a trade says what a missing one says.
        if row.trades and low_ns <= row.open_s * NS and (ask.end_ns is None or row.open_s * NS < ask.end_ns)
    ]
    known_ns, until_ns = max(low_ns, reach_ns), min(end_ns, open_of(sure_ns, interval_s))
    if ask.limit is not None and len(candles) > ask.limit:
        if _newest(ask):
            candles = candles[len(candles) - ask.limit :]
            known_ns = candles[0].open_ns if candles else end_ns
        else:
            candles = candles[: ask.limit]
            until_ns = min(until_ns, candles[-1].open_ns + interval_s * NS if candles else known_ns)
    return promised(candles, None, known_ns, until_ns)


def _trade(name: str, row: _Row, received_ns: int) -> Trade:
    told = row.told
    check_traded(told.price, told.size)
    return Trade(name, row.ns, received_ns, row.id, row.id, SIDES[told.side], told.price, told.size)


def _candle(name: str, interval_s: int, row: _Bar, received_ns: int, sure_ns: int) -> Candle:
    worth = (row.volume * row.vwap).quantize(COIN_STEP, ROUND_HALF_EVEN)
    told = (row.open_s * 1_000, row.open, row.high, row.low, row.close, row.volume, worth)
    closed = (row.open_s + interval_s) * NS <= sure_ns
    candle = candle_of_row(name, interval_s, told, received_ns, closed=closed)
    return msgspec.structs.replace(candle, trades=row.trades)


def _is_streamed(raw: msgspec.Raw) -> bool:
    """False for a dark pool."""
    try:
        return _spelled(raw).wsname is not None
    except (msgspec.MsgspecError, ValueError):
        return True


def _instrument_of(row: _Listed) -> Instrument:
    symbol = symbol_of(row.wsname)
    if _SPELLING.fullmatch(symbol) is None:
        raise ValueError("a pair of another spelling")
    tick = Decimal(1).scaleb(-row.pair_decimals) if row.tick_size is None else step_of(row.tick_size)
    return _instrument(symbol, tick, Decimal(1).scaleb(-row.lot_decimals), trading=row.status == "online")


def _instrument(symbol: str, tick: Decimal, lot: Decimal, *, trading: bool) -> Instrument:
    coin, _, quote = symbol.partition("/")
    return Instrument(
        venue=NAME,
        symbol=symbol,
        kind=Kind.SPOT,
        coin=coin,
        quote=quote,
        settle=quote,
        tick_size=tick,
        lot_size=lot,
        trading=trading,
    )


def _refuse(ask: Ask, answer: Answer, why: Sequence[str]) -> None:
    """Raise what an answer that is no good one means."""
    if answer.status == 429 or not TOO_FAST.isdisjoint(why):
        raise errors.RateLimited(NAME, f"{NAME} asks to slow down", pause_s(answer, PAUSE_S))
    if ask.symbol is not None and any(text.endswith("Unknown asset pair") for text in why):
        raise errors.UnknownInstrument(f"{NAME} does not list {ask.symbol}")
    text = why[0][:100] if why else ""
    raise errors.Unavailable(NAME, f"{NAME} answered {answer.status}" + (f": {text}" if text else ""))


def _newest(ask: Ask) -> bool:
    return ask.newest or (ask.start_ns is None and ask.from_id is None)
