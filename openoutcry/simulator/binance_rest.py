"""Binance's REST side, played: the routes that spot, USDM and COINM share, in their three spellings.

https://developers.binance.com/docs/

    GET /fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=2
    [[1672515780000, "0.0010", "0.0025", "0.0015", "0.0020", "1000", 1672515839999, "1.0", 100, "500", "0.500", "0"], ...]
    {"code": -1121, "msg": "Invalid symbol."}                                          with status 400

Candles without a trade are there, flat at the last price and with zeros, as Binance has them. Answers are oldest first; a
start gives the first rows from it, otherwise the newest.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from openoutcry.events import WEEK_OFFSET_S, WEEK_S
from openoutcry.instrument import Kind
from openoutcry.simulator.binance_archive import ArchiveFiles
from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Personality, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.tape import Bar, Listing, Row, Speller, Tape, digits
from openoutcry.simulator.world import World

INTERVALS_S = {
    "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1_800, "1h": 3_600, "2h": 7_200, "4h": 14_400, "6h": 21_600,
    "8h": 28_800, "12h": 43_200, "1d": 86_400, "3d": 259_200, "1w": 604_800,
}  # fmt: skip
PERIODS_S = {
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "6h": 21_600,
    "12h": 43_200,
    "1d": 86_400,
}
HOUR_NS, DAY_NS = 3_600 * NS, 86_400 * NS
INTEREST_DAYS_MAX = 30
INTEREST_LIMIT, INTEREST_LIMIT_MAX = 30, 500
FUNDING_LIMIT, FUNDING_LIMIT_MAX = 100, 1_000
ROWS_LIMIT, ROWS_LIMIT_MAX = 500, 1_000
DELIVERY_NS_MAX = 200 * DAY_NS
CLOSE_MS_NEVER = 4_133_404_800_000  # deliveryDate of perpetuals
BOOK_LEVELS = 100
FAR_FUTURE_NS = 4_102_444_800 * NS


class Bad(Exception):
    """A question Binance refuses: its code and text."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code, self.text, self.status = code, text, status


class BinanceRest(Personality):
    """What is common to the three markets; they differ in prefix, weights, limits and a few fields."""

    prefix: ClassVar[str]  # of all routes but /futures/data
    klines_max: ClassVar[int]
    weights: ClassVar[Mapping[str, int]]
    spot: ClassVar[bool] = False
    inverse: ClassVar[bool] = False

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._files = ArchiveFiles(self)

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """`X-MBX` weights by route; open interest history and funding history have pools of their own."""
        route = asked.path.removeprefix(self.prefix)
        if self._is_file(asked.path):
            return None
        if asked.path == "/futures/data/openInterestHist" and not self.spot:
            return "data", 1
        if not self.spot and route in ("/fundingRate", "/fundingInfo"):
            return "funding", 1
        if route == "/klines" and not self.spot:
            limit = whole(asked.query.get("limit"), ROWS_LIMIT, 0, 10**6) or 0
            return "weight", 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1_000 else 10
        if route == "/depth":
            limit = whole(asked.query.get("limit"), 100, 0, 10**6) or 0
            steps = ((100, 5), (500, 25), (1_000, 50)) if self.spot else ((50, 2), (100, 5), (500, 10))
            return "weight", next((weight for most, weight in steps if limit <= most), 250 if self.spot else 20)
        if route == "/ticker/24hr" and "symbol" not in asked.query:
            return "weight", 80 if self.spot else 40
        if route == "/premiumIndex" and "symbol" not in asked.query:
            return "weight", 10
        return "weight", self.weights.get(route, 1)

    def _is_file(self, path: str) -> bool:
        return bool(self.archive) and path.startswith(f"{self.archive}/")

    def used(self, pool: str, verdict: Verdict) -> tuple[tuple[str, str], ...]:
        """The weight of this minute."""
        return (("X-MBX-USED-WEIGHT-1M", str(verdict.used)),) if pool == "weight" else ()

    def refuse(self, pool: str, verdict: Verdict) -> Answer:
        """-1003, with 429 and then 418."""
        limit, retry = self.pools[pool].count, (("Retry-After", str(verdict.retry_s)),)
        if verdict.banned:
            text = "Way too many requests; IP banned. Please use the websocket for live updates to avoid bans."
        else:
            text = f"Too many requests; current limit of IP is {limit} requests per minute."
        return json({"code": -1003, "msg": text}, 418 if verdict.banned else 429, retry)

    def storm(self, status: int) -> bytes:
        """Binance's own words for a status."""
        code, text = (-1003, "Too many requests.") if status in (418, 429) else (-1000, "An unknown error occurred.")
        return b'{"code":%d,"msg":"%b"}' % (code, text.encode())

    # Answers

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every route; 404 for others."""
        if asked.method != "GET":
            return Answer(405, b"", (), "text/plain")
        if self._is_file(asked.path):
            return await self._files.answer(asked.path.removeprefix(f"{self.archive}/"), now_ns)
        try:
            value = await self._value(asked, now_ns)
        except Bad as bad:
            return json({"code": bad.code, "msg": bad.text}, bad.status)
        return (
            Answer(404, b"<html><body><h2>404 Not found</h2></body></html>", (), "text/html")
            if value is None
            else json(value)
        )

    async def _value(self, asked: Asked, now_ns: int) -> Any:
        query = asked.query
        if asked.path == "/futures/data/openInterestHist" and not self.spot:
            return self._interest_history(query, now_ns)
        if not asked.path.startswith(self.prefix):
            return None
        route = asked.path.removeprefix(self.prefix)
        match route:
            case "/ping":
                return {}
            case "/time":
                return {"serverTime": self.venue_ms(now_ns)}
            case "/exchangeInfo":
                return self._exchange_info(now_ns)
            case "/klines":
                return await self._klines(query, now_ns)
            case "/aggTrades":
                return [self.agg_trade(a, row) for a, row in self._orders(query, now_ns)]
            case "/trades" | "/historicalTrades":
                return self._trades(query, now_ns, old=route == "/historicalTrades")
            case "/depth":
                return self._depth(query, now_ns)
            case "/ticker/24hr":
                return await self._tickers(query, now_ns)
            case "/ticker/bookTicker" | "/ticker/price":
                return self._touches(query, now_ns)
        return None if self.spot else self._derivative(route, query, now_ns)

    def _derivative(self, route: str, query: Mapping[str, str], now_ns: int) -> Any:
        match route:
            case "/openInterest":
                return self._interest(query, now_ns)
            case "/premiumIndex":
                return self._premium(query, now_ns)
            case "/fundingRate":
                return self._funding(query, now_ns)
            case "/fundingInfo":
                return self._funding_info(now_ns)
        return None

    # Spelling

    def price(self, speller: Speller, ticks: int) -> str:
        """Spot writes eight places, futures those of the tick."""
        if self.spot:
            return digits(ticks * speller.price_step * 10 ** (8 - speller.price_digits), 8)
        return speller.price(ticks)

    def size(self, speller: Speller, lots: int) -> str:
        """Coins, or contracts on COINM."""
        if self.spot:
            return digits(lots * speller.size_step * 10 ** (8 - speller.size_digits), 8)
        return speller.size(lots)

    def amount(self, speller: Speller, notional: int, coins_e8: int) -> str:
        """The other side of a sum: quote currency, or base coins on COINM."""
        return digits(coins_e8, 8) if self.inverse else speller.notional(notional)

    def agg_trade(self, listing: Listing, row: Row) -> dict[str, Any]:
        """One row of aggTrades."""
        speller = self.world.speller(listing.name)
        said: dict[str, Any] = {
            "a": row.id,
            "p": self.price(speller, row.ticks),
            "q": self.size(speller, row.lots),
            "f": row.first_id,
            "l": row.last_id,
            "T": row.ns // MS,
            "m": row.sell,
        }
        if self.spot:
            said["M"] = True
        return said

    # Instruments

    def _exchange_info(self, now_ns: int) -> dict[str, Any]:
        limits = [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": self.pools["weight"].count,
            }
        ]
        return {
            "timezone": "UTC",
            "serverTime": self.venue_ms(now_ns),
            **({} if self.spot else {"futuresType": "COIN_MARGINED" if self.inverse else "U_MARGINED", "assets": []}),
            "rateLimits": limits,
            "exchangeFilters": [],
            "symbols": [self._symbol_info(symbol, listing) for symbol, listing in self.listings()],
        }

    def _symbol_info(self, symbol: str, listing: Listing) -> dict[str, Any]:
        instrument, speller = listing.instrument, self.world.speller(listing.name)
        pair = symbol.partition("_")[0]
        tick, lot = str(instrument.tick_size), str(instrument.lot_size)
        filters = [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "4529764", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "90000000", "stepSize": lot},
            {"filterType": "MARKET_LOT_SIZE", "minQty": lot, "maxQty": "90000000", "stepSize": lot},
        ]
        common = {
            "symbol": symbol,
            "baseAsset": pair.removesuffix(instrument.quote),
            "baseAssetPrecision": 8,
            "quoteAsset": instrument.quote,
            "quotePrecision": 8,
            "filters": filters,
        }
        if self.spot:
            more = {
                "status": "TRADING",
                "quoteAssetPrecision": 8,
                "isSpotTradingAllowed": True,
                "permissions": ["SPOT"],
            }
            return common | more | {"orderTypes": ["LIMIT", "MARKET"], "icebergAllowed": True}
        perpetual = instrument.kind is Kind.PERPETUAL
        futures: dict[str, Any] = common | {
            "pair": pair,
            "contractType": "PERPETUAL" if perpetual else "CURRENT_QUARTER",
            "deliveryDate": CLOSE_MS_NEVER if perpetual else (instrument.expires_ns or 0) // MS,
            "onboardDate": (instrument.listed_ns or 0) // MS,
            "contractStatus" if self.inverse else "status": "TRADING",
            "marginAsset": instrument.settle,
            "pricePrecision": speller.price_digits,
            "quantityPrecision": speller.size_digits,
            "underlyingType": "COIN",
            "underlyingSubType": [],
        }
        if self.inverse:
            futures["contractSize"] = int(instrument.contract_size or 0)
        return futures

    # Trades and candles

    async def _klines(self, query: Mapping[str, str], now_ns: int) -> list[list[Any]]:
        listing = self._listing(query)
        interval_s = (INTERVALS_S | ({"1s": 1} if self.spot else {})).get(_needed(query, "interval"))
        if interval_s is None:
            raise Bad(-1120, "Invalid interval.")
        limit = self._limit(query, ROWS_LIMIT, self.klines_max)
        start_ns, end_ns = _range(query)
        if self.inverse:
            start_ns, end_ns = _delivery_range(start_ns, end_ns, limit * interval_s * NS, now_ns)
        interval_ns = interval_s * NS
        first_ns, last_ns = self.world.life(listing.name)
        end_ns = min(FAR_FUTURE_NS if end_ns is None else end_ns + MS, now_ns, last_ns)
        newest_ns = open_ns(max(end_ns - 1, 0), interval_ns)
        if start_ns is None:
            from_ns = newest_ns - (limit - 1) * interval_ns
        else:
            from_ns = open_ns(start_ns + interval_ns - 1, interval_ns)
        from_ns = max(from_ns, open_ns(first_ns, interval_ns))
        until_ns = min(from_ns + limit * interval_ns, newest_ns + interval_ns)
        bars = await self.bars(listing, interval_s, from_ns, until_ns, now_ns)
        return [self.kline(listing, bar, interval_ns) for bar in bars]

    async def bars(self, listing: Listing, interval_s: int, from_ns: int, until_ns: int, now_ns: int) -> list[Bar]:
        """One candle for each interval in the range, flat where nothing was traded."""
        if from_ns >= until_ns:
            return []
        made = await self.candles(listing.name, interval_s, from_ns, min(until_ns, now_ns))
        by_open = {bar.open_ns: bar for bar in made}
        before = self.world.last_orders(listing.name, 1, from_ns)
        last = int(before.ticks[0]) if len(before) else made[0].open if made else 0
        rows = []
        for at_ns in range(from_ns, until_ns, interval_s * NS):
            bar = by_open.get(at_ns) or flat(at_ns, last)
            last = bar.close
            rows.append(bar)
        return rows

    def kline(self, listing: Listing, bar: Bar, interval_ns: int) -> list[Any]:
        """One row of klines."""
        speller = self.world.speller(listing.name)
        return [
            bar.open_ns // MS,
            *(self.price(speller, ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)),
            self.size(speller, bar.lots),
            (bar.open_ns + interval_ns) // MS - 1,
            self.amount(speller, bar.notional, bar.coins_e8),
            bar.trades,
            self.size(speller, bar.buy_lots),
            self.amount(speller, bar.buy_notional, bar.buy_coins_e8),
            "0",
        ]

    def _orders(self, query: Mapping[str, str], now_ns: int) -> list[tuple[Listing, Row]]:
        listing = self._listing(query)
        limit = self._limit(query, ROWS_LIMIT, ROWS_LIMIT_MAX)
        start_ns, end_ns = _range(query)
        if not self.spot and start_ns is not None and end_ns is not None and end_ns - start_ns > HOUR_NS:
            raise Bad(-1127, "More than 1 hours between startTime and endTime.")
        before_ns = min(now_ns, FAR_FUTURE_NS if end_ns is None else end_ns + MS)
        name = listing.name
        if "fromId" in query:
            tape = self.world.orders_from(name, _number(query, "fromId") or 0, limit, before_ns)
        elif start_ns is not None:
            tape = self.world.orders_from(name, self.world.order_at(name, start_ns), limit, before_ns)
        else:
            tape = self.world.last_orders(name, limit, before_ns)
        return [(listing, row) for row in tape]

    def _trades(self, query: Mapping[str, str], now_ns: int, *, old: bool) -> list[dict[str, Any]]:
        listing = self._listing(query)
        limit = self._limit(query, ROWS_LIMIT, ROWS_LIMIT_MAX if self.spot or not old else 500)
        speller = self.world.speller(listing.name)
        tape: Tape
        if old and "fromId" in query:
            tape = self.world.trades_from(listing.name, _number(query, "fromId") or 0, limit, now_ns)
        else:
            tape = self.world.last_trades(listing.name, limit, now_ns)
        coins = self.world.coins_e8(listing.name, tape)
        return [
            {
                "id": row.first_id,
                "price": self.price(speller, row.ticks),
                "qty": self.size(speller, row.lots),
                "baseQty" if self.inverse else "quoteQty": self.amount(speller, row.ticks * row.lots, coin_e8),
                "time": row.ns // MS,
                "isBuyerMaker": row.sell,
            }
            | ({"isBestMatch": True} if self.spot else {})
            for row, coin_e8 in zip(tape, coins, strict=True)
        ]

    # Book and tickers

    def _depth(self, query: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        listing = self._listing(query)
        limit = self._limit(query, 100, 5_000 if self.spot else 1_000)
        at_ns = now_ns // (100 * MS) * 100 * MS
        bids, asks = self.book(listing, at_ns)
        told = {"lastUpdateId": at_ns // (100 * MS), "bids": bids[:limit], "asks": asks[:limit]}
        return told if self.spot else told | {"E": self.venue_ms(now_ns), "T": at_ns // MS}

    def book(self, listing: Listing, at_ns: int) -> tuple[list[list[str]], list[list[str]]]:
        """The whole (small) book as texts, best first."""
        speller = self.world.speller(listing.name)
        sides = self.world.book(listing.name, at_ns, BOOK_LEVELS)
        bids, asks = ([[self.price(speller, t), self.size(speller, n)] for t, n in side] for side in sides)
        return bids, asks

    async def _tickers(self, query: Mapping[str, str], now_ns: int) -> Any:
        if "symbol" in query:
            listing = self._listing(query)
            row = await self._ticker(query["symbol"], listing, now_ns)
            # COINM answers a list, whatever was asked.
            return [row] if self.inverse else row
        return [await self._ticker(symbol, listing, now_ns) for symbol, listing in self.listings()]

    async def _ticker(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        speller, start_ns = self.world.speller(listing.name), now_ns - DAY_NS
        await self.candles(listing.name, 60, start_ns, now_ns)
        bar = self.world.window(listing.name, start_ns, now_ns) or flat(start_ns, 0)
        change = bar.close - bar.open
        mean = bar.notional // max(bar.lots, 1)
        told: dict[str, Any] = {
            "symbol": symbol,
            "priceChange": self.price(speller, change),
            "priceChangePercent": digits(change * 100_000 // max(bar.open, 1), 3),
            "weightedAvgPrice": self.price(speller, mean),
            "lastPrice": self.price(speller, bar.close),
            "lastQty": self.size(speller, bar.lots // max(bar.trades, 1)),
            "openPrice": self.price(speller, bar.open),
            "highPrice": self.price(speller, bar.high),
            "lowPrice": self.price(speller, bar.low),
            "volume": self.size(speller, bar.lots),
            "baseVolume" if self.inverse else "quoteVolume": self.amount(speller, bar.notional, bar.coins_e8),
            "openTime": start_ns // MS,
            "closeTime": now_ns // MS,
            "firstId": bar.first_id,
            "lastId": bar.last_id,
            "count": bar.trades,
        }
        if self.inverse:
            told["pair"] = symbol.partition("_")[0]
        if self.spot:
            told |= self._touch(symbol, listing, now_ns)
        return told

    def _touches(self, query: Mapping[str, str], now_ns: int) -> Any:
        if "symbol" in query:
            return self._touch(query["symbol"], self._listing(query), now_ns)
        return [self._touch(symbol, listing, now_ns) for symbol, listing in self.listings()]

    def _touch(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        speller, quote = self.world.speller(listing.name), self.world.quote(listing.name, now_ns)
        return {
            "symbol": symbol,
            "price": self.price(speller, quote.bid_ticks),
            "bidPrice": self.price(speller, quote.bid_ticks),
            "bidQty": self.size(speller, quote.bid_lots),
            "askPrice": self.price(speller, quote.ask_ticks),
            "askQty": self.size(speller, quote.ask_lots),
            "time": self.venue_ms(now_ns),
        }

    # Derivatives

    def _interest(self, query: Mapping[str, str], now_ns: int) -> dict[str, Any]:
        listing = self._listing(query)
        size = self.size(self.world.speller(listing.name), self.world.open_interest(listing.name, now_ns))
        told = {"openInterest": size, "symbol": query["symbol"], "time": now_ns // MS}
        if self.inverse:
            told |= {"pair": query["symbol"].partition("_")[0], "contractType": _contract(listing)}
        return told

    def _interest_history(self, query: Mapping[str, str], now_ns: int) -> list[dict[str, Any]]:
        listing = self._paired(query) if self.inverse else self._listing(query)
        period_s = PERIODS_S.get(_needed(query, "period"))
        if period_s is None:
            raise Bad(-1130, "Data sent for parameter 'period' is not valid.")
        limit = self._limit(query, INTEREST_LIMIT, INTEREST_LIMIT_MAX)
        start_ns, end_ns = _range(query)
        oldest_ns = now_ns - INTEREST_DAYS_MAX * DAY_NS
        if start_ns is not None and start_ns < oldest_ns:
            raise Bad(-1130, "parameter 'startTime' is invalid.")
        period_ns = period_s * NS
        end_ns = min(now_ns, FAR_FUTURE_NS if end_ns is None else end_ns)
        least_ns = max(oldest_ns, self.world.life(listing.name)[0])
        marks = list(range(-(-max(start_ns or 0, least_ns) // period_ns) * period_ns, end_ns + 1, period_ns))
        marks = marks[:limit] if start_ns is not None else marks[-limit:]
        return [self._interest_row(listing, at_ns, query) for at_ns in marks]

    def _interest_row(self, listing: Listing, at_ns: int, query: Mapping[str, str]) -> dict[str, Any]:
        lots, speller = self.world.open_interest(listing.name, at_ns), self.world.speller(listing.name)
        mark = self.world.mark(listing.name, at_ns)
        instrument = listing.instrument
        size = speller.size_decimal(lots)
        value = size * (instrument.contract_size or 1) / mark if self.inverse else size * mark
        told = {
            "sumOpenInterest": self.size(speller, lots),
            "sumOpenInterestValue": f"{value:.8f}",
            "timestamp": at_ns // MS,
        }
        if self.inverse:
            return {"pair": query["pair"], "contractType": query["contractType"]} | told
        return {"symbol": query["symbol"]} | told | {"CMCCirculatingSupply": "0.00000000"}

    def _premium(self, query: Mapping[str, str], now_ns: int) -> Any:
        if "symbol" in query:
            row = self._premium_row(query["symbol"], self._listing(query), now_ns)
            return [row] if self.inverse else row
        pair = query.get("pair")
        rows = [(symbol, a) for symbol, a in self.listings() if pair is None or symbol.partition("_")[0] == pair]
        return [self._premium_row(symbol, listing, now_ns) for symbol, listing in rows]

    def _premium_row(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        name = listing.name
        told = {
            "symbol": symbol,
            "markPrice": f"{self.world.mark(name, now_ns):.8f}",
            "indexPrice": f"{self.world.index(name, now_ns):.8f}",
            "estimatedSettlePrice": f"{self.world.index(name, now_ns):.8f}",
            "lastFundingRate": "",
            "interestRate": "",
            "nextFundingTime": 0,
            "time": self.venue_ms(now_ns),
        }
        if listing.funding_s:
            running = self.world.running_funding(name, now_ns)
            told |= {
                "lastFundingRate": f"{running.rate:.8f}",
                "interestRate": "0.00010000",
                "nextFundingTime": running.funding_ns // MS,
            }
        return told | {"pair": symbol.partition("_")[0]} if self.inverse else told

    def _funding(self, query: Mapping[str, str], now_ns: int) -> list[dict[str, Any]]:
        limit = self._limit(query, FUNDING_LIMIT, FUNDING_LIMIT_MAX)
        start_ns, end_ns = _range(query)
        end_ns = min(now_ns, FAR_FUTURE_NS if end_ns is None else end_ns + MS)
        chosen = [(query["symbol"], self._listing(query))] if "symbol" in query else self.listings()
        rows = [
            (settled.stamp_ns, symbol, listing, settled)
            for symbol, listing in chosen
            for settled in self.world.funding(listing.name, (start_ns or 0) - HOUR_NS, end_ns)
            if (start_ns or 0) <= settled.stamp_ns < end_ns
        ]
        rows.sort(key=lambda row: row[:2])
        rows = rows[:limit] if start_ns is not None else rows[-limit:]
        return [
            {
                "symbol": symbol,
                "fundingTime": settled.stamp_ns // MS,
                "fundingRate": f"{settled.rate:.8f}",
                "markPrice": f"{self.world.mark(listing.name, settled.funding_ns):.8f}",
            }
            for _, symbol, listing, settled in rows
        ]

    def _funding_info(self, now_ns: int) -> list[dict[str, Any]]:
        """Only those that differ from every eight hours, as Binance does it."""
        rows = [(symbol, self.world.funding_interval_s(a.name, now_ns)) for symbol, a in self.listings() if a.funding_s]
        return [
            {
                "symbol": symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": interval_s // 3_600,
                "disclaimer": False,
            }
            for symbol, interval_s in rows
            if interval_s != 28_800
        ]

    # Parameters

    def _listing(self, query: Mapping[str, str]) -> Listing:
        listing = self.find(_needed(query, "symbol"))
        if listing is None:
            raise Bad(-1121, "Invalid symbol.")
        return listing

    def _paired(self, query: Mapping[str, str]) -> Listing:
        pair, contract = _needed(query, "pair"), _needed(query, "contractType")
        for symbol, listing in self.listings():
            if symbol.partition("_")[0] == pair and _contract(listing) == contract:
                return listing
        raise Bad(-1121, "Invalid symbol.")

    def _limit(self, query: Mapping[str, str], default: int, most: int) -> int:
        # Spot takes a limit above its most for its most; futures refuse it.
        limit = whole(query.get("limit"), default, 1, 10**6 if self.spot else most)
        if limit is None:
            raise Bad(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit, most)


def flat(at_ns: int, ticks: int) -> Bar:
    """The candle of an interval without a trade."""
    return Bar(at_ns, ticks, ticks, ticks, ticks, 0, 0, 0, 0, 0, 0, 0, -1, -1, at_ns, at_ns)


def open_ns(at_ns: int, interval_ns: int) -> int:
    """Open of the interval that holds the moment; weeks open on Monday."""
    offset_ns = WEEK_OFFSET_S * NS if interval_ns == WEEK_S * NS else 0
    return at_ns - (at_ns - offset_ns) % interval_ns


def _contract(listing: Listing) -> str:
    return "PERPETUAL" if listing.instrument.kind is Kind.PERPETUAL else "CURRENT_QUARTER"


def _needed(query: Mapping[str, str], name: str) -> str:
    value = query.get(name)
    if not value:
        raise Bad(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return value


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise Bad(-1130, f"Data sent for parameter '{name}' is not valid.")
    return int(text)


def _range(query: Mapping[str, str]) -> tuple[int | None, int | None]:
    """(startTime, endTime) in ns, both inclusive as Binance has them."""
    start_ms, end_ms = _number(query, "startTime"), _number(query, "endTime")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise Bad(-1023, "Start time is greater than end time.")
    last_ms = FAR_FUTURE_NS // MS
    return (
        None if start_ms is None else min(start_ms, last_ms) * MS,
        None if end_ms is None else min(end_ms, last_ms) * MS,
    )


def _delivery_range(
    start_ns: int | None, end_ns: int | None, rows_ns: int, now_ns: int
) -> tuple[int | None, int | None]:
    """COINM gives the newest rows of the stretch, which may be 200 days long; the others give its first rows."""
    if start_ns is None:
        return None, end_ns
    if end_ns is None:
        end_ns = start_ns + DELIVERY_NS_MAX
    if end_ns - start_ns > DELIVERY_NS_MAX:
        raise Bad(-1127, "More than 200 days between startTime and endTime.")
    end_ns = min(end_ns, now_ns)
    return max(start_ns, end_ns + MS - rows_ns), end_ns


POOLS = {"weight": Pool(2_400, 60.0), "data": Pool(1_000, 300.0, None), "funding": Pool(500, 300.0, None)}
