"""What Binance's REST side can be asked: for each question the request, and how its answer becomes a page.

https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api
https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints

    GET /fapi/v1/klines?symbol=BTCUSDT&interval=1m&startTime=1672515780000&limit=1000
    [[1672515780000, "16512.3", "16513.0", "16512.3", "16512.9", "12.345", 1672515839999, "203847.1", 308, ...], ...]

    GET /fapi/v1/aggTrades?symbol=BTCUSDT&fromId=26129&limit=1000
    [{"a": 26129, "p": "16512.30", "q": "0.253", "f": 27781, "l": 27783, "T": 1672515782134, "m": true}, ...]

    GET /fapi/v1/depth?symbol=BTCUSDT&limit=1000
    {"lastUpdateId": 1027024, "E": 1672515782136, "T": 1672515782130, "bids": [["16512.3", "10"], ...], "asks": [...]}

    {"code": -1121, "msg": "Invalid symbol."}        with status 400; 429 and 418 bring Retry-After in seconds

`startTime` and `endTime` are inclusive milliseconds; rows come oldest first everywhere. Each market makes its questions
with its own paths, weights and pools; a class here is one question.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
from msgspec import field
from msgspec.structs import replace

from openoutcry.errors import (
    BadInterval,
    BadRange,
    OutOfReach,
    RateLimited,
    Unavailable,
    UnknownInstrument,
    Unreadable,
    Unsupported,
)
from openoutcry.events import NS, Candle, DepthSnapshot, Event, FundingRate, Level, OpenInterest, Side, Ticker, Trade
from openoutcry.instrument import Instrument
from openoutcry.venues.binance_wire import (
    INTERVAL_NAMES,
    MS,
    MS_MOST,
    PRICE_MOST,
    SIZE_MOST,
    UNREADABLE,
    ZERO,
    Count,
    Stamp,
    Symbol,
    TradeId,
    agg_trade,
    amount,
    bounded,
    candle_prices,
    coins,
    funding_rate,
    inverse_trade,
    marks,
    ns_of,
    positive,
)
from openoutcry.venues.venue import Answer, Ask, Page, Query, Request

TRADES_MAX = 1_000
FUNDINGS_MAX = 1_000
INTERESTS_MAX = 500
FUTURES_CANDLES_MAX = 1_500
# Levels a side that can be asked for, and what they cost; fewer cost no less.
FUTURES_DEPTH_WEIGHTS = {50: 2, 100: 5, 500: 10, 1_000: 20}
DEPTH_LEVELS = 1_000
HOUR_NS = 3_600 * NS
DAY_NS = 24 * HOUR_NS
# Both ends of a time window of aggTrades: "less than one hour".
TRADES_WINDOW_NS = HOUR_NS
# openInterestHist serves the latest 30 days; the hour keeps a request that takes its time inside of them.
INTEREST_REACH_NS = 30 * DAY_NS - HOUR_NS
# The newest candle of an answer may be some seconds late (30 seen); a row that is not there yet proves nothing.
LATE_NS = 60 * NS
# REST reads a copy of the trades that trails the matching by a moment.
TRAILS_NS = 2 * NS
# When the venue does not say how long: its windows are a minute, its shortest ban is two.
RETRY_S, BAN_S, RETRY_S_MAX = 60.0, 120.0, 3 * 86_400.0
FIREWALL_S = 300.0
FOREVER_NS = 2**63 - 1

_PERIODS_S = frozenset({300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400})
_BOTH = Side.BOTH
# Cursors of funding history that goes back: rows were found already; look at the newest there are.
_BACK, _NOW = "back", "now"
T = TypeVar("T")


class _Error(msgspec.Struct, frozen=True):
    code: int
    msg: str = ""


class _Time(msgspec.Struct, frozen=True):
    at: Stamp = field(name="serverTime")


class _Listing(msgspec.Struct, frozen=True):
    symbols: list[msgspec.Raw]


class CandleRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A candle as REST and the archive's files tell it; the columns after these are not read."""

    open_at: Stamp
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    close_at: Stamp
    amount: Decimal
    trades: Count


class _Aggregate(msgspec.Struct, frozen=True, gc=False):
    id: Count = field(name="a")
    price: Decimal = field(name="p")
    size: Decimal = field(name="q")
    first: TradeId = field(name="f")
    last: TradeId = field(name="l")
    at: Stamp = field(name="T")
    buyer_made: bool = field(name="m")


class _Interest(msgspec.Struct, frozen=True, gc=False):
    size: Decimal = field(name="openInterest")
    at: Stamp = field(name="time")


class _InterestRow(msgspec.Struct, frozen=True, gc=False):
    # USDM: base coins and USD. COINM: contracts and base coins.
    size: Decimal = field(name="sumOpenInterest")
    value: Decimal = field(name="sumOpenInterestValue")
    at: Stamp = field(name="timestamp")


class _Funding(msgspec.Struct, frozen=True, gc=False):
    rate: Decimal = field(name="fundingRate")
    at: Stamp = field(name="fundingTime")


class _Premium(msgspec.Struct, frozen=True, gc=False):
    symbol: Symbol
    mark: Decimal = field(name="markPrice")
    at: Stamp = field(name="time")
    index: str = field(name="indexPrice", default="")
    rate: str = field(name="lastFundingRate", default="")
    funding_at: int = field(name="nextFundingTime", default=0)


class _Ticker(msgspec.Struct, frozen=True, gc=False):
    symbol: Symbol
    open: Decimal = field(name="openPrice")
    high: Decimal = field(name="highPrice")
    low: Decimal = field(name="lowPrice")
    close: Decimal = field(name="lastPrice")
    volume: Decimal
    at: Stamp = field(name="closeTime")
    trades: Count = field(name="count")
    quote_volume: Decimal = field(name="quoteVolume", default=ZERO)
    base_volume: Decimal = field(name="baseVolume", default=ZERO)


class _Depth(msgspec.Struct, frozen=True, gc=False):
    update: Count = field(name="lastUpdateId")
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    at: Stamp | None = field(name="T", default=None)


_error = msgspec.json.Decoder(_Error).decode
_time = msgspec.json.Decoder(_Time).decode
_listing = msgspec.json.Decoder(_Listing).decode
_rows = msgspec.json.Decoder(list[CandleRow]).decode
_aggregates = msgspec.json.Decoder(list[_Aggregate]).decode
_interest = msgspec.json.Decoder(_Interest).decode
# The documentation shows these times as text.
_interest_rows = msgspec.json.Decoder(list[_InterestRow], strict=False).decode
_fundings = msgspec.json.Decoder(list[_Funding]).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_premium = msgspec.json.Decoder(_Premium).decode
_depth = msgspec.json.Decoder(_Depth).decode
_tick = msgspec.json.Decoder(_Ticker).decode


class Endpoint(msgspec.Struct, frozen=True):
    """Where a question goes, what it costs, and whether sizes there are contracts (COINM)."""

    venue: str
    path: str
    weight: int
    pool: str
    contracts: bool = False

    def request(self, *params: tuple[str, object], weight: int | None = None) -> Request:
        """The request with those of the parameters that are not None."""
        query = tuple((name, str(value)) for name, value in params if value is not None)
        return Request(path=self.path, query=query, weight=weight or self.weight, pool=self.pool)

    def body(self, ask: Ask, answer: Answer) -> bytes:
        """The body of a good answer; otherwise raises what the venue meant."""
        if answer.status != 200 or answer.body.startswith(b'{"code"'):
            raise _refusal(self.venue, ask, answer)
        return answer.body

    def named(self, ask: Ask, listing: Mapping[str, Instrument], *, found: object = True) -> str:
        """The instrument asked about. Raises UnknownInstrument when nothing was found and it is not listed."""
        symbol = _symbol(self.venue, ask)
        if not found and listing and symbol not in listing:
            raise _unknown(self.venue, ask)
        return f"{self.venue}:{symbol}"

    def listed_ns(self, ask: Ask, listing: Mapping[str, Instrument]) -> int:
        """Before this nothing happened; 0 where the venue does not tell."""
        instrument = listing.get(_symbol(self.venue, ask))
        return 0 if instrument is None or instrument.listed_ns is None else instrument.listed_ns

    def contract_size(self, ask: Ask, listing: Mapping[str, Instrument]) -> Decimal:
        """Of the instrument asked about. Raises UnknownInstrument where contracts cannot be counted without it."""
        instrument = listing.get(_symbol(self.venue, ask))
        if instrument is None or instrument.contract_size is None:
            raise _unknown(self.venue, ask)
        return instrument.contract_size


class Time:
    """Is it alive."""

    page_max = 0

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def request(self, ask: Ask) -> Request:  # noqa: ARG002 nothing to say
        return self._endpoint.request()

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:  # noqa: ARG002
        _time(self._endpoint.body(ask, answer))
        return Page(())


class Instruments:
    """The listing; `read` makes an instrument of one entry, or None of one that is none of ours."""

    page_max = 0

    def __init__(self, endpoint: Endpoint, read: Callable[[msgspec.Raw], Instrument | None]) -> None:
        self._endpoint = endpoint
        self._read = read

    def request(self, ask: Ask) -> Request:  # noqa: ARG002 always all of them
        return self._endpoint.request()

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:  # noqa: ARG002
        entries = _listing(self._endpoint.body(ask, answer)).symbols
        found, unread = _each(entries, self._read)
        if entries and not found:
            raise Unreadable("a listing of which no entry can be read", answer.body)
        return Page((), instruments=found, unread=unread)


class Candles:
    """The venue's candles.

    Spot and USDM give the first rows of a stretch that holds more than a page, COINM (`days_max`, the longest stretch it
    takes) the last ones: there no stretch is asked that holds more than a page. Without a start all give the last ones.
    The candle that is still growing is among the rows; it is closed when its end has passed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        intervals_s: frozenset[int],
        rows_max: int,
        weigh: Callable[[int], int],
        born_ns: int,
        days_max: int | None = None,
    ) -> None:
        self.page_max = rows_max
        self._endpoint = endpoint
        self._intervals_s = intervals_s
        self._weigh = weigh
        self._born_ns = born_ns
        self._days_max = days_max

    def request(self, ask: Ask) -> Request:
        interval_s = self._interval_s(ask)
        start_ns, end_ns = self._stretch(ask)
        rows = self._asked(ask)
        return self._endpoint.request(
            ("symbol", _symbol(self._endpoint.venue, ask)),
            ("interval", INTERVAL_NAMES[interval_s]),
            ("startTime", _ms(start_ns)),
            ("endTime", _ms(end_ns, inclusive=True)),
            ("limit", rows),
            weight=self._weigh(rows),
        )

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        rows = _rows(self._endpoint.body(ask, answer))
        name = self._endpoint.named(ask, listing, found=rows)
        contract_size = self._endpoint.contract_size(ask, listing) if self._endpoint.contracts else None
        interval_ns = self._interval_s(ask) * NS
        first_ns, end_ns = ask.start_ns or self._born_ns, ask.end_ns or FOREVER_NS
        _ascending([row.open_at for row in rows])
        candles = [
            candle
            for row in rows
            if first_ns
            <= (candle := candle_of(row, name, interval_ns, answer.received_ns, contract_size)).open_ns
            < end_ns
        ]
        full = len(rows) >= self._asked(ask)
        left = None if ask.limit is None else ask.limit - len(candles)
        known_until_ns = _known_until_ns(candles, interval_ns, answer.received_ns)
        if ask.newest:
            # COINM looks back 200 days and no further: a page that is not full says nothing of what lies before.
            more = bool(candles) and candles[0].open_ns > first_ns and (full or self._days_max is not None)
            if not candles and self._days_max is not None:
                return Page(())
            reach_ns = candles[0].open_ns if more else first_ns
            following = replace(ask, end_ns=reach_ns, limit=left) if more and left != 0 else None
            return Page(candles, next=following, start_ns=reach_ns, end_ns=max(reach_ns, min(end_ns, known_until_ns)))
        _, asked_end_ns = self._stretch(ask)
        until_ns = candles[-1].open_ns + interval_ns if full and candles else asked_end_ns or FOREVER_NS
        if not candles:
            # Its first candle opened before it was listed, but not by more than an interval.
            until_ns = max(until_ns, self._endpoint.listed_ns(ask, listing) - interval_ns)
        more = left != 0 and until_ns < min(end_ns, answer.received_ns)
        return Page(
            candles,
            next=replace(ask, start_ns=until_ns, limit=left) if more else None,
            start_ns=first_ns,
            end_ns=max(first_ns, min(until_ns, known_until_ns)),
        )

    def _interval_s(self, ask: Ask) -> int:
        if ask.interval_s not in self._intervals_s:
            allowed = ", ".join(INTERVAL_NAMES[interval_s] for interval_s in sorted(self._intervals_s))
            raise BadInterval(f"{self._endpoint.venue} serves candles of {allowed}")
        assert ask.interval_s is not None
        return ask.interval_s

    def _asked(self, ask: Ask) -> int:
        return self.page_max if ask.limit is None else max(1, min(ask.limit, self.page_max))

    def _stretch(self, ask: Ask) -> tuple[int | None, int | None]:
        """What is asked of the venue, ends that are left open None."""
        if ask.newest:
            return None, ask.end_ns
        if self._days_max is None:
            return ask.start_ns or self._born_ns, ask.end_ns
        width_ns = min(self._asked(ask) * self._interval_s(ask) * NS, self._days_max * DAY_NS)
        first_ns = max(ask.start_ns or 0, self._born_ns)
        return first_ns, min(FOREVER_NS if ask.end_ns is None else ask.end_ns, first_ns + width_ns)


class AggTrades:
    """Aggregate trades: by time until one is found, by id from there, since many may share a millisecond.

    `from_id` asks go on after that id; `newest` ones go back from the newest by id (`cursor` is the oldest id seen).
    """

    def __init__(self, endpoint: Endpoint, rows_max: int = TRADES_MAX) -> None:
        self.page_max = rows_max
        self._endpoint = endpoint

    def request(self, ask: Ask) -> Request:
        rows = self._asked(ask)
        by_id: int | None = None
        start_ns = end_ns = None
        if ask.cursor is not None:
            by_id = int(ask.cursor) - rows
        elif ask.newest:
            end_ns = ask.end_ns
        elif ask.from_id is not None:
            by_id = int(ask.from_id) + 1
        elif ask.start_ns is None:
            by_id = 0
        else:
            start_ns, end_ns = ask.start_ns, self._window_end_ns(ask)
        return self._endpoint.request(
            ("symbol", _symbol(self._endpoint.venue, ask)),
            ("fromId", by_id),
            ("startTime", _ms(start_ns)),
            ("endTime", _ms(end_ns, inclusive=True)),
            ("limit", rows),
        )

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        rows = _aggregates(self._endpoint.body(ask, answer))
        name = self._endpoint.named(ask, listing, found=rows)
        _ascending([row.id for row in rows])
        if ask.cursor is not None:
            # Below the first id that the venue still has, it answers with what follows: those were told before.
            rows = [row for row in rows if row.id < int(ask.cursor)]
        if self._endpoint.contracts:
            contract_sizes = {name: self._endpoint.contract_size(ask, listing)}
            says = [inverse_trade(contract_sizes, row, name, answer.received_ns) for row in rows]
        else:
            says = [agg_trade(row, name, answer.received_ns) for row in rows]
        # Void aggregates (see agg_trade) hold no trade, but their ids count.
        trades = [event for said in says for event in said if isinstance(event, Trade)]
        back = ask.newest or ask.cursor is not None
        if back:
            return self._backward(ask, rows, trades)
        return self._forward(ask, rows, trades, answer.received_ns, self._endpoint.listed_ns(ask, listing))

    def _forward(
        self, ask: Ask, rows: Sequence[_Aggregate], trades: list[Trade], received_ns: int, listed_ns: int
    ) -> Page:
        end_ns = FOREVER_NS if ask.end_ns is None else ask.end_ns
        wanted = [trade for trade in trades if trade.event_ns < end_ns]
        left = None if ask.limit is None else ask.limit - len(wanted)
        known_ns = min(end_ns, received_ns - TRAILS_NS)
        by_time = ask.from_id is None and ask.start_ns is not None
        if not by_time:
            ended = len(rows) < self._asked(ask)
        elif rows:
            # The rest of the window's hour is asked by id as well: that is one request instead of many empty hours.
            ended = len(rows) < self._asked(ask) and self._window_end_ns(ask) >= known_ns
        else:
            ended = self._window_end_ns(ask) >= known_ns
        if ended or len(wanted) < len(trades):
            until_ns = max(known_ns, wanted[-1].event_ns if wanted else 0)
            return Page(wanted, start_ns=ask.start_ns, end_ns=max(until_ns, ask.start_ns or 0))
        if not rows:
            # Hours before the listing are empty, and not asked one by one.
            until_ns = max(self._window_end_ns(ask), min(listed_ns, known_ns))
            return Page((), next=replace(ask, start_ns=until_ns), start_ns=ask.start_ns, end_ns=until_ns)
        # More trades of the last one's millisecond may follow.
        until_ns = ns_of(rows[-1].at)
        following = replace(ask, from_id=rows[-1].id, start_ns=until_ns, limit=left)
        return Page(wanted, next=None if left == 0 else following, start_ns=ask.start_ns, end_ns=until_ns)

    def _backward(self, ask: Ask, rows: Sequence[_Aggregate], trades: list[Trade]) -> Page:
        first_ns, end_ns = ask.start_ns or 0, FOREVER_NS if ask.end_ns is None else ask.end_ns
        wanted = [trade for trade in trades if first_ns <= trade.event_ns < end_ns]
        left = None if ask.limit is None else ask.limit - len(wanted)
        if left == 0 or not rows or rows[0].id == 0 or ns_of(rows[0].at) < first_ns:
            return Page(wanted)
        return Page(wanted, next=replace(ask, cursor=str(rows[0].id), limit=left))

    def _asked(self, ask: Ask) -> int:
        rows = self.page_max if ask.limit is None else max(1, min(ask.limit, self.page_max))
        return rows if ask.cursor is None else min(rows, int(ask.cursor))

    def _window_end_ns(self, ask: Ask) -> int:
        assert ask.start_ns is not None
        return min(FOREVER_NS if ask.end_ns is None else ask.end_ns, ask.start_ns + TRADES_WINDOW_NS)


class Interest:
    """Open interest now, in base coins."""

    page_max = 1

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def request(self, ask: Ask) -> Request:
        return self._endpoint.request(("symbol", _symbol(self._endpoint.venue, ask)))

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        now = _interest(self._endpoint.body(ask, answer))
        name = self._endpoint.named(ask, listing)
        return Page((OpenInterest(name, ns_of(now.at), answer.received_ns, amount(now.size)),))


class InterestInContracts:
    """Open interest now where the venue counts contracts worth quote currency.

    Contracts are coins only at a price, so the mark price is asked first; the second request carries it as `cursor`.
    """

    page_max = 1

    def __init__(self, endpoint: Endpoint, prices: Endpoint) -> None:
        self._endpoint = endpoint
        self._prices = prices

    def request(self, ask: Ask) -> Request:
        endpoint = self._prices if ask.cursor is None else self._endpoint
        return endpoint.request(("symbol", _symbol(endpoint.venue, ask)))

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        name = self._endpoint.named(ask, listing)
        contract_size = self._endpoint.contract_size(ask, listing)
        body = self._endpoint.body(ask, answer)
        if ask.cursor is None:
            rows = [row for raw in _listed(body) if (row := _premium(raw)).symbol == ask.symbol]
            if not rows:
                raise Unreadable("premium index without the instrument that was asked for", body)
            mark = positive(rows[0].mark, PRICE_MOST)
            return Page((), next=replace(ask, cursor=str(mark)))
        now = _interest(body)
        contracts = amount(now.size)
        size, value = coins(contracts, contract_size, Decimal(ask.cursor))
        return Page((OpenInterest(name, ns_of(now.at), answer.received_ns, size, value, contracts),))


class InterestHistory:
    """Open interest at each period's end, 30 days back. Which rows of too long a stretch come is not documented, so no
    stretch is asked that holds more than a page. Without a start, pages go back from the newest.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        subject: Callable[[str], Sequence[tuple[str, str]]],
        rows_max: int = INTERESTS_MAX,
    ) -> None:
        self.page_max = rows_max
        self._endpoint = endpoint
        self._subject = subject

    def request(self, ask: Ask) -> Request:
        period_s = self._period_s(ask)
        start_ns, end_ns = self._stretch(ask)
        return self._endpoint.request(
            *self._subject(_symbol(self._endpoint.venue, ask)),
            ("period", INTERVAL_NAMES[period_s]),
            ("startTime", _ms(start_ns)),
            ("endTime", _ms(end_ns, inclusive=True)),
            ("limit", self._asked(ask)),
        )

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        try:
            rows = _interest_rows(self._endpoint.body(ask, answer))
        except OutOfReach:
            return self._within_reach(ask, answer)
        name = self._endpoint.named(ask, listing, found=rows)
        contract_size = self._endpoint.contract_size(ask, listing) if self._endpoint.contracts else None
        _ascending([row.at for row in rows])
        start_ns, end_ns = ask.start_ns or 0, FOREVER_NS if ask.end_ns is None else ask.end_ns
        events = [
            event
            for row in rows
            if start_ns <= (event := _interest_event(row, name, answer.received_ns, contract_size)).event_ns < end_ns
        ]
        left = None if ask.limit is None else ask.limit - len(events)
        asked_start_ns, asked_end_ns = self._stretch(ask)
        if self._newest(ask):
            window_ns = start_ns if asked_start_ns is None else min(asked_start_ns, answer.received_ns)
            oldest_ns = events[0].event_ns if events else window_ns
            more = left != 0 and oldest_ns > max(start_ns, answer.received_ns - INTEREST_REACH_NS)
            following = replace(ask, end_ns=oldest_ns, limit=left) if more else None
            return Page(events, next=following)
        assert asked_start_ns is not None
        assert asked_end_ns is not None
        more = left != 0 and asked_end_ns < min(end_ns, answer.received_ns)
        return Page(
            events,
            next=replace(ask, start_ns=asked_end_ns, limit=left) if more else None,
            start_ns=asked_start_ns,
            end_ns=max(asked_start_ns, min(asked_end_ns, answer.received_ns - self._period_s(ask) * NS)),
        )

    def _within_reach(self, ask: Ask, answer: Answer) -> Page:
        """The venue refused a stretch that starts too early: go on with the part it may serve, if there is one."""
        reach_ns = answer.received_ns - INTEREST_REACH_NS
        end_ns = answer.received_ns if ask.end_ns is None else ask.end_ns
        if ask.start_ns is None or ask.start_ns >= reach_ns or end_ns <= reach_ns:
            raise OutOfReach(self._endpoint.venue, "open interest is served for the latest 30 days")
        return Page((), next=replace(ask, start_ns=reach_ns))

    def _newest(self, ask: Ask) -> bool:
        return ask.newest or ask.start_ns is None

    def _period_s(self, ask: Ask) -> int:
        if ask.interval_s not in _PERIODS_S:
            allowed = ", ".join(INTERVAL_NAMES[period_s] for period_s in sorted(_PERIODS_S))
            raise BadInterval(f"{self._endpoint.venue} serves open interest for {allowed}")
        assert ask.interval_s is not None
        return ask.interval_s

    def _asked(self, ask: Ask) -> int:
        return self.page_max if ask.limit is None else max(1, min(ask.limit, self.page_max))

    def _stretch(self, ask: Ask) -> tuple[int | None, int | None]:
        width_ns = self._asked(ask) * self._period_s(ask) * NS
        if not self._newest(ask):
            assert ask.start_ns is not None
            return ask.start_ns, min(FOREVER_NS if ask.end_ns is None else ask.end_ns, ask.start_ns + width_ns)
        if ask.end_ns is None:
            return None, None
        return max(ask.start_ns or 0, ask.end_ns - width_ns), ask.end_ns


class Premium:
    """Now: mark price, index, running funding; of one instrument, or of all."""

    page_max = 0

    def __init__(self, endpoint: Endpoint, weight_all: int) -> None:
        self._endpoint = endpoint
        self._weight_all = weight_all

    def request(self, ask: Ask) -> Request:
        return self._endpoint.request(("symbol", ask.symbol), weight=None if ask.symbol else self._weight_all)

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        def read(raw: msgspec.Raw) -> Sequence[Event] | None:
            row = _premium(raw)
            if not _wanted(row.symbol, ask, listing):
                return None
            name = f"{self._endpoint.venue}:{row.symbol}"
            return marks(name, ns_of(row.at), answer.received_ns, row.mark, row.index, row.rate, row.funding_at)

        found, unread = _each(_listed(self._endpoint.body(ask, answer)), read)
        if unread and not found:
            raise Unreadable("premium index of which no row can be read", answer.body)
        return Page([event for events in found for event in events], unread=unread)


class FundingHistory:
    """Settled rates. They settle hourly at most, so a stretch of about as many hours as a page has rows fits one, and going
    back takes such stretches. A row's period is the time since the settlement before it (`cursor` carries that one over to the
    next page): the interval is per symbol and changes, and stamps are some milliseconds past the hour.
    """

    def __init__(self, endpoint: Endpoint, born_ns: int, rows_max: int = FUNDINGS_MAX) -> None:
        self.page_max = rows_max
        self._endpoint = endpoint
        self._born_ns = born_ns

    def request(self, ask: Ask) -> Request:
        start_ns, end_ns = self._stretch(ask)
        return self._endpoint.request(
            ("symbol", _symbol(self._endpoint.venue, ask)),
            ("startTime", _ms(start_ns)),
            ("endTime", _ms(end_ns, inclusive=True)),
            ("limit", self._asked(ask)),
        )

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        rows = _fundings(self._endpoint.body(ask, answer))
        name = self._endpoint.named(ask, listing, found=rows)
        _ascending([row.at for row in rows])
        first_ns, end_ns = ask.start_ns or self._born_ns, FOREVER_NS if ask.end_ns is None else ask.end_ns
        before_ns = None if ask.cursor is None or ask.newest else int(ask.cursor)
        events: list[FundingRate] = []
        for row in rows:
            at_ns = ns_of(row.at)
            if first_ns <= at_ns < end_ns:
                period_s = _period_s(before_ns, at_ns)
                rate = funding_rate(row.rate)
                events.append(FundingRate(name, at_ns, answer.received_ns, rate, at_ns, period_s, settled=True))
            before_ns = at_ns
        # Without ends the newest rows come, as many as asked; a stretch going back may hold more than are still wanted.
        wanted = events[-ask.limit :] if ask.newest and ask.limit else events
        left = None if ask.limit is None else ask.limit - len(wanted)
        if ask.newest:
            return self._backward(ask, wanted, left, first_ns)
        full = len(rows) >= self._asked(ask)
        if not full:
            until_ns = max(first_ns, min(end_ns, answer.received_ns - LATE_NS))
            return Page(wanted, start_ns=first_ns, end_ns=until_ns)
        until_ns = ns_of(rows[-1].at) + MS
        more = left != 0 and until_ns < end_ns
        following = replace(ask, start_ns=until_ns, limit=left, cursor=str(before_ns)) if more else None
        return Page(wanted, next=following, start_ns=first_ns, end_ns=until_ns)

    def _backward(self, ask: Ask, wanted: Sequence[FundingRate], left: int | None, first_ns: int) -> Page:
        start_ns, _ = self._stretch(ask)
        if wanted:
            reach_ns = wanted[0].funding_ns if start_ns is None else start_ns
            more = left != 0 and reach_ns > first_ns
            return Page(wanted, next=replace(ask, end_ns=reach_ns, limit=left, cursor=_BACK) if more else None)
        # An empty stretch is the time before the listing, if there were rows after it; otherwise it may also be that the
        # contract ended, or that the end lies ahead.
        return Page((), next=replace(ask, cursor=_NOW) if ask.cursor is None and ask.end_ns is not None else None)

    def _asked(self, ask: Ask) -> int:
        if ask.limit is None or (ask.newest and ask.end_ns is not None):
            return self.page_max
        return max(1, min(ask.limit, self.page_max))

    def _width_ns(self) -> int:
        # Stamps jitter by milliseconds, so a stretch may hold one more row than it has hours.
        return max(1, self.page_max - 1) * HOUR_NS

    def _stretch(self, ask: Ask) -> tuple[int | None, int | None]:
        if not ask.newest:
            return ask.start_ns or self._born_ns, ask.end_ns
        if ask.end_ns is None or ask.cursor == _NOW:
            return None, None
        return max(ask.start_ns or self._born_ns, ask.end_ns - self._width_ns()), ask.end_ns


class Tickers:
    """24 h summaries of all instruments, or of one. Those that never traded (all zeros) are left out."""

    page_max = 0

    def __init__(self, endpoint: Endpoint, weight_all: int) -> None:
        self._endpoint = endpoint
        self._weight_all = weight_all

    def request(self, ask: Ask) -> Request:
        return self._endpoint.request(("symbol", ask.symbol), weight=None if ask.symbol else self._weight_all)

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        def read(raw: msgspec.Raw) -> Ticker | None:
            row = _tick(raw)
            if not _wanted(row.symbol, ask, listing) or not row.close:
                return None
            return self._ticker(row, answer.received_ns, listing)

        found, unread = _each(_listed(self._endpoint.body(ask, answer)), read)
        if unread and not found:
            raise Unreadable("tickers of which no row can be read", answer.body)
        return Page(found, unread=unread)

    def _ticker(self, row: _Ticker, received_ns: int, listing: Mapping[str, Instrument]) -> Ticker | None:
        volume, quote_volume = row.volume, row.quote_volume
        if self._endpoint.contracts:
            instrument = listing.get(row.symbol)
            if instrument is None or instrument.contract_size is None:
                return None
            volume, quote_volume = row.base_volume, row.volume * instrument.contract_size
        name = f"{self._endpoint.venue}:{row.symbol}"
        prices = candle_prices(row.open, row.high, row.low, row.close)
        return Ticker(
            name, ns_of(row.at), received_ns, *prices, amount(volume), amount(quote_volume), row.trades
        )  # fmt: skip


class Depth:
    """All levels now, up to as many a side. `weights`: what an answer of so many levels costs, fewest first."""

    def __init__(self, endpoint: Endpoint, weights: Mapping[int, int]) -> None:
        self.page_max = max(weights)
        self._endpoint = endpoint
        self._weights = weights

    def request(self, ask: Ask) -> Request:
        wanted = DEPTH_LEVELS if ask.limit is None else ask.limit
        # Futures serve these counts and no others.
        levels = next((count for count in self._weights if count >= wanted), self.page_max)
        symbol = _symbol(self._endpoint.venue, ask)
        return self._endpoint.request(("symbol", symbol), ("limit", levels), weight=self._weights[levels])

    def page(self, ask: Ask, answer: Answer, listing: Mapping[str, Instrument]) -> Page:
        told = _depth(self._endpoint.body(ask, answer))
        name = self._endpoint.named(ask, listing)
        bids, asks = told.bids[: ask.limit], told.asks[: ask.limit]
        for lower, higher in (*pairwise(reversed(bids)), *pairwise(asks)):
            if not lower[0] < higher[0]:
                raise Unreadable("levels out of order", answer.body)
        bounded(bids)
        bounded(asks)
        # Spot does not say when.
        event_ns = answer.received_ns if told.at is None else ns_of(told.at)
        return Page([DepthSnapshot(name, event_ns, answer.received_ns, bids, asks, told.update)])


def candle_of(row: CandleRow, name: str, interval_ns: int, received_ns: int, contract_size: Decimal | None) -> Candle:
    """The row as a candle; `contract_size` where sizes are contracts. Raises Unreadable, or InvalidOperation for NaN."""
    open_ns = ns_of(row.open_at)
    volume, quote_volume = amount(row.volume), amount(row.amount)
    if contract_size is not None:
        # COINM: the first column counts contracts, and the one that is elsewhere the quote volume counts base coins.
        volume, quote_volume = quote_volume, volume * contract_size
    return Candle(
        name,
        _BOTH,
        interval_ns // NS,
        open_ns,
        *candle_prices(row.open, row.high, row.low, row.close),
        volume,
        quote_volume,
        row.trades,
        None,
        None,
        closed=ns_of(row.close_at) < received_ns,
        received_ns=received_ns,
        origin="venue",
    )


def futures_candles_weight(rows: int) -> int:
    """What klines of USDM and COINM cost."""
    return 1 if rows < 100 else 2 if rows < 500 else 5 if rows <= 1_000 else 10


def is_dated(nature: str, delivery_ms: int) -> bool:
    """Whether a contract ends. Perpetuals (also those on shares) say PERPETUAL; one not yet open says nothing."""
    return "PERPETUAL" not in nature if nature else 0 < delivery_ms < MS_MOST


def step(name: str, key: str, filters: Sequence[Mapping[str, Any]]) -> Decimal:
    """`key` of the filter `name` of an exchangeInfo entry, a price or size step. Raises Unreadable."""
    for entry in filters:
        if entry.get("filterType") == name:
            return positive(Decimal(str(entry.get(key))), SIZE_MOST)
    raise Unreadable(f"an instrument without {name}")


def _refusal(venue: str, ask: Ask, answer: Answer) -> Exception:
    """What an answer that is an error means, by its status and its code."""
    try:
        code, text = (error := _error(answer.body)).code, error.msg
    except UNREADABLE:
        code, text = 0, ""
    status = answer.status
    if status == 403:
        return RateLimited(venue, f"{venue}'s firewall turned us away", _retry_s(answer, FIREWALL_S))
    if status in {418, 429} or code == -1003:
        banned = status == 418
        wait_s = _retry_s(answer, BAN_S if banned else RETRY_S)
        return RateLimited(venue, f"{venue} asks to slow down", wait_s, banned=banned)
    if status == 451:
        return Unavailable(venue, f"{venue} does not serve the place we ask from", HOUR_NS / NS)
    if code == -1121 or (code == -1100 and "'symbol'" in text):
        return _unknown(venue, ask)
    if code == -1120:
        return BadInterval(f"{venue} does not serve this interval")
    if code == -1127:
        return BadRange(f"{venue} does not serve so long a stretch at once")
    if code == -1130 and ask.query in {Query.OPEN_INTEREST_HISTORY, Query.TRADES, Query.CANDLES}:
        return OutOfReach(venue, f"{venue} does not serve a stretch that old")
    wait = _retry_s(answer, RETRY_S) if "retry-after" in answer.headers else None
    return Unavailable(venue, f"{venue} answered {status}" + (f" with code {code}" if code else ""), wait)


def _retry_s(answer: Answer, otherwise_s: float) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), RETRY_S_MAX) if told.isascii() and told.isdigit() else otherwise_s


def _unknown(venue: str, ask: Ask) -> UnknownInstrument:
    return UnknownInstrument(f"{venue} does not list {ask.symbol}")


def _symbol(venue: str, ask: Ask) -> str:
    if ask.symbol is None:
        raise Unsupported(f"{venue} answers {ask.query} for one instrument at a time")
    return ask.symbol


def _wanted(symbol: str, ask: Ask, listing: Mapping[str, Instrument]) -> bool:
    return symbol == ask.symbol if ask.symbol else not listing or symbol in listing


def _ms(at_ns: int | None, *, inclusive: bool = False) -> int | None:
    """The first millisecond not before, or with `inclusive` the last one before."""
    if at_ns is None:
        return None
    return -(-at_ns // MS) - inclusive


def _ascending(keys: Sequence[int]) -> None:
    if any(after <= before for before, after in pairwise(keys)):
        raise Unreadable("rows that are not in order")


def _listed(body: bytes) -> list[msgspec.Raw]:
    """The rows of an answer that is a list, or a single object where one instrument was asked for."""
    return [msgspec.Raw(body)] if body[:1] == b"{" else _raws(body)


def _each(raws: Sequence[msgspec.Raw], read: Callable[[msgspec.Raw], T | None]) -> tuple[list[T], int]:
    """What `read` makes of each (None: leave it out), and how many could not be read."""
    found: list[T] = []
    unread = 0
    for raw in raws:
        try:
            made = read(raw)
        except (*UNREADABLE, ArithmeticError, Unreadable):
            unread += 1
        else:
            if made is not None:
                found.append(made)
    return found, unread


def _known_until_ns(candles: Sequence[Candle], interval_ns: int, received_ns: int) -> int:
    """Until when a missing row means that nothing traded."""
    closed_ns = max((candle.open_ns + interval_ns for candle in candles if candle.closed), default=0)
    return max(closed_ns, (received_ns - LATE_NS) // interval_ns * interval_ns)


def _interest_event(row: _InterestRow, name: str, received_ns: int, contract_size: Decimal | None) -> OpenInterest:
    size, value = amount(row.size), amount(row.value)
    if contract_size is None:
        return OpenInterest(name, ns_of(row.at), received_ns, size, value)
    return OpenInterest(name, ns_of(row.at), received_ns, value, size * contract_size, size)


def _period_s(before_ns: int | None, at_ns: int) -> int | None:
    """Time since the settlement before, in whole hours; None where that one is not known or was not the last."""
    if before_ns is None:
        return None
    hours = round((at_ns - before_ns) / HOUR_NS)
    return hours * 3_600 if 1 <= hours <= 24 else None
