"""After a start: fill what is missing since the last stored minute, and seed what the growing candles stand on."""

from decimal import Decimal
from typing import Any

from openoutcry.clock import ManualClock
from openoutcry.errors import Refusal
from openoutcry.events import INTERVALS_S, NS, Side, Trade, open_of
from openoutcry.market.coverage import Coverage
from openoutcry.market.series import Batch, Of, SeriesKey, State
from openoutcry.market.warm import Warm, _ladder, last_trade
from openoutcry.stores.memory import MemorySeries

NAME = "fake:BTCUSDT"


async def test_after_warming_every_growing_candle_is_whole_and_right(box: Any) -> None:
    box.follow()
    assert await Warm(box.market, box.aggregate, box.clock).warm(box.btc)
    box.trade(price="500")
    for interval_s in INTERVALS_S[1:]:
        growing = box.aggregate.growing(NAME, interval_s)
        assert growing is not None, interval_s
        open_ns = open_of(box.clock.now_ns(), interval_s)
        assert growing.open_ns == open_ns
        # The venue traded once in each whole minute since; the running minute is ours.
        assert growing.trades == (open_of(box.clock.now_ns(), 60) - open_ns) // (60 * NS) + 1
        assert growing.close == Decimal(500)


async def test_minutes_are_fetched_for_a_day_back_once(file_box: Any) -> None:
    warm = Warm(file_box.market, file_box.aggregate, file_box.clock, back_s=7_200)
    await warm.warm(file_box.btc)
    minutes = SeriesKey(NAME, Of.CANDLES, 60)
    now_ns = file_box.clock.now_ns()
    # Two hours are asked for, and never less than since 00:00 UTC.
    assert file_box.market.coverage(minutes).whole(open_of(now_ns, 86_400), open_of(now_ns, 60))
    await file_box.restart()
    await file_box.clock.advance(600)
    await Warm(file_box.market, file_box.aggregate, file_box.clock, back_s=7_200).warm(file_box.btc)
    asked = [ask for ask in file_box.outside.asks if ask.interval_s == 60]
    assert [ask.start_ns for ask in asked] == [open_of(now_ns, 60)]


async def test_sides_are_seeded_from_what_we_stored_whole(file_box: Any) -> None:
    start_ns = open_of(file_box.clock.now_ns(), 60)
    file_box.follow()
    for n in range(4):
        file_box.trade(side=Side.SELL if n % 2 else Side.BUY)
        await file_box.advance(60)
    await file_box.advance(20)
    await file_box.restart()
    file_box.outside.venue_intervals_s = frozenset(INTERVALS_S)
    assert await Warm(file_box.market, file_box.aggregate, file_box.clock).warm(file_box.btc)
    await file_box.clock.advance(40)
    file_box.follow(open_of(file_box.clock.now_ns(), 60))
    file_box.trade(side=Side.SELL)
    stored = file_box.series.read(SeriesKey(NAME, Of.CANDLES, 60, Side.SELL), start_ns=start_ns)
    assert len(stored) == 2


async def test_a_venue_that_does_not_answer_leaves_it_cold_but_running(box: Any, unanswered: Refusal) -> None:
    box.outside.failure = unanswered
    assert not await Warm(box.market, box.aggregate, box.clock).warm(box.btc)
    assert box.aggregate.growing(NAME, 86_400) is None


def test_the_ladder_leads_from_monday_to_this_minute_without_a_hole() -> None:
    now_ns = 1_736_936_430 * NS
    rungs = _ladder(now_ns)
    at_ns = open_of(now_ns, INTERVALS_S[-1])
    for interval_s, start_ns, end_ns in rungs:
        assert start_ns == at_ns
        assert start_ns % (interval_s * NS) == end_ns % (interval_s * NS) == 0
        at_ns = end_ns
    assert at_ns == open_of(now_ns, 60)
    assert _ladder(1_736_726_400 * NS) == []  # Monday 00:00: nothing has begun


def test_the_feed_goes_on_from_the_last_trade_before_the_first_hole() -> None:
    series, known, clock = MemorySeries(), Coverage(), ManualClock(3_000 * NS)
    of = last_trade(series, lambda _: known, clock, back_s=1_000)
    key = SeriesKey(NAME, Of.TRADES)
    assert of(NAME) is None
    at = [n * NS for n in (2_110, 2_150, 2_500, 2_900)]
    series.write(Batch({key: [Trade(NAME, n, n, n // NS, n, Side.BUY, Decimal(1), Decimal(1)) for n in at]}))
    # Killed before anything was known to be whole: from the opening of the first trade's minute.
    assert of(NAME) == (None, 2_100 * NS)
    known.add(2_100 * NS, 2_200 * NS, State.HAVE)
    known.add(2_500 * NS, 2_950 * NS, State.HAVE)
    assert of(NAME) == (2_150, 2_150 * NS)
    known.add(2_200 * NS, 2_500 * NS, State.REFUSED)
    assert of(NAME) == (2_900, 2_900 * NS)
    # A hole older than what is looked back to is left alone.
    known.add(1_000 * NS, 2_050 * NS, State.MISSING)
    assert of(NAME) == (2_900, 2_900 * NS)
