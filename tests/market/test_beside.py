"""Instruments that no venue lists, but files tell."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.errors import Unavailable, UnknownInstrument, UnknownVenue, Unsupported
from openoutcry.events import NS, InterestBar, OpenInterest
from openoutcry.instrument import Instrument, Kind
from openoutcry.market import market as market_words
from openoutcry.market.series import Of, SeriesKey
from openoutcry.venues.venue import Ask, Feed, Query

DAY_NS = 86_400 * NS


def future(symbol: str = "BTC") -> Instrument:
    return Instrument(
        venue="cme",
        symbol=symbol,
        kind=Kind.FUTURE,
        coin=symbol,
        quote="USD",
        settle="USD",
        tick_size=Decimal(1),
        lot_size=Decimal(1),
    )


def bar(open_ns: int, size: int = 5) -> InterestBar:
    number = Decimal(size)
    return InterestBar("cme:BTC", 86_400, open_ns, number, number, number, number, None, True, open_ns)


async def test_they_are_found_like_any_other_and_the_venues_stay_as_they_were(box: Any) -> None:
    market = box.market
    assert market.listed_beside() == []
    with pytest.raises(UnknownVenue):
        await market.instruments("cme")
    await market.list_beside("cme", [future()])
    assert market.listed_beside() == ["cme"]
    assert await market.instruments("cme") == {"BTC": future()}
    assert await market.instrument("cme", "btc") == future()
    with pytest.raises(UnknownInstrument):
        await market.instrument("cme", "NOPE")
    assert list(market.venues()) == ["fake"]
    assert "BTCUSDT" in await market.instruments("fake")


async def test_what_was_listed_once_is_known_after_a_restart(file_box: Any) -> None:
    await file_box.market.list_beside("cme", [future("BTC")])
    await file_box.market.list_beside("cme", [future("ETH")])
    await file_box.restart()
    await file_box.market.list_beside("cme", [])
    assert set(await file_box.market.instruments("cme")) == {"BTC", "ETH"}


async def test_a_store_that_cannot_be_read_lists_nothing_rather_than_less(box: Any) -> None:
    def fails(venue: str) -> Any:
        raise Unavailable("store", f"no {venue} now")

    works, box.series.listing = box.series.listing, fails
    with pytest.raises(Unavailable):
        await box.market.list_beside("cme", [future()])
    assert box.market.listed_beside() == []
    box.series.listing = works
    await box.market.list_beside("cme", [future()])
    assert box.market.listed_beside() == ["cme"]


async def test_nobody_can_be_asked_about_them(box: Any) -> None:
    market, one = box.market, future()
    await market.list_beside("cme", [one])
    assert market.queries("cme") == market.intervals_s("cme") == frozenset()
    assert market.feeds("cme") == {Feed.OPEN_INTEREST}
    market.follow(one, [Feed.OPEN_INTEREST])()
    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: market.open_interest(one),
        lambda: market.mark_price(one),
        lambda: market.funding(one),
        lambda: market.ticker(one),
        lambda: market.predicted_funding("cme"),
        lambda: market.raw("cme", "/", (), 1),
    ]
    for ask in asks:
        with pytest.raises(Unsupported):
            await ask()
    with pytest.raises(Unsupported):
        market.follow(one, [Feed.OPEN_INTEREST, Feed.TRADES])
    with pytest.raises(Unsupported):
        market._beside.ask("cme", Ask(query=Query.CANDLES))
    assert await market.trades(one, limit=5, start_ns=0) == []
    candles = await market.candles(one, 60, limit=5)
    assert candles.rows == []
    assert candles.missing
    assert box.outside.asks == []


async def test_the_newest_open_interest_is_the_newest_row(box: Any) -> None:
    await box.market.list_beside("cme", [future()])
    told = OpenInterest("cme:BTC", DAY_NS, DAY_NS, Decimal(7), Decimal(9))
    box.bus.publish([told])
    assert await box.market.open_interest(future()) == told
    box.bus.publish([OpenInterest("cme:BTC", DAY_NS + 1, DAY_NS, Decimal(8))])
    assert (await box.market.open_interest(future())).value is None


async def test_kept_rows_are_stored_and_nothing_is_missing_between_them(file_box: Any) -> None:
    market, one = file_box.market, future()
    await market.list_beside("cme", [one])
    key = SeriesKey("cme:BTC", Of.INTEREST_BARS, 86_400)
    rows = [bar(day * DAY_NS) for day in (20_000, 20_001, 20_004)]
    await market.keep(key, rows, 20_000 * DAY_NS, 20_005 * DAY_NS)
    told = await market.open_interest_bars(one, 86_400, limit=10)
    assert (told.rows, told.missing) == (rows, [])
    earlier = await market.open_interest_bars(one, 86_400, limit=10, start_ns=19_999 * DAY_NS)
    assert earlier.missing == [(19_999 * DAY_NS, 20_000 * DAY_NS)]
    history = await market.open_interest_history(one, 86_400, limit=2)
    assert [(each.event_ns, each.size) for each in history] == [(row.open_ns + DAY_NS, Decimal(5)) for row in rows[-2:]]
    await file_box.restart()
    await file_box.market.list_beside("cme", [])
    assert (await file_box.market.open_interest_bars(one, 86_400, limit=10)).rows == rows


async def test_years_at_once_do_not_push_out_what_is_live(boxes: Any) -> None:
    most = market_words.KEPT_AT_ONCE
    box = boxes(backlog_max=most + 10)
    key = SeriesKey("cme:BTC", Of.INTEREST_BARS, 86_400)
    rows = [bar(day * DAY_NS) for day in range(3 * most)]
    await box.market.keep(key, rows, 0, 3 * most * DAY_NS)
    await box.market.writer.flush()
    assert len(box.series.read(key)) == 3 * most
    assert box.market.coverage(key).whole(0, 3 * most * DAY_NS)


async def test_what_the_store_does_not_take_is_not_called_kept(boxes: Any) -> None:
    box = boxes()
    key = SeriesKey("cme:BTC", Of.INTEREST_BARS, 86_400)
    rows = [bar(day * DAY_NS) for day in range(market_words.KEPT_AT_ONCE)]

    def fails(batch: Any) -> None:
        raise Unavailable("store", f"full at {len(batch.rows)}")

    works, box.series.write = box.series.write, fails
    with pytest.raises(Unavailable):
        await box.market.keep(key, rows, 0, DAY_NS)
    assert not box.market.coverage(key).spans
    box.series.write = works
