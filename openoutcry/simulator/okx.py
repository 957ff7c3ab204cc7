"""OKX v5, played: spot, swaps and futures (`okx`) and options (`okx_options`) over REST and the sockets /public and /business.

https://www.okx.com/docs-v5/en/

    {"op": "subscribe", "args": [{"channel": "trades", "instId": "BTC-USDT"}]}
        -> {"event": "subscribe", "arg": {"channel": "trades", "instId": "BTC-USDT"}, "connId": "a4d3ae55"}
    {"event": "error", "code": "60018", "msg": "Wrong URL or channel:trades,instId:X-Y doesn't exist. ...", "connId": "..."}
    ping -> pong, as text
    GET /api/v5/market/candles?instId=BTC-USDT&bar=1m -> {"code": "0", "msg": "", "data": [["1597026360000", ...], ...]}

Lists come newest first; `after` and `before` leave their bound out. A subscription is answered with the last state, and
with the last trade again. `trades` joins the fills of an order (`count`), `trades-all` tells each. `checksum` is 0, as it
is since 2026-08. One liquidation in ten is not told, and those of one push are in no order of time. Bars of six hours and
more open at 00:00 UTC+8 without `utc`. Books have fewer levels than the venue's 400. Mark prices come every second. Of
options nothing is told without their family; the dollars of their open interest are the coin's, not the premium's.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from openoutcry.events import open_of
from openoutcry.instrument import Kind
from openoutcry.simulator.bars import running, still, still_after
from openoutcry.simulator.kit import MS, NS, Answer, Asked, Frame, Line, Personality, beats, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.options import underlying
from openoutcry.simulator.tape import Bar, Listing, Row

SECONDS = {"1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1_800, "1H": 3_600, "2H": 7_200, "4H": 14_400}
LONG_SECONDS = {"6H": 21_600, "12H": 43_200, "1D": 86_400, "1W": 604_800}
UTC_SECONDS = SECONDS | {f"{bar}utc": seconds for bar, seconds in LONG_SECONDS.items()}
BARS = UTC_SECONDS | LONG_SECONDS
ASIA_NS = 8 * 3_600 * NS
PERIODS = {bar: seconds for bar, seconds in BARS.items() if seconds >= 300 and bar != "3m"}

RECENT_BARS = 1_440
HISTORY_LAG_NS = 90 * NS  # so late the closed bars reach the history
TRADE_DAYS = FUNDING_DAYS = 92
DAY_NS = 86_400 * NS
BOOK_NS = 100 * MS
BOOK_LEVELS = 50
BAR_NS = NS
MARK_NS = NS
INTEREST_NS = 3 * NS
FUNDING_NS = 60 * NS
LIQUIDATION_NS = NS
UNTOLD_EVERY = 10  # so many liquidations come to one that is not told
BANKRUPT_PER_MILLE = 5
SILENCE_NS = 30 * NS
REQUEST_BYTES_MAX = 64 * 1024
REQUESTS_MAX = 480
REQUESTS_NS = 3_600 * NS
LIFE_S = 86_400.0
CONNECTION = "a4d3ae55"
INST_TYPES = {Kind.SPOT: "SPOT", Kind.PERPETUAL: "SWAP", Kind.FUTURE: "FUTURES", Kind.OPTION: "OPTION"}
LIMITS = {
    "public/instruments": 20, "public/time": 10, "public/open-interest": 20, "public/funding-rate": 10,
    "public/funding-rate-history": 10, "public/mark-price": 10, "market/candles": 40, "market/history-candles": 20,
    "market/trades": 100, "market/history-trades": 20, "market/tickers": 20, "market/ticker": 20, "market/books": 40,
    "market/index-tickers": 20,
    "rubik/stat/contracts/open-interest-history": 10,
}  # fmt: skip

Query = Mapping[str, str]


class Bad(Exception):
    """A question OKX refuses: its code and text."""

    def __init__(self, code: str, text: str, status: int = 200) -> None:
        super().__init__(text)
        self.code, self.text, self.status = code, text, status


class Okx(Personality):
    """https://www.okx.com and wss://ws.okx.com:8443/ws/v5/{public,business}."""

    name = "okx"
    purse = "okx"  # one address has one budget for all markets
    sockets: ClassVar = {"public": "/ws/v5/public", "business": "/ws/v5/business"}
    pools: ClassVar = {route: Pool(count, 2.0, None) for route, count in LIMITS.items()}
    connections = Pool(3, 1.0, None)
    life_s = LIFE_S

    # Limits

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """Each endpoint has its own budget."""
        route = asked.path.removeprefix("/api/v5/")
        return (route, 1) if route in LIMITS else None

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - every endpoint says the same
        """50011 with 429."""
        return _told(code="50011", text="Too Many Requests", status=429)

    def storm(self, status: int) -> bytes:
        """OKX's own words for a status."""
        code, text = ("50011", "Too Many Requests") if status in (418, 429) else ("50001", "Service unavailable")
        return _told(code=code, text=text).body

    # Lines

    def heard(self, line: Line, text: bytes) -> None:
        """`ping`, subscribe, unsubscribe."""
        if text == b"ping":
            line.send(b"pong")
            return
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            said = None
        op, args = (said.get("op"), said.get("args")) if isinstance(said, dict) else (None, None)
        sound = op in ("subscribe", "unsubscribe") and len(text) <= REQUEST_BYTES_MAX
        if not sound or not isinstance(args, list) or not all(isinstance(arg, dict) for arg in args):
            line.send(_error("60012", f"Invalid request: {text[:200].decode('utf-8', 'replace')}"))
            return
        if self._too_often(line):
            line.send(_error("60014", "Requests too frequent"))
            return
        for arg in args:
            self._ask(line, arg, undo=op == "unsubscribe")

    def _too_often(self, line: Line) -> bool:
        asked: list[int] = line.memo.setdefault("asked", [])
        asked[:] = [at_ns for at_ns in asked[-REQUESTS_MAX:] if at_ns > line.now_ns - REQUESTS_NS]
        asked.append(line.now_ns)
        return len(asked) > REQUESTS_MAX

    def _ask(self, line: Line, arg: dict[str, Any], *, undo: bool) -> None:
        channel, subject = str(arg.get("channel")), str(arg.get("instId") or arg.get("instType"))
        topic = f"{channel}:{subject}"
        if undo:
            line.leave(topic)
            line.send(_event("unsubscribe", arg))
            return
        known = self._carried(line.endpoint, channel, subject) and not self.refused(topic)
        if not known or not line.follow(topic):
            what = "instType" if channel == "liquidation-orders" else "instId"
            text = f"Wrong URL or channel:{channel},{what}:{subject} doesn't exist. "
            line.send(
                _error("60018", text + "Please use the correct URL, channel and parameters referring to API document.")
            )
            return
        # Asked twice it is answered twice, and told once.
        line.send(_event("subscribe", arg), *self._last(topic, line.now_ns))

    def _carried(self, endpoint: str, channel: str, subject: str) -> bool:
        if channel == "liquidation-orders":
            return endpoint == "public" and subject in INST_TYPES.values()
        listing = self.find(subject)
        business = channel == "trades-all" or channel.startswith("candle")
        if listing is None or business != (endpoint == "business"):
            return False
        kind = listing.instrument.kind
        if channel == "funding-rate":
            return kind is Kind.PERPETUAL
        if channel in ("open-interest", "mark-price"):
            return kind is not Kind.SPOT
        plain = channel in ("trades", "trades-all", "books", "bbo-tbt", "tickers")
        return plain or channel.removeprefix("candle") in BARS

    def _last(self, topic: str, now_ns: int) -> list[bytes]:
        """What a new follower hears at once: the state of the last push, and the last trade once more."""
        channel, _, subject = topic.partition(":")
        listing = self.find(subject)
        if listing is None:
            return []
        every_ns = {"books": BOOK_NS, "bbo-tbt": BOOK_NS, "open-interest": INTEREST_NS}.get(channel, NS)
        at_ns = (now_ns - 1) // every_ns * every_ns
        if channel in ("trades", "trades-all"):
            tape = self.world.last_orders(listing.name, 1, now_ns)
            rows = list(tape if channel == "trades" else tape.split())[-1:]
            return [_push(channel, subject, [self._trade(subject, listing, row)]) for row in rows]
        if channel == "books":
            return [self._book_frame(subject, listing, at_ns, whole_book=True)]
        if channel.startswith("candle"):
            bar = self._running(listing, channel[6:], now_ns)
            return [] if bar is None else [_push(channel, subject, [self._bar(listing, bar, closed=False)])]
        return [_push(channel, subject, [self._state(channel, subject, listing, at_ns)])]

    def beat(self, line: Line) -> None:
        """A connection on which nothing was said for 30 s is closed."""
        if line.now_ns - max(line.sent_ns, line.heard_ns) > SILENCE_NS:
            line.close(4004, "No data received in 30s.")

    def announce(self, line: Line) -> None:
        """Notice 64008."""
        text = "The connection will soon be closed for a service upgrade. Please reconnect."
        line.send(msgspec.json.encode({"event": "notice", "code": "64008", "msg": text, "connId": CONNECTION}))

    # Streams

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:
        """All frames of one channel of one instrument (or type)."""
        channel, _, subject = topic.partition(":")
        if channel == "liquidation-orders":
            return self._liquidations(subject, start_ns, end_ns)
        listing = self.find(subject)
        if listing is None:
            return ()
        if channel in ("trades", "trades-all"):
            tape = self.world.orders(listing.name, start_ns, end_ns)
            rows = tape if channel == "trades" else tape.split()
            return [
                Frame(row.ns, _push(channel, subject, [self._trade(subject, listing, row)]), trade=True) for row in rows
            ]
        if channel == "books":
            stamps = beats(start_ns, end_ns, BOOK_NS)
            return [Frame(at_ns, self._book_frame(subject, listing, at_ns, whole_book=False)) for at_ns in stamps]
        if channel.startswith("candle"):
            return self._bars_pushed(subject, listing, channel, start_ns, end_ns)
        return self._states(channel, subject, listing, start_ns, end_ns)

    def _states(self, channel: str, subject: str, listing: Listing, start_ns: int, end_ns: int) -> Iterator[Frame]:
        every_ns = {
            "bbo-tbt": BOOK_NS, "tickers": NS, "mark-price": MARK_NS, "open-interest": INTEREST_NS, "funding-rate": FUNDING_NS,
        }[channel]  # fmt: skip
        for at_ns in beats(start_ns, end_ns, every_ns):
            if channel == "bbo-tbt" and at_ns % (60 * NS):
                quote = self.world.quote(listing.name, at_ns)
                if quote == self.world.quote(listing.name, at_ns - every_ns):
                    continue
            yield Frame(at_ns, _push(channel, subject, [self._state(channel, subject, listing, at_ns)]))

    def _state(self, channel: str, subject: str, listing: Listing, at_ns: int) -> dict[str, Any]:
        if channel == "bbo-tbt":
            quote, speller = self.world.quote(listing.name, at_ns), self.world.speller(listing.name)
            bid = [speller.price(quote.bid_ticks), speller.size(quote.bid_lots), "0", "1"]
            ask = [speller.price(quote.ask_ticks), speller.size(quote.ask_lots), "0", "1"]
            return {"asks": [ask], "bids": [bid], "ts": str(self.venue_ms(at_ns)), "seqId": at_ns // BOOK_NS}
        if channel == "tickers":
            return self._touch(subject, listing, at_ns)
        if channel == "mark-price":
            return self._mark(subject, listing, at_ns)
        return (self._interest if channel == "open-interest" else self._funding)(subject, listing, at_ns)

    def _trade(self, subject: str, listing: Listing, row: Row) -> dict[str, Any]:
        speller = self.world.speller(listing.name)
        return {
            "instId": subject,
            "tradeId": str(row.last_id),
            "px": speller.price(row.ticks),
            "sz": speller.size(row.lots),
            "side": "sell" if row.sell else "buy",
            "ts": str(row.ns // MS),
            "count": str(row.last_id - row.first_id + 1),
            "source": "0",
        }

    def _book_frame(self, subject: str, listing: Listing, at_ns: int, *, whole_book: bool) -> bytes:
        """Numbers count tenths of a second, so that any snapshot joins any stream."""
        bids, asks = self._book(listing, at_ns)
        if not whole_book:
            before = self._book(listing, at_ns - BOOK_NS)
            bids, asks = (_changes(dict(old), dict(new)) for old, new in zip(before, (bids, asks), strict=True))
        number = at_ns // BOOK_NS
        book = {
            "asks": [[price, size, "0", "1" if size != "0" else "0"] for price, size in asks],
            "bids": [[price, size, "0", "1" if size != "0" else "0"] for price, size in bids],
            "ts": str(self.venue_ms(at_ns)),
            "checksum": 0,
            "seqId": number,
            "prevSeqId": -1 if whole_book else number - 1,
        }
        return _push("books", subject, [book], action="snapshot" if whole_book else "update")

    def _book(self, listing: Listing, at_ns: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        speller = self.world.speller(listing.name)
        sides = self.world.book(listing.name, at_ns, BOOK_LEVELS)
        bids, asks = ([(speller.price(ticks), speller.size(lots)) for ticks, lots in side] for side in sides)
        return bids, asks

    def _bars_pushed(self, subject: str, listing: Listing, channel: str, start_ns: int, end_ns: int) -> Iterator[Frame]:
        """The running bar when it changed, at most once a second; the closed one once more when it is over."""
        name, late_ns = channel[6:], round(self.switches.late_klines_s * NS)
        frames = []
        for at_ns in beats(start_ns, end_ns, BAR_NS):
            bar = self._running(listing, name, at_ns)
            if bar and bar.last_ns >= at_ns - BAR_NS and not _closes(name, at_ns):
                frames.append(Frame(at_ns, _push(channel, subject, [self._bar(listing, bar, closed=False)])))
        for at_ns in beats(start_ns - late_ns, end_ns - late_ns, BAR_NS):
            if _closes(name, at_ns):
                bar = self._running(listing, name, at_ns)
                body = [] if bar is None else [self._bar(listing, bar, closed=True)]
                frames.append(Frame(at_ns + late_ns, _push(channel, subject, body)))
        yield from sorted(frames)

    def _running(self, listing: Listing, bar: str, at_ns: int) -> Bar | None:
        """The bar that holds the last moment before `at_ns`, of what was traded until then."""
        return running(self.world, listing.name, _open_ns(bar, at_ns - 1), at_ns)

    def _liquidations(self, inst_type: str, start_ns: int, end_ns: int) -> Iterator[Frame]:
        rows = [(symbol, a) for symbol, a in self.listings() if INST_TYPES[a.instrument.kind] == inst_type]
        for at_ns in beats(start_ns, end_ns, LIQUIDATION_NS):
            for symbol, listing in rows:
                forced = self.world.liquidations(listing.name, at_ns - LIQUIDATION_NS, at_ns)
                details = [self._forced(listing, row) for row in forced if row.id % UNTOLD_EVERY]
                if details:
                    pair = _family(symbol)
                    told = {
                        "details": details[::-1],
                        "instFamily": pair,
                        "instId": symbol,
                        "instType": inst_type,
                        "uly": pair,
                    }
                    arg = {"channel": "liquidation-orders", "instType": inst_type}
                    yield Frame(at_ns, msgspec.json.encode({"arg": arg, "data": [told]}))

    def _forced(self, listing: Listing, row: Row) -> dict[str, str]:
        speller = self.world.speller(listing.name)
        way = -1 if row.sell else 1
        bankrupt = max(row.ticks + way * (row.ticks * BANKRUPT_PER_MILLE // 1_000), 1)
        return {
            "bkLoss": "0",
            "bkPx": speller.price(bankrupt),
            "ccy": "",
            "posSide": "long" if row.sell else "short",
            "side": "sell" if row.sell else "buy",
            "sz": speller.size(row.lots),
            "ts": str(row.ns // MS),
        }

    # Answers

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """Every route; 404 for others."""
        route = self._routes().get(asked.path.removeprefix("/api/v5/"))
        if route is None or asked.method != "GET":
            return _told(code="404" if route is None else "405", text="Not Found", status=404)
        try:
            rows = route(asked.query, now_ns)
            return _told(await rows if asyncio.iscoroutine(rows) else rows)
        except Bad as bad:
            return _told(code=bad.code, text=bad.text, status=bad.status)

    def _routes(self) -> Mapping[str, Callable[[Query, int], Any]]:
        return {
            "public/time": lambda _, now_ns: [{"ts": str(self.venue_ms(now_ns))}],
            "public/instruments": lambda query, _: [self._instrument(s, a) for s, a in self._of_type(query)],
            "public/open-interest": lambda query, now_ns: [
                self._interest(s, a, now_ns) for s, a in self._of_type(query)
            ],
            "public/mark-price": lambda query, now_ns: [self._mark(s, a, now_ns) for s, a in self._of_type(query)],
            "public/funding-rate": self._funding_now,
            "public/funding-rate-history": self._funding_history,
            "market/candles": self._candles,
            "market/history-candles": self._history_candles,
            "market/trades": self._recent_trades,
            "market/history-trades": self._history_trades,
            "market/tickers": self._tickers,
            "market/ticker": self._tickers,
            "market/books": self._depth,
            "rubik/stat/contracts/open-interest-history": self._interest_history,
        }

    def _of_type(self, query: Query) -> list[tuple[str, Listing]]:
        """The instruments of `instType`, or the one of `instId`."""
        inst_type = query.get("instType")
        if inst_type not in INST_TYPES.values():
            raise Bad("51000", "Parameter instType error", 400)
        rows = [(s, a) for s, a in self.listings() if INST_TYPES[a.instrument.kind] == inst_type]
        if "instId" in query:
            rows = [row for row in rows if row[0] == query["instId"]]
            if not rows:
                raise Bad("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        return rows

    def _listing(self, query: Query) -> Listing:
        if "instId" not in query:
            raise Bad("50014", "Parameter instId can not be empty.", 400)
        listing = self.find(query["instId"])
        if listing is None:
            raise Bad("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        return listing

    def _instrument(self, symbol: str, listing: Listing) -> dict[str, str]:
        instrument, spot = listing.instrument, listing.instrument.kind is Kind.SPOT
        pair = _family(symbol)
        contract = {
            "uly": pair,
            "instFamily": pair,
            "settleCcy": instrument.settle,
            "ctVal": str(instrument.contract_size),
            "ctMult": "1",
            "ctValCcy": instrument.quote if instrument.inverse else instrument.coin,
            "ctType": "inverse" if instrument.inverse else "linear",
        }
        return {
            "instType": INST_TYPES[instrument.kind],
            "instId": symbol,
            "baseCcy": instrument.coin if spot else "",
            "quoteCcy": instrument.quote if spot else "",
            **(dict.fromkeys(contract, "") if spot else contract),
            "tickSz": str(instrument.tick_size),
            "lotSz": str(instrument.lot_size),
            "minSz": str(instrument.lot_size),
            "listTime": str((instrument.listed_ns or 0) // MS),
            "expTime": "" if instrument.expires_ns is None else str(instrument.expires_ns // MS),
            "state": "live",
        }

    # Bars

    def _bar(self, listing: Listing, bar: Bar, *, closed: bool) -> list[str]:
        speller, instrument = self.world.speller(listing.name), listing.instrument
        count = speller.size(bar.lots)
        quote = speller.notional(bar.notional)
        if instrument.kind is Kind.SPOT:
            volumes = (count, quote, quote)
        elif instrument.inverse:
            money = speller.size_decimal(bar.lots) * (instrument.contract_size or 1)
            volumes = (count, f"{Decimal(bar.coins_e8).scaleb(-8):f}", f"{money:f}")
        else:
            money = Decimal(quote) * (instrument.contract_size or 1)
            volumes = (count, f"{speller.coins(bar.lots):f}", f"{money:f}")
        prices = (speller.price(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close))
        return [str(bar.open_ns // MS), *prices, *volumes, "1" if closed else "0"]

    async def _candles(self, query: Query, now_ns: int) -> list[list[str]]:
        """The newest 1,440, with the growing one."""
        name = _bar_name(query)
        first_ns = _open_ns(name, now_ns - 1) - (RECENT_BARS - 1) * BARS[name] * NS
        return await self._bars(query, name, first_ns, now_ns, now_ns)

    async def _history_candles(self, query: Query, now_ns: int) -> list[list[str]]:
        """All closed ones, some time after they closed."""
        name = _bar_name(query)
        last_ns = _open_ns(name, now_ns - HISTORY_LAG_NS)
        return await self._bars(query, name, 0, last_ns, now_ns)

    async def _bars(self, query: Query, name: str, first_ns: int, last_ns: int, now_ns: int) -> list[list[str]]:
        """Those that open in [first_ns, last_ns) and inside the bounds, newest first."""
        listing, seconds_ns = self._listing(query), BARS[name] * NS
        limit = _limit(query, 100, 300)
        after_ns, before_ns = _bounds(query)
        born_ns, dead_ns = self.world.life(listing.name)
        last_ns = min(last_ns, after_ns, dead_ns)
        first_ns = max(first_ns, before_ns + MS, born_ns)
        opens = [_open_ns(name, last_ns - 1)] if last_ns > 0 else []
        while opens and len(opens) < limit and opens[-1] - seconds_ns >= first_ns:
            opens.append(opens[-1] - seconds_ns)
        opens = [open_ns for open_ns in opens if open_ns >= first_ns]
        if not opens:
            return []
        made = await self._made(listing, name, opens[-1], min(opens[0] + seconds_ns, now_ns))
        ticks = still_after(self.world, listing.name, opens[-1]).close
        rows = []
        for open_ns in reversed(opens):
            bar = made.get(open_ns) or still(open_ns, ticks)
            ticks = bar.close
            rows.append(self._bar(listing, bar, closed=open_ns + seconds_ns <= now_ns))
        return rows[::-1]

    async def _made(self, listing: Listing, name: str, first_ns: int, until_ns: int) -> dict[int, Bar]:
        if name in UTC_SECONDS:
            made = await self.candles(listing.name, BARS[name], first_ns, until_ns)
            return {bar.open_ns: bar for bar in made}
        # Days of Hong Kong are put together from hours.
        hours = await self.candles(listing.name, 3_600, first_ns, until_ns)
        folded: dict[int, Bar] = {}
        for hour in hours:
            open_ns = _open_ns(name, hour.open_ns)
            folded[open_ns] = _grown(folded[open_ns], hour) if open_ns in folded else hour._replace(open_ns=open_ns)
        return folded

    # Trades

    def _recent_trades(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        listing = self._listing(query)
        tape = self.world.last_trades(listing.name, _limit(query, 100, 500), now_ns)
        return [self._past_trade(query["instId"], listing, row) for row in reversed(list(tape))]

    def _history_trades(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        """Type 1: `after` and `before` are ids; type 2: `after` is a time."""
        listing, limit = self._listing(query), _limit(query, 100, 100)
        name = listing.name
        after = whole(query.get("after"), 1 << 60, 0, 1 << 60)
        before = whole(query.get("before"), -1, 0, 1 << 60)
        if query.get("type", "1") not in ("1", "2") or after is None or before is None:
            raise Bad("51000", "Parameter type, after or before error", 400)
        if query.get("type", "1") == "2":
            tape = self.world.last_trades(name, limit, min(now_ns, after * MS))
        else:
            newest = self.world.last_trades(name, 1, now_ns)
            end = min(after, int(newest.last_id[0]) + 1) if len(newest) else 0
            tape = self.world.trades_from(name, max(end - limit, before + 1, 0), limit, now_ns)
            tape = tape[tape.first_id < end]
        oldest_ns = now_ns - TRADE_DAYS * DAY_NS
        return [self._past_trade(query["instId"], listing, row) for row in reversed(list(tape)) if row.ns >= oldest_ns]

    def _past_trade(self, subject: str, listing: Listing, row: Row) -> dict[str, Any]:
        said = self._trade(subject, listing, row)
        del said["count"]
        return said

    # Book and tickers

    def _depth(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        listing, size = self._listing(query), whole(query.get("sz"), 1, 1, 400)
        if size is None:
            raise Bad("51000", "Parameter sz error", 400)
        at_ns = now_ns // BOOK_NS * BOOK_NS
        sides = [[[price, lots, "0", "1"] for price, lots in side[:size]] for side in self._book(listing, at_ns)]
        return [{"asks": sides[1], "bids": sides[0], "ts": str(self.venue_ms(at_ns)), "seqId": at_ns // BOOK_NS}]

    async def _tickers(self, query: Query, now_ns: int) -> list[dict[str, Any]]:
        rows = self._of_type(query) if "instType" in query else [(query.get("instId", ""), self._listing(query))]
        return [await self._ticker(symbol, listing, now_ns) for symbol, listing in rows]

    async def _ticker(self, subject: str, listing: Listing, now_ns: int) -> dict[str, Any]:
        speller, start_ns = self.world.speller(listing.name), now_ns - DAY_NS
        await self.candles(listing.name, 60, start_ns, now_ns)
        bar = self.world.window(listing.name, start_ns, now_ns) or still(start_ns, 0)
        row = self._bar(listing, bar, closed=True)
        return self._touch(subject, listing, now_ns) | {
            "last": speller.price(bar.close),
            "open24h": speller.price(bar.open),
            "high24h": speller.price(bar.high),
            "low24h": speller.price(bar.low),
            "vol24h": row[5],
            "volCcy24h": row[6],
        }

    def _touch(self, subject: str, listing: Listing, at_ns: int) -> dict[str, Any]:
        speller, quote = self.world.speller(listing.name), self.world.quote(listing.name, at_ns)
        return {
            "instType": INST_TYPES[listing.instrument.kind],
            "instId": subject,
            "last": speller.price(quote.bid_ticks),
            "lastSz": speller.size(quote.bid_lots),
            "askPx": speller.price(quote.ask_ticks),
            "askSz": speller.size(quote.ask_lots),
            "bidPx": speller.price(quote.bid_ticks),
            "bidSz": speller.size(quote.bid_lots),
            "ts": str(self.venue_ms(at_ns)),
        }

    # Derivatives

    def _mark(self, subject: str, listing: Listing, at_ns: int) -> dict[str, str]:
        said = {"instType": INST_TYPES[listing.instrument.kind], "instId": subject}
        return said | {"markPx": f"{self.world.mark(listing.name, at_ns):f}", "ts": str(self.venue_ms(at_ns))}

    def _interest(self, subject: str, listing: Listing, at_ns: int) -> dict[str, str]:
        _, count, coins, money = self._interest_row(listing, at_ns)
        said = {"instType": INST_TYPES[listing.instrument.kind], "instId": subject}
        return said | {"oi": count, "oiCcy": coins, "oiUsd": money, "ts": str(self.venue_ms(at_ns))}

    def _interest_row(self, listing: Listing, at_ns: int) -> list[str]:
        instrument, mark = listing.instrument, self.world.mark(listing.name, at_ns)
        count = self.world.speller(listing.name).size_decimal(self.world.open_interest(listing.name, at_ns))
        worth = count * (instrument.contract_size or 1)
        if instrument.inverse:
            coins, money = (worth / mark).quantize(Decimal("1e-8")), worth
        else:
            coins, money = worth, (worth * mark).quantize(Decimal("1e-8"))
        return [str(at_ns // MS), f"{count:f}", f"{coins:f}", f"{money:f}"]

    def _interest_history(self, query: Query, now_ns: int) -> list[list[str]]:
        """The newest 1,440 of a period, bounds included."""
        listing, limit = self._listing(query), _limit(query, 100, 100)
        period = query.get("period", "5m")
        begin = whole(query.get("begin"), 0, 0, 1 << 60)
        end = whole(query.get("end"), 1 << 60, 0, 1 << 60)
        if period not in PERIODS or begin is None or end is None or listing.instrument.kind is Kind.SPOT:
            raise Bad("51000", "Parameter period, begin, end or instId error", 400)
        step_ns = PERIODS[period] * NS
        newest_ns = _open_ns(period, now_ns)
        oldest_ns = max(newest_ns - (RECENT_BARS - 1) * step_ns, self.world.life(listing.name)[0], begin * MS)
        at_ns = min(newest_ns, _open_ns(period, min(end * MS, now_ns)))
        rows: list[list[str]] = []
        while at_ns >= oldest_ns and len(rows) < limit:
            rows.append(self._interest_row(listing, at_ns))
            at_ns -= step_ns
        return rows

    def _funding_now(self, query: Query, now_ns: int) -> list[dict[str, str]]:
        listing = self._swap(query)
        return [self._funding(query["instId"], listing, now_ns)]

    def _swap(self, query: Query) -> Listing:
        listing = self._listing(query)
        if not listing.funding_s:
            raise Bad("51000", "Parameter instId error", 400)
        return listing

    def _funding(self, subject: str, listing: Listing, at_ns: int) -> dict[str, str]:
        running = self.world.running_funding(listing.name, at_ns)
        began_ns = running.funding_ns - running.interval_s * NS
        after = self.world.running_funding(listing.name, running.funding_ns)
        settled = self.world.funding(listing.name, began_ns, began_ns + NS)
        return {
            "instType": "SWAP",
            "instId": subject,
            "method": "current_period",
            "formulaType": "noRate",
            "fundingRate": f"{running.rate:f}",
            "fundingTime": str(running.funding_ns // MS),
            "nextFundingRate": "",
            "nextFundingTime": str(after.funding_ns // MS),
            "prevFundingTime": str(began_ns // MS),
            "minFundingRate": "-0.00375",
            "maxFundingRate": "0.00375",
            "settState": "settled",
            "settFundingRate": f"{settled[-1].rate:f}" if settled else "",
            "premium": "0.0001",
            "ts": str(self.venue_ms(at_ns)),
        }

    def _funding_history(self, query: Query, now_ns: int) -> list[dict[str, str]]:
        listing, limit = self._swap(query), _limit(query, 400, 400)
        after_ns, before_ns = _bounds(query)
        low_ns = max(before_ns + MS, now_ns - FUNDING_DAYS * DAY_NS)
        # Stamps are some ms past the hour.
        paid = self.world.funding(listing.name, max(low_ns - NS, 0), min(after_ns, now_ns + 1))
        rows = [
            {
                "instType": "SWAP",
                "instId": query["instId"],
                "method": "current_period",
                "formulaType": "noRate",
                "fundingRate": f"{settlement.rate:f}",
                "realizedRate": f"{settlement.rate:f}",
                "fundingTime": str(settlement.stamp_ns // MS),
            }
            for settlement in paid
            if low_ns <= settlement.stamp_ns < min(after_ns, now_ns + 1)
        ]
        return rows[::-1][:limit]


class OkxOptions(Okx):
    """Options on BTC and ETH, settled in the coin."""

    name = "okx_options"

    def _routes(self) -> Mapping[str, Callable[[Query, int], Any]]:
        return {**super()._routes(), "market/index-tickers": self._index}

    def _of_type(self, query: Query) -> list[tuple[str, Listing]]:
        """Those of `instFamily`, or the one of `instId` among them."""
        rows = super()._of_type(query)
        if not query.get("instFamily"):
            raise Bad("50014", "Parameter instFamily can not be empty.", 400)
        rows = [row for row in rows if _family(row[0]) == query["instFamily"]]
        if not rows:
            raise Bad("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        return rows

    def _instrument(self, symbol: str, listing: Listing) -> dict[str, str]:
        *_, strike, side = symbol.split("-")
        size = {"ctVal": "1", "ctMult": str(listing.instrument.contract_size), "ctType": ""}
        return super()._instrument(symbol, listing) | size | {"stk": strike, "optType": side}

    def _index(self, query: Query, now_ns: int) -> list[dict[str, str]]:
        family = query.get("instId", "")
        rows = [listing for symbol, listing in self.listings() if _family(symbol) == family]
        if not rows:
            raise Bad("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        price = f"{underlying(self.world, rows, now_ns):f}"
        return [{"instId": family, "idxPx": price, "ts": str(self.venue_ms(now_ns))}]

    def _interest_row(self, listing: Listing, at_ns: int) -> list[str]:
        stamp, count, coins, _ = super()._interest_row(listing, at_ns)
        money = Decimal(coins) * underlying(self.world, [listing], at_ns)
        return [stamp, count, coins, f"{money:f}"]


def _family(symbol: str) -> str:
    return "-".join(symbol.split("-")[:2])


def _told(rows: Any = (), *, code: str = "0", text: str = "", status: int = 200) -> Answer:
    return json({"code": code, "msg": text, "data": rows}, status)


def _event(event: str, arg: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"event": event, "arg": arg, "connId": CONNECTION})


def _error(code: str, text: str) -> bytes:
    return msgspec.json.encode({"event": "error", "code": code, "msg": text, "connId": CONNECTION})


def _push(channel: str, subject: str, rows: Any, **more: str) -> bytes:
    return msgspec.json.encode({"arg": {"channel": channel, "instId": subject}, **more, "data": rows})


def _open_ns(bar: str, at_ns: int) -> int:
    """Open time of the bar that holds `at_ns`: long ones without `utc` open eight hours before midnight UTC."""
    shift_ns = ASIA_NS if bar in LONG_SECONDS else 0
    return open_of(at_ns + shift_ns, BARS[bar]) - shift_ns


def _closes(bar: str, at_ns: int) -> bool:
    return _open_ns(bar, at_ns) == at_ns


def _grown(bar: Bar, more: Bar) -> Bar:
    return bar._replace(
        high=max(bar.high, more.high),
        low=min(bar.low, more.low),
        close=more.close,
        lots=bar.lots + more.lots,
        notional=bar.notional + more.notional,
        coins_e8=bar.coins_e8 + more.coins_e8,
        trades=bar.trades + more.trades,
        last_id=more.last_id,
        last_ns=more.last_ns,
    )


def _changes(old: dict[str, str], new: dict[str, str]) -> list[tuple[str, str]]:
    gone = [(price, "0") for price in old if price not in new]
    return gone + [(price, size) for price, size in new.items() if old.get(price) != size]


def _bar_name(query: Query) -> str:
    name = query.get("bar", "1m")
    if name not in BARS:
        raise Bad("51000", "Parameter bar error", 400)
    return name


def _limit(query: Query, default: int, most: int) -> int:
    """More than the venue serves is cut, as OKX does; what is no number is refused."""
    limit = whole(query.get("limit"), default, 1, 1 << 60)
    if limit is None:
        raise Bad("51000", "Parameter limit error", 400)
    return min(limit, most)


def _bounds(query: Query) -> tuple[int, int]:
    """(`after`, `before`) in ns: rows are older than the one and newer than the other."""
    after, before = whole(query.get("after"), 1 << 43, 0, 1 << 43), whole(query.get("before"), -1, -1, 1 << 43)
    if after is None or before is None:
        raise Bad("51000", "Parameter after or before error", 400)
    return after * MS, before * MS
