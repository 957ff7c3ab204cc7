"""Rollups against the naive fold, and against a venue's own longer candles."""

from decimal import Decimal
from pathlib import Path

import pyarrow.feather
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.rollup import DAY_S, MONTH_S, base_for, bounds_of, month_of, rollup
from openoutcry.errors import BadInterval
from openoutcry.events import INTERVALS_S, NS, WEEK_S, Candle, Side, open_of

NAME = "venue:X"
MINUTE = 60 * NS
MONDAY = open_of(1_700_000_000 * NS, WEEK_S) + WEEK_S * NS


def minute(
    at: int, prices: tuple[int, int, int, int] = (10, 12, 9, 11), volume: str = "1", **changes: object
) -> Candle:
    opened, high, low, close = map(Decimal, prices)
    open_ns = MONDAY + at * MINUTE
    fields: dict[str, object] = {
        "instrument": NAME, "side": Side.BOTH, "interval_s": 60, "open_ns": open_ns, "open": opened, "high": high,
        "low": low, "close": close, "volume": Decimal(volume), "quote_volume": Decimal(volume) * 10, "trades": 3,
        "first_ns": open_ns + 1, "last_ns": open_ns + 2, "closed": True, "received_ns": open_ns + MINUTE,
        "origin": "trades",
    }  # fmt: skip
    return Candle(**{**fields, **changes})  # type: ignore[arg-type]


CANDLES = st.dictionaries(
    st.integers(-5, 70),
    st.tuples(st.permutations((9, 10, 11)), st.sampled_from(("0.1", "2", "0"))),
    min_size=1,
    max_size=30,
).map(lambda made: [minute(at, (p[0], max(p), min(p), p[1]), volume) for at, (p, volume) in sorted(made.items())])


@given(CANDLES, st.sampled_from((180, 300, 1_800, 3_600, 7_200)))
def test_a_rollup_is_what_its_minutes_add_up_to(candles: list[Candle], interval_s: int) -> None:
    start_ns, end_ns = MONDAY - 5 * MINUTE, MONDAY + 71 * MINUTE
    rolled = rollup(candles, interval_s, start_ns=start_ns, end_ns=end_ns)
    opens = sorted({open_of(c.open_ns, interval_s) for c in candles})
    assert [c.open_ns for c in rolled] == [o for o in opens if o >= start_ns]
    for candle in rolled:
        inside = [c for c in candles if open_of(c.open_ns, interval_s) == candle.open_ns]
        traded = [c for c in inside if c.volume] or inside
        assert (candle.open, candle.close) == (traded[0].open, traded[-1].close)
        assert (candle.high, candle.low) == (max(c.high for c in traded), min(c.low for c in traded))
        assert candle.volume == sum((c.volume for c in inside), Decimal(0))
        assert candle.closed == (candle.open_ns + interval_s * NS <= end_ns)
        assert (candle.first_ns, candle.last_ns) == (traded[0].first_ns, traded[-1].last_ns)


def test_a_first_bucket_that_is_not_whole_is_left_out_and_the_last_one_grows() -> None:
    rolled = rollup([minute(at) for at in range(1, 8)], 180)
    assert [((c.open_ns - MONDAY) // MINUTE, c.closed) for c in rolled] == [(3, True), (6, False)]


def test_a_growing_last_minute_makes_a_growing_bucket() -> None:
    rolled = rollup([minute(0), minute(1), minute(2, closed=False)], 180)
    assert [c.closed for c in rolled] == [False]


def test_what_is_known_to_be_empty_completes_a_bucket() -> None:
    rolled = rollup([minute(1)], 180, start_ns=MONDAY, end_ns=MONDAY + 3 * MINUTE)
    assert [(c.open_ns, c.closed) for c in rolled] == [(MONDAY, True)]


def test_nothing_rolls_up_to_nothing() -> None:
    assert rollup([], 180) == []


def test_one_candle_of_the_venue_makes_the_whole_the_venues() -> None:
    (rolled,) = rollup([minute(0), minute(1, origin="venue", first_ns=None, last_ns=None), minute(2)], 180)
    assert rolled.origin == "venue"
    assert rolled.first_ns == MONDAY + 1


@pytest.mark.parametrize(
    ("interval_s", "base_s"),
    [(180, 60), (1_800, 900), (7_200, 3_600), (21_600, 3_600), (28_800, 14_400), (43_200, 14_400), (3 * DAY_S, DAY_S),
     (2 * WEEK_S, DAY_S), (MONTH_S, DAY_S), *((stored_s, stored_s) for stored_s in INTERVALS_S)],
)  # fmt: skip
def test_each_interval_is_folded_from_the_longest_stored_one_that_fits(interval_s: int, base_s: int) -> None:
    assert base_for(interval_s) == base_s


@pytest.mark.parametrize("interval_s", [0, -60, 59, 61, 90, 400 * DAY_S])
def test_an_interval_that_cannot_be_folded_is_refused(interval_s: int) -> None:
    with pytest.raises(BadInterval):
        base_for(interval_s)


def test_candles_that_straddle_buckets_are_refused() -> None:
    with pytest.raises(BadInterval):
        rollup([minute(0, interval_s=300)], 180)
    with pytest.raises(BadInterval):
        rollup([minute(0, interval_s=WEEK_S)], MONTH_S)


def test_months_follow_the_calendar() -> None:
    leap_day_ns = 1_709_164_800 * NS  # 2024-02-29 00:00 UTC
    assert month_of(leap_day_ns) == (1_706_745_600 * NS, 1_709_251_200 * NS)
    december_ns = 1_703_980_800 * NS  # 2023-12-31
    assert month_of(december_ns) == (1_701_388_800 * NS, 1_704_067_200 * NS)
    days = [minute(0, interval_s=DAY_S, open_ns=1_703_980_800 * NS + n * DAY_S * NS) for n in range(33)]
    rolled = rollup(days, MONTH_S)
    assert [(bounds_of(c.open_ns, MONTH_S)[0] == c.open_ns, c.trades, c.closed) for c in rolled] == [
        (True, 93, True),
        (True, 3, False),
    ]


def recorded(recordings: Path, interval: str, interval_s: int) -> list[Candle]:
    table = pyarrow.feather.read_table(recordings / "candles" / f"BTC_USDT_USDT-{interval}-futures.feather")
    columns = [table.column(name).to_pylist() for name in ("open", "high", "low", "close", "volume")]
    opens_ns = [round(at.timestamp()) * NS for at in table["date"].to_pylist()]
    # The shortest text of a float that came from a short decimal text is that text.
    return [
        minute(0, interval_s=interval_s, open_ns=open_ns, open=Decimal(str(o)), high=Decimal(str(h)),
               low=Decimal(str(low)), close=Decimal(str(c)), volume=str(v), first_ns=None, last_ns=None)
        for open_ns, o, h, low, c, v in zip(opens_ns, *columns, strict=True)
    ]  # fmt: skip


def test_recorded_candles_of_a_venue_roll_up_to_its_own_longer_candles(recordings: Path) -> None:
    """Equal to the last digit in every candle of which the shorter ones are recorded whole."""
    by_interval = {
        s: recorded(recordings, name, s) for name, s in (("1m", 60), ("5m", 300), ("1h", 3_600), ("1d", DAY_S))
    }
    compared = 0
    for short_s, long_s in ((300, 3_600), (3_600, DAY_S), (300, DAY_S)):
        truth = {c.open_ns: c for c in by_interval[long_s]}
        for candle in rollup(by_interval[short_s], long_s):
            told = truth.get(candle.open_ns)
            if told is None or not candle.closed:
                continue
            got = (candle.open, candle.high, candle.low, candle.close, candle.volume)
            assert got == (told.open, told.high, told.low, told.close, told.volume)
            compared += 1
    assert compared == 719 + 19 + 27
    minutes = by_interval[60]
    by_steps = rollup(rollup(rollup(minutes, 300), 3_600), DAY_S)
    assert by_steps == rollup(minutes, DAY_S)
    assert len(by_steps) == 30
