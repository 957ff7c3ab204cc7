"""Binance options, played: what differs from Binance's futures, whose sockets and errors they share.

    /public/stream?streams=btcusdt@optionTrade            trades of all options on an underlying
    /market/stream?streams=btc-260925-64000-c@kline_1m    candles of one option
    GET /eapi/v1/openInterest?underlyingAsset=BTC&expiration=260925

Trades of type BLOCK, far from the market, stand among the others. Candles and open interest answer in objects, times of open
interest as text. Past trades are the newest five hundred. The index of an underlying is that of
its pair on Binance spot.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from openoutcry.simulator.binance import BinanceFutures
from openoutcry.simulator.binance_rest import DAY_NS, Bad, flat
from openoutcry.simulator.kit import MS, NS, Asked, Frame, whole
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.listings import COINS
from openoutcry.simulator.tape import Listing

TRADES_LIMIT, TRADES_LIMIT_MAX = 100, 500
KEYS = (
    "openTime",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "closeTime",
    "amount",
    "tradeCount",
    "takerVolume",
    "takerAmount",
)


class BinanceOptions(BinanceFutures):
    """https://eapi.binance.com and wss://fstream.binance.com/{public,market}."""

    name = "binance_options"
    purse = ""
    sockets: ClassVar = {"public": "/public", "market": "/market"}
    prefix = "/eapi/v1"
    archive = ""
    kline_push_ns = NS
    pools: ClassVar = {"weight": Pool(400, 60.0)}
    weights: ClassVar = {"/trades": 5, "/ticker": 5}

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """By route alone."""
        return "weight", self.weights.get(asked.path.removeprefix(self.prefix), 1)

    # Streams

    def carries(self, endpoint: str, stream: str) -> bool:
        """Trades under /public, candles under /market."""
        return (endpoint == "public") == stream.endswith("@optionTrade")

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """Trades of an option or of all on an underlying; candles of an option."""
        subject, _, what = topic.partition("@")
        if what.startswith("kline_"):
            return super().frames(topic, start_ns, end_ns)
        if what != "optionTrade" or subject != subject.lower():
            return ()
        rows = [
            (symbol, listing)
            for symbol, listing in self.listings()
            if subject.upper() in (symbol, f"{listing.instrument.coin}{listing.instrument.quote}")
        ]
        return sorted(frame for symbol, listing in rows for frame in self._traded(symbol, listing, start_ns, end_ns))

    def _traded(self, symbol: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        speller = self.world.speller(listing.name)
        rows = [
            (row.ns, row.first_id, row.ticks, row.lots, row.sell, "MARKET")
            for row in self.world.trades(listing.name, start_ns, end_ns)
        ]
        for number, at_ns in self.world.reserved(listing.name, start_ns, end_ns):
            far = max(self.world.quote(listing.name, at_ns).bid_ticks // 2, 1)
            rows.append((at_ns, number, far, 1_000, False, "BLOCK"))
        for at_ns, number, ticks, lots, sell, nature in sorted(rows):
            told = {
                "e": "trade",
                "E": self.venue_ms(at_ns) + 3,
                "T": at_ns // MS,
                "s": symbol,
                "t": number,
                "p": speller.price(ticks),
                "q": speller.size(lots),
                "X": nature,
                "S": "SELL" if sell else "BUY",
                "m": sell,
            }
            yield Frame(at_ns, msgspec.json.encode(told), trade=True)

    # Answers

    async def _value(self, asked: Asked, now_ns: int) -> Any:
        query = asked.query
        if not asked.path.startswith(self.prefix):
            return None
        match asked.path.removeprefix(self.prefix):
            case "/ping" | "/time":
                return await super()._value(asked, now_ns)
            case "/exchangeInfo":
                return self._options(now_ns)
            case "/klines":
                bars = await self._klines(query, now_ns)
                return [dict(zip(KEYS, bar, strict=False)) | {"interval": query["interval"]} for bar in bars]
            case "/trades":
                return self._past(query, now_ns)
            case "/ticker":
                rows = [(query["symbol"], self._listing(query))] if "symbol" in query else self.listings()
                return [await self._summary(symbol, listing, now_ns) for symbol, listing in rows]
            case "/index":
                return {"time": self.venue_ms(now_ns), "indexPrice": self._index(query, now_ns)}
            case "/openInterest":
                return self._interests(query, now_ns)
        return None

    def _options(self, now_ns: int) -> dict[str, Any]:
        rows = self.listings()
        pairs = sorted({(a.instrument.coin, a.instrument.quote, a.instrument.settle) for _, a in rows})
        return {
            "timezone": "UTC",
            "serverTime": self.venue_ms(now_ns),
            "optionContracts": [
                {"baseAsset": coin, "quoteAsset": quote, "underlying": f"{coin}{quote}", "settleAsset": settle}
                for coin, quote, settle in pairs
            ],
            "optionAssets": [{"name": "USDT"}],
            "optionSymbols": [self._option(symbol, listing) for symbol, listing in rows],
            "rateLimits": [],
        }

    def _option(self, symbol: str, listing: Listing) -> dict[str, Any]:
        instrument, (_, _, strike, side) = listing.instrument, symbol.split("-")
        tick, lot = str(instrument.tick_size), str(instrument.lot_size)
        return {
            "expiryDate": (instrument.expires_ns or 0) // MS,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
                {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "10000", "stepSize": lot},
            ],
            "symbol": symbol,
            "side": "CALL" if side == "C" else "PUT",
            "strikePrice": strike,
            "underlying": f"{instrument.coin}{instrument.quote}",
            "unit": int(instrument.contract_size or 1),
            "quoteAsset": instrument.quote,
            "status": "TRADING",
        }

    def _past(self, query: Mapping[str, str], now_ns: int) -> list[dict[str, Any]]:
        listing, limit = self._listing(query), whole(query.get("limit"), TRADES_LIMIT, 1, TRADES_LIMIT_MAX)
        if limit is None:
            raise Bad(-1130, "Data sent for parameter 'limit' is not valid.")
        speller = self.world.speller(listing.name)
        return [
            {
                "id": (row.first_id << 20) + row.ns // MS % 1_000,
                "tradeId": row.first_id,
                "symbol": query["symbol"],
                "price": speller.price(row.ticks),
                "qty": ("-" if row.sell else "") + speller.size(row.lots),
                "side": -1 if row.sell else 1,
                "time": row.ns // MS,
            }
            for row in self.world.last_trades(listing.name, limit, now_ns)
        ]

    async def _summary(self, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        speller, start_ns = self.world.speller(listing.name), now_ns - DAY_NS
        await self.candles(listing.name, 60, start_ns, now_ns)
        bar = self.world.window(listing.name, start_ns, now_ns) or flat(start_ns, 0)
        return {
            "symbol": symbol,
            "lastPrice": speller.price(bar.close),
            "open": speller.price(bar.open),
            "high": speller.price(bar.high),
            "low": speller.price(bar.low),
            "volume": speller.size(bar.lots),
            "amount": speller.notional(bar.notional),
            "openTime": bar.first_ns // MS,
            "closeTime": bar.last_ns // MS,
            "firstTradeId": bar.first_id,
            "tradeCount": bar.trades,
            "strikePrice": symbol.split("-")[2],
        }

    def _index(self, query: Mapping[str, str], now_ns: int) -> str:
        """The coin's price moves as that of its spot pair does, where there is one."""
        underlying = query.get("underlying", "")
        try:
            return f"{self.world.index(f'binance:{underlying}', now_ns):f}"
        except KeyError:
            coin = underlying.removesuffix("USDT")
            if coin not in COINS:
                raise Bad(-1121, "Invalid symbol.") from None
            return f"{COINS[coin].price:.8f}"

    def _interests(self, query: Mapping[str, str], now_ns: int) -> list[dict[str, Any]]:
        coin, expiration = query.get("underlyingAsset"), query.get("expiration")
        if not coin or not expiration:
            raise Bad(-1102, "Mandatory parameter 'expiration' was not sent, was empty/null, or malformed.")
        told = []
        for symbol, listing in self.listings():
            if listing.instrument.coin == coin and symbol.split("-")[1] == expiration:
                size = self.world.speller(listing.name).size_decimal(self.world.open_interest(listing.name, now_ns))
                money = size * self.world.mark(listing.name, now_ns)
                row = {"symbol": symbol, "sumOpenInterest": f"{size:f}", "sumOpenInterestUsd": f"{money:f}"}
                told.append(row | {"timestamp": str(now_ns // MS)})
        return told
