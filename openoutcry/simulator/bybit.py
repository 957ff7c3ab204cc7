"""Bybit v5, played: linear and inverse contracts (`bybit`), spot (`bybit_spot`) and options (`bybit_options`).

https://bybit-exchange.github.io/docs/v5/intro

    {"op": "subscribe", "args": ["publicTrade.BTCUSDT"], "req_id": "1"}
        -> {"success": true, "ret_msg": "subscribe", "conn_id": "...", "req_id": "1", "op": "subscribe"}
    {"op": "ping"} -> {"success": true, "ret_msg": "pong", "conn_id": "...", "req_id": "", "op": "ping"}
    GET /v5/market/kline?category=linear&symbol=BTCUSDT&interval=1 -> {"retCode": 0, "retMsg": "OK", "result": {"list": [...]}}

A request to subscribe is taken whole or refused whole. Lists come newest first with both bounds included; refusals have
status 200 and a `retCode`, except too many requests: 403. Trades of one order share a `seq` and may come in several frames;
now and then there is a block trade away from the market, which no candle counts. Ticker deltas leave out what did not change.
The book's numbers begin at 1 every midnight, with a snapshot, as after a restart. Books have 50 levels, tickers come every
second. A ban lasts as long as the kit's, not the venue's ten minutes.

    {"op": "subscribe", "args": ["publicTrade.BTC"]}     of options
        -> {"success": true, "conn_id": "...", "data": {"failTopics": [], "successTopics": ["publicTrade.BTC"]}, "type": "COMMAND_RESP"}
    {"op": "ping"} -> {"args": ["1672916271846"], "op": "pong"}

One topic tells the trades of all options on a coin, of several in one frame; bars and books of options are taken and never
told, and their ticker topics are not played. Their tickers by REST tell one open interest, the coins' turnover, and no price of the day before but the change since.
"""

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

import msgspec

from openoutcry.events import open_of
from openoutcry.instrument import Kind
from openoutcry.simulator.bars import running, still, still_after
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.options import underlying
from openoutcry.simulator.tape import Bar, Listing, Row, Tape

INTERVALS = {
    "1": 60, "3": 180, "5": 300, "15": 900, "30": 1_800, "60": 3_600, "120": 7_200, "240": 14_400, "360": 21_600,
    "720": 43_200, "D": 86_400, "W": 604_800,
}  # fmt: skip
PERIODS = {"5min": 300, "15min": 900, "30min": 1_800, "1h": 3_600, "4h": 14_400, "1d": 86_400}
DAY_NS = 86_400 * NS
BOOK_NS = 100 * MS
BOOK_LEVELS = 50
BOOK_DEPTHS = ("1", "50", "200", "1000")
STILL_NS = 3 * NS  # an unchanged best quote is told again
BAR_NS = NS
TICKER_NS = NS
LIQUIDATION_NS = 500 * MS
OPTIONS_NS = 250 * MS  # trades of all options on a coin that were made in so long are told together
BANKRUPT_PER_MILLE = 5
BLOCK_EVERY = 250  # so many orders come to one block trade
RPI_EVERY = 7
ROWS_A_FRAME = 2
SPOT_IDS = 2_290_000_000_000_000_000
SILENCE_NS = 600 * NS
CHARACTERS_MAX = 21_000
SPOT_ARGS_MAX = 10
CONNECTION = "ec4efbb5-8df1-4c4a-a1f5-0c4b6b1a1c5e"
CS_START = 20_000_000_000

CATEGORIES = {Kind.SPOT: "spot", Kind.OPTION: "option"}

Query = Mapping[str, str]


class Bad(Exception):
    """A question Bybit refuses: its code and text."""

    def __init__(self, text: str, code: int = 10001) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Match(NamedTuple):
    """A trade as Bybit tells it."""

    ns: int
    id: str
    seq: int
    ticks: int
    lots: int
    sell: bool
    block: bool
    rpi: bool


class Bybit(Personality):
    """https://api.bybit.com and wss://stream.bybit.com/v5/public/{linear,inverse}."""

    name = "bybit"
    purse = "bybit"  # one address has one budget for all markets
    sockets: ClassVar = {"linear": "/v5/public/linear", "inverse": "/v5/public/inverse"}
    pools: ClassVar = {"weight": Pool(600, 5.0, 0)}
    connections = Pool(500, 300.0, None)
    trades_max: ClassVar[int] = 1_000

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """All routes cost the same."""
        return ("weight", 1) if asked.path.startswith("/v5/") else None

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - it says no more than this
        """403, for a while."""
        return Answer(403, b"403, access too frequent. Please try again in 10 minutes.", (), "text/plain")

    def storm(self, status: int) -> bytes:
        """Bybit's own words for a status."""
        code, text = (10006, "Too many visits!") if status in (418, 429) else (10016, "Internal system error.")
        return b'{"retCode":%d,"retMsg":"%b","result":{},"retExtInfo":{},"time":0}' % (code, text.encode())

    # Lines

    def heard(self, line: Line, text: bytes) -> None:
        """`ping`, `subscribe`, `unsubscribe`."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            said = None
        said = said if isinstance(said, dict) else {}
        number, op, args = str(said.get("req_id", "")), said.get("op"), said.get("args")
        if op == "ping":
            line.send(self._pong(line, number))
            return
        if (
            op not in ("subscribe", "unsubscribe")
            or not isinstance(args, list)
            or not all(isinstance(a, str) for a in args)
        ):
            line.send(_reply("error:request parsing failed", number, str(op), success=False))
            return
        if op == "unsubscribe":
            for topic in args:
                line.leave(topic)
            line.send(_reply("", number, op))
            return
        self._take(line, args, number)

    def _pong(self, line: Line, number: str) -> bytes:  # noqa: ARG002 - for those who override it
        return _reply("pong", number, "ping")

    def _take(self, line: Line, args: Sequence[str], number: str) -> None:
        """A request to subscribe: all of it or nothing."""
        refusal = self._refusal(line, args)
        if refusal is not None:
            line.send(_reply(refusal, number, "subscribe", success=False))
            return
        for topic in args:
            line.follow(topic)
        last = (frame for topic in args for frame in self._last(topic, line.now_ns))
        line.send(_reply("subscribe", number, "subscribe"), *last)

    def _refusal(self, line: Line, args: Sequence[str]) -> str | None:
        """Why the whole request is refused."""
        if line.endpoint == "spot" and len(args) > SPOT_ARGS_MAX:
            return f"args size >{SPOT_ARGS_MAX}"
        if sum(map(len, [*line.topics, *args])) > CHARACTERS_MAX:
            return f"args length >{CHARACTERS_MAX}"
        for topic in args:
            if topic in line.topics:
                return f"error:already subscribed,topic:{topic}"
            channel, symbol = _parts(topic)
            if channel is None or self.refused(topic) or (channel == "allLiquidation" and line.endpoint == "spot"):
                return f"error:handler not found,topic:{topic}"
            listing = self.find(symbol)
            if listing is None or _category(listing) != line.endpoint:
                return f"Invalid symbol :[{topic}]"
        return None

    def _last(self, topic: str, now_ns: int) -> list[bytes]:
        """The snapshot that a new follower hears at once."""
        channel, symbol = _parts(topic)
        listing = self.find(symbol)
        if listing is None or channel is None:
            return []
        if channel == "tickers":
            at_ns = (now_ns - 1) // TICKER_NS * TICKER_NS
            return [self._ticker_frame(topic, symbol, self._fields(listing, at_ns), at_ns, "snapshot")]
        if channel == "orderbook":
            return [self._book_frame(topic, symbol, listing, (now_ns - 1) // BOOK_NS * BOOK_NS, fresh=True)]
        return []

    def beat(self, line: Line) -> None:
        """A client that says nothing for ten minutes is cut."""
        if line.now_ns - line.heard_ns > SILENCE_NS:
            line.close(1001, "")

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """All frames of one topic."""
        channel, symbol = _parts(topic)
        listing = self.find(symbol)
        if listing is None:
            return ()
        if channel == "publicTrade":
            return self._trades_pushed(topic, symbol, listing, start_ns, end_ns)
        if channel == "kline":
            return self._bars_pushed(topic, listing, start_ns, end_ns)
        if channel == "tickers":
            return self._tickers_pushed(topic, symbol, listing, start_ns, end_ns)
        if channel == "allLiquidation":
            return self._liquidations(topic, symbol, listing, start_ns, end_ns)
        return self._books_pushed(topic, symbol, listing, start_ns, end_ns)

    def matches(self, listing: Listing, orders: Tape) -> Iterator[Match]:
        """Single trades of these orders, and the block trades between them."""
        for order in orders:
            step = order.lots // (order.last_id - order.first_id + 1)
            for number in range(order.first_id, order.last_id + 1):
                lots = step if number < order.last_id else order.lots - step * (order.last_id - order.first_id)
                rpi = number % RPI_EVERY == 0
                yield Match(
                    order.ns, self.trade_id(listing, number), order.id, order.ticks, lots, order.sell, False, rpi
                )
            if order.id % BLOCK_EVERY == 0:
                block_id = self.trade_id(listing, -order.id - 1)
                yield Match(
                    order.ns, block_id, order.id, order.ticks * 9 // 10, order.lots * 50, order.sell, True, False
                )

    def trade_id(self, listing: Listing, number: int) -> str:
        """A digest on derivatives, a number on spot."""
        if listing.instrument.kind is Kind.SPOT:
            return str(SPOT_IDS + number)
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{listing.name}/{number}"))

    def _trades_pushed(self, topic: str, symbol: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        rows: list[dict[str, Any]] = []
        made = list(self.matches(listing, self.world.orders(listing.name, start_ns, end_ns)))
        for nth, match in enumerate(made):
            rows.append(self._match(symbol, listing, match) | {"L": "ZeroPlusTick", "RPI": match.rpi})
            ends = nth + 1 == len(made) or made[nth + 1].seq != match.seq
            if ends or len(rows) == ROWS_A_FRAME:
                yield Frame(match.ns, self._push(topic, rows, match.ns), trade=True)
                rows = []

    def _match(self, symbol: str, listing: Listing, match: Match) -> dict[str, Any]:
        speller = self.world.speller(listing.name)
        return {
            "T": match.ns // MS,
            "s": symbol,
            "S": "Sell" if match.sell else "Buy",
            "v": speller.size(match.lots),
            "p": speller.price(match.ticks),
            "i": match.id,
            "BT": match.block,
            "seq": match.seq,
        }

    def _push(self, topic: str, rows: Any, at_ns: int, kind: str = "snapshot", **more: Any) -> bytes:
        return msgspec.json.encode({"topic": topic, "type": kind, "ts": self.venue_ms(at_ns) + 2, "data": rows, **more})

    def _bars_pushed(self, topic: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """The running candle when it changed; once more, confirmed, when it is over."""
        interval_s = INTERVALS[topic.split(".")[1]]
        late_ns = round(self.switches.late_klines_s * NS)
        frames = []
        for at_ns in beats(start_ns, end_ns, BAR_NS):
            bar = self._running(listing, interval_s, at_ns)
            if bar and bar.last_ns >= at_ns - BAR_NS and open_of(at_ns, interval_s) != at_ns:
                frames.append(Frame(at_ns, self._bar_frame(topic, listing, interval_s, bar, at_ns, closed=False)))
        for at_ns in beats(start_ns - late_ns, end_ns - late_ns, BAR_NS):
            if open_of(at_ns, interval_s) == at_ns:
                bar = self._running(listing, interval_s, at_ns)
                if bar is not None:
                    body = self._bar_frame(topic, listing, interval_s, bar, at_ns + late_ns, closed=True)
                    frames.append(Frame(at_ns + late_ns, body))
        yield from sorted(frames)

    def _running(self, listing: Listing, interval_s: int, at_ns: int) -> Bar | None:
        """The candle that holds the last moment before `at_ns`, of what was traded until then."""
        return running(self.world, listing.name, open_of(at_ns - 1, interval_s), at_ns)

    def _bar_frame(self, topic: str, listing: Listing, interval_s: int, bar: Bar, at_ns: int, *, closed: bool) -> bytes:
        start, first, high, low, last, volume, turnover = self._bar(listing, bar)
        row = {
            "start": int(start),
            "end": int(start) + interval_s * 1_000 - 1,
            "interval": topic.split(".")[1],
            "open": first,
            "close": last,
            "high": high,
            "low": low,
            "volume": volume,
            "turnover": turnover,
            "confirm": closed,
            "timestamp": max(bar.last_ns, bar.open_ns) // MS,
        }
        return self._push(topic, [row], at_ns)

    def _bar(self, listing: Listing, bar: Bar) -> list[str]:
        """As REST has it; volume in coins and turnover in money, or the other way round for inverse contracts."""
        speller = self.world.speller(listing.name)
        coins = f"{Decimal(bar.coins_e8).scaleb(-8):f}"
        turnover = coins if listing.instrument.inverse else speller.notional(bar.notional)
        prices = (speller.price(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close))
        return [str(bar.open_ns // MS), *prices, speller.size(bar.lots), turnover]

    def _books_pushed(self, topic: str, symbol: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        best = topic.split(".")[1] == "1"
        for at_ns in beats(start_ns, end_ns, BOOK_NS):
            if best and at_ns % STILL_NS:
                quote = self.world.quote(listing.name, at_ns)
                if quote == self.world.quote(listing.name, at_ns - BOOK_NS):
                    continue
            yield Frame(at_ns, self._book_frame(topic, symbol, listing, at_ns, fresh=best))

    def _book_frame(self, topic: str, symbol: str, listing: Listing, at_ns: int, *, fresh: bool) -> bytes:
        """Numbers count tenths of a second since midnight, so that any snapshot joins any stream."""
        number = at_ns % DAY_NS // BOOK_NS + 1
        fresh = fresh or number == 1
        levels = 1 if topic.split(".")[1] == "1" else BOOK_LEVELS
        bids, asks = self._book(listing, at_ns, levels)
        if not fresh:
            before = self._book(listing, at_ns - BOOK_NS, levels)
            bids, asks = (_changes(dict(old), dict(new)) for old, new in zip(before, (bids, asks), strict=True))
        book = {"s": symbol, "b": bids, "a": asks, "u": number, "seq": at_ns // MS}
        return self._push(topic, book, at_ns, "snapshot" if fresh else "delta", cts=at_ns // MS)

    def _book(self, listing: Listing, at_ns: int, levels: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        speller = self.world.speller(listing.name)
        sides = self.world.book(listing.name, at_ns, levels)
        bids, asks = ([(speller.price(ticks), speller.size(lots)) for ticks, lots in side] for side in sides)
        return bids, asks

    def _tickers_pushed(self, topic: str, symbol: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        spot = listing.instrument.kind is Kind.SPOT
        for at_ns in beats(start_ns, end_ns, TICKER_NS):
            now = self._fields(listing, at_ns)
            if spot:
                yield Frame(at_ns, self._ticker_frame(topic, symbol, now, at_ns, "snapshot"))
                continue
            before = self._fields(listing, at_ns - TICKER_NS)
            news = {field: value for field, value in now.items() if before.get(field) != value}
            if news:
                yield Frame(at_ns, self._ticker_frame(topic, symbol, news, at_ns, "delta"))

    def _ticker_frame(self, topic: str, symbol: str, fields: Mapping[str, str], at_ns: int, kind: str) -> bytes:
        return self._push(topic, {"symbol": symbol, **fields}, at_ns, kind, cs=CS_START + at_ns // TICKER_NS)

    def _fields(self, listing: Listing, at_ns: int) -> dict[str, str]:
        """What a ticker tells but for the sums of a day."""
        speller, quote, name = self.world.speller(listing.name), self.world.quote(listing.name, at_ns), listing.name
        said = {
            "lastPrice": speller.price(quote.bid_ticks),
            "bid1Price": speller.price(quote.bid_ticks),
            "bid1Size": speller.size(quote.bid_lots),
            "ask1Price": speller.price(quote.ask_ticks),
            "ask1Size": speller.size(quote.ask_lots),
        }
        if listing.instrument.kind is Kind.SPOT:
            return said
        mark, (count, worth) = self.world.mark(name, at_ns), self._interest(listing, at_ns)
        said |= {
            "markPrice": f"{mark:f}",
            "indexPrice": f"{self.world.index(name, at_ns):f}",
            "openInterest": f"{count * 2:f}",
            "openInterestValue": f"{worth * 2:f}",
            "singleOpenInterest": f"{count:f}",
            "singleOpenInterestValue": f"{worth:f}",
        }
        if not listing.funding_s:
            return said | {"fundingRate": "", "nextFundingTime": "0", "fundingIntervalHour": ""}
        running = self.world.running_funding(name, at_ns)
        return said | {
            "fundingRate": f"{running.rate:f}",
            "nextFundingTime": str(running.funding_ns // MS),
            "fundingIntervalHour": str(running.interval_s // 3_600),
        }

    def _interest(self, listing: Listing, at_ns: int) -> tuple[Decimal, Decimal]:
        """One side in the venue's count, and its value: money for linear contracts, coins for inverse ones."""
        count = self.world.speller(listing.name).size_decimal(self.world.open_interest(listing.name, at_ns))
        mark = self.world.mark(listing.name, at_ns)
        return count, (count / mark if listing.instrument.inverse else count * mark).quantize(Decimal("1e-8"))

    def _liquidations(self, topic: str, symbol: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """All of them; `S` is the side of the position that was closed."""
        speller = self.world.speller(listing.name)
        for at_ns in beats(start_ns, end_ns, LIQUIDATION_NS):
            rows = [
                {
                    "T": row.ns // MS,
                    "s": symbol,
                    "S": "Buy" if row.sell else "Sell",
                    "v": speller.size(row.lots),
                    "p": speller.price(_bankrupt(row)),
                }
                for row in self.world.liquidations(listing.name, at_ns - LIQUIDATION_NS, at_ns)
            ]
            if rows:
                yield Frame(at_ns, self._push(topic, rows, at_ns))

    # Answers

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every route; 404 for others."""
        route = self._routes().get(asked.path.removeprefix("/v5/market/"))
        if route is None or asked.method != "GET":
            return Answer(404, b"404 page not found", (), "text/plain")
        try:
            result = route(asked.query, now_ns)
            code, text, value = 0, "OK", await result if asyncio.iscoroutine(result) else result
        except Bad as bad:
            code, text, value = bad.code, bad.text, {}
        said = {"retCode": code, "retMsg": text, "result": value, "retExtInfo": {}, "time": self.venue_ms(now_ns)}
        return json(said)

    def _routes(self) -> Mapping[str, Callable[[Query, int], Any]]:
        return {
            "time": lambda _, now_ns: {"timeSecond": str(self.venue_ms(now_ns) // 1_000), "timeNano": str(now_ns)},
            "instruments-info": self._instruments,
            "kline": self._klines,
            "recent-trade": self._recent_trades,
            "open-interest": self._interest_history,
            "funding/history": self._funding_history,
            "tickers": self._tickers,
            "orderbook": self._depth,
        }

    def _of_category(self, query: Query) -> tuple[str, list[tuple[str, Listing]]]:
        """The instruments of `category`, or the one of `symbol`."""
        category = query.get("category", "linear")
        if category not in self.sockets:
            raise Bad("Illegal category")
        rows = [(symbol, a) for symbol, a in self.listings() if _category(a) == category]
        if "symbol" in query:
            rows = [row for row in rows if row[0] == query["symbol"]]
            if not rows:
                raise Bad("params error: symbol invalid " + query["symbol"])
        return category, rows

    def _listing(self, query: Query) -> tuple[dict[str, Any], Listing]:
        """The beginning of an answer about one instrument, and the instrument."""
        if "symbol" not in query:
            raise Bad("params error: symbol is required")
        category, rows = self._of_category(query)
        return {"category": category, "symbol": rows[0][0]}, rows[0][1]

    def _instruments(self, query: Query, _: int) -> dict[str, Any]:
        category, rows = self._of_category(query)
        if category == "spot":
            return {"category": category, "list": [self._instrument(symbol, a) for symbol, a in rows]}
        limit = _limit(query, 500, 1_000)
        first = whole(query.get("cursor", "").removeprefix("page%3D") or None, 0, 0, 10**6)
        if first is None:
            raise Bad("params error: cursor invalid")
        more = f"page%3D{first + limit}" if first + limit < len(rows) else ""
        told = [self._instrument(symbol, a) for symbol, a in rows[first : first + limit]]
        return {"category": category, "list": told, "nextPageCursor": more}

    def _instrument(self, symbol: str, listing: Listing) -> dict[str, Any]:
        instrument = listing.instrument
        tick, lot = str(instrument.tick_size), str(instrument.lot_size)
        said: dict[str, Any] = {
            "symbol": symbol,
            "baseCoin": instrument.coin,
            "quoteCoin": instrument.quote,
            "status": "Trading",
            "priceFilter": {"tickSize": tick, "minPrice": tick, "maxPrice": "1999999.80"},
        }
        if instrument.kind is Kind.SPOT:
            return said | {"lotSizeFilter": {"basePrecision": lot, "minOrderQty": lot}, "innovation": "0"}
        family = "Inverse" if instrument.inverse else "Linear"
        return said | {
            "contractType": family + ("Perpetual" if instrument.kind is Kind.PERPETUAL else "Futures"),
            "settleCoin": instrument.settle,
            "launchTime": str((instrument.listed_ns or 0) // MS),
            "deliveryTime": str((instrument.expires_ns or 0) // MS),
            "lotSizeFilter": {"qtyStep": lot, "minOrderQty": lot, "maxOrderQty": "1190"},
            "fundingInterval": listing.funding_s[0] // 60 if listing.funding_s else 0,
        }

    async def _klines(self, query: Query, now_ns: int) -> dict[str, Any]:
        """Newest first; a start without an end gives the first ones from it."""
        said, listing = self._listing(query)
        interval_s = INTERVALS.get(query.get("interval", ""))
        if interval_s is None:
            raise Bad("Invalid period!")
        limit, interval_ns = _limit(query, 200, 1_000), interval_s * NS
        born_ns, dead_ns = self.world.life(listing.name)
        start, end = _bounds(query, "start", "end")
        newest_ns = open_of(min(now_ns, dead_ns) - 1, interval_s)
        last_ns = newest_ns if end is None else min(newest_ns, open_of(end * MS, interval_s))
        first_ns = open_of(born_ns + interval_ns - 1, interval_s)
        if start is not None:
            first_ns = max(first_ns, open_of(start * MS + interval_ns - 1, interval_s))
        if start is not None and end is None:
            last_ns = min(last_ns, first_ns + (limit - 1) * interval_ns)
        first_ns = max(first_ns, last_ns - (limit - 1) * interval_ns)
        bars = await self._bars(listing, interval_s, first_ns, last_ns + interval_ns, now_ns)
        return {**said, "list": [self._bar(listing, bar) for bar in reversed(bars)]}

    async def _bars(self, listing: Listing, interval_s: int, first_ns: int, until_ns: int, now_ns: int) -> list[Bar]:
        """One for each interval, flat where nothing was traded."""
        if first_ns >= until_ns:
            return []
        made = await self.candles(listing.name, interval_s, first_ns, min(until_ns, now_ns))
        by_open, ticks = {bar.open_ns: bar for bar in made}, still_after(self.world, listing.name, first_ns).close
        bars = []
        for open_ns in range(first_ns, until_ns, interval_s * NS):
            bars.append(by_open.get(open_ns) or still(open_ns, ticks))
            ticks = bars[-1].close
        return bars

    def _recent_trades(self, query: Query, now_ns: int) -> dict[str, Any]:
        said, listing = self._listing(query)
        limit = _limit(query, 60 if said["category"] == "spot" else 500, self.trades_max)
        speller = self.world.speller(listing.name)
        matches = list(self.matches(listing, self.world.last_orders(listing.name, limit, now_ns)))[-limit:]
        rows = [
            {
                "execId": match.id,
                "symbol": said["symbol"],
                "price": speller.price(match.ticks),
                "size": speller.size(match.lots),
                "side": "Sell" if match.sell else "Buy",
                "time": str(match.ns // MS),
                "isBlockTrade": match.block,
                "isRPITrade": match.rpi,
                "seq": str(match.seq),
            }
            for match in reversed(matches)
        ]
        return {"category": said["category"], "list": rows}

    def _interest_history(self, query: Query, now_ns: int) -> dict[str, Any]:
        said, listing = self._listing(query)
        interval_s = PERIODS.get(query.get("intervalTime", ""))
        if interval_s is None or listing.instrument.kind is Kind.SPOT:
            raise Bad("params error: intervalTime invalid")
        limit = _limit(query, 50, 200)
        start, end = _bounds(query, "startTime", "endTime")
        cursor = whole(query.get("cursor") or None, 1 << 43, 0, 1 << 43)
        if cursor is None:
            raise Bad("params error: cursor invalid")
        at_ns = open_of(min(now_ns, (1 << 43 if end is None else end) * MS, cursor * MS), interval_s)
        oldest_ns = max((start or 0) * MS, self.world.life(listing.name)[0])
        rows: list[dict[str, str]] = []
        while at_ns >= oldest_ns and len(rows) < limit:
            count, _ = self._interest(listing, at_ns)
            sides = {"openInterest": f"{count * 2:f}", "singleOpenInterest": f"{count:f}"}
            rows.append(sides | {"timestamp": str(at_ns // MS)})
            at_ns -= interval_s * NS
        return {**said, "list": rows, "nextPageCursor": str(at_ns // MS) if at_ns >= oldest_ns else ""}

    def _funding_history(self, query: Query, now_ns: int) -> dict[str, Any]:
        """Stamps are some ms past the hour; a start needs an end."""
        said, listing = self._listing(query)
        limit = _limit(query, 200, 200)
        start, end = _bounds(query, "startTime", "endTime")
        if start is not None and end is None:
            raise Bad("params error: endTime is required with startTime")
        if not listing.funding_s:
            return {"category": said["category"], "list": []}
        low_ns, high_ns = (start or 0) * MS, now_ns if end is None else min(end * MS, now_ns)
        # Without a start the page alone decides how far back it goes; no period is longer than the longest told.
        from_ns = max(low_ns, high_ns - (limit + 1) * max(listing.funding_s) * NS) - NS
        paid = self.world.funding(listing.name, max(from_ns, 0), high_ns + 1)
        rows = [
            {
                "symbol": said["symbol"],
                "fundingRate": f"{settlement.rate:f}",
                "fundingRateTimestamp": str(settlement.stamp_ns // MS),
            }
            for settlement in paid
            if low_ns <= settlement.stamp_ns <= high_ns
        ]
        return {"category": said["category"], "list": rows[::-1][:limit]}

    async def _tickers(self, query: Query, now_ns: int) -> dict[str, Any]:
        category, rows = self._of_category(query)
        return {"category": category, "list": [await self._summary(symbol, a, now_ns) for symbol, a in rows]}

    async def _summary(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, str]:
        speller, start_ns = self.world.speller(listing.name), now_ns - DAY_NS
        await self.candles(listing.name, 60, start_ns, now_ns)
        bar = self.world.window(listing.name, start_ns, now_ns) or still(start_ns, 0)
        row = self._bar(listing, bar)
        return {
            "symbol": symbol,
            **self._fields(listing, now_ns),
            "lastPrice": speller.price(bar.close),
            "prevPrice24h": speller.price(bar.open),
            "highPrice24h": speller.price(bar.high),
            "lowPrice24h": speller.price(bar.low),
            "volume24h": row[5],
            "turnover24h": row[6],
        }

    def _depth(self, query: Query, now_ns: int) -> dict[str, Any]:
        said, listing = self._listing(query)
        limit, at_ns = _limit(query, 25, 500), now_ns // BOOK_NS * BOOK_NS
        bids, asks = self._book(listing, at_ns, min(limit, BOOK_LEVELS))
        number = at_ns % DAY_NS // BOOK_NS + 1
        return {"s": said["symbol"], "b": bids, "a": asks, "ts": at_ns // MS, "u": number, "seq": at_ns // MS}


class BybitSpot(Bybit):
    """Spot: wss://stream.bybit.com/v5/public/spot."""

    name = "bybit_spot"
    sockets: ClassVar = {"spot": "/v5/public/spot"}
    trades_max: ClassVar[int] = 60


class BybitOptions(Bybit):
    """Options on BTC and ETH, in USDT: wss://stream.bybit.com/v5/public/option."""

    name = "bybit_options"
    sockets: ClassVar = {"option": "/v5/public/option"}

    def _pong(self, line: Line, number: str) -> bytes:  # noqa: ARG002 - it has no number
        return msgspec.json.encode({"args": [str(self.venue_ms(line.now_ns))], "op": "pong"})

    def _take(self, line: Line, args: Sequence[str], number: str) -> None:  # noqa: ARG002 - the answer has no number
        """Topic by topic."""
        coins = {a.instrument.coin for _, a in self.listings()}
        taken, failed = [], []
        for topic in args:
            channel, subject = _parts(topic)
            told = channel == "publicTrade" and subject in coins and not self.refused(topic)
            if told and line.follow(topic):
                taken.append(topic)
            elif channel in ("kline", "orderbook") and self.find(subject) is not None:
                taken.append(topic)  # and never heard of again
            else:
                failed.append(topic)
        data = {"failTopics": failed, "successTopics": taken}
        said = {"success": not failed, "conn_id": CONNECTION, "data": data, "type": "COMMAND_RESP"}
        line.send(msgspec.json.encode(said))

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """The trades of all options on a coin."""
        coin = topic.removeprefix("publicTrade.")
        made = [
            (match, symbol, listing)
            for symbol, listing in self.listings()
            if listing.instrument.coin == coin
            for match in self.matches(listing, self.world.orders(listing.name, start_ns, end_ns))
        ]
        made.sort(key=lambda row: row[0].ns)
        for _, together in itertools.groupby(made, lambda row: row[0].ns // OPTIONS_NS):
            rows = []
            for match, symbol, listing in together:
                prices = {"mP": f"{self.world.mark(listing.name, match.ns):f}", "iP": self._coin(listing, match.ns)}
                rows.append(self._match(symbol, listing, match) | prices)
            number = f"{topic}-{rows[-1]['seq']}-{self.venue_ms(match.ns)}"
            yield Frame(match.ns, self._push(topic, rows, match.ns, id=number), trade=True)

    def _coin(self, listing: Listing, at_ns: int) -> str:
        return f"{underlying(self.world, [listing], at_ns):f}"

    def _routes(self) -> Mapping[str, Callable[[Query, int], Any]]:
        told = ("time", "instruments-info", "recent-trade", "tickers", "orderbook")
        return {path: route for path, route in super()._routes().items() if path in told}

    def _of_category(self, query: Query) -> tuple[str, list[tuple[str, Listing]]]:
        """Those on `baseCoin`, or the one of `symbol`."""
        category, rows = super()._of_category(query)
        if "symbol" not in query:
            coin = query.get("baseCoin", "BTC")
            rows = [row for row in rows if row[1].instrument.coin == coin]
        return category, rows

    async def _tickers(self, query: Query, now_ns: int) -> dict[str, Any]:
        if "symbol" not in query and "baseCoin" not in query:
            raise Bad("params error: symbol or baseCoin is required")
        return await super()._tickers(query, now_ns)

    def _instrument(self, symbol: str, listing: Listing) -> dict[str, Any]:
        said = super()._instrument(symbol, listing)
        del said["contractType"], said["fundingInterval"]
        return said | {"optionsType": "Call" if symbol.split("-")[3] == "C" else "Put"}

    def _fields(self, listing: Listing, at_ns: int) -> dict[str, str]:
        said, coin = super()._fields(listing, at_ns), self._coin(listing, at_ns)
        count, _ = self._interest(listing, at_ns)
        told = ("lastPrice", "bid1Price", "bid1Size", "ask1Price", "ask1Size", "markPrice")
        prices = {"underlyingPrice": coin, "indexPrice": coin, "openInterest": f"{count:f}"}
        return {field: said[field] for field in told} | prices

    async def _summary(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, str]:
        said = await super()._summary(symbol, listing, now_ns)
        first, last = Decimal(said.pop("prevPrice24h")), Decimal(said["lastPrice"])
        change = (last / first - 1).quantize(Decimal("1e-8")) if first else Decimal(0)
        turnover = Decimal(said["volume24h"]) * Decimal(said["underlyingPrice"])
        return said | {"change24h": f"{change:f}", "turnover24h": f"{turnover:f}"}


def _parts(topic: str) -> tuple[str | None, str]:
    """(channel, symbol) of a topic; None: no such channel."""
    channel, _, rest = topic.partition(".")
    if channel in ("publicTrade", "tickers", "allLiquidation"):
        return channel, rest
    middle, _, symbol = rest.partition(".")
    known = {"kline": tuple(INTERVALS), "orderbook": BOOK_DEPTHS}.get(channel, ())
    return (channel if middle in known else None), symbol


def _category(listing: Listing) -> str:
    if listing.instrument.kind in CATEGORIES:
        return CATEGORIES[listing.instrument.kind]
    return "inverse" if listing.instrument.inverse else "linear"


def _reply(text: str, number: str, op: str, *, success: bool = True) -> bytes:
    said = {"success": success, "ret_msg": text, "conn_id": CONNECTION, "req_id": number, "op": op}
    return msgspec.json.encode(said)


def _bankrupt(row: Row) -> int:
    way = -1 if row.sell else 1
    return max(row.ticks + way * (row.ticks * BANKRUPT_PER_MILLE // 1_000), 1)


def _changes(old: dict[str, str], new: dict[str, str]) -> list[tuple[str, str]]:
    gone = [(price, "0") for price in old if price not in new]
    return gone + [(price, size) for price, size in new.items() if old.get(price) != size]


def _limit(query: Query, default: int, most: int) -> int:
    """More than the venue serves is cut; what is no number is refused."""
    limit = whole(query.get("limit"), default, 1, 1 << 60)
    if limit is None:
        raise Bad("params error: limit invalid")
    return min(limit, most)


def _bounds(query: Query, first: str, last: str) -> tuple[int | None, int | None]:
    """(start, end) in ms, both included; None where not asked for."""
    start, end = whole(query.get(first), -1, -1, 1 << 43), whole(query.get(last), -1, -1, 1 << 43)
    if start is None or end is None:
        raise Bad(f"params error: {first} or {last} invalid")
    if 0 <= end < start:
        raise Bad("params error: end time must not be before start time")
    return None if start < 0 else start, None if end < 0 else end
