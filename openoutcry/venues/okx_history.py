"""What OKX's REST side can be asked, and what its symbols mean.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data

    GET /api/v5/market/history-candles?instId=BTC-USDT&bar=1Dutc&before=1597026360000&after=1597026380000&limit=300
    {"code": "0", "msg": "", "data": [["1597026383085", "3.721", "3.743", "3.677", "3.708", "8422410", "22698348.04",
        "12698348.04", "1"], ...]}
    {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []}

Lists come newest first; `after` means older, `before` newer, both without the bound itself. The newest 1,440 bars and the
growing one are in `candles`, the closed ones of all time in `history-candles`, which lags: what it has not yet is asked of
the other. Past trades are asked upwards by id; the last trade before a time tells the id to begin with. A page is asked for
by a stretch that fits it, so that it does not matter from which end the venue fills it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec

from openoutcry import errors
from openoutcry.events import (
    NS,
    Candle,
    FundingRate,
    OpenInterest,
    Ticker,
    Trade,
    open_of,
)
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.venues.bounds import (
    MS,
    STEP_UNKNOWN,
    TimeMs,
    check_traded,
    period_s,
    step_of,
)
from openoutcry.venues.okx_wire import (
    BARS,
    KINDS,
    SIDES,
    BarRow,
    FundingRow,
    InterestRow,
    MarkRow,
    Meaning,
    TickerRow,
    TradeRow,
    candle_of,
    contracts_of,
    inst_type_of,
    mark_price_of,
    meaning_of,
    number_of,
    open_interest_of,
    running_of,
    size_of,
    time_ms_of,
)
from openoutcry.venues.paging import code_of, events_of, instruments_of, promised, read_rows, stretch
from openoutcry.venues.venue import (
    Answer,
    Ask,
    Page,
    Query,
    Rate,
    Request,
)

DAY_NS = 86_400 * NS
# Past open interest is told from five minutes up.
INTEREST_BARS = {interval_s: bar for interval_s, bar in BARS.items() if interval_s >= 300}
# How far back the venue serves: bars of `candles` and of past open interest; past trades and funding.
RECENT_BARS = 1_440
PAST_DAYS = 93
KIND_NAMES = {"SPOT": "spot", "SWAP": "a swap", "FUTURES": "a dated future", "OPTION": "an option"}
PAUSE_S = 2.0
PAUSE_S_MAX = 600.0
# Requests and seconds: each endpoint has its own budget.
WEIGHTS: Mapping[str, Rate] = {
    "public/instruments": Rate(20, 2.0),
    "public/time": Rate(10, 2.0),
    "public/open-interest": Rate(20, 2.0),
    "public/funding-rate": Rate(10, 2.0),
    "public/funding-rate-history": Rate(10, 2.0),
    "public/mark-price": Rate(10, 2.0),
    "market/candles": Rate(40, 2.0),
    "market/history-candles": Rate(20, 2.0),
    "market/history-trades": Rate(20, 2.0),
    "market/tickers": Rate(20, 2.0),
    "market/ticker": Rate(20, 2.0),
    "market/index-tickers": Rate(20, 2.0),
    "rubik/stat/contracts/open-interest-history": Rate(10, 2.0),
}
# An address has one budget, whichever of our venues asks.
SHARED: Mapping[str, str] = {pool: f"okx {pool}" for pool in WEIGHTS}
TOO_FAST = frozenset({"50011", "50061"})
NOT_LISTED = "51001"
BAD_PARAMETER = "51000"
_SPOT = re.compile(r"(?P<coin>[\w$]+)-(?P<quote>[\w$]+)")
_HTML = (b"<!", b"<h", b"<H")


class _Envelope(msgspec.Struct):
    code: str
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


class _PastFunding(msgspec.Struct, rename="camel"):
    funding_rate: str
    funding_time: TimeMs
    realized_rate: str = ""


class _Listed(msgspec.Struct, rename="camel"):
    inst_id: str
    inst_type: str
    state: str
    tick_sz: str
    lot_sz: str
    base_ccy: str = ""
    quote_ccy: str = ""
    settle_ccy: str = ""
    ct_val: str = ""
    ct_mult: str = ""
    ct_type: str = ""
    list_time: str = ""
    exp_time: str = ""


class OkxHistory:
    """The REST half: questions and answers, and the listing they need."""

    name = "okx"
    exchanges: Mapping[Kind, tuple[Exchange, ...]] = {
        Kind.SPOT: (Exchange.OKEX,),
        Kind.PERPETUAL: (Exchange.OKEX_SWAP,),
        Kind.FUTURE: (Exchange.OKEX_FUTURES,),
    }
    rest = "https://www.okx.com"
    # What a listing and tickers are asked for by, in turn.
    parts: Sequence[str] = ("SPOT", "SWAP", "FUTURES")
    queries = frozenset(Query) - {Query.PREDICTED_FUNDING, Query.DEPTH, Query.OPTION_INTEREST, Query.POSITIONS}
    intervals_s = frozenset(BARS)
    page_max: Mapping[Query, int] = {
        Query.CANDLES: 300,
        Query.TRADES: 100,
        Query.OPEN_INTEREST_HISTORY: 100,
        Query.FUNDING_HISTORY: 400,
    }

    def __init__(self) -> None:
        self._listing: dict[str, Instrument] = {}
        self._meanings: dict[str, Meaning] = {}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing: what symbols mean, contract sizes."""
        self._listing = {i.symbol: i for i in instruments}
        self._meanings = {symbol: meaning_of(i) for symbol, i in self._listing.items()}

    def assume(self, symbol: str) -> Instrument | None:
        """A spot pair tells all; a derivative does not tell its contract size."""
        pair = _SPOT.fullmatch(symbol)
        if pair is None:
            return None
        return Instrument(
            venue=self.name,
            symbol=symbol,
            kind=Kind.SPOT,
            coin=pair["coin"],
            quote=pair["quote"],
            settle=pair["quote"],
            tick_size=STEP_UNKNOWN,
            lot_size=STEP_UNKNOWN,
        )

    def _known(self, symbol: str) -> Meaning | None:
        known = self._meanings.get(symbol)
        if known is not None:
            return known
        assumed = self.assume(symbol)
        return None if assumed is None else meaning_of(assumed)

    def request(self, ask: Ask) -> Request:
        """What to send for `ask`. Raises Unsupported, BadInterval."""
        if ask.query not in self.queries:
            raise errors.Unsupported(f"{self.name} does not serve {ask.query}")
        path, query = self._question(ask)
        said = tuple((key, str(value)) for key, value in query.items() if value is not None)
        return Request(path=f"/api/v5/{path}", query=said, pool=path)

    def _question(self, ask: Ask) -> tuple[str, dict[str, str | int | None]]:
        if ask.query is Query.TIME:
            return "public/time", {}
        if ask.query is Query.INSTRUMENTS:
            return "public/instruments", self._part(ask)
        if ask.query is Query.TICKERS and ask.symbol is None:
            return "market/tickers", self._part(ask)
        assert ask.symbol is not None, f"{ask.query} is asked of one instrument"
        query: dict[str, str | int | None] = {"instId": ask.symbol}
        if ask.query is Query.TICKERS:
            return "market/ticker", query
        if ask.query is Query.TRADES:
            return "market/history-trades", query | self._trade_bounds(ask)
        if ask.query is Query.CANDLES:
            return self._candle_question(ask, query)
        _refuse(ask)
        inst_type = inst_type_of(ask.symbol)
        if ask.query is Query.OPEN_INTEREST:
            return "public/open-interest", {"instType": inst_type, **query}
        if ask.query is Query.FUNDING:
            if ask.cursor == "mark":
                return "public/mark-price", {"instType": inst_type, **query}
            return "public/funding-rate", query
        if ask.query is Query.FUNDING_HISTORY:
            start_ms, end_ms, rows = self._window_ms(ask)
            return "public/funding-rate-history", {**query, "before": _less(start_ms), "after": end_ms, "limit": rows}
        period = code_of(ask, INTEREST_BARS)
        start_ms, end_ms, rows = self._window_ms(ask)
        # Whether the venue counts the bounds in is not told: these give the same rows either way.
        bounds = {"begin": _less(start_ms), "end": _less(end_ms), "limit": rows}
        return "rubik/stat/contracts/open-interest-history", {**query, "period": period, **bounds}

    def _part(self, ask: Ask) -> dict[str, str | int | None]:
        """Of a question about all instruments, the part that is asked now."""
        return {"instType": ask.cursor or self.parts[0]}

    def _next_part(self, ask: Ask) -> Ask | None:
        rest = self.parts[self.parts.index(ask.cursor or self.parts[0]) + 1 :]
        return msgspec.structs.replace(ask, cursor=rest[0]) if rest else None

    def _candle_question(self, ask: Ask, query: dict[str, str | int | None]) -> tuple[str, dict[str, str | int | None]]:
        """`candles` has the newest bars and the growing one, `history-candles` the closed ones of all time."""
        bar = code_of(ask, BARS)
        start_ms, end_ms, rows = self._window_ms(ask)
        path = "market/candles" if _recent(ask) else "market/history-candles"
        return path, {**query, "bar": bar, "before": _less(start_ms), "after": end_ms, "limit": rows}

    def _trade_bounds(self, ask: Ask) -> dict[str, str | int | None]:
        """By id upwards; by time only to find the id to begin with; downwards from the newest."""
        rows_max = self.page_max[Query.TRADES]
        if ask.newest or (ask.start_ns is None and ask.from_id is None):
            rows = rows_max if ask.limit is None else max(1, min(rows_max, ask.limit))
            if ask.cursor is not None or ask.end_ns is None:
                return {"type": 1, "after": ask.cursor, "limit": rows}
            return {"type": 2, "after": -(-ask.end_ns // MS), "limit": rows}
        if ask.from_id is not None:
            return {"type": 1, "after": int(ask.from_id) + rows_max + 1, "limit": rows_max}
        assert ask.start_ns is not None
        return {"type": 2, "after": -(-ask.start_ns // MS), "limit": 1}

    def _window(self, ask: Ask) -> tuple[int | None, int | None, int]:
        return stretch(ask, self.page_max[ask.query], self._listing.get(ask.symbol or ""))

    def _window_ms(self, ask: Ask) -> tuple[int | None, int | None, int]:
        start_ns, end_ns, rows = self._window(ask)
        return None if start_ns is None else start_ns // MS, None if end_ns is None else -(-end_ns // MS), rows

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What the answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        try:
            return self._pages(ask, self._data(ask, answer), answer.received_ns)
        except (msgspec.MsgspecError, ValueError, ArithmeticError, KeyError) as e:
            raise errors.Unreadable(f"{type(e).__name__}: {e}", answer.body) from e

    def _data(self, ask: Ask, answer: Answer) -> msgspec.Raw:
        if answer.status == 429:
            raise errors.RateLimited(self.name, "too many requests", _pause_s(answer))
        if answer.status >= 500 or (answer.status != 200 and answer.body.lstrip()[:2] in _HTML):
            raise errors.Unavailable(self.name, f"{self.name} answered {answer.status}")
        envelope = msgspec.json.decode(answer.body, type=_Envelope, strict=False)
        code = envelope.code
        if code == "0" and answer.status == 200:
            return envelope.data
        if code in TOO_FAST:
            raise errors.RateLimited(self.name, f"too many requests ({code})", _pause_s(answer))
        named = code == NOT_LISTED or (code == BAD_PARAMETER and "instId" in envelope.msg)
        if named and ask.symbol is not None:
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        raise errors.Unavailable(self.name, f"{self.name} answered {answer.status} {code}: {envelope.msg[:100]}")

    def _pages(self, ask: Ask, data: msgspec.Raw, received_ns: int) -> Page:
        if ask.query is Query.TIME:
            return Page(events=())
        if ask.query is Query.INSTRUMENTS:
            return self._listing_page(ask, data)
        if ask.query is Query.TICKERS:
            return self._tickers_page(ask, data, received_ns)
        assert ask.symbol is not None
        meaning = self._known(ask.symbol)
        if meaning is None:
            raise errors.UnknownInstrument(f"{self.name} does not list {ask.symbol}")
        if ask.query is Query.TRADES:
            return self._trades_page(ask, meaning, data, received_ns)
        if ask.query is Query.CANDLES:
            return self._candles_page(ask, meaning, data, received_ns)
        if ask.query is Query.OPEN_INTEREST:
            return Page(
                events=[open_interest_of(meaning, row, received_ns) for row in read_rows(data, list[InterestRow])]
            )
        if ask.query is Query.FUNDING:
            return _funding_page(ask, meaning, data, received_ns)
        if ask.query is Query.FUNDING_HISTORY:
            settled = sorted(read_rows(data, list[_PastFunding]), key=lambda row: row.funding_time)
            return self._series(ask, _past_fundings(meaning, settled, received_ns), received_ns, PAST_DAYS * DAY_NS)
        past = sorted(read_rows(data, list[tuple[TimeMs, Decimal, str, str]]))
        interests = [
            open_interest_of(meaning, InterestRow(oi=row[1], oi_ccy=row[2], ts=row[0], oi_usd=row[3]), received_ns)
            for row in past
        ]
        return self._series(ask, interests, received_ns, (RECENT_BARS + 1) * (ask.interval_s or 0) * NS)

    def _series(self, ask: Ask, events: Sequence[OpenInterest | FundingRate], now_ns: int, reach_ns: int) -> Page:
        """A page of rows in time order; the venue has none that are older than `reach_ns`."""
        start_ns, end_ns, rows = self._window(ask)
        low = max(start_ns or 0, ask.start_ns or 0)
        kept = [e for e in events if low <= e.event_ns and (end_ns is None or e.event_ns < end_ns)]
        left = None if ask.limit is None else ask.limit - len(kept)
        until_ns = min(now_ns, end_ns) if end_ns is not None else now_ns
        if ask.newest or ask.start_ns is None:
            full = len(events) >= rows
            more = kept and full and left is not None and left > 0 and kept[0].event_ns > (ask.start_ns or 0)
            following = msgspec.structs.replace(ask, newest=True, end_ns=kept[0].event_ns, limit=left) if more else None
            known_ns = kept[0].event_ns if kept else None
        else:
            assert end_ns is not None
            if not events and end_ns < now_ns - reach_ns and (ask.end_ns or now_ns) <= end_ns:
                raise errors.OutOfReach(self.name, f"{self.name} no longer serves {ask.query} of that time")
            more = end_ns < min(ask.end_ns or now_ns, now_ns) and (left is None or left > 0)
            following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left) if more else None
            known_ns = max(ask.start_ns, now_ns - reach_ns)
        return promised(kept, following, known_ns, until_ns)

    def _candles_page(self, ask: Ask, meaning: Meaning, data: msgspec.Raw, now_ns: int) -> Page:
        interval_s = ask.interval_s or 0
        rows = sorted(read_rows(data, list[BarRow]))
        start_ns, end_ns, rows_max = self._window(ask)
        low = max(start_ns or 0, ask.start_ns or 0)
        candles = [candle_of(meaning, interval_s, row, now_ns) for row in rows]
        candles = [c for c in candles if low <= c.open_ns and (end_ns is None or c.open_ns < end_ns)]
        left = None if ask.limit is None else ask.limit - len(candles)
        if ask.newest or ask.start_ns is None:
            return self._newest_candles(ask, candles, now_ns, full=len(rows) >= rows_max)
        assert end_ns is not None
        whole_ns = open_of(now_ns, interval_s)
        following: Ask | None
        if not _recent(ask):
            # The history lags: what it has not yet, the newest bars have.
            until_ns = candles[-1].open_ns + interval_s * NS if candles else low
            reach_ns = now_ns - RECENT_BARS * interval_s * NS
            if until_ns < min(end_ns, now_ns) and end_ns > reach_ns and (left is None or left > 0):
                following = msgspec.structs.replace(ask, start_ns=until_ns, limit=left, cursor="recent")
                return promised(candles, following, ask.start_ns, min(until_ns, whole_ns))
            known_ns = ask.start_ns
        else:
            known_ns = max(ask.start_ns, whole_ns - (RECENT_BARS - 1) * interval_s * NS)
        more = end_ns < min(ask.end_ns or now_ns, now_ns) and (left is None or left > 0)
        following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left) if more else None
        return promised(candles, following, known_ns, min(end_ns, whole_ns))

    def _newest_candles(self, ask: Ask, candles: Sequence[Candle], now_ns: int, *, full: bool) -> Page:
        left = None if ask.limit is None else ask.limit - len(candles)
        oldest_ns = candles[0].open_ns if candles else ask.end_ns
        wanted = left is not None and left > 0 and (oldest_ns is None or oldest_ns > (ask.start_ns or 0))
        following = None
        if wanted and (full or ask.cursor is None):
            # Where the newest bars end, the history goes on.
            cursor = ask.cursor if full else "history"
            following = msgspec.structs.replace(ask, newest=True, end_ns=oldest_ns, limit=left, cursor=cursor)
        whole_ns = open_of(now_ns, ask.interval_s or 1)
        until_ns = whole_ns if ask.end_ns is None else min(ask.end_ns, whole_ns)
        return promised(candles, following, candles[0].open_ns if candles else None, until_ns)

    def _trades_page(self, ask: Ask, meaning: Meaning, data: msgspec.Raw, now_ns: int) -> Page:
        rows = sorted(read_rows(data, list[TradeRow]), key=lambda row: row.id)
        if ask.newest or (ask.start_ns is None and ask.from_id is None):
            return self._newest_trades(ask, meaning, rows, now_ns)
        if ask.from_id is None:
            return self._begin(ask, rows, now_ns)
        after, rows_max = int(ask.from_id), self.page_max[Query.TRADES]
        low, high = ask.start_ns or 0, now_ns if ask.end_ns is None else ask.end_ns
        fresh = [row for row in rows if row.id > after]
        kept = [row for row in fresh if low <= row.event_ms * MS < high]
        cut = ask.limit is not None and len(kept) > ask.limit
        kept = kept[: ask.limit] if cut else kept
        events = [_past_trade(meaning, row, now_ns) for row in kept]
        left = None if ask.limit is None else ask.limit - len(kept)
        past = bool(fresh) and fresh[-1].event_ms * MS >= high
        head = not fresh or fresh[-1].id < after + rows_max
        if past or head or cut or left == 0:
            until_ns = kept[-1].event_ms * MS if (cut or left == 0) and kept else min(high, now_ns)
            return promised(events, None, ask.start_ns, until_ns)
        until_ns = fresh[-1].event_ms * MS
        start_ns = None if ask.start_ns is None else max(ask.start_ns, until_ns)
        following = msgspec.structs.replace(ask, start_ns=start_ns, from_id=fresh[-1].id, limit=left)
        return promised(events, following, ask.start_ns, until_ns)

    def _begin(self, ask: Ask, rows: Sequence[TradeRow], now_ns: int) -> Page:
        """The last trade before the start tells the id to begin with."""
        assert ask.start_ns is not None
        if rows:
            return Page(events=(), next=msgspec.structs.replace(ask, from_id=rows[-1].id))
        if self._untraded(ask, ask.start_ns, now_ns):
            # There is no id to begin with, so the way is down to the first trade.
            return Page(events=(), next=msgspec.structs.replace(ask, newest=True, limit=None))
        raise errors.OutOfReach(self.name, f"{self.name} serves the trades of three months")

    def _untraded(self, ask: Ask, start_ns: int, now_ns: int) -> bool:  # noqa: ARG002 - for those who override it
        """Whether that no trade is told from before the start means that there was none."""
        listed = self._listing.get(ask.symbol or "")
        return listed is not None and listed.listed_ns is not None and listed.listed_ns >= start_ns - DAY_NS

    def _newest_trades(self, ask: Ask, meaning: Meaning, rows: Sequence[TradeRow], now_ns: int) -> Page:
        low, rows_max = ask.start_ns or 0, self.page_max[Query.TRADES]
        kept = [
            row for row in rows if low <= row.event_ms * MS and (ask.end_ns is None or row.event_ms * MS < ask.end_ns)
        ]
        left = None if ask.limit is None else ask.limit - len(kept)
        events = [_past_trade(meaning, row, now_ns) for row in kept]
        full = len(rows) >= min(rows_max, ask.limit or rows_max)
        until_ns = now_ns if ask.end_ns is None else min(now_ns, ask.end_ns)
        if not full or rows[0].event_ms * MS < low:
            return promised(events, None, ask.start_ns, until_ns)
        # Of the oldest millisecond some may still be missing: the next page ends with it.
        known_ns = rows[0].event_ms * MS + MS
        following = None
        if (left is not None and left > 0) or (left is None and ask.start_ns is not None):
            following = msgspec.structs.replace(ask, newest=True, end_ns=known_ns, cursor=str(rows[0].id), limit=left)
        return promised(events, following, known_ns, until_ns)

    def _tickers_page(self, ask: Ask, data: msgspec.Raw, received_ns: int) -> Page:
        def read(raw: msgspec.Raw) -> Sequence[Ticker]:
            row = read_rows(raw, TickerRow)
            meaning = self._known(row.inst_id)
            summary = None if meaning is None else _summary(meaning, row, received_ns)
            return () if summary is None else (summary,)

        events, unread = events_of(read_rows(data, list[msgspec.Raw]), read)
        return Page(events=events, next=None if ask.symbol else self._next_part(ask), unread=unread)

    def _listing_page(self, ask: Ask, data: msgspec.Raw) -> Page:
        rows = read_rows(data, list[msgspec.Raw])
        instruments, unread = instruments_of(rows, lambda row: self._instrument(msgspec.json.decode(row, type=_Listed)))
        return Page(events=(), instruments=instruments, next=self._next_part(ask), unread=unread)

    def _instrument(self, row: _Listed) -> Instrument:
        kind = KINDS[row.inst_type]
        contract_size = None if kind is Kind.SPOT else step_of(row.ct_val) * step_of(row.ct_mult or "1")
        # BTC-USD_UM-SWAP and its like: the part after _ says how it is margined.
        coin, quote = row.inst_id.split("-")[:2]
        # A premium is told in what it is paid in.
        paid_in = row.settle_ccy if kind is Kind.OPTION else row.quote_ccy
        return Instrument(
            venue=self.name,
            symbol=row.inst_id,
            kind=kind,
            coin=row.base_ccy or coin,
            quote=paid_in or quote.split("_")[0],
            settle=row.settle_ccy or row.quote_ccy or quote,
            tick_size=step_of(row.tick_sz),
            lot_size=step_of(row.lot_sz),
            contract_size=contract_size,
            # An option's contract is so many coins, whatever is written there.
            inverse=kind in {Kind.PERPETUAL, Kind.FUTURE} and row.ct_type == "inverse",
            listed_ns=_ns(row.list_time),
            expires_ns=_ns(row.exp_time),
            trading=row.state == "live",
        )


def _refuse(ask: Ask) -> None:
    """Raise Unsupported where the instrument's type has no such thing."""
    inst_type = inst_type_of(ask.symbol or "")
    funding = ask.query in {Query.FUNDING, Query.FUNDING_HISTORY}
    if inst_type == "SPOT" or (funding and inst_type != "SWAP"):
        raise errors.Unsupported(f"{ask.symbol} is {KIND_NAMES[inst_type]} and has no {ask.query}")


def _past_trade(meaning: Meaning, row: TradeRow, received_ns: int) -> Trade:
    price, count = row.price, row.contracts
    check_traded(price, count)
    size, value = size_of(meaning, count, price)
    side, event_ns = SIDES[row.side], row.event_ms * MS
    contracts = contracts_of(meaning, count)
    return Trade(meaning.name, event_ns, received_ns, row.id, row.id, side, price, size, row.count, value, contracts)


def _past_fundings(meaning: Meaning, rows: Sequence[_PastFunding], received_ns: int) -> list[FundingRate]:
    """Settled rates. A period began where the one before it ended; the first of a page does not tell."""
    events: list[FundingRate] = []
    before_ms: int | None = None
    for row in rows:
        rate = number_of(row.realized_rate or row.funding_rate, signed=True)
        if rate is None:
            continue
        at_ms = row.funding_time
        interval_s = period_s(before_ms, at_ms)
        events.append(FundingRate(meaning.name, at_ms * MS, received_ns, rate, at_ms * MS, interval_s, settled=True))
        before_ms = at_ms
    return events


def _funding_page(ask: Ask, meaning: Meaning, data: msgspec.Raw, received_ns: int) -> Page:
    """The running rate, then the mark price, which the venue tells elsewhere."""
    if ask.cursor == "mark":
        return Page(events=[mark_price_of(meaning, row, received_ns) for row in read_rows(data, list[MarkRow])])
    rates = [running_of(meaning, row, received_ns) for row in read_rows(data, list[FundingRow])]
    following = msgspec.structs.replace(ask, cursor="mark")
    return Page(events=[rate for rate in rates if rate is not None], next=following)


def _summary(meaning: Meaning, row: TickerRow, received_ns: int) -> Ticker | None:
    texts = (row.open24h, row.high24h, row.low24h, row.last, row.vol24h, row.vol_ccy24h)
    first, high, low, last, count, other = (number_of(text) for text in texts)
    if not first or not high or not low or not last or count is None or other is None:
        return None  # not traded yet
    if meaning.contract_size is None:
        volume, quote = count, other
    elif meaning.inverse:
        volume, quote = other, count * meaning.contract_size
    else:
        # The venue does not tell it: coins at the last price.
        volume, quote = other, other * last
    return Ticker(meaning.name, row.ts * MS, received_ns, first, high, low, last, volume, quote, 0)


def _ns(text: str) -> int | None:
    time_ms = time_ms_of(text)
    return None if time_ms is None else time_ms * MS


def _recent(ask: Ask) -> bool:
    """Whether the newest bars are asked, rather than the history."""
    if ask.newest or ask.start_ns is None:
        return ask.cursor != "history"
    return ask.cursor == "recent"


def _less(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms - 1


def _pause_s(answer: Answer) -> float:
    """How long the venue says to wait."""
    try:
        return min(PAUSE_S_MAX, max(PAUSE_S, float(answer.headers["retry-after"])))
    except (KeyError, ValueError):
        return PAUSE_S
