"""Kraken spot, played: pairs over REST and the socket /v2.

https://docs.kraken.com/exchange/api-reference/spot-websocket-v2

    {"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD"], "snapshot": true}, "req_id": 1}
        -> {"method": "subscribe", "req_id": 1, "result": {"channel": "trade", "symbol": "BTC/USD", ...}, "success": true, ...}
           for each symbol, then {"channel": "trade", "type": "snapshot", "data": [...]} with the newest 50
    {"error": "Currency pair not supported FOO/BAR", "method": "subscribe", "success": false, "symbol": "FOO/BAR", ...}
    GET /0/public/Trades?pair=XBTUSD&since=1688669597000000000 -> {"error": [], "result": {"XXBTZUSD": [...], "last": "..."}}
    {"error": ["EQuery:Unknown asset pair"]}                                                          with status 200

REST says XBT and XDG, the socket BTC and DOGE. `Trades` gives a thousand, `OHLC` the 720 newest candles whatever `since`
says, and one question a second is allowed; too fast is told with status 200. An interval without a trade has no candle in the
stream, and a flat one in `OHLC`. A heartbeat comes each second in which nothing else was pushed; who says nothing for a
minute and follows nothing is cut. Books are not played.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, ClassVar

import msgspec

from openoutcry.simulator.bars import still, still_after
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.tape import Bar, Listing, Row, digits

CHANNELS = ("trade", "ohlc", "ticker")
INTERVALS = (1, 5, 15, 30, 60, 240, 1_440)  # minutes
THEIRS = {"BTC": "XBT", "DOGE": "XDG"}
TRADES_MAX, CANDLES_MAX, REPEATED_TRADES = 1_000, 720, 50
MINUTE_NS, DAY_NS = 60 * NS, 86_400 * NS
BEAT_NS = NS
QUOTE_NS = 500 * MS
SILENCE_NS = 60 * NS

Query = Mapping[str, str]


class Bad(Exception):
    """A question that is refused, with the text of its error."""


class Kraken(Personality):
    """https://api.kraken.com and wss://ws.kraken.com/v2."""

    name = "kraken"
    sockets: ClassVar = {"ws": "/v2"}
    pools: ClassVar = {"public": Pool(1, 1.0, None)}
    connections = Pool(150, 600.0, None)
    messages = Pool(100, 1.0, None)

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - each question counts one
        """One budget for all that needs no key."""
        return "public", 1

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - it does not say for how long
        """Its word for it, and a status that says all is well."""
        return json({"error": ["EGeneral:Too many requests"]})

    def storm(self, status: int) -> bytes:
        """The venue's own words for a status."""
        return b'{"error":["%b"]}' % (b"EAPI:Rate limit exceeded" if status in (418, 429) else b"EService:Unavailable")

    # Lines

    def opened(self, line: Line) -> None:
        """The greeting."""
        data = [{"api_version": "v2", "connection_id": line.opened_ns, "system": "online", "version": "2.0.0"}]
        line.send(msgspec.json.encode({"channel": "status", "data": data, "type": "update"}))

    def heard(self, line: Line, text: bytes) -> None:
        """subscribe, unsubscribe, ping."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            said = None
        method = said.get("method") if isinstance(said, dict) else None
        number = said.get("req_id") if isinstance(said, dict) else None
        times = {"time_in": _stamp(line.now_ns), "time_out": _stamp(line.now_ns)}
        head = times | ({} if number is None else {"req_id": number})
        if method == "ping":
            line.send(msgspec.json.encode({"method": "pong", **head}))
        elif method not in ("subscribe", "unsubscribe"):
            no = {"error": "Method not found" if said else "Malformed request", "success": False}
            line.send(msgspec.json.encode({"method": method or "", **no, **head}))
        else:
            self._asked(line, said, {"method": method, **head})

    def _asked(self, line: Line, said: Mapping[str, Any], head: dict[str, Any]) -> None:
        params = said.get("params")
        params = params if isinstance(params, dict) else {}
        channel, symbols = params.get("channel"), params.get("symbol")
        if channel not in CHANNELS:
            line.send(_no(head, f"Channel field validation failed: {channel}"))
        elif channel == "ohlc" and params.get("interval", 1) not in INTERVALS:
            line.send(_no(head, "Subscription ohlc interval not supported"))
        else:
            for symbol in symbols if isinstance(symbols, list) else []:
                self._ask(line, str(symbol), params, head)

    def _ask(self, line: Line, symbol: str, params: Mapping[str, Any], head: dict[str, Any]) -> None:
        channel, listing = params["channel"], self.find(symbol)
        topic = f"{channel}:{params.get('interval', 1)}:{symbol}"
        if head["method"] == "unsubscribe":
            line.leave(topic)
            line.send(msgspec.json.encode({**head, "result": {"channel": channel, "symbol": symbol}, "success": True}))
        elif listing is None or self.refused(f"{channel}:{symbol}"):
            line.send(_no(head, f"Currency pair not supported {symbol}", symbol))
        elif topic in line.topics:
            line.send(_no(head, "Already subscribed", symbol))
        elif line.follow(topic):
            snapshot = params.get("snapshot", channel != "trade") is True
            result = {"channel": channel, "symbol": symbol, "snapshot": snapshot}
            line.send(msgspec.json.encode({**head, "result": result, "success": True}))
            if snapshot:
                line.send(*self._first(topic, listing, line.now_ns))

    def _first(self, topic: str, listing: Listing, now_ns: int) -> Iterable[bytes]:
        channel, minutes, symbol = topic.split(":", 2)
        if channel == "trade":
            tape = self.world.last_trades(listing.name, REPEATED_TRADES, now_ns)
            return [_push("trade", [self._trade(symbol, listing, row) for row in tape], "snapshot")]
        if channel == "ticker":
            return [_push("ticker", [self._ticker(symbol, listing, now_ns)], "snapshot")]
        bar = self._running(listing, int(minutes) * MINUTE_NS, now_ns)
        return [] if bar is None else [_push("ohlc", [self._ohlc(symbol, listing, bar, int(minutes))], "snapshot")]

    def beat(self, line: Line) -> None:
        """A heartbeat where nothing else was said; a client that says nothing and follows nothing is cut."""
        if line.now_ns - line.heard_ns > SILENCE_NS and not line.topics:
            line.close(1000, "")
        elif line.topics and line.now_ns - line.sent_ns >= BEAT_NS:
            line.send(b'{"channel":"heartbeat"}')

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """All frames of one channel of one pair."""
        channel, minutes, symbol = topic.split(":", 2)
        listing = self.find(symbol)
        if listing is None:
            return []
        if channel == "ticker":
            return [
                Frame(at_ns, _push("ticker", [self._ticker(symbol, listing, at_ns)]))
                for at_ns in beats(start_ns, end_ns, QUOTE_NS)
            ]
        orders = self.world.orders(listing.name, start_ns, end_ns)
        if channel == "ohlc":
            return list(self._candle_frames(symbol, listing, int(minutes), [row.ns for row in orders]))
        # The fills of an order come in one frame.
        fills: dict[int, list[Row]] = {}
        for row in orders.split():
            fills.setdefault(row.id, []).append(row)
        return [
            Frame(rows[0].ns, _push("trade", [self._trade(symbol, listing, row) for row in rows]), trade=True)
            for rows in fills.values()
        ]

    def _candle_frames(self, symbol: str, listing: Listing, minutes: int, moments: Iterable[int]) -> Iterable[Frame]:
        for at_ns in moments:
            bar = self._running(listing, minutes * MINUTE_NS, at_ns + 1)
            if bar is not None:
                yield Frame(at_ns, _push("ohlc", [self._ohlc(symbol, listing, bar, minutes)]))

    def _running(self, listing: Listing, step_ns: int, at_ns: int) -> Bar | None:
        opened_ns = (at_ns - 1) // step_ns * step_ns
        made = self.world.window(listing.name, opened_ns, at_ns)
        return None if made is None else made._replace(open_ns=opened_ns)

    def _trade(self, symbol: str, listing: Listing, row: Row) -> dict[str, Any]:
        speller = self.world.speller(listing.name)
        return {
            "symbol": symbol,
            "side": "sell" if row.sell else "buy",
            "price": _number(speller.price(row.ticks)),
            "qty": _number(speller.size(row.lots)),
            "ord_type": "market" if row.id % 3 else "limit",
            "trade_id": row.first_id,
            "timestamp": _stamp(row.ns),
        }

    def _ohlc(self, symbol: str, listing: Listing, bar: Bar, minutes: int) -> dict[str, Any]:
        speller = self.world.speller(listing.name)
        told = {word: _number(speller.price(getattr(bar, word))) for word in ("open", "high", "low", "close")}
        return {
            "symbol": symbol,
            **told,
            "trades": bar.trades,
            "volume": _number(speller.size(bar.lots)),
            "vwap": _number(self._vwap(listing, bar)),
            "interval_begin": _stamp(bar.open_ns).replace("Z", "000Z"),
            "interval": minutes,
            "timestamp": _stamp(bar.open_ns + minutes * MINUTE_NS),
        }

    def _vwap(self, listing: Listing, bar: Bar) -> str:
        """Rounded to a digit more than a price has."""
        speller = self.world.speller(listing.name)
        tenths = bar.notional * speller.price_step * 10 // bar.lots if bar.lots else 0
        return digits(tenths, speller.price_digits + 1)

    def _ticker(self, symbol: str, listing: Listing, at_ns: int) -> dict[str, Any]:
        speller, quote = self.world.speller(listing.name), self.world.quote(listing.name, at_ns)
        return {
            "symbol": symbol,
            "bid": _number(speller.price(quote.bid_ticks)),
            "bid_qty": _number(speller.size(quote.bid_lots)),
            "ask": _number(speller.price(quote.ask_ticks)),
            "ask_qty": _number(speller.size(quote.ask_lots)),
            "last": _number(speller.price(quote.bid_ticks)),
            "timestamp": _stamp(self.venue_ms(at_ns) * MS),
        }

    # Questions

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every route; 404 for others."""
        if not asked.path.startswith("/0/public/"):
            return json({"error": ["EGeneral:Unknown method"]}, 404)
        try:
            return json({"error": [], "result": await self._told(asked.path[10:], asked.query, now_ns)})
        except Bad as bad:
            return json({"error": [str(bad)]})

    async def _told(self, method: str, query: Query, now_ns: int) -> dict[str, Any]:
        match method:
            case "Time":
                now_s = self.venue_ms(now_ns) // 1_000
                return {"unixtime": now_s, "rfc1123": formatdate(now_s, usegmt=True)}
            case "SystemStatus":
                return {"status": "online", "timestamp": _stamp(now_ns // NS * NS)}
            case "AssetPairs":
                return {_key(symbol): self._pair(symbol, listing) for symbol, listing in self.listings()} | _DARK
            case "Ticker":
                rows = [self._listing(query)] if "pair" in query else self.listings()
                return {_key(symbol): await self._day(listing, now_ns) for symbol, listing in rows}
            case "Trades":
                return self._trades(*self._listing(query), query, now_ns)
            case "OHLC":
                return await self._candles(*self._listing(query), query, now_ns)
        raise Bad("EGeneral:Unknown method")

    def _pair(self, symbol: str, listing: Listing) -> dict[str, Any]:
        speller, (coin, quote) = self.world.speller(listing.name), symbol.split("/")
        return {
            "altname": _altname(symbol),
            "wsname": f"{THEIRS.get(coin, coin)}/{quote}",
            "aclass_base": "currency",
            "base": f"X{THEIRS.get(coin, coin)}",
            "aclass_quote": "currency",
            "quote": f"Z{quote}",
            "lot": "unit",
            "pair_decimals": speller.price_digits,
            "lot_decimals": speller.size_digits,
            "lot_multiplier": 1,
            "ordermin": "0.0001",
            "tick_size": str(listing.instrument.tick_size),
            "status": "online",
        }

    def _trades(self, symbol: str, listing: Listing, query: Query, now_ns: int) -> dict[str, Any]:
        since_ns = whole(query.get("since"), -1, 0, 2**63 - 1)
        count = whole(query.get("count"), TRADES_MAX, 1, TRADES_MAX)
        if since_ns is None or count is None:
            raise Bad("EGeneral:Invalid arguments")
        name, speller = listing.name, self.world.speller(listing.name)
        if since_ns < 0:
            tape = self.world.last_trades(name, count, now_ns)
        else:
            first = self.world.order_at(name, since_ns + 1)
            tape = self.world.orders_from(name, first, count, now_ns).split()[:count]
        rows = [
            [
                speller.price(row.ticks),
                speller.size(row.lots),
                _number(digits(row.ns // 100, 7)),
                "s" if row.sell else "b",
                "m" if row.id % 3 else "l",
                "",
                row.first_id,
            ]
            for row in tape
        ]
        last_ns = int(tape.ns[-1]) if rows else max(since_ns, 0)
        return {_key(symbol): rows, "last": str(last_ns)}

    async def _candles(self, symbol: str, listing: Listing, query: Query, now_ns: int) -> dict[str, Any]:
        minutes = whole(query.get("interval"), 1, 1, 21_600)
        if minutes not in INTERVALS:
            raise Bad("EGeneral:Invalid arguments:interval")
        step_ns = minutes * MINUTE_NS
        newest_ns = (now_ns - 1) // step_ns * step_ns
        listed_ns = self.world.life(listing.name)[0] // step_ns * step_ns
        first_ns = max(newest_ns - (CANDLES_MAX - 1) * step_ns, listed_ns)
        made = {bar.open_ns: bar for bar in await self.candles(listing.name, minutes * 60, first_ns, now_ns)}
        rows, before = [], still_after(self.world, listing.name, first_ns)
        for at_ns in range(first_ns, newest_ns + 1, step_ns):
            bar = made.get(at_ns) or still(at_ns, before.close)
            rows.append(self._candle(listing, bar))
            before = bar
        return {_key(symbol): rows, "last": (newest_ns - step_ns) // NS}

    def _candle(self, listing: Listing, bar: Bar) -> list[Any]:
        speller = self.world.speller(listing.name)
        prices = [speller.price(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)]
        return [bar.open_ns // NS, *prices, self._vwap(listing, bar), speller.size(bar.lots), bar.trades]

    async def _day(self, listing: Listing, now_ns: int) -> dict[str, Any]:
        """Today's first, then those of the last 24 hours; the opening price is today's."""
        name, speller = listing.name, self.world.speller(listing.name)
        await self.candles(name, 60, now_ns - DAY_NS, now_ns)
        spans = [
            self.world.window(name, start_ns, now_ns) or still(start_ns, 0)
            for start_ns in (now_ns // DAY_NS * DAY_NS, now_ns - DAY_NS)
        ]
        quote = self.world.quote(name, now_ns)
        return {
            "a": [speller.price(quote.ask_ticks), "1", speller.size(quote.ask_lots)],
            "b": [speller.price(quote.bid_ticks), "1", speller.size(quote.bid_lots)],
            "c": [speller.price(spans[0].close), speller.size(1)],
            "v": [speller.size(bar.lots) for bar in spans],
            "p": [self._vwap(listing, bar) for bar in spans],
            "t": [bar.trades for bar in spans],
            "l": [speller.price(bar.low) for bar in spans],
            "h": [speller.price(bar.high) for bar in spans],
            "o": speller.price(spans[0].open),
        }

    def _listing(self, query: Query) -> tuple[str, Listing]:
        asked = query.get("pair")
        for symbol, listing in self.listings():
            if asked in (_altname(symbol), _key(symbol)):
                return symbol, listing
        raise Bad("EQuery:Unknown asset pair" if asked else "EGeneral:Invalid arguments")


_DARK = {"XXBTZUSD.d": {"altname": "XBTUSD.d", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1, "lot_decimals": 8}}


def _altname(symbol: str) -> str:
    coin, _, quote = symbol.partition("/")
    return f"{THEIRS.get(coin, coin)}{quote}"


def _key(symbol: str) -> str:
    """Old coins have letters before them, new ones have not."""
    coin, _, quote = symbol.partition("/")
    return f"X{THEIRS.get(coin, coin)}Z{quote}" if coin in ("BTC", "ETH", "DOGE") else _altname(symbol)


def _push(channel: str, data: list[dict[str, Any]], kind: str = "update") -> bytes:
    return msgspec.json.encode({"channel": channel, "type": kind, "data": data})


def _no(head: Mapping[str, Any], why: str, symbol: str | None = None) -> bytes:
    named = {} if symbol is None else {"symbol": symbol}
    return msgspec.json.encode({"error": why, **head, "success": False, **named})


def _number(text: str) -> msgspec.Raw:
    """A number as the venue writes it: not in quotes."""
    return msgspec.Raw(text.encode())


def _stamp(at_ns: int) -> str:
    at = datetime.fromtimestamp(at_ns // NS, UTC).replace(microsecond=at_ns % NS // 1_000)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
