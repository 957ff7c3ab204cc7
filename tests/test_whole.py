"""The whole server against the whole simulated world: seven venues, faults on each, and the world's truth afterwards.

One run of about a minute and a half, shared by the tests of this file: a calm stretch, then a seeded script of faults on
every venue across a closing minute, then the venues are well again and what was broken is mended.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from openoutcry.app import Outside, Server, simulated
from openoutcry.clock import NS, SystemClock
from openoutcry.config import load
from openoutcry.events import INTERVALS_S, MINUTE_S, Abandoned, Candle, Gap, Side, Trade, open_of
from openoutcry.instrument import Instrument
from openoutcry.market.series import Of, SeriesKey, State
from openoutcry.simulator.listings import standard
from openoutcry.simulator.simulator import Simulator
from openoutcry.simulator.tape import Bar
from openoutcry.simulator.world import World
from openoutcry.transport import HttpClient, SocketClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A Monday night in which this world's prices fall, so that there are liquidations to be heard.
SEED = 50
BEGAN_NS = int(datetime(2026, 3, 2, 2, 3, 35, tzinfo=UTC).timestamp()) * NS
MINUTE_NS = MINUTE_S * NS
FIRST_NS, LAST_NS = open_of(BEGAN_NS, MINUTE_S), open_of(BEGAN_NS, MINUTE_S) + 2 * MINUTE_NS
HISTORY = 20

# When things happen, in seconds of the run; minutes close at 25 and 85.
CALM_S = (11.0, 22.0)
FAULTS_S = (22.5, 88.0)
WHOLE_S_MAX = 25.0

FOLLOWED: Mapping[str, tuple[str, ...]] = {
    "binance": ("BTCUSDT",),
    "binance_futures": ("BTCUSDT", "AVAXUSDT"),
    "binance_delivery": ("BTCUSD_PERP",),
    "bybit": ("BTCUSDT", "BTCUSD"),
    "bybit_spot": ("BTCUSDT",),
    "okx": ("BTC-USDT-SWAP", "BTC-USDT", "BTC-USD-SWAP"),
    "hyperliquid": ("BTC",),
}
NAMES = [f"{venue}:{symbol}" for venue, symbols in FOLLOWED.items() for symbol in symbols]
EXCHANGES = {"binance": "binance_futures", "bybit": "bybit", "okx": "okx", "hyperliquid": "hyperliquid"}
SPOKEN = [(exchange, symbol) for exchange, venue in EXCHANGES.items() for symbol in FOLLOWED[venue]]

# Where trade ids are contiguous, a frame that never came is noticed. Elsewhere it leaves no trace, so there only such
# faults are played that can be noticed: what was not heard ends with the connection.
CONTIGUOUS = frozenset({"binance", "binance_futures", "binance_delivery", "okx"})
# These serve their newest trades only; they are played quietly enough for those to reach over a fault.
ACTIVITY = {"bybit": 1.0, "bybit_spot": 0.4, "hyperliquid": 0.4}
BUSY = 4.0

Fault = tuple[dict[str, Any], float]
NOTICEABLE: tuple[Fault, ...] = (
    ({"cut": "rst"}, 3.0),
    ({"cut": "close"}, 3.0),
    ({"cut": "abnormal"}, 3.0),
    ({"duplicate": 0.5, "garbage": 0.2, "disorder": 0.2}, 5.0),
    ({"cut": "rst", "storm": 429, "retry_after_s": 2}, 5.0),
    ({"cut": "close", "storm": 503, "refuse_connections": True}, 4.0),
    ({"cut": "abnormal", "html": True}, 4.0),
    ({"slow_s": 0.7, "garbage": 0.2}, 4.0),
    ({"huge_bytes": 17 * 1024 * 1024}, 4.0),
    ({"storm": 500, "storm_share": 0.5, "cut": "rst"}, 4.0),
)
SILENCE_S = 4.0
BROKEN: tuple[Fault, ...] = (
    ({"gap": 0.3, "duplicate": 0.2, "disorder": 0.1}, 5.0),
    ({"gap": 0.05, "garbage": 0.1, "storm": 429, "retry_after_s": 1}, 5.0),
)


class ThatNight(SystemClock):
    """The machine's clock, put back to the night of the run."""

    def __init__(self) -> None:
        self._ahead_ns = BEGAN_NS - super().now_ns()

    def now_ns(self) -> int:
        return super().now_ns() + self._ahead_ns


class Follower:
    """A WebSocket client that keeps what it hears."""

    def __init__(self, url: str) -> None:
        self.frames: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._listen(url))

    async def _listen(self, url: str) -> None:
        async with connect(url, proxy=None, max_queue=None) as socket:
            async for frame in socket:
                self.frames.append(json.loads(frame))

    async def stop(self) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


class Run:
    """A server, the world it listens to, and what was heard of it."""

    def __init__(self, server: Server, simulator: Simulator, clock: ThatNight) -> None:
        self.server, self.simulator, self.world, self.clock = server, simulator, simulator.world, clock
        self.url = server.ready_line()["http"]
        self.client = httpx2.AsyncClient(base_url=self.url, timeout=30, trust_env=False)
        self.gaps: list[Gap] = []
        self.abandoned: list[Abandoned] = []
        server.bus.listen(Gap, self.gaps.append)
        server.bus.listen(Abandoned, self.abandoned.append)
        self._followers: dict[str, Follower] = {}
        self._instruments: dict[str, Instrument] = {name: self.world.listing(name).instrument for name in NAMES}

    def follow(self, path: str) -> None:
        self._followers[path] = Follower("ws" + self.url.removeprefix("http") + path)

    def heard(self, path: str) -> list[dict[str, Any]]:
        return self._followers[path].frames

    async def stop(self) -> None:
        for follower in self._followers.values():
            await follower.stop()
        await self.client.aclose()
        await self.server.stop()

    async def at(self, second: float) -> None:
        """Return at that second of the run."""
        await self.clock.sleep(max((BEGAN_NS + round(second * NS) - self.clock.now_ns()) / NS, 0.0))

    async def play(self, venue: str) -> None:
        """That venue's script of faults, one after the other, until they are over."""
        chance = random.Random(f"{SEED}/{venue}")
        left: list[Fault] = []
        faults = self.simulator.faults
        await self.at(FAULTS_S[0] + chance.uniform(0, 2))
        while self.clock.now_ns() < BEGAN_NS + FAULTS_S[1] * NS - 8 * NS:
            if not left:
                left = [*NOTICEABLE, *(BROKEN if venue in CONTIGUOUS else ()), ({"silence": "streams"}, SILENCE_S)]
                chance.shuffle(left)
            switches, for_s = left.pop()
            faults.set(venue, **switches)
            await self.clock.sleep(for_s)
            faults.clear(venue)
            if "silence" in switches:
                # A venue that begins to speak again says nothing of what it did not say: only a new connection does.
                faults.set(venue, cut="abnormal")
            await self.clock.sleep(chance.uniform(0.2, 1.5))
        faults.clear(venue)

    async def until_whole(self) -> None:
        """Wait until no gap is open any more."""
        async with asyncio.timeout(WHOLE_S_MAX):
            while any(self.count(venue, "opened") > self.ended(venue) for venue in FOLLOWED):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)

    def ended(self, venue: str) -> int:
        return self.count(venue, "mended") + self.count(venue, "abandoned")

    def count(self, venue: str, outcome: str) -> int:
        told = {"venue": venue, "outcome": outcome}
        return int(self.server.telemetry.registry.get_sample_value("openoutcry_feed_gaps_total", told) or 0)

    def truth(self, name: str, interval_s: int, start_ns: int, end_ns: int) -> dict[int, "Shape"]:
        return {
            bar.open_ns: shape_of(self.world, name, bar)
            for bar in self.world.candles(name, interval_s, start_ns, end_ns)
        }

    def stored(self, name: str, start_ns: int, end_ns: int) -> list[Trade]:
        key = SeriesKey(name, Of.TRADES)
        rows = self.server.market._series.read(key, start_ns=start_ns, end_ns=end_ns)
        return [row for row in rows if isinstance(row, Trade)]

    def had(self, key: SeriesKey, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """The stretches that coverage says are whole."""
        spans = self.server.market.coverage(key).query(start_ns, end_ns)
        return [(span.start_ns, span.end_ns) for span in spans if span.state in (State.HAVE, State.EMPTY)]


Shape = tuple[Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, int]


def shape_of(world: World, name: str, bar: Bar) -> Shape:
    """Open, high, low, close, volume in coins, quote volume, trades."""
    instrument, speller = world.listing(name).instrument, world.speller(name)
    prices = [speller.price_decimal(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)]
    contract = instrument.contract_size or Decimal(1)
    if instrument.inverse:
        volume, quote = Decimal(bar.coins_e8).scaleb(-8), speller.size_decimal(bar.lots) * contract
    else:
        volume = speller.coins(bar.lots)
        quote = bar.notional * instrument.tick_size * instrument.lot_size * contract
    return (*prices, volume, quote, bar.trades)  # type: ignore[return-value]


def shape(candle: Candle) -> Shape:
    return (
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        candle.volume,
        candle.quote_volume,
        candle.trades,
    )


def spoken(row: Mapping[str, Any]) -> tuple[float, ...]:
    fields = ("open", "high", "low", "close", "volume", "quote_volume", "trades_count")
    return tuple(float(row[field]) for field in fields)


def floats(told: Shape) -> tuple[float, ...]:
    return tuple(float(number) for number in told)


def ns_of(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * NS + moment.microsecond * 1_000


def text_of(ns: int) -> str:
    return datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Sums = dict[tuple[int, Side, Decimal], Decimal]


def sums_of(trades: list[Trade]) -> Sums:
    """Venues differ in which fills they report as one trade: what traded at a moment, side and price is the same."""
    sums: Sums = defaultdict(Decimal)
    for trade in trades:
        sums[trade.event_ns, trade.side, trade.price] += trade.size if trade.contracts is None else trade.contracts
    return dict(sums)


def world_sums(world: World, name: str, start_ns: int, end_ns: int) -> Sums:
    sums: Sums = defaultdict(Decimal)
    speller = world.speller(name)
    for row in world.orders(name, start_ns, end_ns):
        side = Side.SELL if row.sell else Side.BUY
        sums[row.ns, side, speller.price_decimal(row.ticks)] += speller.size_decimal(row.lots)
    return dict(sums)


def settings(folder: Path, venues: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Few instruments, short waits, and spikes wherever anything moves."""
    tiny = dict.fromkeys(("z_5m", "z_15m", "z_1h"), 0.001)
    least = {
        f"{what}_min_{frame}": 0.0 for what in ("open_interest_usd", "volume_usd") for frame in ("5m", "15m", "1h")
    }
    return {
        "data": folder,
        "http": "127.0.0.1:0",
        "grpc": "127.0.0.1:0",
        "venues": {name: {"on": name in venues, "instruments": venues.get(name, ())} for name in FOLLOWED},
        "feed": {"backoff_s_min": 0.2, "backoff_s_max": 2.0, "poll_s": 5.0},
        "market": {"look_back_s": 1_200.0},
        "store": {"flush_s": 0.2},
        # The test scans; the server's own clock for scans is not waited for.
        "spikes": {"delay_s": 3_600.0, "universe": 20, **tiny, **least},
    }


@asynccontextmanager
async def running(
    folder: Path,
    venues: Mapping[str, tuple[str, ...]],
    spoil: Callable[[Simulator], None] = lambda _: None,
) -> AsyncIterator[Run]:
    """A server that follows these instruments of that night's world."""
    clock = ThatNight()
    listings = [
        msgspec.structs.replace(a, orders_per_s=a.orders_per_s * ACTIVITY.get(a.instrument.venue, BUSY))
        for a in standard(clock.now_ns())
    ]
    simulator = Simulator(SEED, clock, listings=listings)
    await simulator.start()
    spoil(simulator)
    http = HttpClient()

    async def close() -> None:
        await http.close()
        await simulator.stop()

    config = simulated(load(settings(folder, venues)), simulator)
    server = Server(Outside(config, clock, http, SocketClient(), close, simulator))
    try:
        await server.start()
    except BaseException:  # a start that was cancelled leaves as much running as one that failed
        await server.stop()
        raise
    run = Run(server, simulator, clock)
    try:
        yield run
    finally:
        await run.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    async with running(tmp_path_factory.mktemp("whole"), FOLLOWED) as run:
        for exchange, symbol in SPOKEN:
            run.follow(f"/ws/{exchange}/{symbol}/ohlc?interval=1m")
        for path in (LIQUIDATIONS, LARGE_TRADES, SPIKES):
            run.follow(path)
        await run.until_whole()
        assert run.clock.now_ns() < BEGAN_NS + CALM_S[0] * NS, "the calm stretch must begin when all is followed"
        await run.at(CALM_S[1])
        await asyncio.gather(*(run.play(venue) for venue in FOLLOWED))
        await run.at(FAULTS_S[1])
        await run.until_whole()
        yield run


LIQUIDATIONS = "/ws/all/liquidations?min_value_usd=0"
LARGE_TRADES = "/ws/all/large_trades?min_value_usd=0"
SPIKES = "/ws/oi-vol?timeframes=5m"


async def test_every_gap_ended_and_no_part_failed(run: Run) -> None:
    assert {venue: run.count(venue, "opened") for venue in FOLLOWED} == {venue: run.ended(venue) for venue in FOLLOWED}
    assert all(run.count(venue, "opened") > 3 for venue in FOLLOWED)
    reasons = {gap.reason for gap in run.gaps if gap.of == "trades"}
    assert {"start", "cut", "missed ids"} <= reasons | {"start"}
    ready = await run.client.get("/ready")
    assert ready.json() == {"status": "ready", "parts": {"store": "ok", "venues": "ok", "server": "ok"}}
    faults = {
        venue: run.server.telemetry.registry.get_sample_value("openoutcry_feed_faults_total", {"venue": venue})
        for venue in FOLLOWED
    }
    assert faults == dict.fromkeys(FOLLOWED, 0.0)


@pytest.mark.parametrize("name", NAMES)
async def test_every_closed_minute_of_the_run_is_the_worlds(run: Run, name: str) -> None:
    told = await run.server.market.candles(
        run._instruments[name], MINUTE_S, limit=10, start_ns=FIRST_NS, end_ns=LAST_NS
    )
    assert not told.missing
    assert all(candle.closed for candle in told.rows)
    assert {candle.open_ns: shape(candle) for candle in told.rows} == run.truth(name, MINUTE_S, FIRST_NS, LAST_NS)


@pytest.mark.parametrize(("exchange", "symbol"), SPOKEN)
async def test_the_dialect_tells_the_worlds_minutes(run: Run, exchange: str, symbol: str) -> None:
    name = f"{EXCHANGES[exchange]}:{symbol}"
    answer = await run.client.get(f"/{exchange}/ohlc/{symbol}/1m", params={"limit": HISTORY})
    rows = {ns_of(row["timestamp"]): row for row in answer.json() if row["is_closed"]}
    truth = run.truth(name, MINUTE_S, LAST_NS - (HISTORY - 2) * MINUTE_NS, LAST_NS)
    assert {at: spoken(rows[at])[:5] for at in truth} == {at: floats(shape)[:5] for at, shape in truth.items()}
    ours = {at: shape for at, shape in truth.items() if at >= FIRST_NS}
    assert {at: spoken(rows[at]) for at in ours} == {at: floats(shape) for at, shape in ours.items()}


@pytest.mark.parametrize("name", NAMES)
async def test_the_store_holds_the_worlds_trades_and_no_other(run: Run, name: str) -> None:
    stretches = run.had(SeriesKey(name, Of.TRADES), FIRST_NS, LAST_NS)
    for start_ns, end_ns in stretches:
        trades = run.stored(name, start_ns, end_ns)
        assert len({trade.id for trade in trades}) == len(trades)
        assert sums_of(trades) == world_sums(run.world, name, start_ns, end_ns)
    if name.partition(":")[0] != "hyperliquid":
        assert stretches == [(FIRST_NS, LAST_NS)]
    # What was abandoned is what is not had, and nothing else.
    lost = [e for e in run.abandoned if e.instrument == name and e.gap.of == "trades"]
    assert bool(lost) == (stretches != [(FIRST_NS, LAST_NS)])


@pytest.mark.parametrize("name", NAMES)
async def test_coverage_never_calls_whole_what_differs_from_the_world(run: Run, name: str) -> None:
    series = run.server.market._series
    for interval_s in INTERVALS_S[:4]:
        key = SeriesKey(name, Of.CANDLES, interval_s)
        begin_ns = LAST_NS - 2 * 3_600 * NS
        for start_ns, end_ns in run.had(key, begin_ns, LAST_NS):
            first_ns = -(-start_ns // (interval_s * NS)) * interval_s * NS
            last_ns = end_ns // (interval_s * NS) * interval_s * NS
            rows = series.read(key, start_ns=first_ns, end_ns=last_ns)
            kept = {row.open_ns: shape(row)[:5] for row in rows if isinstance(row, Candle)}
            truth = (
                {at: told[:5] for at, told in run.truth(name, interval_s, first_ns, last_ns).items()}
                if first_ns < last_ns
                else {}
            )
            assert kept == truth


@pytest.mark.parametrize(("exchange", "symbol"), SPOKEN)
async def test_a_follower_hears_each_closed_candle_and_none_stays_wrong(run: Run, exchange: str, symbol: str) -> None:
    truth = run.truth(f"{EXCHANGES[exchange]}:{symbol}", MINUTE_S, FIRST_NS, LAST_NS)
    closed = [row for row in run.heard(f"/ws/{exchange}/{symbol}/ohlc?interval=1m") if row["is_closed"]]
    last = {ns_of(row["timestamp"]): spoken(row) for row in closed}
    assert last == {at: floats(shape) for at, shape in truth.items()}


async def test_all_liquidations_of_a_calm_stretch_were_told(run: Run) -> None:
    start_ns, end_ns = (BEGAN_NS + round(second * NS) for second in CALM_S)
    start_ns, end_ns = start_ns // NS * NS, end_ns // NS * NS - 2 * NS
    heard = Counter(
        (row["exchange"], row["symbol"], row["timestamp"], row["side"], row["price"], round(row["value"], 4))
        for row in run.heard(LIQUIDATIONS)
        if start_ns <= ns_of(row["timestamp"]) < end_ns
    )
    assert heard == Counter(told_liquidations(run.world, start_ns, end_ns))
    assert len(heard) > 20
    assert {exchange for exchange, *_ in heard} == {"binance", "bybit", "okx"}


def told_liquidations(world: World, start_ns: int, end_ns: int) -> Iterator[tuple[Any, ...]]:
    """What the venues tell of what the world made: Binance the last of a second, OKX nine in ten, both others bankruptcy prices."""
    for exchange in ("binance", "bybit", "okx"):
        for listing in world.listings(EXCHANGES[exchange]):
            instrument, speller = listing.instrument, world.speller(listing.name)
            rows = list(world.liquidations(listing.name, start_ns, end_ns))
            if exchange == "binance":
                rows = list({row.ns // NS: row for row in rows}.values())
            elif exchange == "okx":
                rows = [row for row in rows if row.id % 10]
            for row in rows:
                beyond = 0 if exchange == "binance" else row.ticks * 5 // 1_000 * (-1 if row.sell else 1)
                price = speller.price_decimal(row.ticks + beyond)
                worth = speller.size_decimal(row.lots) * (instrument.contract_size or 1)
                value = float(worth if instrument.inverse else worth * price)
                at = datetime.fromtimestamp(row.ns // NS, UTC).isoformat()[:19]
                micros = row.ns % NS // 1_000
                text = f"{at}.{micros:06d}Z" if micros else f"{at}Z"
                side = "sell" if row.sell else "buy"
                yield exchange, instrument.symbol, text, side, float(price), round(value, 4)


async def test_all_trades_of_a_calm_stretch_were_told(run: Run) -> None:
    start_ns, end_ns = (BEGAN_NS + round(second * NS) for second in CALM_S)
    end_ns -= NS
    heard: dict[tuple[str, str, int, str, float], float] = defaultdict(float)
    for row in run.heard(LARGE_TRADES):
        at_ns = ns_of(row["timestamp"])
        if start_ns <= at_ns < end_ns:
            assert row["is_buyer_maker"] == (row["side"] == "sell")
            heard[row["exchange"], row["symbol"], at_ns, row["side"], row["price"]] += row["value"]
    truth: dict[tuple[str, str, int, str, float], float] = {}
    for exchange in ("binance", "bybit", "hyperliquid"):
        for symbol in FOLLOWED[EXCHANGES[exchange]]:
            name = f"{EXCHANGES[exchange]}:{symbol}"
            inverse = run._instruments[name].inverse
            for (at_ns, side, price), size in world_sums(run.world, name, start_ns, end_ns).items():
                truth[exchange, symbol, at_ns, side.value, float(price)] = float(size if inverse else size * price)
    assert heard == pytest.approx(truth)
    assert len(truth) > 100


async def test_a_spike_that_a_scan_finds_is_told(run: Run) -> None:
    found = await run.server._monitor().scan([300])
    assert found
    await asyncio.sleep(0.5)
    told = {(row["symbol"], row["timeframe"], row["timestamp"], row["z_oi"], row["z_vol"]) for row in run.heard(SPIKES)}
    assert told == {
        (s.instrument.partition(":")[2], "5m", text_of(s.open_ns), round(s.z_open_interest, 2), round(s.z_volume, 2))
        for s in found
    }


async def test_a_venue_that_is_down_fails_for_itself_alone(tmp_path: Path) -> None:
    venues = {venue: FOLLOWED[venue][:1] for venue in ("binance_futures", "bybit", "hyperliquid")}

    def down(simulator: Simulator) -> None:
        simulator.faults.set("bybit", refuse_connections=True, storm=503)

    async with running(tmp_path, venues, down) as run:
        ask: Callable[[str], Awaitable[httpx2.Response]] = run.client.get
        refused = await ask("/bybit/ohlc/BTCUSDT/1m?limit=5")
        assert refused.status_code == 503
        assert "bybit" in refused.json()["detail"]
        for path in ("/binance/ohlc/BTCUSDT/1m?limit=5", "/hyperliquid/ohlc/BTC/1m?limit=5"):
            answer = await ask(path)
            assert (answer.status_code, len(answer.json())) == (200, 5)
        several = await ask("/multi/ohlc/BTCUSDT/1m?limit=5")
        assert several.headers["X-Failed-Exchanges"] == "bybit"
        assert {exchange: len(rows) for exchange, rows in several.json().items()} == {
            "binance": 5,
            "bybit": 0,
            "hyperliquid": 5,
        }
        health = (await ask("/health")).json()
        assert health["exchanges"]["bybit"] is False
        assert health["exchanges"]["binance"] is True
        assert (await ask("/ready")).status_code == 200
