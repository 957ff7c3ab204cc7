"""Coinbase Exchange, played: spot pairs over REST and one socket.

https://docs.cdp.coinbase.com/exchange/

    {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "heartbeat"]}
        -> {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}, ...]}, then
           {"type": "last_match", ...} and a match for each trade
    {"type": "error", "message": "Failed to subscribe", "reason": "FOO-USD is not a valid product"}
    GET /products/BTC-USD/trades?after=75&limit=2 -> [{"time": "...", "trade_id": 74, ...}, ...]       newest first
    {"message": "NotFound"}                                                                            with status 404

A request with one product that is not listed is refused whole. `subscriptions` names all that a line follows. Who has not
subscribed within 5 s is cut. `before` gives the newest trades of all with higher ids. Candles are newest first, more than 300
are refused, and an interval without a trade has none. Books are not played.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

from openoutcry.simulator.bars import still
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.tape import Bar, Listing, Row

CHANNELS = ("matches", "ticker", "heartbeat")
GRANULARITIES = (60, 300, 900, 3_600, 21_600, 86_400)
TRADES_MAX, CANDLES_MAX = 1_000, 300
IDS_MAX = 10**18
DAY_NS = 86_400 * NS
BEAT_NS = NS
FIRST_WORD_NS = 5 * NS  # a line that did not subscribe by then is cut
# Orders are numbered too, so that the sequence of a product runs faster than its trades.
ORDERS_A_TRADE = 9

Query = Mapping[str, str]


class Bad(Exception):
    """A question that is refused."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text, self.status = text, status


class Coinbase(Personality):
    """https://api.exchange.coinbase.com and wss://ws-feed.exchange.coinbase.com."""

    name = "coinbase"
    sockets: ClassVar = {"ws": "/"}
    pools: ClassVar = {"public": Pool(15, 1.0, None)}
    connections = Pool(8, 1.0, None)
    messages = Pool(100, 1.0, None)

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - each question counts one
        """One budget for all that needs no key."""
        return "public", 1

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - it does not say for how long
        """429, and its word for it."""
        return json({"message": "Public rate limit exceeded"}, 429)

    def storm(self, status: int) -> bytes:
        """The venue's own words for a status."""
        return b'{"message":"%b"}' % (
            b"Public rate limit exceeded" if status in (418, 429) else b"Internal server error"
        )

    # Lines

    def heard(self, line: Line, text: bytes) -> None:
        """subscribe, unsubscribe."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            line.send(_error("Malformed JSON"))
            return
        kind = said.get("type") if isinstance(said, dict) else None
        if kind not in ("subscribe", "unsubscribe"):
            line.send(_error("Invalid type"))
            return
        try:
            topics = self._topics(said)
        except Bad as bad:
            line.send(_error(f"Failed to {kind}", bad.text))
            return
        fresh = [topic for topic in topics if topic not in line.topics]
        for topic in topics:
            line.leave(topic) if kind == "unsubscribe" else line.follow(topic)
        line.memo["subscribed"] = True
        line.send(_subscriptions(line.topics))
        if kind == "subscribe":
            line.send(*(frame for topic in fresh for frame in self._first(topic, line.now_ns)))

    def _topics(self, said: Mapping[str, Any]) -> list[str]:
        """All of them, or none. Raises Bad."""
        found = []
        for channel in _names(said.get("channels")):
            name, products = _channel(channel, said)
            if name not in CHANNELS:
                raise Bad(f"{name} is not a valid channel")
            for product in products:
                if self.find(product) is None or self.refused(f"{name}:{product}"):
                    raise Bad(f"{product} is not a valid product")
                found.append(f"{name}:{product}")
        return found

    def _first(self, topic: str, now_ns: int) -> Iterable[bytes]:
        """What repeats the state as it is: the newest trade, and the ticker."""
        channel, _, product = topic.partition(":")
        listing = self.find(product)
        if listing is None or channel == "heartbeat":
            return ()
        tape = self.world.last_trades(listing.name, 1, now_ns)
        return [
            self._match(product, listing, row, "last_match")
            if channel == "matches"
            else self._ticker(product, listing, row, now_ns)
            for row in tape
        ]

    def beat(self, line: Line) -> None:
        """A client that does not say what it wants is cut."""
        if not line.memo.get("subscribed") and line.now_ns - line.opened_ns > FIRST_WORD_NS:
            line.close(1000, "")

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """All frames of one channel of one product."""
        channel, _, product = topic.partition(":")
        listing = self.find(product)
        if listing is None:
            return ()
        if channel == "heartbeat":
            return [Frame(at_ns, self._beat(product, listing, at_ns)) for at_ns in beats(start_ns, end_ns, BEAT_NS)]
        rows = self.world.trades(listing.name, start_ns, end_ns)
        if channel == "ticker":
            return [Frame(row.ns, self._ticker(product, listing, row, row.ns)) for row in rows]
        return [Frame(row.ns, self._match(product, listing, row, "match"), trade=True) for row in rows]

    def _match(self, product: str, listing: Listing, row: Row, kind: str) -> bytes:
        speller, number = self.world.speller(listing.name), row.first_id
        return msgspec.json.encode(
            {
                "type": kind,
                "trade_id": number,
                "maker_order_id": _order_id(2 * number),
                "taker_order_id": _order_id(2 * number + 1),
                "side": _maker(row),
                "size": speller.size(row.lots),
                "price": speller.price(row.ticks),
                "product_id": product,
                "sequence": number * ORDERS_A_TRADE,
                "time": _stamp(row.ns),
            }
        )

    def _ticker(self, product: str, listing: Listing, row: Row, at_ns: int) -> bytes:
        speller, quote = self.world.speller(listing.name), self.world.quote(listing.name, at_ns)
        return msgspec.json.encode(
            {
                "type": "ticker",
                "sequence": row.first_id * ORDERS_A_TRADE,
                "product_id": product,
                "price": speller.price(row.ticks),
                "best_bid": speller.price(quote.bid_ticks),
                "best_bid_size": speller.size(quote.bid_lots),
                "best_ask": speller.price(quote.ask_ticks),
                "best_ask_size": speller.size(quote.ask_lots),
                # Of a ticker it is the taker's.
                "side": "sell" if row.sell else "buy",
                "time": _stamp(row.ns),
                "trade_id": row.first_id,
                "last_size": speller.size(row.lots),
            }
        )

    def _beat(self, product: str, listing: Listing, at_ns: int) -> bytes:
        last = next((row.first_id for row in self.world.last_trades(listing.name, 1, at_ns)), 0)
        return msgspec.json.encode(
            {
                "type": "heartbeat",
                "sequence": last * ORDERS_A_TRADE,
                "last_trade_id": last,
                "product_id": product,
                "time": _stamp(self.venue_ms(at_ns) * MS),
            }
        )

    # Questions

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every route; 404 for others."""
        try:
            return await self._told(asked.path.split("/")[1:], asked.query, now_ns)
        except Bad as bad:
            return json({"message": bad.text}, bad.status)

    async def _told(self, path: list[str], query: Query, now_ns: int) -> Answer:
        match path:
            case ["time"]:
                ms = self.venue_ms(now_ns)
                return json({"iso": _stamp(ms * MS, "milliseconds"), "epoch": ms / 1_000})
            case ["products"]:
                return json([self._product(symbol, listing) for symbol, listing in self.listings()])
            case ["products", "stats"]:
                return json({symbol: await self._stats(listing, now_ns) for symbol, listing in self.listings()})
            case ["products", product, "trades"]:
                return self._trades(self._listing(product), query, now_ns)
            case ["products", product, "candles"]:
                return json(await self._candles(self._listing(product), query, now_ns))
        raise Bad("NotFound", 404)

    def _product(self, symbol: str, listing: Listing) -> dict[str, Any]:
        instrument = listing.instrument
        return {
            "id": symbol,
            "base_currency": instrument.coin,
            "quote_currency": instrument.quote,
            "quote_increment": str(instrument.tick_size),
            "base_increment": str(instrument.lot_size),
            "display_name": symbol.replace("-", "/"),
            "min_market_funds": "1",
            "margin_enabled": False,
            "post_only": False,
            "limit_only": False,
            "cancel_only": False,
            "status": "online",
            "status_message": "",
            "trading_disabled": False,
            "auction_mode": False,
        }

    def _trades(self, listing: Listing, query: Query, now_ns: int) -> Answer:
        limit = whole(query.get("limit"), TRADES_MAX, 1, TRADES_MAX)
        after, before = whole(query.get("after"), 0, 0, IDS_MAX), whole(query.get("before"), 0, 0, IDS_MAX)
        if limit is None or after is None or before is None:
            raise Bad("Invalid pagination")
        if after:
            tape = self.world.trades_from(listing.name, max(after - limit, 0), limit, now_ns)
        else:
            tape = self.world.last_trades(listing.name, limit, now_ns)
        rows = [row for row in tape if row.first_id > before and (not after or row.first_id < after)][::-1]
        speller = self.world.speller(listing.name)
        told = [
            {
                "time": _stamp(row.ns),
                "trade_id": row.first_id,
                "price": speller.price(row.ticks),
                "size": speller.size(row.lots),
                "side": _maker(row),
            }
            for row in rows
        ]
        ends = (("cb-before", str(rows[0].first_id)), ("cb-after", str(rows[-1].first_id))) if rows else ()
        return json(told, headers=ends)

    async def _candles(self, listing: Listing, query: Query, now_ns: int) -> list[Any]:
        granularity = whole(query.get("granularity"), 60, 1, DAY_NS // NS)
        if granularity not in GRANULARITIES:
            raise Bad("Unsupported granularity")
        step_ns = granularity * NS
        if "start" in query and "end" in query:
            start_ns, end_ns = _ns(query["start"]), _ns(query["end"])
        else:
            end_ns = now_ns
            start_ns = end_ns - end_ns % step_ns - (CANDLES_MAX - 1) * step_ns
        first_ns = -(-start_ns // step_ns) * step_ns
        if end_ns < start_ns:
            raise Bad("start must be before end")
        if (end_ns - first_ns) // step_ns + 1 > CANDLES_MAX:
            raise Bad(
                "granularity too small for the requested time range. Count of aggregations requested exceeds "
                f"{CANDLES_MAX}"
            )
        upto_ns = min(end_ns - end_ns % step_ns + step_ns, now_ns)
        made = await self.candles(listing.name, granularity, first_ns, upto_ns) if first_ns < upto_ns else []
        return [self._candle(listing, bar) for bar in made if first_ns <= bar.open_ns <= end_ns][::-1]

    def _candle(self, listing: Listing, bar: Bar) -> list[Any]:
        speller = self.world.speller(listing.name)
        prices = (bar.low, bar.high, bar.open, bar.close)
        numbers = (*(speller.price(ticks) for ticks in prices), speller.size(bar.lots))
        return [bar.open_ns // NS, *(msgspec.Raw(text.encode()) for text in numbers)]

    async def _stats(self, listing: Listing, now_ns: int) -> dict[str, Any]:
        name, speller, start_ns = listing.name, self.world.speller(listing.name), now_ns - DAY_NS
        await self.candles(name, 60, start_ns, now_ns)
        bar = self.world.window(name, start_ns, now_ns) or still(start_ns, 0)
        day = {word: speller.price(getattr(bar, word)) for word in ("open", "high", "low")}
        day |= {"volume": speller.size(bar.lots), "last": speller.price(bar.close)}
        return {"stats_30day": {"volume": speller.size(bar.lots * 30)}, "stats_24hour": day}

    def _listing(self, product: str) -> Listing:
        listing = self.find(product)
        if listing is None:
            raise Bad("NotFound", 404)
        return listing


def _names(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _channel(channel: Any, said: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Its name and products: its own, and those of the whole request."""
    own = channel if isinstance(channel, dict) else {"name": channel}
    products = [*_names(said.get("product_ids")), *_names(own.get("product_ids"))]
    if not products:
        raise Bad("No products specified")
    return str(own.get("name")), [str(product) for product in products]


def _subscriptions(topics: Iterable[str]) -> bytes:
    told: dict[str, list[str]] = {}
    for topic in sorted(topics):
        channel, _, product = topic.partition(":")
        told.setdefault(channel, []).append(product)
    channels = [{"name": channel, "product_ids": products, "account_ids": None} for channel, products in told.items()]
    return msgspec.json.encode({"type": "subscriptions", "channels": channels})


def _error(message: str, reason: str | None = None) -> bytes:
    return msgspec.json.encode({"type": "error", "message": message} | ({"reason": reason} if reason else {}))


def _maker(row: Row) -> str:
    """The maker did the opposite of what the taker did."""
    return "buy" if row.sell else "sell"


def _order_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def _stamp(at_ns: int, timespec: str = "microseconds") -> str:
    at = datetime.fromtimestamp(at_ns // NS, UTC).replace(microsecond=at_ns % NS // 1_000)
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")


def _ns(text: str) -> int:
    """RFC 3339, or seconds."""
    try:
        return int(text) * NS if text.isdecimal() else int(datetime.fromisoformat(text).timestamp()) * NS
    except (ValueError, OverflowError):
        raise Bad("invalid start or end time") from None
