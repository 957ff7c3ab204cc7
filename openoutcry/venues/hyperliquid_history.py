"""What Hyperliquid's REST side can be asked: POST /info, and the body's `type` says what.

https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/info-endpoint

    {"type":"candleSnapshot","req":{"coin":"BTC","interval":"1m","startTime":1737918780000,"endTime":1737918839999}}
    [{"t":1737918780000,"T":1737918839999,"s":"BTC","i":"1m","o":"105055.0",…}]                          oldest first

    {"type":"fundingHistory","coin":"BTC","startTime":1737918000000,"endTime":1737921600000}
    [{"coin":"BTC","fundingRate":"0.0000125","premium":"0.0001","time":1737918000076}]     oldest first, 500 from the start

    {"type":"recentTrades","coin":"BTC"}                                                                  newest first
    {"type":"metaAndAssetCtxs"}         [{"universe":[{"name":"BTC","szDecimals":5}]}, [{"funding":"0.0000125",…}]]
    {"type":"predictedFundings"}        [["BTC",[["BinPerp",{"fundingRate":"0.0001","nextFundingTime":…}],["BybitPerp",null]]]]

    {"type":"clearinghouseState","user":"0x…"}
    {"assetPositions":[{"type":"oneWay","position":{"coin":"ETH","szi":"-0.0335","entryPx":"2986.3","liquidationPx":null,…}}],
     "marginSummary":{…},"time":1708622398623}       the venue's own perpetuals; those of builders are not asked for

An unknown coin is status 500 with the body `null`; 429 has the body `null` too. A question for the newest rows without an end
first asks for the time (`exchangeStatus`, which costs next to nothing), because all paging is by time. `szi` is negative for a
short; `liquidationPx` is null where no price liquidates the position alone.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

import msgspec

from openoutcry.errors import (
    BadInterval,
    OutOfReach,
    RateLimited,
    Unavailable,
    UnknownInstrument,
    Unreadable,
    Unsupported,
)
from openoutcry.events import (
    NS,
    Event,
    FundingRate,
    MarkPrice,
    OpenInterest,
    Position,
    Positions,
    PredictedFunding,
    open_of,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues.hyperliquid_wire import (
    HOUR_NS,
    INTERVALS_S,
    MOST,
    MS,
    NAME,
    CandleRow,
    Coin,
    Context,
    Names,
    TimeMs,
    TradeRow,
    candle_of,
    check,
    context_of,
    instrument_of,
    is_spot,
    rate_of,
    trades_of,
)
from openoutcry.venues.paging import promised
from openoutcry.venues.venue import Answer, Ask, Page, Query, Request

CANDLES_SERVED = 5_000  # newest candles of an interval that the venue still has
FUNDINGS_PAGE = 500
TRADES_PAGE = 500
POSITIONS_MAX = 2_000  # of one holder: far above what is listed
CLOSED_AFTER_NS = 5 * NS  # a candle that is asked for so long after its end will not change
RETRY_S = 10.0  # after a 429 that does not say
RETRY_S_MAX = 3_600.0
QUERIES = frozenset(
    {
        Query.INSTRUMENTS,
        Query.CANDLES,
        Query.TRADES,
        Query.OPEN_INTEREST,
        Query.FUNDING,
        Query.FUNDING_HISTORY,
        Query.PREDICTED_FUNDING,
        Query.POSITIONS,
        Query.TIME,
    }
)
INTERVAL_NAMES = {seconds: name for name, seconds in INTERVALS_S.items()}
PAGE_MAX: Mapping[Query, int] = {
    Query.CANDLES: CANDLES_SERVED,
    Query.FUNDING_HISTORY: FUNDINGS_PAGE,
    Query.TRADES: TRADES_PAGE,
}

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_Decimals = Annotated[int, msgspec.Meta(ge=0, le=18)]
_T = TypeVar("_T")


class _Perpetual(msgspec.Struct, frozen=True):
    name: Coin
    size_decimals: _Decimals = msgspec.field(name="szDecimals")
    delisted: bool = msgspec.field(name="isDelisted", default=False)


class _Meta(msgspec.Struct, frozen=True):
    universe: list[_Perpetual]
    collateral: int = msgspec.field(name="collateralToken", default=0)


class _Dex(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,32}$")]


class _Token(msgspec.Struct, frozen=True):
    name: Coin
    index: int
    size_decimals: _Decimals = msgspec.field(name="szDecimals")


class _Pair(msgspec.Struct, frozen=True):
    name: Coin
    tokens: tuple[int, int]


class _SpotMeta(msgspec.Struct, frozen=True):
    universe: list[_Pair]
    tokens: list[_Token]


class _Funding(msgspec.Struct, frozen=True):
    rate: Decimal = msgspec.field(name="fundingRate")
    time_ms: TimeMs = msgspec.field(name="time")


class _Prediction(msgspec.Struct, frozen=True):
    rate: Decimal | None = msgspec.field(name="fundingRate", default=None)
    next_ms: TimeMs | None = msgspec.field(name="nextFundingTime", default=None)
    hours: Annotated[int, msgspec.Meta(gt=0, le=1_000)] | None = msgspec.field(
        name="fundingIntervalHours", default=None
    )


class _Held(msgspec.Struct, frozen=True):
    coin: Coin
    size: Decimal = msgspec.field(name="szi")
    liquidation: Decimal | None = msgspec.field(name="liquidationPx", default=None)


class _Asset(msgspec.Struct, frozen=True):
    position: _Held


class _State(msgspec.Struct, frozen=True):
    assets: Annotated[list[_Asset], msgspec.Meta(max_length=POSITIONS_MAX)] = msgspec.field(name="assetPositions")
    time_ms: TimeMs = msgspec.field(name="time")


class History:
    """Questions and answers; knows the listing, to tell an unknown coin from a venue that is ill."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._listing: dict[str, Instrument] = {}
        self._tokens: dict[int, str] = {0: "USDC"}

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Replace the listing."""
        self._listing = {instrument.symbol: instrument for instrument in instruments}

    def request(self, ask: Ask) -> Request:
        """What to post. Raises Unsupported, BadInterval, UnknownInstrument (what is no address)."""
        if ask.query not in QUERIES:
            raise Unsupported(f"hyperliquid does not tell {ask.query.value}")
        if ask.query is Query.INSTRUMENTS:
            return _listing_request(ask.cursor)
        if ask.query is Query.PREDICTED_FUNDING:
            return _info(20, type="predictedFundings")
        if ask.query is Query.TIME or _lacks_now(ask):
            return _info(2, type="exchangeStatus")
        if ask.query in (Query.OPEN_INTEREST, Query.FUNDING):
            return _contexts_request(ask)
        if ask.query is Query.POSITIONS:
            return _info(2, type="clearinghouseState", user=_holder(ask))
        symbol = _symbol(ask)
        if ask.query is Query.TRADES:
            return _info(20 + TRADES_PAGE // 20, type="recentTrades", coin=symbol)
        if ask.query is Query.CANDLES:
            return _candles_request(ask, symbol)
        return _fundings_request(ask, symbol)

    def page(self, ask: Ask, answer: Answer) -> Page:
        """What an answer says. Raises UnknownInstrument, RateLimited, OutOfReach, Unavailable, Unreadable."""
        if answer.status == 422 and ask.cursor == "allPerpMetas":
            # Not every server of this protocol has it; all have one answer for each builder.
            return Page((), next=Ask(query=Query.INSTRUMENTS, cursor="perpDexs"))
        if answer.status != 200:
            self._refuse(ask, answer)
        try:
            return self._page(ask, answer)
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation, RecursionError) as e:
            raise Unreadable(str(e) or type(e).__name__, answer.body) from e
        except Unreadable as e:
            raise Unreadable(e.why, answer.body) from e

    def _page(self, ask: Ask, answer: Answer) -> Page:
        match ask.query:
            case Query.INSTRUMENTS:
                return self._instruments(ask, answer)
            case Query.PREDICTED_FUNDING:
                return Page(self._predictions(answer))
            case Query.OPEN_INTEREST | Query.FUNDING:
                return Page(self._contexts(ask, answer))
            case Query.POSITIONS:
                return Page((self._positions(ask, answer),))
            case Query.TIME:
                return Page(())
            case _ if _lacks_now(ask):
                return Page((), next=msgspec.structs.replace(ask, end_ns=answer.received_ns + 1))
            case Query.TRADES:
                return self._recent(ask, answer)
            case Query.CANDLES:
                return self._history(ask, answer)
            case _:
                return self._fundings(ask, answer)

    def _refuse(self, ask: Ask, answer: Answer) -> None:
        if answer.status == 429:
            raise RateLimited(NAME, "hyperliquid asks us to slow down", _retry_s(answer))
        coin = None if ask.query is Query.POSITIONS else ask.symbol
        if answer.status == 500 and answer.body.strip() == b"null" and coin and coin not in self._listing:
            raise UnknownInstrument(f"hyperliquid does not list {ask.symbol}")
        raise Unavailable(NAME, f"hyperliquid answered {answer.status}")

    def _instruments(self, ask: Ask, answer: Answer) -> Page:
        kind, _, dexes = (ask.cursor or "meta").partition(":")
        found: list[Instrument] = []
        following = None
        match kind:
            case "meta":
                found, following = self._perpetuals(_read(answer, _Meta)), "spotMeta"
            case "spotMeta":
                spot = _read(answer, _SpotMeta)
                self._tokens.update((token.index, token.name) for token in spot.tokens)
                found, following = _pairs(spot), "allPerpMetas"
            case "perpDexs":
                names = [dex.name for dex in _read(answer, list[_Dex | None]) if dex]
                following = f"dexes:{','.join(names)}" if names else None
            case "dexes":
                found = _of_builders(self._perpetuals(_read(answer, _Meta)))
                left = dexes.partition(",")[2]
                following = f"dexes:{left}" if left else None
            case _:
                metas = _read(answer, list[_Meta | None])
                found = _of_builders([each for meta in metas if meta for each in self._perpetuals(meta)])
        return Page((), found, Ask(query=Query.INSTRUMENTS, cursor=following) if following else None)

    def _perpetuals(self, meta: _Meta) -> list[Instrument]:
        settle = self._tokens.get(meta.collateral, f"token {meta.collateral}")
        return [
            instrument_of(
                perpetual.name,
                Kind.PERPETUAL,
                perpetual.name.rpartition(":")[2],
                "USD",
                settle,
                max(0, 6 - perpetual.size_decimals),
                perpetual.size_decimals,
                trading=not perpetual.delisted,
            )
            for perpetual in meta.universe
        ]

    def _contexts(self, ask: Ask, answer: Answer) -> list[Event]:
        meta, contexts = _read(answer, tuple[_Meta, list[Context]])
        if len(meta.universe) != len(contexts):
            raise Unreadable("as many contexts as instruments were expected")
        wanted = OpenInterest if ask.query is Query.OPEN_INTEREST else (FundingRate, MarkPrice)
        events: list[Event] = []
        known = False
        for perpetual, context in zip(meta.universe, contexts, strict=True):
            if ask.symbol is not None and perpetual.name != ask.symbol:
                continue
            known = True
            told = context_of(self._names[perpetual.name], context, answer.received_ns)
            events += [event for event in told if isinstance(event, wanted)]
        if ask.symbol is not None and not known:
            raise UnknownInstrument(f"hyperliquid does not list {ask.symbol}")
        return events

    def _predictions(self, answer: Answer) -> list[Event]:
        rows = _read(answer, list[tuple[str, list[tuple[str, _Prediction | None]]]])
        nothing = _Prediction()
        events: list[Event] = []
        for coin, venues in rows:
            for label, given in venues:
                told = given or nothing
                # Its own rate comes without an interval where it is the usual one.
                hours = told.hours or (1 if label == "HlPerp" and given else None)
                events.append(
                    PredictedFunding(
                        self._names[coin],
                        coin,
                        label,
                        answer.received_ns,
                        None if told.rate is None else rate_of(told.rate),
                        None if told.next_ms is None else told.next_ms * MS,
                        None if hours is None else hours * 3_600,
                        own=label == "HlPerp",
                    )
                )
        return events

    def _positions(self, ask: Ask, answer: Answer) -> Positions:
        state = _read(answer, _State)
        held = [asset.position for asset in state.assets]
        if len({each.coin for each in held}) < len(held):
            raise Unreadable("two positions in one coin")
        # One that cannot be read costs the others: without it their sum would be wrong and nobody would know.
        positions = tuple(
            Position(self._names[each.coin], _signed(each.size), _reachable(each.liquidation))
            for each in held
            if each.size
        )
        return Positions(f"{NAME}:*", _holder(ask), state.time_ms * MS, answer.received_ns, positions)

    def _recent(self, ask: Ask, answer: Answer) -> Page:
        rows = _read(answer, list[TradeRow])
        if any(row.coin != ask.symbol for row in rows):
            raise Unreadable("trades of another coin")
        # Newest first, so it is turned; sorting is stable, and trades of one block keep their order then.
        ascending = bool(rows) and rows[0].time_ms < rows[-1].time_ms
        rows = sorted(rows if ascending else reversed(rows), key=lambda row: row.time_ms)
        start_ns, end_ns = ask.start_ns or 0, ask.end_ns or answer.received_ns
        events = trades_of(rows, self._names, answer.received_ns)
        inside = [e for e in events if start_ns <= e.event_ns < end_ns]
        if ask.limit is not None:
            inside = inside[-ask.limit :] if ask.newest else inside[: ask.limit]
        # The oldest block told may be cut: only what came after it is complete. No row at all: nothing ever traded.
        first_ns = (rows[0].time_ms + 1) * MS if rows else 0
        whole_ns = max(start_ns, first_ns)
        if ask.limit is not None or whole_ns >= end_ns:
            return Page(inside)
        return Page(inside, start_ns=whole_ns, end_ns=min(end_ns, answer.received_ns))

    def _history(self, ask: Ask, answer: Answer) -> Page:
        interval_s = _interval_s(ask)
        interval_ns = interval_s * NS
        start_ns, end_ns = _candle_window(ask)
        now_ns = answer.received_ns
        # The growing candle is one of those served.
        reach_ns = open_of(now_ns, interval_s) - (CANDLES_SERVED - 1) * interval_ns
        if end_ns <= reach_ns:
            if ask.limit is None and (ask.end_ns is None or ask.end_ns > reach_ns):
                return Page((), next=msgspec.structs.replace(ask, start_ns=reach_ns))
            raise OutOfReach(NAME, f"hyperliquid serves the last {CANDLES_SERVED} candles only")
        name = self._names[_symbol(ask)]
        rows = [row for row in _read(answer, list[CandleRow]) if start_ns <= row.open_ms * MS < end_ns]
        if any(row.coin != ask.symbol or row.interval != INTERVAL_NAMES[interval_s] for row in rows):
            raise Unreadable("candles of another coin or interval")
        rows.sort(key=lambda row: row.open_ms)
        sure_ns = now_ns - CLOSED_AFTER_NS
        newest_ms = rows[-1].open_ms if rows else 0
        events = [
            candle_of(name, r, interval_s, now_ns, closed=r.open_ms < newest_ms or r.end_ms * MS < sure_ns)
            for r in rows
        ]
        following = None
        if not _newest(ask) and end_ns < min(ask.end_ns or now_ns, now_ns):
            left = None if ask.limit is None else ask.limit - len(events)
            if left is None or left > 0:
                following = msgspec.structs.replace(ask, start_ns=end_ns, limit=left)
        return promised(events, following, max(start_ns, reach_ns), min(end_ns, open_of(sure_ns, interval_s)))

    def _fundings(self, ask: Ask, answer: Answer) -> Page:
        name = self._names[_symbol(ask)]
        start_ns, end_ns = _funding_window(ask)
        end_ns = min(end_ns or answer.received_ns, answer.received_ns)
        rows = sorted(_read(answer, list[_Funding]), key=lambda row: row.time_ms)
        events = [
            FundingRate(
                name, row.time_ms * MS, answer.received_ns, rate_of(row.rate), row.time_ms * MS, 3_600, settled=True
            )
            for row in rows
            if start_ns <= row.time_ms * MS < end_ns
        ]
        left = None if ask.limit is None else ask.limit - len(events)
        if left is not None and left < 0:
            events = events[: ask.limit]
            return Page(events, start_ns=start_ns, end_ns=events[-1].event_ns + MS)
        if len(rows) < FUNDINGS_PAGE:
            return Page(events, start_ns=start_ns, end_ns=max(start_ns, end_ns))
        after_ns = (rows[-1].time_ms + 1) * MS
        following = msgspec.structs.replace(ask, start_ns=after_ns, end_ns=end_ns, newest=False, limit=left)
        return Page(
            events, next=following if after_ns < end_ns and left != 0 else None, start_ns=start_ns, end_ns=after_ns
        )


def _info(weight: int, **body: Any) -> Request:
    return Request(path="/info", method="POST", body=msgspec.json.encode(body), weight=weight)


def _read(answer: Answer, kind: type[_T]) -> _T:
    return msgspec.json.decode(answer.body, type=kind)


def _retry_s(answer: Answer) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), RETRY_S_MAX) if told.isascii() and told.isdigit() else RETRY_S


def _symbol(ask: Ask) -> str:
    if not ask.symbol:
        raise Unsupported(f"hyperliquid tells {ask.query.value} of one instrument at a time")
    return ask.symbol


def _holder(ask: Ask) -> str:
    """The address, in lower case: its letters mean the same in both. Raises UnknownInstrument."""
    address = ask.symbol or ""
    if not _ADDRESS.fullmatch(address):
        raise UnknownInstrument("a holder is told by an address: 0x and 40 hexadecimal digits")
    return address.lower()


def _signed(size: Decimal) -> Decimal:
    """The size of a position, unchanged. Raises Unreadable, InvalidOperation (NaN)."""
    check(abs(size))
    return size


def _reachable(price: Decimal | None) -> Decimal | None:
    """A liquidation price; None where it lies below any price there is. Raises Unreadable, InvalidOperation (NaN)."""
    if price is None or -MOST <= price <= 0:
        return None
    check(price)
    return price


def _newest(ask: Ask) -> bool:
    return ask.newest or ask.start_ns is None


def _lacks_now(ask: Ask) -> bool:
    """Whether the question ends now: the venue pages by time, so the time is asked first (it costs next to nothing)."""
    return ask.query in (Query.CANDLES, Query.FUNDING_HISTORY) and _newest(ask) and ask.end_ns is None


def _interval_s(ask: Ask) -> int:
    if ask.interval_s not in INTERVAL_NAMES:
        raise BadInterval(f"hyperliquid has candles of {', '.join(INTERVALS_S)}")
    return ask.interval_s


def _candle_window(ask: Ask) -> tuple[int, int]:
    """Open times that one request covers: [start_ns, end_ns), on the grid of the interval."""
    interval_ns = _interval_s(ask) * NS
    rows = min(ask.limit or CANDLES_SERVED, CANDLES_SERVED)
    end_ns = None if ask.end_ns is None else -(-ask.end_ns // interval_ns) * interval_ns
    if ask.newest or ask.start_ns is None:
        assert end_ns is not None
        start_ns = end_ns - rows * interval_ns
        return (max(start_ns, ask.start_ns or 0, 0), end_ns)
    start_ns = -(-ask.start_ns // interval_ns) * interval_ns
    last_ns = start_ns + rows * interval_ns
    return (start_ns, last_ns if end_ns is None else max(start_ns, min(end_ns, last_ns)))


def _funding_window(ask: Ask) -> tuple[int, int | None]:
    """[start_ns, end_ns): the newest N rates are those of the last N hours, since one is settled every hour."""
    if ask.newest or ask.start_ns is None:
        assert ask.end_ns is not None
        hours = ask.limit or FUNDINGS_PAGE
        return (max(ask.end_ns - hours * HOUR_NS, ask.start_ns or 0, 0), ask.end_ns)
    return (ask.start_ns, ask.end_ns)


def _candles_request(ask: Ask, symbol: str) -> Request:
    interval_s = _interval_s(ask)
    start_ns, end_ns = _candle_window(ask)
    req = {
        "coin": symbol,
        "interval": INTERVAL_NAMES[interval_s],
        "startTime": start_ns // MS,
        "endTime": max(start_ns, end_ns - 1) // MS,
    }
    return _info(20 + (end_ns - start_ns) // (interval_s * NS) // 60, type="candleSnapshot", req=req)


def _fundings_request(ask: Ask, symbol: str) -> Request:
    if is_spot(symbol):
        raise Unsupported(f"{symbol} is a spot pair: it has no funding")
    start_ns, end_ns = _funding_window(ask)
    body: dict[str, Any] = {"type": "fundingHistory", "coin": symbol, "startTime": -(-start_ns // MS)}
    rows = FUNDINGS_PAGE
    if end_ns is not None:
        body["endTime"] = max(start_ns, end_ns - 1) // MS
        rows = min(rows, (end_ns - start_ns) // HOUR_NS + 1)
    return _info(20 + max(0, rows) // 20, **body)


def _listing_request(cursor: str | None) -> Request:
    kind, _, dexes = (cursor or "meta").partition(":")
    if kind == "dexes":
        return _info(20, type="meta", dex=dexes.partition(",")[0])
    return _info(20, type=kind)


def _contexts_request(ask: Ask) -> Request:
    symbol = ask.symbol or ""
    if is_spot(symbol):
        raise Unsupported(f"{symbol} is a spot pair: it has no {ask.query.value}")
    dex = symbol.partition(":")[0] if ":" in symbol else ""
    return _info(20, type="metaAndAssetCtxs", dex=dex) if dex else _info(20, type="metaAndAssetCtxs")


def _of_builders(perpetuals: Iterable[Instrument]) -> list[Instrument]:
    return [perpetual for perpetual in perpetuals if ":" in perpetual.symbol]


def _pairs(spot: _SpotMeta) -> list[Instrument]:
    tokens = {token.index: token for token in spot.tokens}
    found = []
    for pair in spot.universe:
        base, quote = (tokens.get(index) for index in pair.tokens)
        # A pair of tokens that are not told cannot be traded by anybody; the others can.
        if base is None or quote is None:
            continue
        ticks = max(0, 8 - base.size_decimals)
        found.append(instrument_of(pair.name, Kind.SPOT, base.name, quote.name, quote.name, ticks, base.size_decimals))
    return found
