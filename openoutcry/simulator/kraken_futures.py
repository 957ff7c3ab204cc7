"""Kraken Futures, played: perpetuals and futures over REST and the socket /ws/v1.

https://docs.kraken.com/api/docs/futures-api/

    {"event": "subscribe", "feed": "trade", "product_ids": ["PI_XBTUSD"]}
        -> {"event": "subscribed", "feed": "trade", "product_ids": ["PI_XBTUSD"]}, then {"feed": "trade_snapshot", ...}
    {"event": "error", "message": "Invalid product id"}, {"event": "alert", "message": "Couldn't subscribe to invalid feed"}
    GET /derivatives/api/v3/history?symbol=PI_XBTUSD -> {"result": "success", "history": [{"time": "...", ...}, ...]}
    {"status": "BAD_REQUEST", "result": "error", "errors": [{"code": 11, "message": "Argument invalid: symbol"}]}

A subscription to trades is answered with the newest hundred, newest first. Trades that were not matched on the book (block,
termination) stand among them. Products may be asked for in lower case, and are answered in upper case. Who says nothing for
60 s is cut. `history` gives a hundred of the last seven days, the charts 2,000 candles (the first of too long a stretch) and
none for an interval without a trade. Funding rates are of the hour that their stamp begins. Books are not played.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec

from openoutcry.instrument import Kind
from openoutcry.simulator.bars import still
from openoutcry.simulator.binance_rest import open_ns
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.tape import Bar, Listing

RESOLUTIONS = {
    "1m": 60, "5m": 300, "15m": 900, "30m": 1_800, "1h": 3_600, "4h": 14_400, "12h": 43_200, "1d": 86_400, "1w": 604_800,
}  # fmt: skip
FEEDS = ("trade", "ticker", "heartbeat")
BOOKED = ("block", "termination")  # types of trades that were not matched on the book
TRADES_MAX, CANDLES_MAX = 100, 2_000
TRADES_DAYS, FUNDING_DAYS = 7, 365
HOUR_NS, DAY_NS = 3_600 * NS, 86_400 * NS
TICKER_NS = NS
BEAT_NS = NS
SILENCE_NS = 60 * NS
SECONDS_MAX = 4_102_444_800
V3, V4, CHARTS = "/derivatives/api/v3/", "/derivatives/api/v4/", "/api/charts/v1/"

Query = Mapping[str, str]


class Bad(Exception):
    """A question that is refused: its texts, told in JSON, or plainly by the charts."""

    def __init__(self, text: str, status: int = 400, *, plain: bool = False) -> None:
        super().__init__(text)
        self.text, self.status, self.plain = text, status, plain


class KrakenFutures(Personality):
    """https://futures.kraken.com and wss://futures.kraken.com/ws/v1."""

    name = "kraken_futures"
    sockets: ClassVar = {"ws": "/ws/v1"}
    pools: ClassVar = {"derivatives": Pool(500, 10.0, None), "charts": Pool(500, 10.0, None)}
    connections = Pool(100, 60.0, None)
    messages = Pool(100, 1.0, None)

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """The charts have a budget of their own."""
        return "charts" if asked.path.startswith(CHARTS) else "derivatives", 1

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - both say the same
        """429, and its word for it."""
        return json({"result": "error", "error": "apiLimitExceeded"}, 429)

    def storm(self, status: int) -> bytes:
        """The venue's own words for a status."""
        return b'{"result":"error","error":"%b"}' % (b"apiLimitExceeded" if status in (418, 429) else b"Unavailable")

    # Lines

    def opened(self, line: Line) -> None:
        """The greeting."""
        line.send(b'{"event":"info","version":1}')

    def heard(self, line: Line, text: bytes) -> None:
        """subscribe, unsubscribe."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            said = None
        event, feed, products = _parts(said)
        if event not in ("subscribe", "unsubscribe"):
            line.send(_event("alert", message="Bad request"))
        elif feed not in FEEDS:
            line.send(_event("alert", message="Couldn't subscribe to invalid feed"))
        elif feed == "heartbeat":
            line.follow(feed) if event == "subscribe" else line.leave(feed)
            line.send(_event(f"{event}d", feed=feed))
        else:
            for product in products:
                self._ask(line, feed, product.upper(), undo=event == "unsubscribe")

    def _ask(self, line: Line, feed: str, product: str, *, undo: bool) -> None:
        topic, listing = f"{feed}:{product}", self.find(product)
        if undo:
            line.leave(topic)
            line.send(_event("unsubscribed", feed=feed, product_ids=[product]))
        elif listing is None or self.refused(topic) or not line.follow(topic):
            line.send(_event("error", message="Invalid product id"))
        else:
            line.send(_event("subscribed", feed=feed, product_ids=[product]))
            line.send(self._first(feed, product, listing, line.now_ns))

    def _first(self, feed: str, product: str, listing: Listing, now_ns: int) -> bytes:
        if feed == "ticker":
            return self._ticker(product, listing, now_ns)
        rows = self._newest(listing, TRADES_MAX, now_ns)
        told = b",".join(self._trade(product, listing, row) for row in rows)
        return b'{"feed":"trade_snapshot","product_id":"%b","trades":[%b]}' % (product.encode(), told)

    def beat(self, line: Line) -> None:
        """A client that says nothing for 60 s is cut."""
        if line.now_ns - line.heard_ns > SILENCE_NS:
            line.close(1000, "")

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """All frames of one feed of one product."""
        feed, _, product = topic.partition(":")
        if feed == "heartbeat":
            stamps = beats(start_ns, end_ns, BEAT_NS)
            return [Frame(at, b'{"feed":"heartbeat","time":%d}' % self.venue_ms(at)) for at in stamps]
        listing = self.find(product)
        if listing is None:
            return ()
        if feed == "ticker":
            return [Frame(at_ns, self._ticker(product, listing, at_ns)) for at_ns in beats(start_ns, end_ns, TICKER_NS)]
        rows = sorted(self._made(listing, start_ns, end_ns))
        return [Frame(row[0], self._trade(product, listing, row), trade=True) for row in rows]

    def _made(self, listing: Listing, start_ns: int, end_ns: int) -> Iterator["_Row"]:
        """Trades, and what was booked beside the book, in no order."""
        for row in self.world.trades(listing.name, start_ns, end_ns):
            yield row.ns, row.first_id, row.ticks, row.lots, row.sell, "liquidation" if row.liquidation else "fill"
        for number, at_ns in self.world.reserved(listing.name, start_ns, end_ns):
            # Away from the market and large, so that counting it shows.
            ticks = self.world.quote(listing.name, at_ns).bid_ticks * 9 // 10
            yield at_ns, number, ticks, 1_000, False, BOOKED[number % len(BOOKED)]

    def _newest(self, listing: Listing, count: int, before_ns: int) -> list["_Row"]:
        """Newest first."""
        tape = self.world.last_trades(listing.name, count, before_ns)
        if not len(tape):
            return []
        return sorted(self._made(listing, int(tape.ns[0]), before_ns), reverse=True)[:count]

    def _trade(self, product: str, listing: Listing, row: "_Row") -> bytes:
        speller = self.world.speller(listing.name)
        at_ns, number, ticks, lots, sell, kind = row
        return (
            b'{"feed":"trade","product_id":"%b","uid":"%b","side":"%b","type":"%b","seq":%d,"time":%d,"qty":%b,"price":%b}'
            % (
                product.encode(),
                _uid(listing, number).encode(),
                b"sell" if sell else b"buy",
                kind.encode(),
                number,
                at_ns // MS,
                speller.size(lots).encode(),
                speller.price(ticks).encode(),
            )
        )

    def _ticker(self, product: str, listing: Listing, at_ns: int) -> bytes:
        name, speller, quote = listing.name, self.world.speller(listing.name), self.world.quote(listing.name, at_ns)
        index = self.world.index(name, at_ns)
        told: dict[str, Any] = {
            "time": self.venue_ms(at_ns),
            "product_id": product,
            "leverage": "50x",
            "premium": _number("0.0"),
            "feed": "ticker",
            "bid": _number(speller.price(quote.bid_ticks)),
            "ask": _number(speller.price(quote.ask_ticks)),
            "bid_size": _number(speller.size(quote.bid_lots)),
            "ask_size": _number(speller.size(quote.ask_lots)),
            "index": _number(f"{index:f}"),
            "last": _number(speller.price(quote.bid_ticks)),
            "suspended": False,
            "tag": "perpetual" if listing.funding_s else "quarter",
            "openInterest": _number(speller.size(self.world.open_interest(name, at_ns))),
            "markPrice": _number(f"{self.world.mark(name, at_ns):f}"),
            "maturityTime": (listing.instrument.expires_ns or 0) // MS,
        }
        if listing.funding_s:
            due_ns = at_ns - at_ns % HOUR_NS + HOUR_NS
            (running,) = self.world.funding(name, due_ns, due_ns + 1)
            # What the next period's would be if it began now: it runs from this one's to its own.
            coming = self.world.running_funding(name, at_ns + HOUR_NS)
            told |= {"next_funding_rate_time": due_ns // MS}
            for word, rate in (("", running.rate), ("_prediction", coming.rate)):
                if rate:  # zero is left out
                    told[f"relative_funding_rate{word}"] = _number(f"{rate:f}")
                    told[f"funding_rate{word}"] = _number(f"{rate * index:f}")
        return msgspec.json.encode(told)

    # Questions

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every route; 404 for others."""
        try:
            value = await self._value(asked, now_ns)
        except Bad as bad:
            if bad.plain:
                return Answer(bad.status, bad.text.encode(), (), "text/plain")
            status = "NOT_FOUND" if bad.status == 404 else "BAD_REQUEST"
            problem = {"code": 0 if bad.status == 404 else 11, "message": bad.text}
            told = {"status": status, "result": "error", "errors": [problem], "serverTime": self._now(now_ns)}
            return json(told, bad.status)
        if asked.path.startswith(CHARTS):
            return json(value)
        return json({"result": "success", **value, "serverTime": self._now(now_ns)})

    async def _value(self, asked: Asked, now_ns: int) -> Any:
        path, query = asked.path, asked.query
        if path == CHARTS:
            return ["mark", "spot", "trade"]
        if path.startswith(f"{CHARTS}trade/"):
            return await self._charts(path.removeprefix(f"{CHARTS}trade/"), query, now_ns)
        if path == f"{V3}instruments":
            return {"instruments": [*map(self._instrument, self.listings()), _INDEX]}
        if path == f"{V3}tickers":
            return {"tickers": [await self._summary(symbol, listing, now_ns) for symbol, listing in self.listings()]}
        if path == f"{V3}history":
            return {"history": self._history(query, now_ns)}
        if path == f"{V4}historicalfundingrates":
            return {"rates": self._fundings(self._listing(query), now_ns)}
        raise Bad("404 NOT_FOUND", 404)

    def _instrument(self, row: tuple[str, Listing]) -> dict[str, Any]:
        symbol, listing = row
        instrument, speller = listing.instrument, self.world.speller(listing.name)
        told: dict[str, Any] = {
            "symbol": symbol,
            "type": "futures_inverse" if instrument.inverse else "flexible_futures",
            "tickSize": _number(str(instrument.tick_size)),
            "contractSize": _number(str(instrument.contract_size or 1)),
            "tradeable": True,
            "openingDate": _stamp(instrument.listed_ns or 0),
            "contractValueTradePrecision": speller.size_digits,
            "base": instrument.coin,
            "quote": instrument.quote,
            "isExpired": False,
        }
        if instrument.kind is Kind.FUTURE:
            told["lastTradingTime"] = _stamp(instrument.expires_ns or 0)
        return told

    def _history(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        listing, before_ns = self._listing(query), now_ns
        if "lastTime" in query:
            before_ns = min(now_ns, _ns(query["lastTime"]))
        speller = self.world.speller(listing.name)
        oldest_ns = now_ns - TRADES_DAYS * DAY_NS
        rows = [row for row in self._newest(listing, TRADES_MAX, before_ns) if row[0] >= oldest_ns]
        return [
            {
                "time": _stamp(at_ns),
                "trade_id": len(rows) - place,
                "price": _number(speller.price(ticks)),
                "size": _number(speller.size(lots)),
                "side": "sell" if sell else "buy",
                "type": kind,
                "uid": _uid(listing, number),
            }
            for place, (at_ns, number, ticks, lots, sell, kind) in enumerate(rows)
        ]

    async def _charts(self, rest: str, query: Query, now_ns: int) -> dict[str, Any]:
        symbol, _, resolution = rest.partition("/")
        listing = self.find(symbol)
        if listing is None:
            raise Bad("Invalid symbol", plain=True)
        interval_s = RESOLUTIONS.get(resolution.lower())
        if interval_s is None:
            raise Bad("Invalid resolution", plain=True)
        interval_ns, newest_ns = interval_s * NS, open_ns(now_ns, interval_s * NS)
        to_s = whole(query.get("to"), now_ns // NS, 0, SECONDS_MAX)
        from_s = whole(query.get("from"), max(newest_ns // NS - (CANDLES_MAX - 1) * interval_s, 0), 0, SECONDS_MAX)
        if to_s is None or from_s is None:
            raise Bad("Invalid time", plain=True)
        first_ns = open_ns(from_s * NS + interval_ns - 1, interval_ns)
        first_ns = max(first_ns, open_ns(self.world.life(listing.name)[0], interval_ns))
        last_ns = open_ns(min(to_s * NS, now_ns - 1), interval_ns)
        end_ns = min(last_ns, first_ns + (CANDLES_MAX - 1) * interval_ns) + interval_ns
        made = await self.candles(listing.name, interval_s, first_ns, min(end_ns, now_ns)) if first_ns < end_ns else []
        rows = [self._candle(listing, bar) for bar in made if first_ns <= bar.open_ns < end_ns]
        return {"candles": rows, "more_candles": end_ns <= last_ns}

    def _candle(self, listing: Listing, bar: Bar) -> dict[str, Any]:
        speller = self.world.speller(listing.name)
        prices = {"open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close}
        told: dict[str, Any] = {"time": bar.open_ns // MS}
        told |= {word: speller.price(ticks) for word, ticks in prices.items()}
        return told | {"volume": speller.size(bar.lots)}

    def _fundings(self, listing: Listing, now_ns: int) -> list[dict[str, Any]]:
        if not listing.funding_s:
            raise Bad("Argument invalid: symbol")
        due_ns = now_ns - now_ns % HOUR_NS + HOUR_NS
        oldest_ns = max(self.world.life(listing.name)[0], now_ns - FUNDING_DAYS * DAY_NS)
        rows = []
        for settled in self.world.funding(listing.name, oldest_ns + HOUR_NS, due_ns + 1):
            began_ns = settled.funding_ns - HOUR_NS
            absolute = settled.rate * self.world.index(listing.name, began_ns)
            told = {"fundingRate": _number(f"{absolute:f}"), "relativeFundingRate": _number(f"{settled.rate:f}")}
            rows.append({"timestamp": _stamp(began_ns, "seconds"), **told})
        return rows

    async def _summary(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        name, speller, start_ns = listing.name, self.world.speller(listing.name), now_ns - DAY_NS
        await self.candles(name, 60, start_ns, now_ns)
        bar = self.world.window(name, start_ns, now_ns) or still(start_ns, 0)
        quote, unit = self.world.quote(name, now_ns), listing.instrument.contract_size or 1
        money = speller.size_decimal(bar.lots) * unit if listing.instrument.inverse else speller.notional(bar.notional)
        return {
            "symbol": symbol,
            "last": _number(speller.price(bar.close)),
            "lastTime": _stamp(bar.last_ns),
            "tag": "perpetual" if listing.funding_s else "quarter",
            "markPrice": _number(f"{self.world.mark(name, now_ns):f}"),
            "indexPrice": _number(f"{self.world.index(name, now_ns):f}"),
            "bid": _number(speller.price(quote.bid_ticks)),
            "ask": _number(speller.price(quote.ask_ticks)),
            "vol24h": _number(speller.size(bar.lots)),
            "volumeQuote": _number(str(money)),
            "openInterest": _number(speller.size(self.world.open_interest(name, now_ns))),
            "open24h": _number(speller.price(bar.open)),
            "high24h": _number(speller.price(bar.high)),
            "low24h": _number(speller.price(bar.low)),
            "suspended": False,
        }

    def _listing(self, query: Query) -> Listing:
        if not query.get("symbol"):
            raise Bad("Argument missing: symbol")
        listing = self.find(query["symbol"].upper())
        if listing is None:
            raise Bad("Argument invalid: symbol")
        return listing

    def _now(self, now_ns: int) -> str:
        return _stamp(self.venue_ms(now_ns) * MS)


_Row = tuple[int, int, int, int, bool, str]  # ns, number, ticks, lots, sold, type
_INDEX = {"symbol": "in_xbtusd", "type": "spot index", "tradeable": False}


def _parts(said: Any) -> tuple[Any, Any, list[str]]:
    """Event, feed and products of what a client said."""
    if not isinstance(said, dict):
        return None, None, []
    products = said.get("product_ids", [])
    sound = isinstance(products, list) and all(isinstance(each, str) for each in products)
    return said.get("event"), said.get("feed"), products if sound else []


def _event(event: str, **more: Any) -> bytes:
    return msgspec.json.encode({"event": event, **more})


def _number(text: str) -> msgspec.Raw:
    """A number as the venue writes it: not in quotes."""
    return msgspec.Raw(text.encode())


def _uid(listing: Listing, number: int) -> str:
    return str(uuid.UUID(bytes=hashlib.blake2b(f"{listing.name}/{number}".encode(), digest_size=16).digest()))


def _stamp(at_ns: int, timespec: str = "milliseconds") -> str:
    at = datetime.fromtimestamp(at_ns // NS, UTC).replace(microsecond=at_ns % NS // 1_000)
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")


def _ns(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
        return int(at.replace(microsecond=0).timestamp()) * NS + at.microsecond * 1_000
    except (ValueError, OverflowError):
        raise Bad("Argument invalid: lastTime") from None
