"""Hyperliquid, played: one address for questions, one socket for streams.

https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api

    POST /info {"type": "recentTrades", "coin": "BTC"}   ->   [{"coin": "BTC", "side": "B", "px": "105056", …}, …] newest first
    POST /info {"type": "clearinghouseState", "user": "0x…"}   ->   what any address holds: drawn anew every few hours, grown between
    {"method": "subscribe", "subscription": {"type": "trades", "coin": "BTC"}}
        ->   {"channel": "subscriptionResponse", "data": {"method": "subscribe", "subscription": {…}}}
        ->   {"channel": "trades", "data": […]}            repeats trades made before the subscription
    {"method": "ping"}   ->   {"channel": "pong"}

An unknown coin is status 500 with the body `null`, an unknown type 422; too many questions 429 with `null`. A connection on
which nothing was sent for 60 s is dropped. Minutes without a trade have no candle, a candle never says that it is closed, and
only the last 5,000 of an interval are there (intervals above a day are not played). Trade ids are hashes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from openoutcry.instrument import Kind
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, json
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.noise import key, mix_one, share_one
from openoutcry.simulator.tape import Bar, Listing, Row, Speller

CANDLES_MAX = 5_000
FUNDINGS_MAX = 500
RECENT_TRADES = 100
REPEATED_TRADES = 30
SUBSCRIPTIONS_MAX = 1_000
BOOK_LEVELS = 20
SILENT_NS = 60 * NS
BLOCK_NS = 200 * MS
QUOTE_NS = 100 * MS
BOOK_NS = 500 * MS
CANDLE_NS = 500 * MS
CONTEXT_NS = NS
HOUR_NS, DAY_NS = 3_600 * NS, 86_400 * NS
INTERVALS_S = {
    "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1_800, "1h": 3_600, "2h": 7_200, "4h": 14_400, "8h": 28_800,
    "12h": 43_200, "1d": 86_400,
}  # fmt: skip
LIGHT = frozenset({"l2Book", "allMids", "exchangeStatus", "clearinghouseState"})
COIN_TYPES = frozenset({"trades", "bbo", "l2Book", "activeAssetCtx"})
# Odd, so that multiplying by it modulo a power of two is one to one: ids look like hashes and stay unique.
ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
HELD_NS, GROWN_NS = 6 * HOUR_NS, 600 * NS  # a position is drawn anew after the one, and grows once in the other
HELD_SHARE, UNREACHABLE_SHARE = 0.9, 0.1
HELD_USD_MIN, HELD_USD_MAX = 20_000, 2_000_000
LEVERAGE_MIN, LEVERAGE_MAX = 3, 25
SCATTER, ID_BITS = 0x9E3779B97F4A7C15, 50


class _Refused(Exception):
    """An answer of no, as the venue gives it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


UNKNOWN_COIN = Answer(500, b"null")
BAD_BODY = Answer(422, b"Failed to deserialize the JSON body into the target type", (), "text/plain; charset=utf-8")


class Hyperliquid(Personality):
    """https://api.hyperliquid.xyz and wss://api.hyperliquid.xyz/ws."""

    name = "hyperliquid"
    sockets: ClassVar = {"ws": "/ws"}
    pools: ClassVar = {"weight": Pool(1_200, 60.0, None)}
    connections = Pool(30, 60.0, None)
    messages = Pool(2_000, 60.0, None)

    # Questions

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """Weight by type, and by how many rows are asked for."""
        body = _decoded(asked.body)
        kind = body.get("type")
        if kind in LIGHT:
            return "weight", 2
        rows = {"recentTrades": RECENT_TRADES // 20, "fundingHistory": FUNDINGS_MAX // 20}.get(str(kind), 0)
        if kind == "candleSnapshot" and isinstance(req := body.get("req"), dict):
            start_ms, end_ms = req.get("startTime"), req.get("endTime")
            step_s = INTERVALS_S.get(str(req.get("interval")), 60)
            if isinstance(start_ms, int) and isinstance(end_ms, int):
                rows = min(max(0, end_ms - start_ms) // (step_s * 1_000), CANDLES_MAX) // 60
        return "weight", 20 + rows

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - it says nothing of either
        """429 and nothing else: the venue neither says how long nor bans."""
        return Answer(429, b"null")

    def storm(self, status: int) -> bytes:  # noqa: ARG002 - as above
        """Not even an object."""
        return b"null"

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """POST /info; 404 and 405 for others."""
        if asked.path != "/info":
            return Answer(404, b"", (), "text/plain")
        if asked.method != "POST":
            return Answer(405, b"", (), "text/plain")
        if asked.headers.get("content-type", "").partition(";")[0] != "application/json":
            text = b"Expected request with `Content-Type: application/json`"
            return Answer(415, text, (), "text/plain; charset=utf-8")
        try:
            return json(await self._told(_decoded(asked.body), now_ns))
        except _Refused as no:
            return no.answer

    async def _told(self, body: Mapping[str, Any], now_ns: int) -> Any:
        match body.get("type"):
            case "meta":
                return self._meta(body.get("dex", ""))
            case "allPerpMetas":
                return [self._meta(dex) for dex in ("", *self._dexes())]
            case "perpDexs":
                return [None, *({"name": dex, "fullName": dex} for dex in self._dexes())]
            case "spotMeta":
                return self._spot_meta()
            case "metaAndAssetCtxs":
                dex = body.get("dex", "")
                return [self._meta(dex), [self._context(row, now_ns) for _, row in self._perpetuals(dex)]]
            case "spotMetaAndAssetCtxs":
                return [self._spot_meta(), [self._context(row, now_ns) for _, row in self._pairs()]]
            case "clearinghouseState":
                return self._state(body.get("user"), now_ns)
            case "predictedFundings":
                return self._predictions(now_ns)
            case "exchangeStatus":
                return {"time": self.venue_ms(now_ns), "specialStatuses": None}
            case "allMids":
                return {symbol: self._mid(row, now_ns) for symbol, row in self.listings()}
            case "candleSnapshot":
                return await self._candle_rows(body.get("req"), now_ns)
            case "fundingHistory":
                return self._fundings(body, now_ns)
            case "recentTrades":
                listing, coin = self._coin(body)
                rows = self.world.last_trades(listing.name, RECENT_TRADES, now_ns)
                return self._trade_rows(coin, listing, list(rows)[::-1])
            case "l2Book":
                listing, coin = self._coin(body)
                return self._book(coin, listing, now_ns)
        raise _Refused(BAD_BODY)

    def _coin(self, body: Mapping[str, Any]) -> tuple[Listing, str]:
        coin = body.get("coin")
        if not isinstance(coin, str):
            raise _Refused(BAD_BODY)
        listing = self.find(coin)
        if listing is None:
            raise _Refused(UNKNOWN_COIN)
        return listing, coin

    # Listings

    def _perpetuals(self, dex: str) -> list[tuple[str, Listing]]:
        """Of one builder, or the venue's own (""), in the order in which contexts are told; the delisted too."""
        renamed = self.switches.renamed
        rows = [(renamed.get(a.instrument.symbol, a.instrument.symbol), a) for a in self.world.listings(self.name)]
        return [
            (symbol, a)
            for symbol, a in rows
            if a.instrument.kind is not Kind.SPOT and (symbol.rpartition(":")[0] == dex)
        ]

    def _pairs(self) -> list[tuple[str, Listing]]:
        return [(symbol, a) for symbol, a in self.listings() if a.instrument.kind is Kind.SPOT]

    def _dexes(self) -> list[str]:
        named = [symbol.partition(":") for symbol, _ in self.listings()]
        return sorted({dex for dex, colon, _ in named if colon})

    def _meta(self, dex: Any) -> dict[str, Any]:
        if dex and dex not in self._dexes():
            raise _Refused(UNKNOWN_COIN)
        universe = []
        for symbol, listing in self._perpetuals(dex):
            row = {"szDecimals": self._decimals(listing), "name": symbol, "maxLeverage": 40, "marginTableId": 56}
            universe.append(row | ({"isDelisted": True} if self._gone(listing) else {}))
        return {"universe": universe, "marginTables": [], "collateralToken": 0}

    def _spot_meta(self) -> dict[str, Any]:
        tokens = [{"name": "USDC", "szDecimals": 8, "weiDecimals": 8, "index": 0, "isCanonical": True}]
        universe = []
        for index, (symbol, listing) in enumerate(self._pairs(), 1):
            coin = listing.instrument.coin
            tokens.append({"name": coin, "szDecimals": self._decimals(listing), "weiDecimals": 8, "index": index})
            number = int(symbol[1:]) if symbol.startswith("@") else 0
            universe.append({"tokens": [index, 0], "name": symbol, "index": number, "isCanonical": not number})
        return {"universe": universe, "tokens": tokens}

    def _decimals(self, listing: Listing) -> int:
        return self.world.speller(listing.name).size_digits

    def _gone(self, listing: Listing) -> bool:
        return listing.instrument.symbol in self.switches.delisted

    # What is now

    def _context(self, listing: Listing, at_ns: int) -> dict[str, Any]:
        speller, day = self.world.speller(listing.name), self._day(listing, at_ns)
        if self._gone(listing):
            return {"funding": None, "openInterest": "0.0", "markPx": None, "oraclePx": None, "midPx": None}
        told = day | {"markPx": f"{self.world.mark(listing.name, at_ns):.8f}", "midPx": self._mid(listing, at_ns)}
        if listing.instrument.kind is Kind.SPOT:
            return told | {
                "coin": listing.instrument.symbol,
                "circulatingSupply": "1000000.0",
                "totalSupply": "1000000.0",
            }
        index = self.world.index(listing.name, at_ns)
        return told | {
            "funding": f"{self.world.running_funding(listing.name, at_ns).rate:.8f}",
            "openInterest": speller.size(self.world.open_interest(listing.name, at_ns)),
            "oraclePx": f"{index:.8f}",
            "premium": None,
            "impactPxs": None,
        }

    def _day(self, listing: Listing, at_ns: int) -> dict[str, str]:
        """Of the last 24 hours, by the hour: the venue's clients only show it."""
        end_ns = at_ns // HOUR_NS * HOUR_NS
        bars = self.world.candles(listing.name, 3_600, end_ns - DAY_NS, end_ns)
        speller = self.world.speller(listing.name)
        return {
            "prevDayPx": speller.price(bars[0].open if bars else self.world.quote(listing.name, at_ns).bid_ticks),
            "dayNtlVlm": speller.notional(sum(bar.notional for bar in bars)),
            "dayBaseVlm": speller.size(sum(bar.lots for bar in bars)),
        }

    def _mid(self, listing: Listing, at_ns: int) -> str:
        quote, speller = self.world.quote(listing.name, at_ns), self.world.speller(listing.name)
        return f"{(speller.price_decimal(quote.bid_ticks) + speller.price_decimal(quote.ask_ticks)) / 2:f}"

    def _book(self, coin: str, listing: Listing, at_ns: int) -> dict[str, Any]:
        speller, sides = self.world.speller(listing.name), self.world.book(listing.name, at_ns, BOOK_LEVELS)
        levels = [[_level(speller, ticks, lots) for ticks, lots in side] for side in sides]
        return {"coin": coin, "time": self.venue_ms(at_ns), "levels": levels}

    def _predictions(self, now_ns: int) -> list[Any]:
        rows = []
        for symbol, listing in self._perpetuals(""):
            # What is a thousand of a coin here is called so elsewhere.
            pair = f"1000{symbol[1:]}USDT" if symbol[:1] == "k" else f"{symbol}USDT"
            names = (("BinPerp", f"binance_futures:{pair}"), ("HlPerp", listing.name), ("BybitPerp", f"bybit:{pair}"))
            rows.append([symbol, [[label, self._prediction(name, now_ns)] for label, name in names]])
        return rows

    def _prediction(self, name: str, now_ns: int) -> dict[str, Any] | None:
        try:
            listing = self.world.listing(name)
        except KeyError:
            return None
        running = self.world.running_funding(listing.name, now_ns)
        return {
            "fundingRate": f"{running.rate:.8f}",
            "nextFundingTime": running.funding_ns // MS,
            "fundingIntervalHours": running.interval_s // 3_600,
        }

    def _state(self, user: Any, now_ns: int) -> dict[str, Any]:
        if not isinstance(user, str) or not ADDRESS.fullmatch(user):
            raise _Refused(BAD_BODY)
        held = [self._held(user.lower(), symbol, listing, now_ns) for symbol, listing in self._perpetuals("")]
        positions = [{"type": "oneWay", "position": position} for position in held if position]
        margin = {
            "accountValue": "5000000.0",
            "totalNtlPos": "0.0",
            "totalRawUsd": "5000000.0",
            "totalMarginUsed": "0.0",
        }
        return {
            "marginSummary": margin,
            "crossMarginSummary": margin,
            "crossMaintenanceMarginUsed": "0.0",
            "withdrawable": "0.0",
            "assetPositions": positions,
            "time": self.venue_ms(now_ns),
        }

    def _held(self, user: str, symbol: str, listing: Listing, now_ns: int) -> dict[str, Any] | None:
        """The position of that address, if it has one: liquidated as soon as the mark price is there."""
        since_ns = now_ns // HELD_NS * HELD_NS
        if self._gone(listing) or self.world.life(listing.name)[0] > since_ns:
            return None
        word = key(self.world.seed, "held", user, listing.name, since_ns)
        drawn = [share_one(mix_one(word, n)) for n in range(5)]
        if drawn[0] >= HELD_SHARE:
            return None
        entry, mark = self.world.mark(listing.name, since_ns), self.world.mark(listing.name, now_ns)
        leverage = LEVERAGE_MIN + int(drawn[1] * (LEVERAGE_MAX - LEVERAGE_MIN + 1))
        sign = 1 if drawn[2] < 0.5 else -1
        liquidation = entry * (1 - sign * Decimal("0.9") / leverage)
        if (mark - liquidation) * sign <= 0:
            return None
        # Drawn by the square, so that most are small.
        usd = HELD_USD_MIN + int(drawn[3] * drawn[3] * (HELD_USD_MAX - HELD_USD_MIN))
        grown = usd + usd * ((now_ns - since_ns) // GROWN_NS) // 40
        speller = self.world.speller(listing.name)
        size = speller.size(max(1, int(grown / entry / listing.instrument.lot_size)))
        return {
            "coin": symbol,
            "szi": size if sign > 0 else f"-{size}",
            "leverage": {"type": "cross", "value": leverage},
            "entryPx": f"{entry:.8f}",
            "positionValue": f"{mark * Decimal(size):.6f}",
            "unrealizedPnl": f"{(mark - entry) * Decimal(size) * sign:.6f}",
            "returnOnEquity": "0.0",
            "liquidationPx": None if drawn[4] < UNREACHABLE_SHARE else f"{liquidation:.8f}",
            "marginUsed": f"{mark * Decimal(size) / leverage:.6f}",
            "maxLeverage": 40,
        }

    # What was

    async def _candle_rows(self, req: Any, now_ns: int) -> list[dict[str, Any]]:
        if not isinstance(req, dict) or req.get("interval") not in INTERVALS_S:
            raise _Refused(BAD_BODY)
        listing, coin = self._coin(req)
        start_ns, end_ns = _range(req, now_ns)
        interval = req["interval"]
        step_ns = INTERVALS_S[interval] * NS
        reach_ns = now_ns // step_ns * step_ns - (CANDLES_MAX - 1) * step_ns
        start_ns = max(-(-start_ns // step_ns) * step_ns, reach_ns)
        # endTime is the last open time that counts; the growing candle holds what was traded so far.
        until_ns = min((end_ns // step_ns + 1) * step_ns, now_ns)
        if until_ns <= start_ns:
            return []
        bars = await self.candles(listing.name, INTERVALS_S[interval], start_ns, until_ns)
        return [self._candle(coin, listing, interval, bar) for bar in bars]

    def _candle(self, coin: str, listing: Listing, interval: str, bar: Bar) -> dict[str, Any]:
        speller, open_ms = self.world.speller(listing.name), bar.open_ns // MS
        return {
            "t": open_ms,
            "T": open_ms + INTERVALS_S[interval] * 1_000 - 1,
            "s": coin,
            "i": interval,
            "o": speller.price(bar.open),
            "c": speller.price(bar.close),
            "h": speller.price(bar.high),
            "l": speller.price(bar.low),
            "v": speller.size(bar.lots),
            "n": bar.trades,
        }

    def _fundings(self, body: Mapping[str, Any], now_ns: int) -> list[dict[str, Any]]:
        """The first rows from the start: who asks from long ago gets what is long ago."""
        listing, coin = self._coin(body)
        start_ns, end_ns = _range(body, now_ns)
        begin_ns = max(start_ns, self.world.life(listing.name)[0])
        settled = self.world.funding(
            listing.name, begin_ns - HOUR_NS, min(end_ns, begin_ns + FUNDINGS_MAX * HOUR_NS) + 1
        )
        rows = [
            {"coin": coin, "fundingRate": f"{paid.rate:.8f}", "premium": "0.0", "time": paid.stamp_ns // MS}
            for paid in settled
            if start_ns <= paid.stamp_ns <= min(end_ns, now_ns)
        ]
        return rows[:FUNDINGS_MAX]

    def _trade_rows(self, coin: str, listing: Listing, rows: Iterable[Row]) -> list[dict[str, Any]]:
        speller = self.world.speller(listing.name)
        return [
            {
                "coin": coin,
                "side": "A" if row.sell else "B",
                "px": speller.price(row.ticks),
                "sz": speller.size(row.lots),
                "time": row.ns // MS,
                "hash": f"0x{row.id:064x}",
                "tid": row.first_id * SCATTER % (1 << ID_BITS),
                "users": [f"0x{row.first_id % 997:040x}", f"0x{row.first_id % 1_009:040x}"],
            }
            for row in rows
        ]

    # Streams

    def heard(self, line: Line, text: bytes) -> None:
        """ping, subscribe, unsubscribe."""
        said = _decoded(text)
        method, subscription = said.get("method"), said.get("subscription")
        if method == "ping":
            line.send(b'{"channel":"pong"}')
        elif method in ("subscribe", "unsubscribe") and isinstance(subscription, dict):
            self._subscription(line, method, subscription)
        else:
            shown = text[:200].decode("utf-8", "replace")
            line.send(_frame("error", f"Error parsing JSON into valid websocket request: {shown}"))

    def _subscription(self, line: Line, method: str, subscription: dict[str, Any]) -> None:
        shown, topic = msgspec.json.encode(subscription).decode(), self._topic(subscription)
        if topic is None or (method == "subscribe" and self.refused(topic)):
            line.send(_frame("error", f"Invalid subscription {shown}"))
            return
        if method == "unsubscribe":
            if not line.leave(topic):
                line.send(_frame("error", f"Already unsubscribed: {shown}"))
                return
        elif topic in line.topics:
            line.send(_frame("error", f"Already subscribed: {shown}"))
            return
        elif len(line.topics) >= SUBSCRIPTIONS_MAX or not line.follow(topic):
            line.send(_frame("error", f"Cannot subscribe to more than {SUBSCRIPTIONS_MAX} channels."))
            return
        more = {"nSigFigs": None, "mantissa": None} if subscription["type"] == "l2Book" else {}
        line.send(_frame("subscriptionResponse", {"method": method, "subscription": subscription | more}))
        if method == "subscribe":
            line.send(*self._first(topic, line.now_ns))

    def _topic(self, subscription: Mapping[str, Any]) -> str | None:
        kind, coin, interval = (subscription.get(key) for key in ("type", "coin", "interval"))
        if not isinstance(coin, str) or self.find(coin) is None:
            return None
        if kind == "candle":
            return f"candle:{coin},{interval}" if interval in INTERVALS_S else None
        return f"{kind}:{coin}" if kind in COIN_TYPES else None

    def _first(self, topic: str, now_ns: int) -> Iterator[bytes]:
        """What is said at once: old trades again, the candle as it is."""
        kind, _, about = topic.partition(":")
        if kind == "trades" and (listing := self.find(about)) is not None:
            rows = self.world.last_trades(listing.name, REPEATED_TRADES, now_ns)
            yield _frame("trades", self._trade_rows(about, listing, rows))
        elif kind == "candle":
            coin, _, interval = about.rpartition(",")
            step_ns = INTERVALS_S[interval] * NS
            if (listing := self.find(coin)) is not None:
                yield from self._growing(coin, listing, interval, now_ns // step_ns * step_ns, now_ns)

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """What is pushed for a topic."""
        kind, _, about = topic.partition(":")
        coin, _, interval = about.rpartition(",") if kind == "candle" else (about, "", "")
        listing = self.find(coin)
        if listing is None:
            return ()
        match kind:
            case "trades":
                return self._blocks(coin, listing, start_ns, end_ns)
            case "candle":
                return self._candles(coin, listing, interval, start_ns, end_ns)
            case "bbo":
                return self._quotes(coin, listing, start_ns, end_ns)
            case "l2Book":
                times = beats(start_ns, end_ns, BOOK_NS)
                return [Frame(at_ns, _frame("l2Book", self._book(coin, listing, at_ns))) for at_ns in times]
        channel = "activeSpotAssetCtx" if listing.instrument.kind is Kind.SPOT else "activeAssetCtx"
        return [
            Frame(at_ns, _frame(channel, {"coin": coin, "ctx": self._context(listing, at_ns)}))
            for at_ns in beats(start_ns, end_ns, CONTEXT_NS)
        ]

    def _blocks(self, coin: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """All trades of a block in one frame, when it is made."""
        for at_ns in beats(start_ns, end_ns, BLOCK_NS):
            rows = self.world.trades(listing.name, at_ns - BLOCK_NS, at_ns)
            if len(rows):
                yield Frame(at_ns, _frame("trades", self._trade_rows(coin, listing, rows)), trade=True)

    def _candles(self, coin: str, listing: Listing, interval: str, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """A candle as often as it changes; the last state of one may be late."""
        step_ns, late_ns = INTERVALS_S[interval] * NS, round(self.switches.late_klines_s * NS)
        frames = []
        for at_ns in beats(start_ns - late_ns, end_ns, CANDLE_NS):
            closes = at_ns % step_ns == 0
            told_ns = at_ns + late_ns if closes else at_ns
            if start_ns <= told_ns < end_ns and len(self.world.orders(listing.name, at_ns - CANDLE_NS, at_ns)):
                open_ns = (at_ns - 1) // step_ns * step_ns
                frames += [Frame(told_ns, body) for body in self._growing(coin, listing, interval, open_ns, at_ns)]
        yield from sorted(frames)

    def _growing(self, coin: str, listing: Listing, interval: str, open_ns: int, until_ns: int) -> Iterator[bytes]:
        bars = self.world.candles(listing.name, INTERVALS_S[interval], open_ns, until_ns) if until_ns > open_ns else []
        for bar in bars[-1:]:
            yield _frame("candle", self._candle(coin, listing, interval, bar))

    def _quotes(self, coin: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        speller = self.world.speller(listing.name)
        for at_ns in beats(start_ns, end_ns, QUOTE_NS):
            quote = self.world.quote(listing.name, at_ns)
            if quote != self.world.quote(listing.name, at_ns - QUOTE_NS):
                sides = [
                    _level(speller, quote.bid_ticks, quote.bid_lots),
                    _level(speller, quote.ask_ticks, quote.ask_lots),
                ]
                yield Frame(at_ns, _frame("bbo", {"coin": coin, "time": self.venue_ms(at_ns), "bbo": sides}))

    def beat(self, line: Line) -> None:
        """Drop a connection on which nothing was sent for long; pongs keep it."""
        if line.now_ns - max(line.sent_ns, line.opened_ns) > SILENT_NS:
            line.close(1000, "Inactive")


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _range(body: Mapping[str, Any], now_ns: int) -> tuple[int, int]:
    start_ms, end_ms = body.get("startTime"), body.get("endTime")
    if type(start_ms) is not int or not (end_ms is None or type(end_ms) is int):
        raise _Refused(BAD_BODY)
    return max(start_ms, 0) * MS, now_ns if end_ms is None else end_ms * MS


def _frame(channel: str, data: Any) -> bytes:
    return msgspec.json.encode({"channel": channel, "data": data})


def _level(speller: Speller, ticks: int, lots: int) -> dict[str, Any]:
    return {"px": speller.price(ticks), "sz": speller.size(lots), "n": 1 + lots % 7}
