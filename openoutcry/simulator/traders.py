"""Makers and takers on our own exchange, so that there is somebody to trade with: in the demo, and for trying a bot on paper.

Makers keep both sides of every pair quoted around what it is worth: a price that walks by itself, or that of a venue whose
quotes are heard. Takers take a little now and then. Each has an account and a key of its own, and calls like anybody else.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Protocol

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import LimitExceeded, Refusal, Unavailable
from openoutcry.events import Quote
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.market import Market
from openoutcry.money import AMOUNT_MAX
from openoutcry.orders import CancelMode, Code
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway, Placed, Rejected, Wanted
from openoutcry.trading.listings import Asset, Listings
from openoutcry.venues.venue import Feed

# What a coin is worth where nobody says: where walks begin, and how much of it is plenty.
STARTS = {
    "BTC": Decimal(60_000),
    "ETH": Decimal(3_000),
    "SOL": Decimal(150),
    "XRP": Decimal("0.5"),
    "EUR": Decimal("1.1"),
}
ONE = Decimal(1)
# Worth of what an account is furnished with, of each asset, and of an order.
PLENTY = Decimal(10_000_000)
ORDER_WORTH = Decimal(2_000)
# So much of what the exchange can count at all is given to one account at most.
FURNISHED_MAX = AMOUNT_MAX // 10_000

MAKE_S, TAKE_S = 3.0, 1.0
# Prices stand for so long if they are still right; then levels that were taken are filled again.
REFRESH_S = 20.0
PAIRS_S = 30.0
# Beyond so many pairs the others are left alone: each costs a call every three seconds.
PAIRS_MAX = 20
LEVELS = 3
# Of the price: half of the spread, from level to level, and how far it moves before it is quoted anew.
HALF, GAP, MOVED = Decimal("0.0004"), Decimal("0.0005"), Decimal("0.0003")
# A step of a walk (a second), and how much of the way back to its start it is drawn.
STEP, DRAWN = 0.00015, Decimal("0.0005")
STEPS_MAX = 60
PRICE_MAX = Decimal(10) ** 12
# A quote that is older says nothing of now.
STALE_S = 30.0
RETRY_S_MIN, RETRY_S_MAX = 1.0, 30.0
# What stands for what at venues that do not trade the same: dollars.
ALIKE = {"USD": ("USD", "USDT", "USDC")}

log = structlog.get_logger()


class Traded(msgspec.Struct, frozen=True):
    """A pair as a trader sees it: the symbols of what is traded for what, and how fine."""

    id: str
    base: str
    quote: str
    price_accuracy: int
    base_accuracy: int
    volume_min: Decimal


class Api(Protocol):
    """What a trader calls, with its own key. Every method raises Refusal: Unavailable where nobody answers."""

    async def pairs(self) -> Sequence[Traded]:
        """What is traded."""
        ...

    async def price(self, pair: str) -> tuple[Decimal | None, Decimal | None]:
        """Best bid and best ask."""
        ...

    async def bulk(self, pair: str, items: Sequence[Wanted], *, afresh: bool) -> Sequence[Placed]:
        """Place all of them; `afresh`: after cancelling all own orders of the pair."""
        ...

    async def take(self, pair: str, *, buys: bool, volume: Decimal) -> None:
        """Trade it now, whole. Raises Rejected where that cannot be."""
        ...

    async def close(self) -> None:
        """Let go."""
        ...


class Worth(Protocol):
    """What pairs are worth."""

    def begin(self, pair: Traded, price: Decimal | None) -> None:
        """The pair is traded from now on; it was last at that price, if at any."""
        ...

    def now(self, pair: Traded) -> Decimal | None:
        """None while nobody knows: then nothing is quoted."""
        ...


class Direct:
    """An Api without a wire between, for the wallet of an account."""

    def __init__(self, gateway: OrderGateway, wallet: str) -> None:
        self._gateway, self._wallet = gateway, wallet

    async def pairs(self) -> Sequence[Traded]:
        """What is traded."""
        listings = self._gateway.listings
        return [
            Traded(
                pair.id,
                listings.assets[pair.base].symbol,
                listings.assets[pair.quote].symbol,
                pair.price_accuracy,
                pair.base_accuracy,
                pair.volume(pair.lots_min),
            )
            for pair in listings.pairs.values()
        ]

    async def price(self, pair: str) -> tuple[Decimal | None, Decimal | None]:
        """Best bid and best ask."""
        price = self._gateway.views.price(pair)
        return price.bid, price.ask

    async def bulk(self, pair: str, items: Sequence[Wanted], *, afresh: bool) -> Sequence[Placed]:
        """Place all of them."""
        return await self._gateway.bulk(self._wallet, pair, items, CancelMode.BOTH_SIDES if afresh else None)

    async def take(self, pair: str, *, buys: bool, volume: Decimal) -> None:
        """Trade it now, whole."""
        await self._gateway.market(self._wallet, pair, buys=buys, volume=volume)

    async def close(self) -> None:
        """There is nothing to let go of."""


class Walk:
    """Prices that walk by themselves and never far: the same steps from the same seed."""

    def __init__(self, chance: random.Random, clock: Clock) -> None:
        self._chance, self._clock = chance, clock
        self._at: dict[str, tuple[int, Decimal]] = {}

    def begin(self, pair: Traded, price: Decimal | None) -> None:
        """From where it was, or from where such a pair begins."""
        self._at.setdefault(pair.id, (self._clock.now_ns(), price or _start(pair)))

    def now(self, pair: Traded) -> Decimal | None:
        """A step for each second since it was asked last."""
        at_ns, price = self._at[pair.id]
        steps = (self._clock.now_ns() - at_ns) // NS
        home = _start(pair)
        for _ in range(min(steps, STEPS_MAX)):
            price += price * Decimal(self._chance.gauss(0, STEP)) + (home - price) * DRAWN
            price = price.quantize(ONE.scaleb(-pair.price_accuracy - 2))
        self._at[pair.id] = at_ns + steps * NS, price
        return price


class Anchor:
    """Prices of a venue's live quotes. Pairs that it does not trade are worth nothing that we know."""

    def __init__(self, market: Market, venue: str, clock: Clock) -> None:
        self._market, self._venue, self._clock = market, venue, clock
        self._names: dict[str, str] = {}
        self._stops: list[Callable[[], None]] = []
        self._wanted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, pair: Traded, price: Decimal | None) -> None:
        """Follow the quotes of what is nearest to it there."""
        del price
        if pair.id not in self._wanted:
            self._wanted.add(pair.id)
            task = asyncio.create_task(self._follow(pair), name=f"anchor of {pair.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def now(self, pair: Traded) -> Decimal | None:
        """The middle of the newest quote, unless it is old or lacks a side."""
        name = self._names.get(pair.id)
        quote: Quote | None = None if name is None else self._market.latest.quotes.get(name)
        if quote is None or quote.bid_price is None or quote.ask_price is None:
            return None
        if self._clock.now_ns() - quote.received_ns > STALE_S * NS:
            return None
        price = (quote.bid_price + quote.ask_price) / 2
        return price if ONE.scaleb(-pair.price_accuracy) <= price < PRICE_MAX else None

    async def close(self) -> None:
        """Let go of all that is followed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._stops:
            self._stops.pop()()

    async def _follow(self, pair: Traded) -> None:
        wait_s = RETRY_S_MIN
        while True:
            try:
                found = _nearest(pair, (await self._market.instruments(self._venue)).values())
                if found is not None:
                    self._stops.append(self._market.follow(found, [Feed.QUOTES]))
                    self._names[pair.id] = found.name
                else:
                    log.info("not quoted: the anchor does not trade it", pair=pair.id, venue=self._venue)
            except (Unavailable, LimitExceeded) as e:
                log.info("no anchor yet", pair=pair.id, venue=self._venue, error=e.text)
                await self._clock.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S_MAX)
            except Refusal as e:
                log.warning("no anchor", pair=pair.id, venue=self._venue, error=e.text)
                return
            else:
                return


class Traders:
    """All of them. `run` trades until cancelled, and never fails for what the exchange says or does not say."""

    def __init__(
        self,
        makers: Iterable[Api],
        takers: Iterable[Api],
        worth: Worth,
        *,
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
    ) -> None:
        self._apis = [*makers, *(takers := list(takers))]
        self._clock, self._chance = clock, chance
        self._calls = telemetry.counter("traders_calls", "Calls of the makers and takers, by outcome", ["outcome"])
        count = self._calls.labels
        self._bots: list[_Maker | _Taker] = [
            *(_Maker(api, worth, clock, chance, count) for api in self._apis[: len(self._apis) - len(takers)]),
            *(_Taker(api, worth, chance, count) for api in takers),
        ]

    async def run(self) -> None:
        """Trade until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for bot in self._bots:
                    tasks.create_task(self._live(bot))
        finally:
            await asyncio.gather(*(api.close() for api in self._apis), return_exceptions=True)

    async def _live(self, bot: "_Maker | _Taker") -> None:
        wait_s, ill = RETRY_S_MIN, ""
        pairs_ns: int | None = None
        while True:
            pause_s = bot.every_s * self._chance.uniform(0.8, 1.2)
            try:
                now_ns = self._clock.now_ns()
                if pairs_ns is None or now_ns - pairs_ns >= PAIRS_S * NS:
                    await bot.look()
                    pairs_ns = now_ns
                await bot.round()
            except Refusal as e:
                self._calls.labels("failed").inc()
                if e.text != ill:
                    log.info("a trader waits", error=e.text)
                ill = e.text
                pause_s = max(wait_s, e.retry_s if isinstance(e, LimitExceeded) else 0.0)
                wait_s = min(wait_s * 2, RETRY_S_MAX)
            else:
                wait_s, ill = RETRY_S_MIN, ""
            await self._clock.sleep(pause_s)


class _Quoted(msgspec.Struct):
    """What a maker has in a book: around which price, since when, and the orders by side and level."""

    price: Decimal
    at_ns: int
    ids: dict[tuple[bool, int], str]


class _Maker:
    """Keeps both sides of every pair quoted."""

    every_s = MAKE_S

    def __init__(
        self, api: Api, worth: Worth, clock: Clock, chance: random.Random, count: "Callable[[str], _Counter]"
    ) -> None:
        self._api, self._worth, self._clock, self._chance, self._count = api, worth, clock, chance, count
        self._pairs: Sequence[Traded] = ()
        # None: what is there from before is not known.
        self._quoted: dict[str, _Quoted | None] = {}

    async def look(self) -> None:
        """See what is traded now."""
        pairs = (await self._api.pairs())[:PAIRS_MAX]
        for pair in pairs:
            if pair.id not in self._quoted:
                bid, ask = await self._api.price(pair.id)
                self._worth.begin(pair, None if bid is None or ask is None else (bid + ask) / 2)
                self._quoted[pair.id] = None
        self._pairs = pairs

    async def round(self) -> None:
        """Quote what moved, or stood for long."""
        for pair in self._pairs:
            try:
                await self._quote(pair)
            except Rejected as e:
                # The pair's own matter: it may be off.
                self._count(e.code.value).inc()
                if e.code is Code.RUNTIME:
                    raise

    async def _quote(self, pair: Traded) -> None:
        price, quoted, now_ns = self._worth.now(pair), self._quoted[pair.id], self._clock.now_ns()
        if price is None:
            if quoted is None or quoted.ids:
                # What nobody knows the worth of is not offered.
                await self._api.bulk(pair.id, (), afresh=True)
                self._quoted[pair.id] = _Quoted(Decimal(0), now_ns, {})
            return
        if quoted is not None and now_ns - quoted.at_ns < REFRESH_S * NS and _near(price, quoted.price):
            return
        ids = {} if quoted is None else quoted.ids
        # Where the call fails, nobody knows which of them rest: then they are all cancelled first.
        self._quoted[pair.id] = None
        wanted = self._wanted(pair, price, ids)
        placed = await self._place(pair, wanted, afresh=quoted is None)
        # A level that was taken meanwhile had nothing to replace.
        again = {level: _anew(wanted[level]) for level, each in placed.items() if each.code is Code.NOT_FOUND_PREVIOUS}
        if again:
            placed |= await self._place(pair, again, afresh=False)
        self._quoted[pair.id] = _Quoted(
            price, now_ns, {level: each.id for level, each in placed.items() if each.code is None}
        )

    async def _place(
        self, pair: Traded, wanted: Mapping[tuple[bool, int], Wanted], *, afresh: bool
    ) -> dict[tuple[bool, int], Placed]:
        placed = await self._api.bulk(pair.id, list(wanted.values()), afresh=afresh)
        for each in placed:
            self._count("done" if each.code is None else each.code.value).inc()
        return dict(zip(wanted, placed, strict=True))

    def _wanted(
        self, pair: Traded, price: Decimal, ids: Mapping[tuple[bool, int], str]
    ) -> dict[tuple[bool, int], Wanted]:
        tick = ONE.scaleb(-pair.price_accuracy)
        # Not all makers stand at the same prices.
        half = max(price * HALF * Decimal(round(self._chance.uniform(0.7, 1.6), 2)), tick)
        gap = max(price * GAP, tick)
        wanted: dict[tuple[bool, int], Wanted] = {}
        for level in range(LEVELS):
            away = half + gap * level
            bid, ask = (price - away).quantize(tick, ROUND_FLOOR), (price + away).quantize(tick, ROUND_CEILING)
            for buys, at in ((True, bid), (False, ask)):
                if at > 0:
                    volume = _volume(pair, price, self._chance.uniform(0.5, 1.5))
                    wanted[buys, level] = Wanted(buys, volume, at, ids.get((buys, level)))
        return wanted


class _Taker:
    """Takes a little now and then, and in the long run gives back what it took."""

    every_s = TAKE_S

    def __init__(self, api: Api, worth: Worth, chance: random.Random, count: "Callable[[str], _Counter]") -> None:
        self._api, self._worth, self._chance, self._count = api, worth, chance, count
        self._pairs: Sequence[Traded] = ()
        self._begun: set[str] = set()
        self._position: dict[str, Decimal] = {}

    async def look(self) -> None:
        """See what is traded now."""
        pairs = (await self._api.pairs())[:PAIRS_MAX]
        for pair in pairs:
            if pair.id not in self._begun:
                bid, ask = await self._api.price(pair.id)
                self._worth.begin(pair, None if bid is None or ask is None else (bid + ask) / 2)
                self._begun.add(pair.id)
        self._pairs = pairs

    async def round(self) -> None:
        """Take from one of the pairs."""
        pair = self._chance.choice(self._pairs) if self._pairs else None
        price = None if pair is None else self._worth.now(pair)
        if pair is None or price is None:
            return
        had = self._position.get(pair.id, Decimal(0))
        # The more it has, the likelier it sells.
        leans = min(max(had * price / (20 * ORDER_WORTH / _value(pair.quote)), Decimal("-0.4")), Decimal("0.4"))
        buys = self._chance.random() > 0.5 + float(leans)
        volume = _volume(pair, price, self._chance.uniform(0.05, 0.6))
        try:
            await self._api.take(pair.id, buys=buys, volume=volume)
        except Rejected as e:
            # Its luck: others were quicker, or its money ran out.
            self._count(e.code.value).inc()
            if e.code is Code.RUNTIME:
                raise
        else:
            self._count("done").inc()
            self._position[pair.id] = had + (volume if buys else -volume)


class _Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


async def furnish(gateway: OrderGateway, accounts: Collection[str], listings: Listings) -> None:
    """Give each account plenty of every asset. Twice does it once."""
    # All at once, so that they are written together.
    async with asyncio.TaskGroup() as tasks:
        for account in accounts:
            for asset in listings.assets.values():
                tasks.create_task(_give(gateway, account, asset))


async def _give(gateway: OrderGateway, account: str, asset: Asset) -> None:
    most = asset.amount(FURNISHED_MAX)
    amount = min(PLENTY / _value(asset.symbol), most).quantize(ONE.scaleb(-asset.accuracy), ROUND_FLOOR)
    try:
        await gateway.move(f"furnish/{account}/{asset.id}", account, asset.id, amount)
    except Rejected as e:
        # It was given another plenty, by another version.
        if e.code is not Code.DUPLICATE:
            raise


def _nearest(pair: Traded, listed: Iterable[Instrument]) -> Instrument | None:
    """The spot instrument of the same coin in the same money, or in one that stands for it."""
    quotes = ALIKE.get(pair.quote, (pair.quote,))
    found = [
        each
        for each in listed
        if each.kind is Kind.SPOT and each.trading and each.coin == pair.base and each.quote in quotes
    ]
    return min(found, key=lambda each: (quotes.index(each.quote), each.symbol), default=None)


def _near(price: Decimal, quoted: Decimal) -> bool:
    return abs(price - quoted) < price * MOVED


def _anew(wanted: Wanted) -> Wanted:
    return Wanted(wanted.buys, wanted.volume, wanted.price)


def _volume(pair: Traded, price: Decimal, share: float) -> Decimal:
    """So much of an order's worth, in whole lots, and not too small to be taken."""
    worth = ORDER_WORTH / _value(pair.quote) * Decimal(round(share, 4))
    return max((worth / price).quantize(ONE.scaleb(-pair.base_accuracy), ROUND_FLOOR), pair.volume_min)


def _start(pair: Traded) -> Decimal:
    return (_value(pair.base) / _value(pair.quote)).quantize(ONE.scaleb(-pair.price_accuracy - 2))


def _value(symbol: str) -> Decimal:
    return STARTS.get(symbol, ONE)
