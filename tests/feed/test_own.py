"""Our own exchange as a venue of the market: on a real store, what it trades is what everybody sees, and nothing is lost."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import URL

from openoutcry import orders
from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.ticker import Tickers
from openoutcry.bus import Bus
from openoutcry.clock import ManualClock
from openoutcry.errors import OutOfReach, Unavailable, UnknownInstrument, UnknownVenue, Unsupported
from openoutcry.events import (
    INTERVALS_S,
    NS,
    Abandoned,
    Candle,
    DepthDelta,
    DepthSnapshot,
    Event,
    Gap,
    Mended,
    Quote,
    Side,
    Trade,
    open_of,
)
from openoutcry.feed.depth import Depth
from openoutcry.feed.feed import Feed as Venues
from openoutcry.feed.own import Own
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.building import Building
from openoutcry.market.coverage import Coverage
from openoutcry.market.market import Market
from openoutcry.market.series import Of, SeriesKey
from openoutcry.market.warm import last_trade
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.listings import Asset, Listings, Pair
from openoutcry.trading.sequencer import Sequencer
from openoutcry.trading.store import Written
from openoutcry.trading.venue import VENUE
from openoutcry.trading.views import Views
from openoutcry.venues.venue import Ask, Feed, Page, Query

# A Wednesday, 2025-01-15 10:20:30 UTC.
NOW_NS = 1_736_936_430 * NS
MINUTE_NS = 60 * NS
ASSETS = {
    "BTC": Asset(id="BTC", name="Bitcoin", symbol="BTC", accuracy=3),
    "USD": Asset(id="USD", name="Dollar", symbol="USD", accuracy=2),
    "ETH": Asset(id="ETH", name="Ether", symbol="ETH", accuracy=3),
}
# A lot at a tick is a thousandth of a cent: what is paid is rounded.
PAIR = Pair(id="BTCUSD", name="BTC/USD", base="BTC", quote="USD", price_accuracy=2, base_accuracy=3, quote_accuracy=2)
OTHER = Pair(id="ETHUSD", name="ETH/USD", base="ETH", quote="USD", price_accuracy=2, base_accuracy=3, quote_accuracy=2)
NAME = f"{VENUE}:BTCUSD"


_E = TypeVar("_E")


class Late(SqlExchange):
    """May be held up after a commit, before anybody hears of it."""

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self.answers = threading.Event()
        self.answers.set()
        self.committed = threading.Event()

    def commit(self, written: Written) -> None:
        super().commit(written)
        self.committed.set()
        self.answers.wait()


class Floor:
    """The exchange and the market on one folder, joined as the app joins them."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock, self.bus, self.telemetry = clock, Bus(), Telemetry()
        self.store = Late(sqlite_url(folder / "ledger.db"))
        self.series = SqlSeries(sqlite_url(folder / "market.db"))
        self.sequencer = Sequencer(self.store, clock, self.telemetry)
        self.views = Views(clock, self.telemetry)
        self.told: list[Event] = []
        kinds: tuple[type[Event], ...] = (Trade, Quote, DepthSnapshot, DepthDelta, Candle, Gap, Mended, Abandoned)
        for kind in kinds:
            self.bus.listen(kind, self.told.append)
        self.whole = asyncio.Event()
        self.bus.listen(Mended, lambda _: self.whole.set())
        self._orders = 0

    async def start(self, tape: "Slow | None" = None, **limits: int) -> None:
        """What the app does at a start, and the exchange's first listing."""
        kept = await self.sequencer.start()
        self.views.load(kept, {})
        self.sequencer.listen(self.views.take)
        if kept.listings is None:
            listed = Listings({"BTC": ASSETS["BTC"], "USD": ASSETS["USD"]}, {PAIR.id: PAIR})
            await self.ask(orders.Relist(listed.told()))
            for wallet in ("a", "b"):
                for asset in ("BTC", "USD"):
                    await self.ask(orders.Move(f"{wallet}-{asset}", wallet, asset, 10**15))
        outside = Venues(
            {}, bus=self.bus, clock=self.clock, http=None, sockets=None, telemetry=self.telemetry,  # type: ignore[arg-type]
            chance=random.Random(1),
        )  # fmt: skip
        candles = Candles(grace_s=1.0)
        self.own = Own(
            outside,
            tape=tape or self.store,
            listings=self.views.listings,
            books=self.views,
            listen=self.sequencer.listen,
            bus=self.bus,
            clock=self.clock,
            vouch=candles.vouch,
            resume=last_trade(self.series, self._coverage, self.clock, back_s=3_600.0),
            **limits,
        )
        await self.own.start()
        self.building = Building(
            bus=self.bus,
            clock=self.clock,
            telemetry=self.telemetry,
            outside=self.own,
            candles=candles,
            derivatives=Derivatives(grace_s=1.0),
            tickers=Tickers(),
        )
        self.building.keep_time(VENUE)
        self.market = Market(
            self.own, self.series, self.bus, self.clock, self.telemetry, self.building, bars=self.building
        )

    @property
    def btc(self) -> Instrument:
        return self.own.instruments(VENUE)["BTCUSD"]

    def _coverage(self, key: SeriesKey) -> Coverage:
        # The market is made after what it asks.
        return self.market.coverage(key)

    async def stop(self) -> None:
        self.store.answers.set()
        await self.own.close()
        await self.market.close()
        await self.sequencer.close()
        self.store.close()
        self.series.close()

    async def ask(self, command: orders.Command) -> orders.Outcome:
        outcome = await self.sequencer.ask(command)
        assert outcome.refused is None
        return outcome

    async def place(self, *, buys: bool, lots: int, ticks: int, wallet: str = "a", pair: str = "BTCUSD") -> str:
        self._orders += 1
        id_ = f"{self.clock.now_ns()}/{self._orders}"
        await self.ask(orders.Limit(id_, wallet, pair, buys, lots, ticks))
        return id_

    async def trade(self, ticks: int, lots: int, *, buys: bool = True) -> None:
        """`b` takes what `a` makes."""
        await self.place(buys=not buys, lots=lots, ticks=ticks)
        await self.place(buys=buys, lots=lots, ticks=ticks, wallet="b")

    async def at(self, seconds: float, *trades: tuple[int, int, bool]) -> None:
        """Later, these trades (ticks, lots, whether the taker bought)."""
        await self.pass_(seconds)
        for ticks, lots, buys in trades:
            await self.trade(ticks, lots, buys=buys)

    async def pass_(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        self.building.beat()

    async def follow(self) -> None:
        """As the app does, until the tape is told."""
        self.whole.clear()
        self.own.keep(self.market.follow)
        await self.whole.wait()

    def of(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.told if isinstance(event, kind)]

    async def candles(self, interval_s: int, start_ns: int, side: Side = Side.BOTH) -> Sequence[Candle]:
        told = await self.market.candles(self.btc, interval_s, limit=5_000, side=side, start_ns=start_ns)
        assert told.missing == []
        return told.rows

    def recomputed(self, interval_s: int) -> list[tuple[object, ...]]:
        """The obvious: every trade that is stored, sorted into buckets, in fractions of nothing."""
        buckets: dict[int, list[orders.Trade]] = {}
        for trade in reversed(self.store.public_trades("BTCUSD", 0, 100_000)):
            buckets.setdefault(open_of(trade.at_ns, interval_s), []).append(trade)
        return [
            (
                open_ns,
                Decimal(trades[0].ticks) / 100,
                Decimal(max(trade.ticks for trade in trades)) / 100,
                Decimal(min(trade.ticks for trade in trades)) / 100,
                Decimal(trades[-1].ticks) / 100,
                Decimal(sum(trade.lots for trade in trades)) / 1_000,
                Decimal(sum(trade.quote for trade in trades)) / 100,
                len(trades),
            )
            for open_ns, trades in buckets.items()
        ]


def told(rows: Iterable[Candle]) -> list[tuple[object, ...]]:
    return [
        (row.open_ns, row.open, row.high, row.low, row.close, row.volume, row.quote_volume, row.trades) for row in rows
    ]


class Slow:
    """A tape that fails so often, and then is held up before and after it is read, each time until it is let go."""

    def __init__(self, store: SqlExchange, *, failures: int = 0, holds: int = 0) -> None:
        self._store, self._loop = store, asyncio.get_running_loop()
        self.failures = failures
        self._holds = holds
        self._held, self._let_go = asyncio.Event(), asyncio.Event()

    def tape(self, pair: str, start_ns: int, end_ns: int, *, after: int, limit: int) -> Sequence[orders.Trade]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("ledger", "the books cannot be reached")
        self._hold()
        rows = self._store.tape(pair, start_ns, end_ns, after=after, limit=limit)
        self._hold()
        return rows

    def listed(self) -> Mapping[str, int]:
        return self._store.listed()

    async def held(self) -> None:
        """Return when it stands still."""
        await self._held.wait()
        self._held.clear()

    def go(self) -> None:
        """Let it go on."""
        self._let_go.set()

    def _hold(self) -> None:
        if self._holds:
            self._holds -= 1
            self._loop.call_soon_threadsafe(self._held.set)
            asyncio.run_coroutine_threadsafe(self._until_let_go(), self._loop).result()

    async def _until_let_go(self) -> None:
        await self._let_go.wait()
        self._let_go.clear()


@pytest.fixture
async def floors(tmp_path: Path) -> AsyncIterator[Callable[[], Floor]]:
    """Makes floors on one folder and one clock: one after the other, as after restarts."""
    clock, made = ManualClock(NOW_NS), list[Floor]()

    def make() -> Floor:
        made.append(Floor(tmp_path, clock))
        return made[-1]

    yield make
    for floor in made[-1:]:
        await floor.stop()


@pytest.fixture
async def floor(floors: Callable[[], Floor]) -> Floor:
    floor = floors()
    await floor.start()
    return floor


async def test_its_pairs_are_instruments(floor: Floor) -> None:
    assert floor.btc == Instrument(
        venue="emulator",
        symbol="BTCUSD",
        kind=Kind.SPOT,
        coin="BTC",
        quote="USD",
        settle="USD",
        tick_size=Decimal("0.01"),
        lot_size=Decimal("0.001"),
        listed_ns=NOW_NS,
    )
    assert await floor.market.instrument("emulator", "BTCUSD") == floor.btc
    assert floor.market.venues()["emulator"].alive


async def test_a_trade_is_a_candle_to_the_last_digit(floor: Floor) -> None:
    await floor.follow()
    # 0.777 x 100.01 is 77.70777: the buyer pays 77.71.
    await floor.at(1, (10_001, 777, True), (9_993, 3, False))
    # Of two parts one is rounded up, the other down.
    await floor.at(120)
    closed = [each for each in floor.of(Candle) if each.interval_s == 60]
    both = next(each for each in closed if each.side is Side.BOTH)
    assert both == Candle(
        NAME, Side.BOTH, 60, open_of(NOW_NS, 60), Decimal("100.01"), Decimal("100.01"), Decimal("99.93"),
        Decimal("99.93"), Decimal("0.780"), Decimal("78.00"), 2, NOW_NS + NS, NOW_NS + NS, True, NOW_NS + NS, "trades",
    )  # fmt: skip
    assert {each.side: each.volume for each in closed} == {
        Side.BUY: Decimal("0.777"), Side.SELL: Decimal("0.003"), Side.BOTH: Decimal("0.780"),
    }  # fmt: skip
    assert told([both]) == floor.recomputed(60)
    assert told(await floor.candles(60, NOW_NS - 3_600 * NS)) == floor.recomputed(60)


async def test_candles_of_every_length_are_what_the_stored_trades_come_to(floor: Floor) -> None:
    chance = random.Random(58)
    for _ in range(60):
        await floor.at(
            chance.choice([1, 20, 61, 700, 3_000, 40_000]),
            *((chance.randint(9_990, 10_010), chance.randint(1, 999), chance.random() < 0.5) for _ in range(3)),
        )
    await floor.pass_(3)
    for interval_s in INTERVALS_S:
        assert told(await floor.candles(interval_s, NOW_NS - 604_800 * NS)) == floor.recomputed(interval_s)


async def test_a_long_tape_is_told_in_pages_that_join(floors: Callable[[], Floor]) -> None:
    floor = floors()
    await floor.start(page_max=3)
    for n in range(11):
        await floor.at(13, (10_000 + n, 1 + n, True), (10_000 - n, 2, False))
    await floor.pass_(120)
    for limit in (None, 1, 2, 50):
        ask = Ask(
            query=Query.CANDLES, symbol="BTCUSD", interval_s=60, start_ns=0, end_ns=floor.clock.now_ns(), limit=limit
        )
        pages = [page async for page in floor.own.ask(VENUE, ask)]
        rows = [row for page in pages for row in page.events if isinstance(row, Candle)]
        assert told(rows) == floor.recomputed(60)[:limit]
        _joined(pages)
    ask = Ask(query=Query.TRADES, symbol="BTCUSD", start_ns=0, end_ns=floor.clock.now_ns())
    pages = [page async for page in floor.own.ask(VENUE, ask)]
    assert [trade.id for page in pages for trade in page.events if isinstance(trade, Trade)] == [
        each.id for each in reversed(floor.store.public_trades("BTCUSD", 0, 100))
    ]
    _joined(pages)


def _joined(pages: Sequence[Page]) -> None:
    """Each promise begins where the one before ended, and the first with the question."""
    at_ns = 0
    for page in pages:
        assert page.start_ns == at_ns
        assert page.end_ns is not None
        at_ns = page.end_ns


async def test_who_follows_misses_nothing_and_hears_nothing_twice(floors: Callable[[], Floor]) -> None:
    floor = floors()
    slow = Slow(floor.store, holds=2)
    await floor.start(slow)
    await floor.at(1, (10_000, 1, True), (10_001, 2, True))
    floor.own.keep(floor.market.follow)
    await slow.held()
    assert not floor.own.followed(NAME, Feed.TRADES)
    # Heard, and on the tape too.
    await floor.trade(10_002, 3)
    slow.go()
    await slow.held()
    # Heard, and not in what was read of the tape.
    await floor.trade(10_003, 4)
    assert floor.of(Trade) == []
    slow.go()
    await floor.whole.wait()
    assert floor.own.followed(NAME, Feed.TRADES)
    await floor.trade(10_004, 5)
    assert [(each.price, each.size) for each in floor.of(Trade)] == [
        (Decimal(f"100.0{n}"), Decimal(f"0.00{n + 1}")) for n in range(5)
    ]
    kinds = [type(each) for each in floor.told if isinstance(each, Gap | Mended | Trade)]
    assert kinds == [Gap, Trade, Trade, Trade, Trade, Mended, Trade]
    await floor.pass_(120)
    assert told(await floor.candles(60, NOW_NS - 3_600 * NS)) == floor.recomputed(60)


async def test_what_is_written_and_not_told_yet_is_not_told_twice(floor: Floor) -> None:
    await floor.place(buys=False, lots=5, ticks=10_000)
    floor.store.answers.clear()
    floor.store.committed.clear()
    taking = asyncio.create_task(floor.place(buys=True, lots=5, ticks=10_000, wallet="b"))
    await asyncio.to_thread(floor.store.committed.wait)
    await floor.follow()
    assert len(floor.of(Trade)) == 1
    floor.store.answers.set()
    await taking
    assert len(floor.of(Trade)) == 1
    await floor.trade(10_001, 1)
    assert len(floor.of(Trade)) == 2


async def test_more_live_trades_than_wait_are_read_from_the_tape(floors: Callable[[], Floor]) -> None:
    floor = floors()
    slow = Slow(floor.store, holds=2)
    await floor.start(slow, held_max=1)
    floor.own.keep(floor.market.follow)
    await slow.held()
    slow.go()
    await slow.held()
    for n in range(3):
        await floor.trade(10_000 + n, 1)
    slow.go()
    await floor.whole.wait()
    assert [each.price for each in floor.of(Trade)] == [Decimal(100), Decimal("100.01"), Decimal("100.02")]


async def test_a_store_that_is_away_leaves_the_gap_open_until_it_is_back(floors: Callable[[], Floor]) -> None:
    floor = floors()
    slow = Slow(floor.store, failures=2)
    await floor.start(slow)
    await floor.trade(10_000, 5)
    floor.own.keep(floor.market.follow)
    while slow.failures:
        await floor.clock.advance(1)
        assert not floor.own.followed(NAME, Feed.TRADES)
    while not floor.whole.is_set():
        await floor.clock.advance(1)
    assert len(floor.of(Trade)) == 1


async def test_after_a_restart_history_is_whole_and_the_running_minute_too(floors: Callable[[], Floor]) -> None:
    floor = floors()
    await floor.start()
    await floor.follow()
    for n in range(6):
        await floor.at(25, (10_000 + n, 10 + n, n % 2 == 0))
    await floor.stop()
    # The market stands still while the exchange goes on.
    floor = floors()
    await floor.start()
    await floor.at(10, (10_100, 7, True))
    await floor.at(200, (10_200, 8, False))
    await floor.stop()

    floor = floors()
    await floor.start()
    await floor.follow()
    await floor.at(5, (10_300, 9, True))
    await floor.pass_(90)
    assert told(await floor.candles(60, NOW_NS - 3_600 * NS)) == floor.recomputed(60)
    assert [each.id for each in await floor.market.trades(floor.btc, limit=100, start_ns=NOW_NS)] == [
        each.id for each in reversed(floor.store.public_trades("BTCUSD", 0, 100))
    ]
    # The minute in which it was started was heard whole: it closed live, of each side.
    live = [each for each in floor.of(Candle) if each.interval_s == 60]
    newest_ns = max(each.open_ns for each in live)
    assert told(each for each in live if each.open_ns == newest_ns and each.side is Side.BOTH) == [
        floor.recomputed(60)[-1]
    ]
    await floor.market.writer.flush()
    key = SeriesKey(NAME, Of.CANDLES, 60)
    stored = floor.series.read(key, start_ns=0, end_ns=floor.clock.now_ns())
    assert told(each for each in stored if isinstance(each, Candle)) == floor.recomputed(60)


async def test_a_quiet_exchange_closes_its_candles_by_our_clock(floor: Floor) -> None:
    await floor.follow()
    await floor.at(1, (10_000, 5, True))
    await floor.pass_(31)
    assert [each.open_ns for each in floor.of(Candle)][:1] == [open_of(NOW_NS, 60)]
    # Nothing traded since: known, and not missing.
    await floor.pass_(600)
    asked = await floor.market.candles(floor.btc, 60, limit=8)
    assert asked.missing == []
    assert told(asked.rows) == floor.recomputed(60)


async def test_books_and_quotes_are_told_as_they_change(floor: Floor) -> None:
    await floor.follow()
    first = await floor.place(buys=True, lots=10, ticks=9_900)
    await floor.place(buys=True, lots=5, ticks=9_900, wallet="b")
    await floor.place(buys=False, lots=7, ticks=10_100)
    await floor.place(buys=False, lots=9, ticks=10_200)
    await floor.ask(orders.Cancel("a", first))
    depth = Depth(streamed=True)
    for event in floor.told:
        if isinstance(event, DepthSnapshot | DepthDelta):
            depth.take(event)
    book = floor.views.book("BTCUSD")
    assert (list(depth.bids(9)), list(depth.asks(9))) == (list(book.bids), list(book.asks))
    quotes = [(each.bid_price, each.bid_size, each.ask_price, each.ask_size) for each in floor.of(Quote)]
    at, size = Decimal(99), Decimal("0.015")
    assert quotes == [
        (None, None, None, None),
        (at, Decimal("0.01"), None, None),
        (at, size, None, None),
        (at, size, Decimal(101), Decimal("0.007")),
        # The order behind the best ask changed nothing of it.
        (at, Decimal("0.005"), Decimal(101), Decimal("0.007")),
    ]


async def test_a_pair_that_is_listed_later_is_followed_from_then_on(floor: Floor) -> None:
    await floor.follow()
    await floor.clock.advance(100)
    floor.whole.clear()
    await floor.ask(orders.Relist(Listings(ASSETS, {PAIR.id: PAIR, OTHER.id: OTHER}).told()))
    await floor.whole.wait()
    eth = await floor.market.instrument(VENUE, "ETHUSD")
    assert eth.listed_ns == NOW_NS + 100 * NS
    assert floor.btc.listed_ns == NOW_NS
    assert floor.own.followed(eth.name, Feed.TRADES)


async def test_who_lets_go_hears_no_more(floor: Floor) -> None:
    stop = floor.own.follow(floor.btc, [Feed.TRADES, Feed.DEPTH, Feed.QUOTES])
    again = floor.own.follow(floor.btc, [Feed.TRADES])
    await floor.whole.wait()
    stop()
    stop()
    await floor.trade(10_000, 1)
    assert [type(each) for each in floor.told][-1] is Trade
    again()
    heard = len(floor.told)
    await floor.trade(10_000, 1)
    assert len(floor.told) == heard
    assert not floor.own.followed(NAME, Feed.TRADES)


async def test_what_it_does_not_have_is_refused(floor: Floor) -> None:
    async def ask(**words: object) -> list[Page]:
        return [page async for page in floor.own.ask(VENUE, Ask(**words))]  # type: ignore[arg-type]

    with pytest.raises(OutOfReach):
        await ask(query=Query.CANDLES, symbol="BTCUSD", interval_s=60, start_ns=0, end_ns=NOW_NS)
    with pytest.raises(UnknownInstrument):
        await ask(query=Query.CANDLES, symbol="NOWT", interval_s=60, start_ns=0)
    with pytest.raises(Unsupported):
        await ask(query=Query.FUNDING, symbol="BTCUSD")
    with pytest.raises(Unsupported):
        floor.own.follow(floor.btc, [Feed.FUNDING])
    with pytest.raises(Unsupported):
        await floor.own.raw(VENUE, "/", (), 1)
    with pytest.raises(UnknownVenue):
        floor.own.feeds("nowt")
    book = (await ask(query=Query.DEPTH, symbol="BTCUSD"))[0].events[0]
    assert isinstance(book, DepthSnapshot)
    assert (await ask(query=Query.INSTRUMENTS))[0].instruments == (floor.btc,)
