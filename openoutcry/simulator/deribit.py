"""Deribit, played: perpetuals, dated futures and options, in JSON-RPC over REST and the socket /ws/api/v2.

https://docs.deribit.com/articles/json-rpc-overview

    {"jsonrpc": "2.0", "id": 1, "method": "public/subscribe", "params": {"channels": ["trades.BTC-PERPETUAL.100ms"]}}
        -> {"jsonrpc": "2.0", "id": 1, "result": ["trades.BTC-PERPETUAL.100ms"], "usIn": ..., "usOut": ..., "usDiff": ...}
    {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": "trades.BTC-PERPETUAL.100ms", "data": [...]}}
    {"jsonrpc": "2.0", "method": "heartbeat", "params": {"type": "test_request"}}  -> public/test, or the line is cut
    GET /api/v2/public/get_last_trades_by_instrument?instrument_name=BTC-PERPETUAL&start_seq=5&count=100
    {"jsonrpc": "2.0", "error": {"code": -32602, "message": "Invalid params", "data": {"reason": "...", "param": "..."}}}

Channels that are not known are left out of the answer. Tickers and books are told at once when they are subscribed, tickers
every second after that. Books have 50 levels and change every 100 ms; their numbers count tenths of a second, so that any
snapshot joins any stream. Trades of a tenth of a second come in one frame; one order in 64 is told as a block trade, which
counts like the others. Who was liquidated is always the taker. Candles are told for every minute, flat where nothing was
traded, and for no more than CANDLES_MAX intervals, the newest; rates for no more than RATES_MAX hours. What an option's
candles cost is told in the coin. Trades older than RECENT_DAYS need `include_old`. Rates are of the hour before their stamp.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import groupby
from typing import Any, ClassVar

import msgspec

from openoutcry.events import open_of
from openoutcry.instrument import Kind
from openoutcry.simulator.bars import running, still, still_after
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.tape import Bar, Listing, Row, Tape

RESOLUTIONS = {
    "1": 60, "3": 180, "5": 300, "10": 600, "15": 900, "30": 1_800, "60": 3_600, "120": 7_200, "180": 10_800,
    "360": 21_600, "720": 43_200, "1D": 86_400,
}  # fmt: skip
PUBLIC = "/api/v2/public/"
KINDS = {"future": (Kind.PERPETUAL, Kind.FUTURE), "option": (Kind.OPTION,)}
CURRENCIES = ("BTC", "ETH", "USDC", "USDT", "EURR")
CHANNELS_MAX = 500
TRADES_MAX = 1_000
CANDLES_MAX = 5_000
RATES_MAX = 744
RECENT_DAYS = 5
BLOCK_EVERY = 64
BOOK_LEVELS = 50
BATCH_NS = BOOK_NS = 100 * MS
TICKER_NS = BAR_NS = NS
HOUR_NS, DAY_NS = 3_600 * NS, 86_400 * NS
RATE_HOURS = 8
HEARTBEAT_S_MIN = 10
SEQ_MAX = 2**53
TIME_MS_MAX = 32_503_708_800_000
# 500 credits a question, listings apart.
CREDITS = {"credits": 500, "listings": 10_000}

Params = Mapping[str, Any]


class Bad(Exception):
    """A call that is refused: code, message, and which parameter is wrong."""

    def __init__(
        self, code: int, message: str, *, status: int = 400, param: str | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status
        self.data = {} if param is None else {"data": {"reason": reason or "wrong format", "param": param}}

    @property
    def error(self) -> dict[str, Any]:
        """As it is told."""
        return {"code": self.code, "message": self.message, **self.data}


class Deribit(Personality):
    """https://www.deribit.com and wss://www.deribit.com/ws/api/v2."""

    name = "deribit"
    sockets: ClassVar = {"ws": "/ws/api/v2"}
    pools: ClassVar = {"credits": Pool(50_000, 5.0, None), "listings": Pool(500_000, 50.0, None)}
    connections = Pool(32, 60.0, None)
    messages = Pool(100, 5.0, None)

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """Listings have a budget of their own."""
        pool = "listings" if asked.path == f"{PUBLIC}get_instruments" else "credits"
        return pool, CREDITS[pool]

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - both say the same
        """10028 with 429."""
        return Answer(429, self.storm(429))

    def storm(self, status: int) -> bytes:
        """The venue's own words for a status."""
        fast = status in (418, 429)
        error = (
            {"code": 10028, "message": "too_many_requests"}
            if fast
            else {"code": 11051, "message": "system_maintenance"}
        )
        return msgspec.json.encode({"jsonrpc": "2.0", "error": error})

    # Lines

    def heard(self, line: Line, text: bytes) -> None:
        """One call; what cannot be read is refused without a number."""
        number: Any = None
        try:
            said = _call(text)
            number = said.get("id")
            result = self._do(line, str(said.get("method")), said.get("params") or {})
        except Bad as bad:
            line.send(self._told(number, line.now_ns, error=bad.error))
            return
        line.send(self._told(number, line.now_ns, result=result))
        for channel in result if isinstance(result, list) and said["method"] == "public/subscribe" else ():
            line.send(*self._first(channel, line.now_ns))

    def _do(self, line: Line, method: str, params: Any) -> Any:
        if not isinstance(params, dict):
            raise Bad(-32602, "Invalid params")
        match method:
            case "public/subscribe" | "public/unsubscribe":
                channels = params.get("channels")
                if not isinstance(channels, list) or not all(isinstance(each, str) for each in channels):
                    raise Bad(-32602, "Invalid params", param="channels")
                if method == "public/unsubscribe":
                    return [channel for channel in channels if line.leave(channel)]
                if any(channel.endswith(".raw") for channel in channels):
                    raise Bad(13778, "raw_subscriptions_not_available_for_unauthorized")
                return [channel for channel in channels if self._takes(line, channel)]
            case "public/set_heartbeat":
                interval = params.get("interval")
                if not isinstance(interval, int) or interval < HEARTBEAT_S_MIN:
                    raise Bad(-32602, "Invalid params", param="interval", reason=f"must be at least {HEARTBEAT_S_MIN}")
                line.memo["beat_ns"] = interval * NS
                line.memo.setdefault("beaten_ns", line.now_ns)
                return "ok"
            case "public/disable_heartbeat":
                line.memo.clear()
                return "ok"
            case "public/test":
                line.memo.pop("tested_ns", None)
                return {"version": "1.2.26"}
            case "public/get_time":
                return self.venue_ms(line.now_ns)
        raise Bad(-32601, "Method not found")

    def _takes(self, line: Line, channel: str) -> bool:
        known = self._meant(channel) is not None and not self.refused(channel)
        return known and len(line.topics) < CHANNELS_MAX and line.follow(channel)

    def _meant(self, channel: str) -> tuple[str, str, Listing] | None:
        """What it tells, of what: the word before the instrument, the instrument, its listing."""
        parts = channel.removeprefix("chart.").split(".")
        if len(parts) != 3:
            return None
        word, symbol, every = parts
        chart = channel.startswith("chart.")
        if (word not in ("trades", "ticker", "book") or every not in ("100ms", "agg2")) and not chart:
            return None
        if chart and (word != "trades" or every not in RESOLUTIONS):
            return None
        listing = self.find(symbol)
        return None if listing is None else ("chart" if chart else word, symbol, listing)

    def _first(self, channel: str, now_ns: int) -> Iterable[bytes]:
        """The state of what has one."""
        meant = self._meant(channel)
        assert meant is not None
        word, symbol, listing = meant
        if word == "ticker":
            yield _push(channel, self._ticker(symbol, listing, now_ns))
        elif word == "book":
            yield _push(channel, self._book(symbol, listing, now_ns - now_ns % BOOK_NS, fresh=True))

    def beat(self, line: Line) -> None:
        """Asks who is there at every interval, and cuts who did not answer within the last."""
        every_ns = line.memo.get("beat_ns")
        if every_ns is None or line.now_ns < line.memo["beaten_ns"] + every_ns:
            return
        if "tested_ns" in line.memo:
            line.close(1000, "heartbeat timeout")
            return
        line.memo["beaten_ns"] = line.memo["tested_ns"] = line.now_ns
        line.send(_HEARTBEAT % b"heartbeat", _HEARTBEAT % b"test_request")

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """All frames of one channel."""
        meant = self._meant(topic)
        if meant is None:
            return ()
        word, symbol, listing = meant
        if word == "trades":
            return self._trades_pushed(topic, symbol, listing, start_ns, end_ns)
        if word == "chart":
            return self._bars_pushed(topic, listing, start_ns, end_ns)
        if word == "ticker":
            stamps = beats(start_ns, end_ns, TICKER_NS)
            return [Frame(at, _push(topic, self._ticker(symbol, listing, at))) for at in stamps]
        stamps = beats(start_ns, end_ns, BOOK_NS)
        return [Frame(at, _push(topic, self._book(symbol, listing, at, fresh=False))) for at in stamps]

    def _trades_pushed(self, topic: str, symbol: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        tape = self.world.trades(listing.name, start_ns, end_ns)
        for _, batch in groupby(tape, key=lambda row: row.ns // BATCH_NS):
            rows = list(batch)
            yield Frame(rows[-1].ns, _push(topic, [self._trade(symbol, listing, row) for row in rows]), trade=True)

    def _trade(self, symbol: str, listing: Listing, row: Row) -> dict[str, Any]:
        name, speller = listing.name, self.world.speller(listing.name)
        told: dict[str, Any] = {
            "trade_seq": row.first_id,
            "trade_id": str(row.first_id + 7),
            "timestamp": row.ns // MS,
            "tick_direction": row.first_id % 4,
            "price": _number(speller.price(row.ticks)),
            "mark_price": _number(f"{self.world.mark(name, row.ns):f}"),
            "instrument_name": symbol,
            "index_price": _number(f"{self._index(listing, row.ns):f}"),
            "direction": "sell" if row.sell else "buy",
            "amount": _number(speller.size(row.lots)),
        }
        if row.liquidation:
            told["liquidation"] = "T"
        if row.id % BLOCK_EVERY == 0:
            told |= {"block_trade_id": f"BLOCK-{row.id}", "block_trade_leg_count": 1}
        if listing.instrument.kind is Kind.OPTION:
            told["iv"] = 60.0
        return told

    def _bars_pushed(self, topic: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """The running candle when it changed, which it does when it opens, traded or not."""
        interval_s = RESOLUTIONS[topic.rpartition(".")[2]]
        for at_ns in beats(start_ns, end_ns, BAR_NS):
            bar = running(self.world, listing.name, open_of(at_ns - 1, interval_s), at_ns)
            if bar is not None and bar.last_ns >= at_ns - BAR_NS:
                first, high, low, last, volume, cost = self._bar(listing, bar)
                told = {"tick": bar.open_ns // MS, "open": first, "high": high, "low": low, "close": last}
                yield Frame(at_ns, _push(topic, told | {"volume": volume, "cost": cost}))

    def _bar(self, listing: Listing, bar: Bar) -> tuple[msgspec.Raw, ...]:
        """Open, high, low, close, coins, what they cost."""
        speller = self.world.speller(listing.name)
        prices = [speller.price(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)]
        count, coins = speller.size(bar.lots), f"{Decimal(bar.coins_e8).scaleb(-8):f}"
        sums = (coins, count) if listing.instrument.inverse else (count, speller.notional(bar.notional))
        return tuple(map(_number, (*prices, *sums)))

    def _index(self, listing: Listing, at_ns: int) -> Decimal:
        """The coin's price: of an option that of the perpetual in the coin."""
        instrument = listing.instrument
        if instrument.kind is not Kind.OPTION:
            return self.world.index(listing.name, at_ns)
        return self.world.index(f"{self.name}:{instrument.coin}-PERPETUAL", at_ns)

    def _ticker(self, symbol: str, listing: Listing, at_ns: int) -> dict[str, Any]:
        name, world, speller = listing.name, self.world, self.world.speller(listing.name)
        quote, index = world.quote(name, at_ns), _number(f"{self._index(listing, at_ns):f}")
        told: dict[str, Any] = {
            "timestamp": self.venue_ms(at_ns),
            "state": "open",
            "instrument_name": symbol,
            "open_interest": _number(speller.size(world.open_interest(name, at_ns))),
            "mark_price": _number(f"{world.mark(name, at_ns):f}"),
            "last_price": _number(speller.price(quote.bid_ticks)),
            "index_price": index,
            "estimated_delivery_price": index,
            "best_bid_price": _number(speller.price(quote.bid_ticks)),
            "best_bid_amount": _number(speller.size(quote.bid_lots)),
            "best_ask_price": _number(speller.price(quote.ask_ticks)),
            "best_ask_amount": _number(speller.size(quote.ask_lots)),
        }
        if listing.funding_s:
            running_rate = world.running_funding(name, at_ns).rate
            told["current_funding"] = _number(f"{running_rate * RATE_HOURS:f}")
            told["funding_8h"] = _number(f"{self._rates(listing, at_ns - at_ns % HOUR_NS):f}")
            told["interest_value"] = 0.0
        if listing.instrument.kind is Kind.OPTION:
            told |= {
                "underlying_price": index,
                "underlying_index": "index_price",
                "mark_iv": 60.0,
                "interest_rate": 0.0,
            }
        return told

    def _rates(self, listing: Listing, hour_ns: int) -> Decimal:
        """What was paid in the eight hours until that one."""
        paid = self.world.funding(listing.name, hour_ns - (RATE_HOURS - 1) * HOUR_NS, hour_ns + 1)
        return sum((each.rate for each in paid), Decimal(0))

    def _book(self, symbol: str, listing: Listing, at_ns: int, *, fresh: bool) -> dict[str, Any]:
        """All levels, or what changed since a tenth of a second before."""
        number = at_ns // BOOK_NS
        sides = self._levels(listing, at_ns)
        told = {"type": "snapshot", "timestamp": self.venue_ms(at_ns), "instrument_name": symbol, "change_id": number}
        if fresh:
            rows = [[("new", *level) for level in side.items()] for side in sides]
        else:
            told |= {"type": "change", "prev_change_id": number - 1}
            before = self._levels(listing, at_ns - BOOK_NS)
            rows = [list(_changes(old, new)) for old, new in zip(before, sides, strict=True)]
        bids, asks = ([(what, _number(price), _number(size)) for what, price, size in side] for side in rows)
        return {**told, "bids": bids, "asks": asks}

    def _levels(self, listing: Listing, at_ns: int) -> list[dict[str, str]]:
        speller = self.world.speller(listing.name)
        sides = self.world.book(listing.name, at_ns, BOOK_LEVELS)
        return [{speller.price(ticks): speller.size(lots) for ticks, lots in side} for side in sides]

    # Questions

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every method; -32601 for others."""
        try:
            result = await self._value(asked.path, asked.query, now_ns)
        except Bad as bad:
            return Answer(bad.status, self._told(None, now_ns, error=bad.error))
        return Answer(200, self._told(None, now_ns, result=result))

    def _told(self, number: Any, now_ns: int, **body: Any) -> bytes:
        out_us = self.venue_ms(now_ns) * 1_000
        head = {"jsonrpc": "2.0"} | ({} if number is None else {"id": number})
        return msgspec.json.encode({**head, **body, "usIn": out_us - 9, "usOut": out_us, "usDiff": 9, "testnet": False})

    async def _value(self, path: str, query: Params, now_ns: int) -> Any:
        match path.removeprefix(PUBLIC):
            case "get_time":
                return self.venue_ms(now_ns)
            case "get_instruments":
                return [self._instrument(symbol, listing) for symbol, listing in self._chosen(query, free=True)]
            case "ticker":
                symbol, listing = self._listing(query)
                return self._ticker(symbol, listing, now_ns)
            case "get_last_trades_by_instrument" | "get_last_trades_by_instrument_and_time":
                return self._trades(query, now_ns)
            case "get_tradingview_chart_data":
                return await self._chart(query, now_ns)
            case "get_funding_rate_history":
                return self._funding(query, now_ns)
            case "get_book_summary_by_currency":
                return [await self._summary(symbol, listing, now_ns) for symbol, listing in self._chosen(query)]
            case "get_book_summary_by_instrument":
                return [await self._summary(*self._listing(query), now_ns)]
        raise Bad(-32601, "Method not found", status=404)

    def _listing(self, query: Params) -> tuple[str, Listing]:
        symbol = query.get("instrument_name", "")
        listing = self.find(symbol)
        if listing is None:
            raise Bad(-32602, "Invalid params", param="instrument_name")
        return symbol, listing

    def _chosen(self, query: Params, *, free: bool = False) -> list[tuple[str, Listing]]:
        """By what they are settled in (anything, where that may be asked) and by kind."""
        currency, kind = query.get("currency", ""), query.get("kind", "any")
        if currency not in CURRENCIES and not (free and currency == "any"):
            raise Bad(-32602, "Invalid params", param="currency", reason="must be one of the supported currencies")
        if kind != "any" and kind not in KINDS:
            raise Bad(-32602, "Invalid params", param="kind")
        rows = [row for row in self.listings() if currency in ("any", row[1].instrument.settle)]
        return [row for row in rows if kind == "any" or row[1].instrument.kind in KINDS[kind]]

    def _instrument(self, symbol: str, listing: Listing) -> dict[str, Any]:
        instrument = listing.instrument
        option, perpetual = instrument.kind is Kind.OPTION, instrument.kind is Kind.PERPETUAL
        reversed_one = instrument.inverse or (option and instrument.quote == instrument.coin)
        lot = _number(str(instrument.lot_size))
        told: dict[str, Any] = {
            "instrument_name": symbol,
            "kind": "option" if option else "future",
            "instrument_type": "reversed" if reversed_one else "linear",
            "settlement_period": "perpetual" if perpetual else "month",
            "base_currency": instrument.coin,
            "quote_currency": instrument.quote,
            "settlement_currency": instrument.settle,
            "price_index": f"{instrument.coin}_{'usd' if reversed_one else instrument.quote}".lower(),
            "tick_size": _number(str(instrument.tick_size)),
            "min_trade_amount": lot,
            "contract_size": lot,
            "creation_timestamp": (instrument.listed_ns or 0) // MS,
            "expiration_timestamp": TIME_MS_MAX if perpetual else (instrument.expires_ns or 0) // MS,
            "is_active": True,
            "state": "open",
            "rfq": False,
        }
        if option:
            _, _, strike, side = symbol.split("-")
            told |= {"strike": _number(strike), "option_type": {"C": "call", "P": "put"}[side]}
        return told

    def _trades(self, query: Params, now_ns: int) -> dict[str, Any]:
        """From the earliest on where a start is given, else the newest."""
        symbol, listing = self._listing(query)
        count, sorting = _count(query, "count", 10, 1, TRADES_MAX), query.get("sorting", "default")
        if sorting not in ("asc", "desc", "default"):
            raise Bad(-32602, "Invalid params", param="sorting")
        first, last = _count(query, "start_seq", -1, 0, SEQ_MAX), _count(query, "end_seq", SEQ_MAX, 0, SEQ_MAX)
        start_ms = _count(query, "start_timestamp", -1, 0, TIME_MS_MAX)
        end_ms = _count(query, "end_timestamp", TIME_MS_MAX, 0, TIME_MS_MAX)
        end_ns = min(now_ns, (end_ms + 1) * MS)
        old = query.get("include_old", "false") == "true"
        start_ns = max(start_ms * MS, 0 if old else now_ns - RECENT_DAYS * DAY_NS)
        early = first >= 0 or start_ms >= 0
        rows = [
            row
            for row in self._tape(listing, first, last, start_ns, end_ns, count + 1, early=early)
            if start_ns <= row.ns and first <= row.first_id <= last
        ]
        kept = rows[:count] if early else rows[-count:]
        if sorting == "desc" or (sorting == "default" and not early):
            kept.reverse()
        return {"trades": [self._trade(symbol, listing, row) for row in kept], "has_more": len(rows) > count}

    def _tape(
        self, listing: Listing, first: int, last: int, start_ns: int, end_ns: int, count: int, *, early: bool
    ) -> Tape:
        """At least `count` trades of those asked for, where there are so many."""
        name = listing.name
        if early and first >= 0:
            return self.world.trades_from(name, first, count, end_ns)
        if early:
            order = self.world.order_at(name, start_ns)
            return self.world.orders_from(name, order, count, end_ns).split()
        if last < SEQ_MAX:
            return self.world.trades_from(name, max(last - count + 1, 0), count, end_ns)
        return self.world.last_trades(name, count, end_ns)

    async def _chart(self, query: Params, now_ns: int) -> dict[str, Any]:
        _, listing = self._listing(query)
        interval_s = RESOLUTIONS.get(query.get("resolution", ""))
        if interval_s is None:
            raise Bad(-32602, "Invalid params", param="resolution")
        start_ns, end_ns = _stretch(query)
        interval_ns, (born_ns, dead_ns) = interval_s * NS, self.world.life(listing.name)
        last_ns = open_of(min(end_ns, now_ns - 1, dead_ns - 1), interval_s)
        first_ns = open_of(max(start_ns, born_ns) + interval_ns - 1, interval_s)
        first_ns = max(first_ns, last_ns - (CANDLES_MAX - 1) * interval_ns)
        bars = await self._bars(listing, interval_s, first_ns, last_ns, now_ns) if first_ns <= last_ns else []
        columns = list(zip(*(self._bar(listing, bar) for bar in bars), strict=True)) or [()] * 6
        words = ("open", "high", "low", "close", "volume", "cost")
        ticks = [bar.open_ns // MS for bar in bars]
        return {"status": "ok" if bars else "no_data", "ticks": ticks, **dict(zip(words, columns, strict=True))}

    async def _bars(self, listing: Listing, interval_s: int, first_ns: int, last_ns: int, now_ns: int) -> list[Bar]:
        """Every interval, flat where nothing was traded."""
        interval_ns = interval_s * NS
        made = await self.candles(listing.name, interval_s, first_ns, min(last_ns + interval_ns, now_ns))
        by_open, ticks = {bar.open_ns: bar for bar in made}, still_after(self.world, listing.name, first_ns).close
        bars: list[Bar] = []
        for open_ns in range(first_ns, last_ns + 1, interval_ns):
            bars.append(by_open.get(open_ns) or still(open_ns, ticks))
            ticks = bars[-1].close
        return bars

    def _funding(self, query: Params, now_ns: int) -> list[dict[str, Any]]:
        _, listing = self._listing(query)
        if not listing.funding_s:
            raise Bad(-32602, "Invalid params", param="instrument_name", reason="not a perpetual")
        start_ns, end_ns = _stretch(query)
        end_ns = min(end_ns + 1, now_ns)
        start_ns = max(start_ns, end_ns - RATES_MAX * HOUR_NS)
        paid = self.world.funding(listing.name, start_ns - RATE_HOURS * HOUR_NS, end_ns)
        told = []
        for n, each in enumerate(paid):
            if each.funding_ns >= start_ns:
                day = sum((other.rate for other in paid[max(n - RATE_HOURS + 1, 0) : n + 1]), Decimal(0))
                told.append(
                    {
                        "timestamp": each.funding_ns // MS,
                        "index_price": _number(f"{self._index(listing, each.funding_ns):f}"),
                        "prev_index_price": _number(f"{self._index(listing, each.funding_ns - HOUR_NS):f}"),
                        "interest_1h": _number(f"{each.rate:f}"),
                        "interest_8h": _number(f"{day:f}"),
                    }
                )
        return told

    async def _summary(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        name, instrument, speller = listing.name, listing.instrument, self.world.speller(listing.name)
        start_ns = now_ns - DAY_NS
        await self.candles(name, 60, start_ns, now_ns)
        bar, index = self.world.window(name, start_ns, now_ns), self._index(listing, now_ns)
        quote = self.world.quote(name, now_ns)
        told: dict[str, Any] = {
            "instrument_name": symbol,
            "base_currency": instrument.coin,
            "quote_currency": instrument.quote,
            "creation_timestamp": self.venue_ms(now_ns),
            "open_interest": _number(speller.size(self.world.open_interest(name, now_ns))),
            "mark_price": _number(f"{self.world.mark(name, now_ns):f}"),
            "bid_price": _number(speller.price(quote.bid_ticks)),
            "ask_price": _number(speller.price(quote.ask_ticks)),
            **dict.fromkeys(("high", "low", "last", "price_change")),
            "volume": 0.0,
            "volume_usd": 0.0,
        }
        if instrument.kind is Kind.OPTION:
            told |= {"underlying_price": _number(f"{index:f}"), "underlying_index": "index_price", "interest_rate": 0.0}
        if bar is None:
            return told
        first, high, low, last, volume, cost = self._bar(listing, bar)
        dollars = Decimal(bytes(cost).decode()) * (index if instrument.kind is Kind.OPTION else 1)
        moved = (Decimal(bytes(last).decode()) / Decimal(bytes(first).decode()) - 1) * 100
        told |= {"high": high, "low": low, "last": last, "price_change": _number(f"{moved:.4f}")}
        told |= {"volume": volume, "volume_usd": _number(f"{dollars:f}")}
        return told if instrument.inverse or instrument.kind is Kind.OPTION else told | {"volume_notional": cost}


_HEARTBEAT = b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"%b"}}'


def _push(channel: str, data: Any) -> bytes:
    return msgspec.json.encode(
        {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": data}}
    )


def _call(text: bytes) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise Bad(-32700, "Parse error") from None
    if not isinstance(said, dict) or not isinstance(said.get("method"), str):
        raise Bad(-32600, "Invalid Request")
    return said


def _number(text: str) -> msgspec.Raw:
    """A JSON number, exactly as it is spelt."""
    return msgspec.Raw(text.encode())


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for price, size in new.items():
        if price not in old:
            yield "new", price, size
        elif old[price] != size:
            yield "change", price, size
    yield from (("delete", price, "0.0") for price in old if price not in new)


def _count(query: Params, name: str, default: int, least: int, most: int) -> int:
    value = whole(query.get(name), default, least, most)
    if value is None:
        raise Bad(-32602, "Invalid params", param=name)
    return value


def _stretch(query: Params) -> tuple[int, int]:
    """Both bounds, which are needed and included."""
    start_ms, end_ms = (_count(query, f"{word}_timestamp", -1, 0, TIME_MS_MAX) for word in ("start", "end"))
    if start_ms < 0 or end_ms < start_ms:
        raise Bad(-32602, "Invalid params", param="start_timestamp" if start_ms < 0 else "end_timestamp")
    return start_ms * MS, end_ms * MS
