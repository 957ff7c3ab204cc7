"""The newest in memory: bounded, in order, only of what is asked for."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from openoutcry.bus import Bus
from openoutcry.events import (
    NS,
    Candle,
    Event,
    FundingRate,
    MarkPrice,
    OpenInterest,
    PredictedFunding,
    Quote,
    Side,
    Ticker,
    Trade,
)
from openoutcry.market.latest import Bounded, Latest
from openoutcry.market.series import Of, SeriesKey

MINUTE_NS = 60 * NS
ONE = Decimal(1)
KEY = SeriesKey("x:A", Of.CANDLES, 60)


def candle(minute: int, close: int = 1, name: str = "x:A", *, closed: bool = True) -> Candle:
    return Candle(
        name, Side.BOTH, 60, minute * MINUTE_NS, ONE, ONE, ONE, Decimal(close), ONE, ONE, 1, 1, 1, closed, 1, "trades"
    )  # fmt: skip


def test_the_newest_of_every_sort_is_what_was_heard_last() -> None:
    latest, bus = Latest(), Bus()
    stop = latest.listen(bus)
    quote = Quote("x:A", 1, 1, ONE, ONE, None, None)
    trade = Trade("x:A", 1, 1, 1, 1, Side.BUY, ONE, ONE)
    ticker = Ticker("x:A", 1, 1, ONE, ONE, ONE, ONE, ONE, ONE, 1)
    mark, interest = MarkPrice("x:A", 5, 5, ONE), OpenInterest("x:A", 5, 5, ONE)
    running = FundingRate("x:A", 1, 1, ONE, 9, None, False)
    predicted = PredictedFunding("x:A", "A", "Bin", 1, ONE, 9, None)
    late: list[Event] = [
        MarkPrice("x:A", 4, 6, Decimal(2)),
        OpenInterest("x:A", 4, 6, Decimal(2)),
        FundingRate("x:A", 1, 1, Decimal(2), 9, None, True),
    ]
    bus.publish([quote, trade, ticker, mark, interest, running, predicted, *late])
    assert latest.quotes.get("x:A") == quote
    assert latest.trades.get("x:A") == trade
    assert latest.tickers.get("x:A") == ticker
    assert latest.marks.get("x:A") == mark
    assert latest.interest.get("x:A") == interest
    assert latest.funding.get("x:A") == running
    assert latest.predicted("x") == [predicted]
    assert latest.predicted("y") == []
    stop()
    bus.publish([Quote("x:A", 2, 2, None, None, None, None)])
    assert latest.quotes.get("x:A") == quote


def test_a_series_is_kept_from_when_it_is_asked_for() -> None:
    latest, bus = Latest(), Bus()
    latest.listen(bus)
    bus.publish([candle(1)])
    assert latest.newest(KEY, 5 * MINUTE_NS, 1) is None
    latest.keep(KEY, MINUTE_NS, [candle(1)])
    bus.publish([candle(2), candle(3, closed=False)])
    assert latest.newest(KEY, 5 * MINUTE_NS, 2) == [candle(1), candle(2)]
    assert latest.newest(KEY, 2 * MINUTE_NS, 1) == [candle(1)]
    assert latest.newest(KEY, 5 * MINUTE_NS, 3) is None


def test_a_corrected_candle_takes_the_place_of_the_first() -> None:
    latest, bus = Latest(), Bus()
    latest.listen(bus)
    latest.keep(KEY, 0, [candle(0), candle(1), candle(3)])
    bus.publish([candle(1, 7), candle(2)])
    assert latest.between(KEY, 0, 10 * MINUTE_NS) == [candle(0), candle(1, 7), candle(2), candle(3)]
    assert latest.between(KEY, MINUTE_NS, 3 * MINUTE_NS) == [candle(1, 7), candle(2)]
    assert latest.between(KEY, -1, 3 * MINUTE_NS) is None


# A short ring and few places, so that rows fall out, come late and replace each other.
@given(minutes=st.lists(st.integers(0, 30), max_size=60), kept=st.integers(1, 9))
def test_a_kept_series_holds_all_it_was_told_since_its_start(minutes: list[int], kept: int) -> None:
    latest = Latest(candles_kept=kept)
    latest.keep(KEY, 0, [])
    told: dict[int, Candle] = {}
    for number, minute in enumerate(minutes):
        told[minute] = candle(minute, number)
        latest.fill(KEY, [told[minute]])
        for start in range(31):
            rows = latest.between(KEY, start * MINUTE_NS, 31 * MINUTE_NS)
            if rows is not None:
                assert list(rows) == [told[each] for each in sorted(told) if each >= start]
        assert latest.rows == len(latest.between(KEY, 10**18, 10**18) or latest._rings[KEY].rows)
        assert latest.rows <= kept + kept // 8


def test_beyond_the_limit_the_series_least_asked_for_goes() -> None:
    latest = Latest(rows_max=10)
    keys = [SeriesKey(name, Of.CANDLES, 60) for name in ("x:A", "x:B", "x:C")]
    for key in keys[:2]:
        latest.keep(key, 0, [candle(n, name=key.instrument) for n in range(5)])
    assert latest.newest(keys[0], 10 * MINUTE_NS, 1) is not None
    latest.keep(keys[2], 0, [candle(n, name="x:C") for n in range(5)])
    assert [latest.kept(key) for key in keys] == [True, False, True]
    assert latest.rows == 10


def test_keeping_less_than_is_kept_changes_nothing_and_more_replaces_it() -> None:
    latest = Latest()
    latest.keep(KEY, 2 * MINUTE_NS, [candle(2), candle(3)])
    latest.keep(KEY, 3 * MINUTE_NS, [candle(3)])
    assert latest.rows == 2
    latest.keep(KEY, 0, [candle(0), candle(1), candle(2), candle(3)])
    assert latest.rows == 4
    assert latest.newest(KEY, 9 * MINUTE_NS, 4) is not None


def test_what_is_remembered_by_name_is_bounded() -> None:
    bounded: Bounded[str, int] = Bounded(2)
    for number, name in enumerate("abca"):
        bounded.put(name, number)
    assert bounded.values() == [2, 3]
    assert bounded.get("b") is None
