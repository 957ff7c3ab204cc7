"""Binance spot, USDM futures and COINM delivery, played: their sockets, and what differs between them.

    /stream?streams=btcusdt@aggTrade/btcusdt@kline_1m          wrapped: {"stream": "btcusdt@aggTrade", "data": {...}}
    /ws/btcusdt@aggTrade, or /ws and then SUBSCRIBE            raw: {"e": "aggTrade", ...}
    {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}   ->   {"result": null, "id": 1}

USDM has its sockets under /public (bookTicker, depth, trade) and /market (the rest); the old root, and either root asked for a
stream of the other, answers the subscription and stays silent. Unknown symbols are answered the same way. Raw trades of
futures contain NA, INSURANCE_FUND and ADL entries, which no candle counts.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgspec

from openoutcry.simulator.binance_rest import BOOK_LEVELS, INTERVALS_S, POOLS, BinanceRest, flat, open_ns
from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import MS, NS, Frame, Line, beats
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.noise import Kept
from openoutcry.simulator.tape import Bar, Listing, Speller
from openoutcry.simulator.world import Quoted, World

STREAMS_MAX = 1_024
BOOKS_KEPT = 100
LIFE_S = 86_400.0
BOOK_NS = 100 * MS
FORCE_NS = NS
NATURES = ("NA", "INSURANCE_FUND", "ADL")
PUBLIC = ("trade", "bookTicker", "depth")
DEPTH_NS = {"depth@100ms": BOOK_NS, "depth": 250 * MS, "depth@500ms": 500 * MS}
ALL = "!"


class _Binance(BinanceRest):
    """Sockets of the three markets."""

    kline_push_ns: ClassVar[int] = 250 * MS
    ping_s: ClassVar[float] = 180.0
    pong_s: ClassVar[float] = 600.0
    life_s = LIFE_S
    market: ClassVar[int] = 1  # `st`: 1 USDM, 2 COINM
    connections = Pool(300, 300.0)
    messages = Pool(10, 1.0, None)

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._books: Kept[tuple[str, int], tuple[dict[int, int], dict[int, int]]] = Kept(BOOKS_KEPT)

    # Lines

    def endpoint(self, path: str) -> str | None:
        """`/ws…` and `/stream` below each root."""
        root, at = self._root(path)
        known = {below: name for name, below in self.sockets.items()}
        return known.get(root) if at in {"/stream", "/ws"} or at.startswith("/ws/") else None

    def opened(self, line: Line) -> None:
        """Streams may be named in the address."""
        _, at = self._root(line.path)
        line.memo["combined"] = at == "/stream"
        line.memo["streams"] = []
        named = line.query.get("streams", "") if at == "/stream" else at.removeprefix("/ws").removeprefix("/")
        for stream in filter(None, named.split("/")):
            self._follow(line, stream)

    def heard(self, line: Line, text: bytes) -> None:
        """SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, SET_PROPERTY, GET_PROPERTY."""
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            line.send(b'{"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}}')
            return
        line.send(msgspec.json.encode(self._reply(line, said)))

    def _reply(self, line: Line, said: Any) -> dict[str, Any]:
        if not isinstance(said, dict) or not isinstance(said.get("method"), str):
            return {"error": {"code": 2, "msg": "Invalid request: missing field `method`"}}
        number, params = said.get("id"), said.get("params", [])
        streams: list[str] = line.memo["streams"]
        match said["method"]:
            case "SUBSCRIBE" | "UNSUBSCRIBE" as method:
                if not isinstance(params, list) or not all(isinstance(a, str) for a in params):
                    return {"error": {"code": 2, "msg": "Invalid request: params must be strings"}, "id": number}
                if method == "UNSUBSCRIBE":
                    for stream in params:
                        self._leave(line, stream)
                elif any(self.refused(stream) for stream in params):
                    return {"error": {"code": 2, "msg": "Invalid request: invalid stream"}, "id": number}
                elif len(streams) + len(params) > STREAMS_MAX:
                    return {
                        "error": {"code": 2, "msg": f"Invalid request: more than {STREAMS_MAX} streams"},
                        "id": number,
                    }
                for stream in params if method == "SUBSCRIBE" else ():
                    self._follow(line, stream)
                return {"result": None, "id": number}
            case "LIST_SUBSCRIPTIONS":
                return {"result": list(streams), "id": number}
            case "SET_PROPERTY" if isinstance(params, list) and params[:1] == ["combined"] and len(params) == 2:
                line.memo["combined"] = bool(params[1])
                return {"result": None, "id": number}
            case "GET_PROPERTY":
                return {"result": line.memo["combined"], "id": number}
        return {"error": {"code": 2, "msg": "Invalid request: unknown variant"}, "id": number}

    def _follow(self, line: Line, stream: str) -> None:
        streams: list[str] = line.memo["streams"]
        if stream not in streams:
            streams.append(stream)
        if self.carries(line.endpoint, stream):
            line.follow(stream)

    def _leave(self, line: Line, stream: str) -> None:
        streams: list[str] = line.memo["streams"]
        if stream in streams:
            streams.remove(stream)
        line.leave(stream)

    def carries(self, endpoint: str, stream: str) -> bool:  # noqa: ARG002 - for USDM, which overrides it
        """Whether that socket pushes that stream."""
        return True

    def _root(self, path: str) -> tuple[str, str]:
        for root in sorted(self.sockets.values(), reverse=True):
            if path.startswith(root + "/"):
                return root, path.removeprefix(root)
        return "", path

    def wrap(self, line: Line, topic: str, body: bytes) -> bytes:
        """Combined sockets name the stream."""
        return b'{"stream":"%b","data":%b}' % (topic.encode(), body) if line.memo["combined"] else body

    def beat(self, line: Line) -> None:
        """Ping now and then; a client that does not answer is closed."""
        if line.pinged_ns > line.ponged_ns and line.now_ns - line.pinged_ns > self.pong_s * NS:
            line.close(1008, "Pong timeout")
        elif line.now_ns - line.pinged_ns >= self.ping_s * NS and line.pinged_ns <= line.ponged_ns:
            line.ping()

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """Payloads of one stream, without envelope."""
        subject, _, what = topic.partition("@")
        if subject.startswith(ALL):
            return self._all(subject, what, start_ns, end_ns)
        listing = self.find(subject.upper())
        if listing is None or subject != subject.lower():
            return ()
        symbol = subject.upper().encode()
        if what == "aggTrade":
            return self._agg_trades(symbol, listing, start_ns, end_ns)
        if what == "trade":
            return self._raw_trades(symbol, listing, start_ns, end_ns)
        if what == "bookTicker":
            return self._quotes(symbol, listing, start_ns, end_ns)
        if what in DEPTH_NS:
            return self._depths(symbol, listing, DEPTH_NS[what], start_ns, end_ns)
        if what.startswith("kline_"):
            return self._klines_pushed(symbol, listing, what.removeprefix("kline_"), start_ns, end_ns)
        return () if self.spot else self._derived(symbol, listing, what, start_ns, end_ns)

    def _derived(self, symbol: bytes, listing: Listing, what: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        if what in ("markPrice", "markPrice@1s"):
            every_ns = NS if what.endswith("1s") else 3 * NS
            return [Frame(at, self._marked(symbol, listing, at)) for at in beats(start_ns, end_ns, every_ns)]
        return self._forced(symbol, listing, start_ns, end_ns) if what == "forceOrder" else ()

    def _all(self, subject: str, what: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        rows = [(symbol.encode(), listing) for symbol, listing in self.listings()]
        if self.spot:
            return
        if subject == "!forceOrder" and what == "arr":
            frames = [frame for symbol, listing in rows for frame in self._forced(symbol, listing, start_ns, end_ns)]
            yield from sorted(frames)
        elif subject == "!markPrice" and what in ("arr", "arr@1s"):
            for at_ns in beats(start_ns, end_ns, NS if what.endswith("1s") else 3 * NS):
                yield Frame(
                    at_ns, b"[%b]" % b",".join(self._marked(symbol, listing, at_ns) for symbol, listing in rows)
                )

    def _agg_trades(self, symbol: bytes, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        speller, more = self.world.speller(listing.name), self._more()
        skew_ms = self.venue_ms(0)
        for row in self.world.orders(listing.name, start_ns, end_ns):
            size = self.size(speller, row.lots).encode()
            at_ms = row.ns // MS
            body = b'{"e":"aggTrade","E":%d,"s":"%b","a":%d,"p":"%b","q":"%b","f":%d,"l":%d,"T":%d,"m":%b%b%b}' % (
                at_ms + 3 + skew_ms,
                symbol,
                row.id,
                self.price(speller, row.ticks).encode(),
                size,
                row.first_id,
                row.last_id,
                at_ms,
                b"true" if row.sell else b"false",
                b"" if self.spot or self.inverse else b',"nq":"%b"' % size,
                more,
            )
            yield Frame(row.ns, body, trade=True)

    def _raw_trades(self, symbol: bytes, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        speller, more, skew_ms = self.world.speller(listing.name), self._more(), self.venue_ms(0)
        rows = [
            (row.ns, row.first_id, self.price(speller, row.ticks), self.size(speller, row.lots), row.sell, "MARKET")
            for row in self.world.trades(listing.name, start_ns, end_ns)
        ]
        for number, at_ns in self.world.reserved(listing.name, start_ns, end_ns):
            nature = NATURES[number // 7 % len(NATURES)]
            rows.append((at_ns, number, *self._void(speller, nature, listing, at_ns), False, nature))
        for ns, number, price, size, sell, nature in sorted(rows):
            body = b'{"e":"trade","E":%d,"T":%d,"s":"%b","t":%d,"p":"%b","q":"%b"%b,"m":%b%b}' % (
                ns // MS + 3 + skew_ms,
                ns // MS,
                symbol,
                number,
                price.encode(),
                size.encode(),
                b"" if self.spot else b',"X":"%b"' % nature.encode(),
                b"true" if sell else b"false",
                more,
            )
            yield Frame(ns, body, trade=True)

    def _void(self, speller: Speller, nature: str, listing: Listing, at_ns: int) -> tuple[str, str]:
        """Price and size of a trade outside of the market: zero, or away from it, so that counting it shows."""
        if nature == "NA":
            return "0", "0"
        far = self.world.quote(listing.name, at_ns).bid_ticks * (9 if nature == "ADL" else 11) // 10
        return self.price(speller, far), self.size(speller, 1_000)

    def _more(self) -> bytes:
        return b',"M":true' if self.spot else b',"st":%d' % self.market

    def _quotes(self, symbol: bytes, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        for at_ns in beats(start_ns, end_ns, BOOK_NS):
            quote = self.world.quote(listing.name, at_ns)
            if quote != self.world.quote(listing.name, at_ns - BOOK_NS):
                yield Frame(at_ns, self._quoted(symbol, listing, quote, at_ns))

    def _quoted(self, symbol: bytes, listing: Listing, quote: Quoted, at_ns: int) -> bytes:
        speller = self.world.speller(listing.name)
        body = b'"u":%d,"s":"%b","b":"%b","B":"%b","a":"%b","A":"%b"' % (
            at_ns // BOOK_NS,
            symbol,
            self.price(speller, quote.bid_ticks).encode(),
            self.size(speller, quote.bid_lots).encode(),
            self.price(speller, quote.ask_ticks).encode(),
            self.size(speller, quote.ask_lots).encode(),
        )
        if self.spot:
            return b"{%b}" % body
        pair = b',"ps":"%b"' % symbol.partition(b"_")[0] if self.inverse else b""
        return b'{"e":"bookTicker",%b%b,"T":%d,"E":%d,"st":%d}' % (
            body,
            pair,
            at_ns // MS,
            self.venue_ms(at_ns) + 2,
            self.market,
        )

    def _depths(self, symbol: bytes, listing: Listing, every_ns: int, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """Update ids count tenths of a second, so that any snapshot joins any stream."""
        speller = self.world.speller(listing.name)
        for at_ns in beats(start_ns, end_ns, every_ns):
            before, now = self._levels(listing.name, at_ns - every_ns), self._levels(listing.name, at_ns)
            bids, asks = (
                [[self.price(speller, ticks), self.size(speller, lots)] for ticks, lots in _changes(old, new)]
                for old, new in zip(before, now, strict=True)
            )
            last, first = at_ns // BOOK_NS, (at_ns - every_ns) // BOOK_NS + 1
            told: dict[str, Any] = {"e": "depthUpdate", "E": self.venue_ms(at_ns) + 2}
            told |= {"s": symbol.decode(), "U": first, "u": last}
            if not self.spot:
                told |= {"T": at_ns // MS, "pu": first - 1, "st": self.market}
            yield Frame(at_ns, msgspec.json.encode(told | {"b": bids, "a": asks}))

    def _levels(self, name: str, at_ns: int) -> tuple[dict[int, int], dict[int, int]]:
        def make() -> tuple[dict[int, int], dict[int, int]]:
            bids, asks = self.world.book(name, at_ns, BOOK_LEVELS)
            return dict(bids), dict(asks)

        return self._books.get((name, at_ns), make)

    def _klines_pushed(
        self, symbol: bytes, listing: Listing, interval: str, start_ns: int, end_ns: int
    ) -> Iterator[Frame]:
        interval_s = INTERVALS_S.get(interval)
        if interval_s is None:
            return
        interval_ns, late_ns = interval_s * NS, round(self.switches.late_klines_s * NS)
        frames = []
        for at_ns in beats(start_ns, end_ns, self.kline_push_ns):
            bar = self._bar(listing, interval_s, open_ns(at_ns - 1, interval_ns), at_ns)
            # The running candle is pushed when it changed; the closed one has a push of its own.
            if bar and bar.last_ns >= at_ns - self.kline_push_ns and at_ns % interval_ns:
                frames.append(
                    Frame(at_ns, self._kline_frame(symbol, listing, interval, interval_ns, bar, at_ns, closed=False))
                )
        for close_ns in _closes(start_ns - late_ns, end_ns - late_ns, interval_ns):
            bar = self._bar(listing, interval_s, close_ns - interval_ns, close_ns) or self._flat(
                listing, close_ns - interval_ns
            )
            at_ns = close_ns + late_ns
            frames.append(
                Frame(at_ns, self._kline_frame(symbol, listing, interval, interval_ns, bar, at_ns, closed=True))
            )
        yield from sorted(frames)

    def _bar(self, listing: Listing, interval_s: int, from_ns: int, until_ns: int) -> Bar | None:
        bars = self.world.candles(listing.name, interval_s, from_ns, until_ns)
        return bars[-1] if bars and bars[-1].open_ns == from_ns else None

    def _flat(self, listing: Listing, at_ns: int) -> Bar:
        before = self.world.last_orders(listing.name, 1, at_ns)
        return flat(at_ns, int(before.ticks[0]) if len(before) else self.world.quote(listing.name, at_ns).bid_ticks)

    def _kline_frame(
        self, symbol: bytes, listing: Listing, interval: str, interval_ns: int, bar: Bar, at_ns: int, *, closed: bool
    ) -> bytes:
        speller, name = self.world.speller(listing.name), symbol.decode()
        told: dict[str, Any] = {
            "t": bar.open_ns // MS,
            "T": (bar.open_ns + interval_ns) // MS - 1,
            "s": name,
            "i": interval,
            "f": bar.first_id,
            "L": bar.last_id,
            "o": self.price(speller, bar.open),
            "c": self.price(speller, bar.close),
            "h": self.price(speller, bar.high),
            "l": self.price(speller, bar.low),
            "v": self.size(speller, bar.lots),
            "n": bar.trades,
            "x": closed,
            "q": self.amount(speller, bar.notional, bar.coins_e8),
            "V": self.size(speller, bar.buy_lots),
            "Q": self.amount(speller, bar.buy_notional, bar.buy_coins_e8),
            "B": "0",
        }
        frame: dict[str, Any] = {"e": "kline", "E": self.venue_ms(at_ns) + 5, "s": name, "k": told}
        return msgspec.json.encode(frame if self.spot else frame | {"st": self.market})

    def _marked(self, symbol: bytes, listing: Listing, at_ns: int) -> bytes:
        mark, index = self.world.mark(listing.name, at_ns), self.world.index(listing.name, at_ns)
        rate, due_ms = "", 0
        if listing.funding_s:
            running = self.world.running_funding(listing.name, at_ns)
            rate, due_ms = f"{running.rate:.8f}", running.funding_ns // MS
        return msgspec.json.encode(
            {
                "e": "markPriceUpdate",
                "E": self.venue_ms(at_ns),
                "s": symbol.decode(),
                "p": f"{mark:.8f}",
                "ap": f"{mark:.8f}",
                "i": f"{index:.8f}",
                "P": f"{index:.8f}",
                "r": rate,
                "T": due_ms,
                "st": self.market,
            }
        )

    def _forced(self, symbol: bytes, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """At most one a second: the last of each whole second, when it is over."""
        speller = self.world.speller(listing.name)
        for at_ns in beats(start_ns, end_ns, FORCE_NS):
            rows = list(self.world.liquidations(listing.name, at_ns - FORCE_NS, at_ns))
            if not rows:
                continue
            row = rows[-1]
            size, ticks = self.size(speller, row.lots), row.ticks
            limit = ticks * 995 // 1_000 if row.sell else -(-ticks * 1_005 // 1_000)
            order = {
                "s": symbol.decode(),
                "S": "SELL" if row.sell else "BUY",
                "o": "LIMIT",
                "f": "IOC",
                "q": size,
                "p": self.price(speller, max(limit, 1)),
                "ap": self.price(speller, ticks),
                "X": "FILLED",
                "l": size,
                "z": size,
                "T": row.ns // MS,
                "ps": symbol.decode().partition("_")[0],
                "st": self.market,
            }
            yield Frame(at_ns, msgspec.json.encode({"e": "forceOrder", "E": self.venue_ms(at_ns), "o": order}))


class BinanceSpot(_Binance):
    """https://api.binance.com and wss://stream.binance.com:9443."""

    name = "binance"
    sockets: ClassVar = {"market": ""}
    prefix = "/api/v3"
    archive = "/data/spot"
    klines_max = 1_000
    spot = True
    ping_s, pong_s = 20.0, 60.0
    kline_push_ns = NS
    messages = Pool(5, 1.0, None)
    pools: ClassVar = {"weight": Pool(6_000, 60.0)}
    weights: ClassVar = {
        "/exchangeInfo": 20, "/klines": 2, "/aggTrades": 4, "/trades": 25, "/historicalTrades": 25, "/ticker/24hr": 2,
        "/ticker/bookTicker": 2, "/ticker/price": 2,
    }  # fmt: skip

    def announce(self, line: Line) -> None:
        """Spot says so before it closes."""
        body = b'{"e":"serverShutdown","E":%d}' % self.venue_ms(line.now_ns)
        line.send(self.wrap(line, "!serverShutdown", body))


class BinanceFutures(_Binance):
    """https://fapi.binance.com and wss://fstream.binance.com/{public,market}."""

    name = "binance_futures"
    purse = "binance derivatives"
    sockets: ClassVar = {"public": "/public", "market": "/market", "old": ""}
    prefix = "/fapi/v1"
    archive = "/data/futures/um"
    klines_max = 1_500
    pools: ClassVar = POOLS
    weights: ClassVar = {
        "/aggTrades": 20, "/trades": 5, "/historicalTrades": 20, "/ticker/bookTicker": 2,
    }  # fmt: skip

    def carries(self, endpoint: str, stream: str) -> bool:
        """Each root has its own streams; the old one is silent since 2026-04-23 but for those of /public."""
        what = stream.partition("@")[2].partition("@")[0]
        public = what in PUBLIC or what.startswith("depth") or stream.startswith("!bookTicker")
        return public if endpoint in ("public", "old") else not public


class BinanceDelivery(_Binance):
    """https://dapi.binance.com and wss://dstream.binance.com."""

    name = "binance_delivery"
    purse = "binance derivatives"  # one weight for both since 2026-06-30
    sockets: ClassVar = {"market": ""}
    prefix = "/dapi/v1"
    archive = "/data/futures/cm"
    klines_max = 1_500
    inverse = True
    market = 2
    pools: ClassVar = POOLS
    weights = BinanceFutures.weights


def _closes(start_ns: int, end_ns: int, interval_ns: int) -> Iterator[int]:
    at_ns = open_ns(start_ns + interval_ns - 1, interval_ns)
    while at_ns < end_ns:
        yield at_ns
        at_ns += interval_ns


def _changes(old: dict[int, int], new: dict[int, int]) -> list[tuple[int, int]]:
    """(ticks, lots) of the levels that changed; 0 lots for those that are gone."""
    return [(ticks, 0) for ticks in old if ticks not in new] + [row for row in new.items() if old.get(row[0]) != row[1]]
