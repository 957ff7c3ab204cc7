"""A venue that is a function, and a market on it with a clock in hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from openoutcry.aggregates.candles import Candles as LiveCandles
from openoutcry.bus import Bus
from openoutcry.clock import ManualClock
from openoutcry.errors import Refusal, Unavailable, UnknownVenue
from openoutcry.events import (
    INTERVALS_S,
    NS,
    Abandoned,
    Candle,
    Event,
    Gap,
    Mended,
    Side,
    Trade,
    open_of,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.market import Market, Numbers
from openoutcry.market.outside import VenueState
from openoutcry.market.pulse import GrowingBars
from openoutcry.market.series import Series
from openoutcry.stores.memory import MemorySeries
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query

# A Wednesday, 2025-01-15 10:20:30 UTC: minutes, hours, days and the week have all begun and none is over.
NOW_NS = 1_736_936_430 * NS


def instrument(venue: str = "fake", symbol: str = "BTCUSDT", **more: object) -> Instrument:
    """A perpetual, linear, without a listing date unless told."""
    told: dict[str, object] = {
        "venue": venue, "symbol": symbol, "kind": Kind.PERPETUAL, "coin": symbol.removesuffix("USDT"), "quote": "USDT",
        "settle": "USDT", "tick_size": Decimal("0.1"), "lot_size": Decimal("0.001"),
    }  # fmt: skip
    return Instrument(**{**told, **more})  # type: ignore[arg-type]


class FakeVenue:
    """An Outside with one venue, `fake`, whose candles are a function of their opening time.

    `traded` says which minutes traded. `failure`, if set, is raised by the next page (after `pages_before_failure`).
    `gate` holds answers back until it is set. `promise` False: pages do not say what they are complete for; else they are
    for closed candles, which a candle is `sure_s` after its end.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asks: list[Ask] = []
        self.followed_now: set[tuple[str, Feed]] = set()
        self.failure: Refusal | None = None
        self.pages_before_failure = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.promise = True
        self.sure_s = 0.0
        self.omits = False
        self.page_max = 1_000
        self.begun_ns = 0
        self.traded: Callable[[int], bool] = lambda _open_ns: True
        self.extra: dict[Query, Callable[[Ask], Sequence[Event]]] = {}
        self.venue_feeds = frozenset(Feed)
        self.venue_intervals_s = frozenset(INTERVALS_S) | {180}
        self.venue_queries = frozenset({Query.INSTRUMENTS, Query.CANDLES})
        self.listed = {"BTCUSDT": instrument(), "ETHUSDT": instrument(symbol="ETHUSDT")}

    def venues(self) -> Mapping[str, VenueState]:
        return {"fake": VenueState("fake", True, 1, None)}

    def feeds(self, venue: str) -> frozenset[Feed]:
        self._check(venue)
        return self.venue_feeds

    def queries(self, venue: str) -> frozenset[Query]:
        self._check(venue)
        return self.venue_queries | frozenset(self.extra)

    def intervals_s(self, venue: str) -> frozenset[int]:
        self._check(venue)
        return self.venue_intervals_s

    def limits(self, venue: str) -> Limits:
        self._check(venue)
        return msgspec.structs.replace(BinanceSpot.limits, quiet_candles="omitted" if self.omits else "told")

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        self._check(venue)
        return self.listed

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        if self.failure is not None:
            raise self.failure
        return self.instruments(venue)

    def followed(self, instrument: str, feed: Feed) -> bool:
        return (instrument, feed) in self.followed_now

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        added = {(instrument.name, feed) for feed in feeds}
        self.followed_now |= added

        def stop() -> None:
            self.followed_now -= added

        return stop

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        return Answer(200, {}, f"{venue} {path} {list(query)} {weight}".encode(), 0)

    async def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        self._check(venue)
        self.asks.append(ask)
        await self.gate.wait()
        pages = self._pages(ask) if ask.query is Query.CANDLES else [self._extra(ask)]
        for number, page in enumerate(pages):
            if self.failure is not None and number >= self.pages_before_failure:
                raise self.failure
            yield page

    def candle(self, open_ns: int, interval_s: int, symbol: str = "BTCUSDT") -> Candle | None:
        """What the venue says of that bucket now; None where nothing traded."""
        now_ns = self.clock.now_ns()
        end_ns = open_ns + interval_s * NS
        minutes = [
            at_ns
            for at_ns in range(open_ns, min(end_ns, now_ns), 60 * NS)
            if at_ns >= self.begun_ns and self.traded(at_ns)
        ]
        if not minutes:
            return None
        number = open_ns // (60 * NS) % 1_000
        return Candle(
            f"fake:{symbol}", Side.BOTH, interval_s, open_ns, Decimal(number), Decimal(number + 2), Decimal(number),
            Decimal(number + 1), Decimal(len(minutes)), Decimal(len(minutes) * number), len(minutes), None, None,
            end_ns <= now_ns - round(self.sure_s * NS), now_ns, "venue",
        )  # fmt: skip

    def _extra(self, ask: Ask) -> Page:
        events = self.extra[ask.query](ask)
        if ask.query is Query.TRADES and self.promise:
            return Page(events, start_ns=ask.start_ns, end_ns=ask.end_ns)
        return Page(events)

    def _pages(self, ask: Ask) -> list[Page]:
        assert ask.interval_s is not None
        assert ask.symbol is not None
        step_ns = ask.interval_s * NS
        now_end_ns = open_of(self.clock.now_ns(), ask.interval_s) + step_ns
        end_ns = now_end_ns if ask.end_ns is None else min(ask.end_ns, now_end_ns)
        start_ns = max(ask.start_ns or 0, open_of(self.begun_ns, ask.interval_s))
        opens = range(start_ns, end_ns, step_ns)
        rows = [row for at_ns in opens if (row := self.candle(at_ns, ask.interval_s, ask.symbol)) is not None]
        if ask.limit is not None:
            rows = rows[-ask.limit :] if ask.newest else rows[: ask.limit]
        cut = [rows[at : at + self.page_max] for at in range(0, len(rows), self.page_max)] or [[]]
        pages = []
        at_ns = ask.start_ns or 0
        for number, part in enumerate(cut):
            full = ask.limit is not None and len(rows) >= ask.limit
            last = number == len(cut) - 1 and not full
            until_ns = end_ns if last else part[-1].open_ns + step_ns
            sure_ns = min(until_ns, open_of(self.clock.now_ns() - round(self.sure_s * NS), ask.interval_s))
            promised = self.promise and at_ns < sure_ns
            pages.append(Page(part, start_ns=at_ns, end_ns=sure_ns) if promised else Page(part))
            at_ns = until_ns
        return pages

    def _check(self, venue: str) -> None:
        if venue != "fake":
            raise UnknownVenue(f"no venue {venue}")


class Box:
    """A market and all it stands on, in a test's hand."""

    def __init__(self, series: Series, numbers: Numbers) -> None:
        self.clock = ManualClock(NOW_NS)
        self.bus = Bus()
        self.outside = FakeVenue(self.clock)
        self.series = series
        self.telemetry = Telemetry()
        self.aggregate = LiveCandles()
        self.btc = self.outside.listed["BTCUSDT"]
        self._numbers = numbers
        self.bars: GrowingBars | None = None
        self.market = self._market()

    def _market(self) -> Market:
        return Market(
            self.outside, self.series, self.bus, self.clock, self.telemetry, self.aggregate, self._numbers, bars=self.bars
        )  # fmt: skip

    async def restart(self, series: Series | None = None) -> None:
        """As after a clean stop and a start: memory is empty, the store is not."""
        await self.market.close()
        self.series = series or self.series
        self.bus = Bus()
        self.aggregate = LiveCandles()
        self.outside.asks.clear()
        self.market = self._market()

    def counted(self, name: str, **labels: str) -> float:
        """A counter's value."""
        return self.telemetry.registry.get_sample_value(f"openoutcry_{name}_total", labels) or 0.0

    # -- what the feed and the aggregates do, joined as the app joins them

    def play(self, *events: Event) -> None:
        """Publish events, and what the live candles make of them."""
        for event in events:
            self.bus.publish([event])
            match event:
                case Trade():
                    self.bus.publish(self.aggregate.on_trade(event))
                case Gap():
                    self.aggregate.on_gap(event)
                case Mended():
                    self.bus.publish(self.aggregate.on_mended(event))
                case Abandoned():
                    self.bus.publish(self.aggregate.on_abandoned(event))
                case _:
                    pass

    def follow(self, start_ns: int | None = None, symbol: str = "BTCUSDT") -> Callable[[], None]:
        """Follow trades as the feed does: a gap from the running minute's opening, mended at once."""
        one = self.outside.listed[symbol]
        stop = self.market.follow(one, [Feed.TRADES])
        start_ns = open_of(self.clock.now_ns(), 60) if start_ns is None else start_ns
        gap = Gap(one.name, "trades", start_ns, None, "start")
        self.play(gap, Mended(gap, self.clock.now_ns()))
        self.aggregate.vouch(one.name, start_ns)
        return stop

    def trade(self, at_ns: int | None = None, side: Side = Side.BUY, price: str = "100", number: int = 0) -> None:
        """One trade, now unless told when."""
        at_ns = self.clock.now_ns() if at_ns is None else at_ns
        self.play(
            Trade("fake:BTCUSDT", at_ns, at_ns, number or at_ns, number or at_ns, side, Decimal(price), Decimal("0.5"))
        )

    async def advance(self, seconds: float) -> None:
        """Move the clock, and let the live candles close what is due."""
        await self.clock.advance(seconds)
        self.bus.publish(self.aggregate.on_time("fake", self.clock.now_ns()))


class Boxes(Protocol):
    def __call__(self, series: Series | None = None, **numbers: float) -> Box: ...


@pytest.fixture
async def boxes(tmp_path: Path) -> AsyncIterator[Boxes]:
    """Makes markets; all are closed at the end."""
    made: list[Box] = []

    def make(series: Series | None = None, **numbers: float) -> Box:
        box = Box(series or MemorySeries(), Numbers(**numbers))  # type: ignore[arg-type]
        made.append(box)
        return box

    yield make
    for box in made:
        await box.market.close()
        box.series.close()


@pytest.fixture
def box(boxes: Boxes) -> Box:
    """A market on a store in memory."""
    return boxes()


@pytest.fixture
def file_box(boxes: Boxes, tmp_path: Path) -> Box:
    """A market on a real SQLite file."""
    return boxes(SqlSeries(sqlite_url(tmp_path / "series.db")))


@pytest.fixture
def unanswered() -> Refusal:
    return Unavailable("fake", "fake does not answer")


@pytest.fixture
def box_class() -> type[Box]:
    """For tests that make a market in a loop of their own."""
    return Box
