"""Stretches in columns say what the same stretches say as rows, whatever is in memory, in the store or at the venue."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from openoutcry.aggregates.derivatives import DerivativeBar, Derivatives
from openoutcry.errors import Refusal
from openoutcry.events import NS, Candle, Event, LiquidationBar, Side, Trade, open_of
from openoutcry.market.blocks import BLOCK_ROWS
from openoutcry.market.columnar import Told
from openoutcry.market.pulse import NoBars
from openoutcry.market.series import Of, Row, SeriesKey, State
from openoutcry.venues.venue import Ask, Feed, Query

MINUTE_NS = 60 * NS
HOUR_NS = 3_600 * NS
NAME = "fake:BTCUSDT"
MINUTES = SeriesKey(NAME, Of.CANDLES, 60)
BUYS, SELLS = (SeriesKey(NAME, Of.CANDLES, 60, side) for side in (Side.BUY, Side.SELL))


def flat(told: Told) -> list[tuple[int, float, float]]:
    """Opening, close and volume of every row of an answer."""
    rows = [
        (int(cut.block.at_ns[n]), float(cut.block.of["close"][n]), float(cut.block.of["volume"][n]))
        for cut in told.cuts
        for n in range(cut.low, cut.high)
    ]
    return rows + of_rows(told.tail)


def of_rows(rows: Sequence[Row]) -> list[tuple[int, float, float]]:
    return [(row.open_ns, float(row.close), float(row.volume)) for row in rows if isinstance(row, Candle)]


async def ask(box: Any, start_ns: int, end_ns: int, key: SeriesKey = MINUTES) -> Told:
    told: Told = await box.market.columnar.between(box.btc, key, start_ns, end_ns)
    return told


@pytest.mark.parametrize("interval_s", [60, 300, 3_600, 86_400, 604_800])
async def test_columns_say_what_rows_say(file_box: Any, interval_s: int) -> None:
    box = file_box
    now_ns = box.clock.now_ns()
    step_ns = interval_s * NS
    end_ns = open_of(now_ns, interval_s) + step_ns
    start_ns = end_ns - 40 * step_ns
    box.outside.traded = lambda open_ns: open_ns // MINUTE_NS % 7 != 3
    key = SeriesKey(NAME, Of.CANDLES, interval_s)
    told = await ask(box, start_ns, end_ns, key)
    rows = (await box.market.candles(box.btc, interval_s, limit=100, start_ns=start_ns, end_ns=end_ns)).rows
    assert flat(told) == of_rows(rows)
    assert not told.missing
    # And once more, when it lies in the store.
    await box.advance(120)
    again = await ask(box, start_ns, end_ns, key)
    closed = [row for row in of_rows(rows) if row[0] + step_ns <= now_ns - 3 * NS]
    assert flat(again)[: len(closed)] == closed


async def test_what_was_asked_for_is_at_hand_the_next_time(file_box: Any) -> None:
    box = file_box
    end_ns = open_of(box.clock.now_ns(), 60) - 5 * MINUTE_NS
    start_ns = end_ns - 3 * BLOCK_ROWS * MINUTE_NS
    assert box.market.columnar.at_hand(MINUTES, start_ns, end_ns) is None
    told = await ask(box, start_ns, end_ns)
    asked = len(box.outside.asks)
    again = box.market.columnar.at_hand(MINUTES, start_ns, end_ns)
    assert again is not None
    assert flat(again) == flat(told)
    assert len(again.cuts) >= 3
    # The blocks themselves, so that what was made of them is not made again.
    assert [cut.block for cut in again.cuts] == [cut.block for cut in told.cuts]
    part = box.market.columnar.at_hand(MINUTES, start_ns + 10 * MINUTE_NS, end_ns - 10 * MINUTE_NS)
    assert flat(part) == flat(told)[10:-10]
    assert len(box.outside.asks) == asked


async def test_candles_that_close_join_what_is_held(file_box: Any) -> None:
    box = file_box
    box.follow()
    start_ns = open_of(box.clock.now_ns(), 60)
    for n in range(8):
        box.trade(price=str(100 + n))
        grown = await ask(box, start_ns, box.clock.now_ns() + 1)
        assert [row[1] for row in flat(grown)] == [float(100 + k) for k in range(n + 1)]
        assert len(grown.tail) == 1
        await box.advance(60)
    at_hand = box.market.columnar.at_hand(MINUTES, start_ns, box.clock.now_ns() + 1)
    assert [row[1] for row in flat(at_hand)] == [float(100 + k) for k in range(8)]


async def test_a_corrected_candle_replaces_what_is_held(file_box: Any) -> None:
    box = file_box
    box.follow()
    start_ns = open_of(box.clock.now_ns(), 60)
    box.trade(price="100")
    await box.advance(120)
    assert [row[1] for row in flat(await ask(box, start_ns, start_ns + MINUTE_NS))] == [100.0]
    box.trade(at_ns=start_ns + 59 * NS, price="90", number=5)
    assert [row[1] for row in flat(await ask(box, start_ns, start_ns + MINUTE_NS))] == [90.0]


async def test_rows_that_wait_for_the_store_are_told(file_box: Any) -> None:
    """The same before and after a flush, though only the store is read for blocks."""
    box = file_box
    box.follow()
    start_ns = open_of(box.clock.now_ns(), 60)
    box.trade()
    await box.advance(61)
    assert box.market.writer.waiting(MINUTES)
    before = flat(await ask(box, start_ns, start_ns + MINUTE_NS))
    await box.restart()
    assert flat(await ask(box, start_ns, start_ns + MINUTE_NS)) == before == [(start_ns, 100.0, 0.5)]


async def test_a_dead_venue_leaves_holes_and_they_are_named(box: Any, unanswered: Refusal) -> None:
    now_ns = open_of(box.clock.now_ns(), 60)
    await ask(box, now_ns - 30 * MINUTE_NS, now_ns - 20 * MINUTE_NS)
    box.outside.failure = unanswered
    told = await ask(box, now_ns - 40 * MINUTE_NS, now_ns - 10 * MINUTE_NS)
    assert [row[0] for row in flat(told)] == [now_ns - n * MINUTE_NS for n in range(30, 20, -1)]
    assert list(told.missing) == [
        (now_ns - 40 * MINUTE_NS, now_ns - 30 * MINUTE_NS),
        (now_ns - 20 * MINUTE_NS, now_ns - 10 * MINUTE_NS),
    ]


async def test_hours_folded_from_minutes_are_stored_and_not_folded_again(file_box: Any) -> None:
    box = file_box
    end_ns = open_of(box.clock.now_ns(), 3_600)
    await ask(box, end_ns - 2 * HOUR_NS, end_ns)
    asked = len(box.outside.asks)
    hours = SeriesKey(NAME, Of.CANDLES, 3_600)
    told = await ask(box, end_ns - 2 * HOUR_NS, end_ns, hours)
    assert [row[2] for row in flat(told)] == [60.0, 60.0]
    assert len(box.outside.asks) == asked
    assert box.market.coverage(hours).whole(end_ns - 2 * HOUR_NS, end_ns)
    await box.restart()
    assert flat(await ask(box, end_ns - 2 * HOUR_NS, end_ns, hours)) == flat(told)


def trades_of_venue(asked: Ask) -> Sequence[Event]:
    """A trade every ten seconds, sold and bought in turn."""
    assert asked.start_ns is not None
    assert asked.end_ns is not None
    step_ns = 10 * NS
    first = -(-asked.start_ns // step_ns)
    return [
        Trade(NAME, n * step_ns, n * step_ns, n, n, (Side.BUY, Side.SELL)[n % 2], Decimal(n % 100 + 1), Decimal(1))
        for n in range(first, -(-asked.end_ns // step_ns))
    ]


async def test_candles_of_a_side_are_made_of_the_venues_trades(file_box: Any) -> None:
    box = file_box
    box.outside.extra[Query.TRADES] = trades_of_venue
    end_ns = open_of(box.clock.now_ns(), 60) - MINUTE_NS
    start_ns = end_ns - 10 * MINUTE_NS
    buys, sells = await ask(box, start_ns, end_ns, BUYS), await ask(box, start_ns, end_ns, SELLS)
    trades = trades_of_venue(Ask(query=Query.TRADES, start_ns=start_ns, end_ns=end_ns))
    for told, side in ((buys, Side.BUY), (sells, Side.SELL)):
        mine = [each for each in trades if isinstance(each, Trade) and each.side is side]
        expected = []
        for open_ns in range(start_ns, end_ns, MINUTE_NS):
            inside = [each for each in mine if open_ns <= each.event_ns < open_ns + MINUTE_NS]
            expected.append((open_ns, float(inside[-1].price), float(len(inside))))
        assert flat(told) == expected
        assert all(cut.block.of["first_ns"].all() for cut in told.cuts)
    both = await ask(box, start_ns, end_ns)
    assert [row[2] for row in flat(both)] == [6.0] * 10
    assert all(cut.block.of["last_ns"].all() for cut in both.cuts)
    # The other side, and both together, came with the first answer.
    assert len(box.outside.asks) == 1
    assert len([each for each in box.outside.asks if each.query is Query.TRADES]) == 1


async def test_who_asks_for_much_does_not_have_trades_fetched_for_it(box: Any) -> None:
    box.outside.extra[Query.TRADES] = trades_of_venue
    end_ns = open_of(box.clock.now_ns(), 60) - MINUTE_NS
    told = await box.market.columnar.between(box.btc, BUYS, end_ns - 5 * MINUTE_NS, end_ns, trades=False)
    assert flat(told) == []
    _, missing = await box.market.columnar.trades(
        box.btc, end_ns - 5 * MINUTE_NS, end_ns, rows_max=9, ask=False
    )  # fmt: skip
    assert list(told.missing) == list(missing.missing) == [(end_ns - 5 * MINUTE_NS, end_ns)]
    assert box.outside.asks == []
    found, _ = await box.market.columnar.trades(box.btc, end_ns - MINUTE_NS, end_ns, rows_max=9)
    assert len(found) == 6


async def test_sides_that_nobody_can_tell_are_missing_and_say_so(box: Any) -> None:
    end_ns = open_of(box.clock.now_ns(), 60) - MINUTE_NS
    told = await ask(box, end_ns - 5 * MINUTE_NS, end_ns, BUYS)
    assert flat(told) == []
    assert list(told.missing) == [(end_ns - 5 * MINUTE_NS, end_ns)]


async def test_only_the_newest_trades_of_a_long_stretch_are_asked_for(boxes: Any) -> None:
    box = boxes(trades_asked_s=600.0)
    box.outside.extra[Query.TRADES] = trades_of_venue
    end_ns = open_of(box.clock.now_ns(), 60) - MINUTE_NS
    told = await ask(box, end_ns - 60 * MINUTE_NS, end_ns, BUYS)
    assert [row[0] for row in flat(told)] == [end_ns - n * MINUTE_NS for n in range(10, 0, -1)]
    assert list(told.missing) == [(end_ns - 60 * MINUTE_NS, end_ns - 10 * MINUTE_NS)]


async def test_bars_are_what_we_saw_and_their_holes_are_named(file_box: Any) -> None:
    box = file_box
    at_ns = open_of(box.clock.now_ns(), 60)
    key = SeriesKey(NAME, Of.LIQUIDATION_BARS, 60, Side.SELL)
    for n in (1, 2, 5):
        open_ns = at_ns - n * MINUTE_NS
        box.bus.publish([LiquidationBar(NAME, Side.SELL, 60, open_ns, Decimal(n), Decimal(9), 1, True, open_ns)])
    told = await ask(box, at_ns - 10 * MINUTE_NS, at_ns, key)
    volumes = [float(cut.block.of["volume"][n]) for cut in told.cuts for n in range(cut.low, cut.high)]
    assert volumes == [5.0, 2.0, 1.0]
    assert list(told.missing) == [
        (at_ns - 10 * MINUTE_NS, at_ns - 5 * MINUTE_NS),
        (at_ns - 4 * MINUTE_NS, at_ns - 2 * MINUTE_NS),
    ]


async def test_the_answer_is_of_the_moment_it_is_given(box: Any) -> None:
    """What grew when the question came may be closed when the venue has answered."""
    box.follow()
    minute_ns = open_of(box.clock.now_ns(), 60)
    box.trade(price="100", number=1)
    box.outside.gate.clear()
    asked = asyncio.ensure_future(ask(box, minute_ns - 5 * MINUTE_NS, minute_ns + 3 * MINUTE_NS))
    while not box.outside.asks:  # noqa: ASYNC110  the question is on its way to the venue
        await asyncio.sleep(0)
    box.trade(price="110", number=2)
    await box.advance(62)
    box.trade(price="120", number=3)
    box.outside.gate.set()
    told = await asked
    assert [row[1] for row in flat(told)][-2:] == [110.0, 120.0]
    assert len(told.tail) == 1


async def test_a_minute_without_a_liquidation_is_known_to_be_empty_where_all_were_heard(boxes: Any) -> None:
    bars = Derivatives()

    class Grown(NoBars):
        def since(self, kind: type[DerivativeBar], instrument: str, side: Side = Side.BOTH) -> int | None:
            return bars.since(kind, instrument, side)

    box = boxes()
    box.bars = Grown()
    await box.restart()
    begun_ns = open_of(box.clock.now_ns(), 60)
    key = SeriesKey(NAME, Of.LIQUIDATION_BARS, 60, Side.SELL)
    bars.follow(LiquidationBar, NAME, begun_ns)
    await box.advance(600)
    end_ns = open_of(box.clock.now_ns(), 60)
    told = await ask(box, begun_ns - 5 * MINUTE_NS, end_ns, key)
    # The last minute may still be told of.
    assert list(told.missing) == [(begun_ns - 5 * MINUTE_NS, begun_ns), (end_ns - MINUTE_NS, end_ns)]
    # The same at once, when a first bar is there.
    box.bus.publish([LiquidationBar(NAME, Side.SELL, 60, end_ns, Decimal(1), Decimal(9), 1, True, end_ns)])
    await box.advance(60)
    await ask(box, begun_ns, end_ns + MINUTE_NS, key)
    await box.advance(240)
    at_hand = box.market.columnar.at_hand(key, end_ns, end_ns + 5 * MINUTE_NS)
    assert at_hand is not None
    assert list(at_hand.missing) == [(end_ns + 4 * MINUTE_NS, end_ns + 5 * MINUTE_NS)]
    # Nobody hears what a venue does not tell.
    box.outside.venue_feeds -= {Feed.LIQUIDATIONS}
    await box.advance(300)
    deaf = await ask(box, end_ns + 4 * MINUTE_NS, end_ns + 9 * MINUTE_NS, key)
    assert list(deaf.missing) == [(end_ns + 4 * MINUTE_NS, end_ns + 9 * MINUTE_NS)]
    box.outside.venue_feeds |= {Feed.LIQUIDATIONS}
    end_ns += 10 * MINUTE_NS
    # After a gap, what is empty counts from its end only.
    bars.missed(LiquidationBar, NAME, end_ns + 60 * MINUTE_NS)
    await box.advance(7_200)
    late = await ask(box, end_ns, end_ns + 100 * MINUTE_NS, key)
    assert list(late.missing) == [(end_ns, end_ns + 60 * MINUTE_NS)]


async def test_trades_are_told_in_order_and_once_wherever_they_lie(file_box: Any) -> None:
    box = file_box
    box.follow()
    start_ns = open_of(box.clock.now_ns(), 60)
    for n in range(1, 4):
        box.trade(at_ns=start_ns + n, number=n)
    await box.market.writer.flush()
    for n in range(4, 6):
        box.trade(at_ns=start_ns + n, number=n)
    # Told twice: stored, and on its way there again.
    box.trade(at_ns=start_ns + 3, number=3)
    columns, _ = await box.market.columnar.trades(box.btc, start_ns, start_ns + 10, rows_max=100)
    assert columns.of["id"].tolist() == ["1", "2", "3", "4", "5"]
    assert columns.at_ns.tolist() == [start_ns + n for n in range(1, 6)]
    few, _ = await box.market.columnar.trades(box.btc, start_ns, start_ns + 10, rows_max=2)
    assert few.of["id"].tolist() == ["1", "2"]


async def test_blocks_are_given_up_when_there_are_too_many(boxes: Any) -> None:
    box = boxes(block_rows_max=2 * BLOCK_ROWS)
    end_ns = open_of(box.clock.now_ns(), 60) // (BLOCK_ROWS * MINUTE_NS) * (BLOCK_ROWS * MINUTE_NS)
    start_ns = end_ns - 6 * BLOCK_ROWS * MINUTE_NS
    told = await ask(box, start_ns, end_ns)
    assert told.rows == 6 * BLOCK_ROWS
    assert box.market.columnar.rows_held <= 2 * BLOCK_ROWS + 2
    # The newest are the ones that are kept.
    assert box.market.columnar.at_hand(MINUTES, end_ns - BLOCK_ROWS * MINUTE_NS, end_ns) is not None
    assert box.market.columnar.at_hand(MINUTES, start_ns, end_ns) is None


async def test_more_rows_than_wanted_are_not_read(box: Any) -> None:
    end_ns = open_of(box.clock.now_ns(), 60)
    start_ns = end_ns - 6 * BLOCK_ROWS * MINUTE_NS
    told = await box.market.columnar.between(box.btc, MINUTES, start_ns, end_ns, rows_max=100)
    assert 100 < told.rows <= 2 * BLOCK_ROWS


async def test_what_a_venue_refuses_is_missing(box: Any) -> None:
    now_ns = open_of(box.clock.now_ns(), 60)
    box.outside.begun_ns = now_ns - 10 * MINUTE_NS
    box.outside.promise = False
    told = await ask(box, now_ns - 20 * MINUTE_NS, now_ns)
    assert [row[0] for row in flat(told)] == [now_ns - n * MINUTE_NS for n in range(10, 0, -1)]
    spans = box.market.coverage(MINUTES).query(now_ns - 20 * MINUTE_NS, now_ns)
    assert {span.state for span in spans} <= {State.HAVE, State.EMPTY, State.MISSING, State.REFUSED}
    assert all(span.state is not State.HAVE for span in spans if span.end_ns <= now_ns - 10 * MINUTE_NS)
